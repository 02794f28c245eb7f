"""What a task leaves behind of its video, the same whether a worker or the triggerer does it: key and XComs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_hailuo.apiframe.errors import ConflictError, excerpt
from airflow_provider_hailuo.apiframe.idempotency import derive_key
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest

# What the API takes for a field that is not sent (Apiframe reference, Hailuo 02).
DEFAULT_RESOLUTION = "768p"
DEFAULT_DURATION = 6

JOB_ID, JOB, CREDIT_COST, RETURN_VALUE = "job_id", "job", "credit_cost", "return_value"
LINK = "_link_HailuoVideoLink"
"""The XCom in which Airflow keeps the link to the video (see `links/hailuo.py`)."""

TRIGGERS_WRITE_XCOMS: bool = hasattr(XCom, "aset")
"""Whether this Airflow, 3.3 or newer, lets a trigger leave XComs."""


class TaskInstance(Protocol):
    """What identifies a task instance, on the worker as in the triggerer."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None


def task_key(ti: TaskInstance, hailuo_conn_id: str, epoch: int, request: VideoRequest) -> str:
    """Return the first idempotency key of `request` on behalf of the task instance `ti`.

    `epoch` tells how many tries there were before the task was last cleared.
    """
    identity = (hailuo_conn_id, ti.dag_id, ti.run_id, ti.task_id, str(map_index(ti)), epoch)
    return derive_key(f"airflow/{ti.dag_id}/{ti.task_id}", identity, request)


def name_key(error: ConflictError, key: str, request: VideoRequest) -> None:
    """Add to the message of `error` which `key` and which request the API saw a conflict in."""
    error.message += f"; the key is {key!r}, this request's prompt {excerpt(request.prompt, 60)!r}"


def request_facts(request: VideoRequest) -> dict[str, Any]:
    """Return what of `request` the XCom `job` shows."""
    return {
        "prompt": request.prompt,
        "model": request.model,
        "resolution": request.resolution or DEFAULT_RESOLUTION,
        "duration": request.duration or DEFAULT_DURATION,
    }


def job_facts(job: Job, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the XCom `job`: all that a page would show of a `job`; `facts` are those of its request."""
    return {
        "id": job.id,
        "status": job.status,
        "url": job.video_url,
        **facts,
        "credits": job.credit_cost,
        "created": job.created_at and job.created_at.isoformat(),
        "completed": job.completed_at and job.completed_at.isoformat(),
    }


async def leave(ti: TaskInstance, xcoms: Mapping[str, Any]) -> None:
    """Write `xcoms` of `ti` from a trigger. Raises whatever Airflow's API server or XCom backend raises."""
    # Not TaskSuccessEvent(xcoms=...): Airflow 3.3.2 encodes those twice.
    for key, value in xcoms.items():
        await XCom.aset(key, value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=map_index(ti))


def forget(ti: Any) -> None:
    """Delete what an earlier try has left, on a worker; Airflow does it only for tries that begin on one."""
    for key in (JOB_ID, JOB, CREDIT_COST, RETURN_VALUE, LINK):
        if ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index) is not None:
            XCom.delete(key=key, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=map_index(ti))


def map_index(ti: TaskInstance) -> int:
    """Return the map index of `ti`, -1 if it is not mapped."""
    return -1 if ti.map_index is None else ti.map_index
