"""What is counted through Airflow's own metrics, which go wherever its configuration says (`[metrics]`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from airflow_provider_hailuo.compat import stats
from airflow_provider_hailuo.task_instance import TaskInstance

SUBMITTED: Final = "hailuo.submitted"
COMPLETED: Final = "hailuo.completed"
FAILED: Final = "hailuo.failed"
CREDITS: Final = "hailuo.credits"
RENDER_DURATION: Final = "hailuo.render_duration"
STATUS_REQUESTS: Final = "hailuo.status_requests"
BYTES_STORED: Final = "hailuo.bytes_stored"

Tags = Mapping[str, str | None]


def count(name: str, tags: Tags, value: float = 1, *, in_triggerer: bool = False) -> None:
    """Add to a counter.

    :param name: which one.
    :param tags: what it is about: `model`, `conn_id`, `dag_id`, `cause`; those that are None are left out.
    :param value: how much (default 1); rounded.
    :param in_triggerer: whether this runs in the triggerer, which has metrics of its own (default no).
    """
    with suppress(Exception):  # whatever a metrics backend raises, no video is given up for it
        stats(in_triggerer=in_triggerer).incr(name, round(value), tags=_known(tags))


def completed(job: Mapping[str, Any], tags: Tags, *, in_triggerer: bool = False) -> None:
    """Count a video that a task hands on: itself, what it cost, how long it was rendered.

    :param job: the XCom `job`.
    :param tags: as of `count`.
    :param in_triggerer: as of `count`.
    """
    count(COMPLETED, tags, in_triggerer=in_triggerer)
    count(CREDITS, tags, job.get("credits") or 0, in_triggerer=in_triggerer)
    begun, ended = job.get("created"), job.get("completed")
    if begun and ended:
        duration = datetime.fromisoformat(ended) - datetime.fromisoformat(begun)
        with suppress(Exception):
            stats(in_triggerer=in_triggerer).timing(RENDER_DURATION, duration, tags=_known(tags))


def failed(error: Exception, tags: Tags) -> None:
    """Count a video that a task fails to hand on.

    :param error: why.
    :param tags: as of `count`.
    """
    count(FAILED, {**tags, "cause": type(error).__name__})


def task_tags(ti: TaskInstance, conn_id: str, model: str | None = None) -> Tags:
    """Return the tags of what a task counts.

    :param ti: the task instance.
    :param conn_id: the Airflow connection.
    :param model: the model; None (default) while it is not known.
    :return: the tags.
    """
    return {"model": model, "conn_id": conn_id, "dag_id": ti.dag_id}


def _known(tags: Tags) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value is not None}
