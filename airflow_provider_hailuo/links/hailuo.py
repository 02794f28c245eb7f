"""`HailuoVideoLink`: the button "Watch video"."""

from __future__ import annotations

from typing import Any

from airflow_provider_hailuo.apiframe.models import is_http_url
from airflow_provider_hailuo.compat import BaseOperatorLink, XCom
from airflow_provider_hailuo.record import JOB, LINK


class HailuoVideoLink(BaseOperatorLink):
    """Leads from a task to its video; no button while there is none."""

    name = "Watch video"

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the link: Airflow 3 asks for the link on the worker, and keeps it there."""
        return LINK

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002
        """Return the URL of the video of the task instance `ti_key`, "" when there is none."""
        # What the task returns may be where it has stored the video.
        job = XCom.get_value(ti_key=ti_key, key=JOB)
        url = job.get("url") if isinstance(job, dict) else None
        return url if isinstance(url, str) and is_http_url(url) else ""
