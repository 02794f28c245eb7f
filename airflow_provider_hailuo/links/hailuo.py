"""`HailuoVideoLink`: the button "Watch video"."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from airflow_provider_hailuo.apiframe.models import is_http_url
from airflow_provider_hailuo.compat import AIRFLOW, BaseOperatorLink, XCom
from airflow_provider_hailuo.task_instance import TaskInstance, task_instance_key
from airflow_provider_hailuo.xcoms import JOB, JOB_ID, LINK, SUMMARY

HAS_PAGE: bool = AIRFLOW >= (3, 1)
"""Whether this Airflow shows our page of a video."""


def video_page(ti: TaskInstance) -> str:
    """Return the link to the page of the video, or of the videos, of a task instance.

    It is relative to where Airflow's UI lies, as the UI takes it: a worker need not know under which URL that is.

    :param ti: the task instance.
    :return: the link.
    """
    return f"hailuo/video?{urlencode(task_instance_key(ti), quote_via=quote)}"


class HailuoVideoLink(BaseOperatorLink):
    """Leads from a task to the page of its video as soon as something is submitted, and until then nowhere.

    Before Airflow 3.1, which has no such page, it leads to the file, once there is one.
    """

    name = "Watch video"

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the link: Airflow 3 asks for the link on the worker, and keeps it there."""
        return LINK

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002
        """Return where the button of a task instance leads.

        :param operator: its task, which is not looked at.
        :param ti_key: what identifies it.
        :return: the URL; "" for no button.
        """
        if HAS_PAGE:
            # A batch has no job of its own.
            left = (XCom.get_value(ti_key=ti_key, key=key) for key in (JOB_ID, JOB, SUMMARY))
            return video_page(ti_key) if any(left) else ""
        # What the task returns may be where it has stored the video.
        job = XCom.get_value(ti_key=ti_key, key=JOB)
        url = job.get("url") if isinstance(job, dict) else None
        return url if isinstance(url, str) and is_http_url(url) else ""
