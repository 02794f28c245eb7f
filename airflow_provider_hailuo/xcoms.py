"""The XComs of a task, the same whether a worker or a trigger pushes them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_hailuo.apiframe.errors import excerpt
from airflow_provider_hailuo.apiframe.models import DEFAULT_DURATION, DEFAULT_RESOLUTION, Job
from airflow_provider_hailuo.compat import XCom
from airflow_provider_hailuo.task_instance import TaskInstance, task_instance_key

JOB_ID, JOB, CREDIT_COST, RETURN_VALUE = "job_id", "job", "credit_cost", "return_value"
DELIVERED = "delivered"
"""The XCom that Airflow writes together with the success of a task that a trigger ends. The others may be of a
trigger that did not know yet that its task was cleared, or resumed."""

SUMMARY, ITEMS = "summary", "items"
"""The XComs of a batch: how many there are of what, and what a page shows of each video."""

PROGRESS = "progress"
"""The XCom in which a trigger tells of a job that renders: its `status`, and its `progress` in percent."""

LINK = "_link_HailuoVideoLink"
"""The XCom in which Airflow keeps the link to the video (see `links/hailuo.py`)."""

_KEYS = (JOB_ID, PROGRESS, JOB, CREDIT_COST, RETURN_VALUE, LINK, DELIVERED)

TRIGGERS_PUSH_XCOMS: bool = hasattr(XCom, "aset")
"""Whether this Airflow, 3.3 or newer, lets a trigger push XComs."""

CONCURRENT_PUSHES = 4
"""How many videos of a triggerer push their XComs at a time. Airflow takes one XCom, or one report of the events
that have fired, between two rounds of database queries, in the order in which they come: if all pushed at once, none
would be done before nearly all are, and no task would end or start meanwhile."""

PUSH_TIMEOUT_SECONDS = 120.0
"""How long the XComs of a video may take once it is its turn, so that one that hangs holds up no others."""

_semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def request_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the XCom `job` tells of a request.

    :param body: its JSON body, `VideoRequest.to_wire()`; an empty one if it is not known.
    :return: `prompt`, `model`, `resolution` and `duration`.
    """
    params = body.get("hailuoParams") or {}
    return {
        "prompt": body.get("prompt"),
        "model": body.get("model"),
        "resolution": params.get("resolution", DEFAULT_RESOLUTION),
        "duration": params.get("duration", DEFAULT_DURATION),
    }


def job_facts(job: Job, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the XCom `job`: all that a page would show of a job.

    :param job: the job.
    :param request: what `request_facts` tells of its request; None (default): what the job itself tells of it.
    :return: the value, which is JSON.
    """
    error = job.error if isinstance(job.error, str) else repr(job.error)
    return {
        "id": job.id,
        "status": job.status,
        "url": job.video_url,
        **(_request_facts_of_job(job) if request is None else request),
        "credits": job.credit_cost,
        "created": job.created_at and job.created_at.isoformat(),
        "completed": job.completed_at and job.completed_at.isoformat(),
        **({"error": excerpt(error)} if job.error else {}),
    }


def _request_facts_of_job(job: Job) -> dict[str, Any]:
    """Return as much of `request_facts` as the API tells; None for the rest."""
    request = job.input or {}
    params = request.get("hailuoParams") or {}
    known = {"prompt": request.get("prompt"), "model": job.model}
    if not request or not isinstance(params, dict):
        return {**known, "resolution": None, "duration": None}
    return request_facts({**known, "hailuoParams": params})


async def pull_job_id(ti: TaskInstance) -> str | None:
    """Return, in a trigger, the id of the job that a trigger has submitted before.

    :param ti: the task instance.
    :return: the id; None if none was submitted.
    :raises Exception: whatever Airflow's API server or XCom backend raises.
    """
    job_id: str | None = await XCom.aget_one(key=JOB_ID, **task_instance_key(ti))
    return job_id


async def push(ti: TaskInstance, values: Mapping[str, Any]) -> None:
    """Push XComs from a trigger, when it is their turn.

    :param ti: the task instance.
    :param values: the XComs by key, in the order in which they are pushed.
    :raises Exception: whatever Airflow's API server or XCom backend raises; `TimeoutError` after 120 seconds.
    """
    async with _semaphore():
        await asyncio.wait_for(_push(ti, values), PUSH_TIMEOUT_SECONDS)


async def push_progress(ti: TaskInstance, progress: Mapping[str, Any]) -> None:
    """Push the XCom `progress` from a trigger, unless other XComs wait for their turn.

    :param ti: the task instance.
    :param progress: `status` and `progress` of the job.
    :raises Exception: as `push`.
    """
    if not _semaphore().locked():
        await push(ti, {PROGRESS: progress})


def _semaphore() -> asyncio.Semaphore:
    return _semaphores.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(CONCURRENT_PUSHES))


async def _push(ti: TaskInstance, values: Mapping[str, Any]) -> None:
    from airflow.sdk.bases.xcom import BaseXCom  # noqa: PLC0415 - of Airflow 3

    # Not TaskSuccessEvent(xcoms=...): Airflow 3.3.2 encodes those twice.
    for key, value in values.items():
        # The page reads the link as it stands in the database, past any XCom backend.
        await (BaseXCom if key == LINK else XCom).aset(key, value, **task_instance_key(ti))


def pull_previous(ti: Any) -> dict[str, Any]:
    """Return the XComs of an earlier try, on a worker that resumes.

    :param ti: the task instance.
    :return: those that are there, by key.
    """
    pulled = {key: ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index) for key in _KEYS}
    return {key: value for key, value in pulled.items() if value is not None}


def delete_previous(ti: Any, previous: Collection[str]) -> None:
    """Delete the XComs of an earlier try; Airflow does it only for tries that begin on a worker.

    The job's id stays until `delete_job_id`: nothing else may tell of a job that a trigger has submitted.

    :param ti: the task instance.
    :param previous: their keys, as of `pull_previous`.
    """
    for key in set(previous) - {JOB_ID}:
        XCom.delete(key=key, **task_instance_key(ti))


def delete_job_id(ti: Any) -> None:
    """Delete the XCom of a job in whose place another is submitted, and which no later try is to take up.

    :param ti: the task instance.
    """
    XCom.delete(key=JOB_ID, **task_instance_key(ti))


def are_previous_keys_known(ti: Any) -> bool:
    """Tell whether this Airflow lets a try know which XComs the one before has pushed.

    :param ti: the task instance, on a worker.
    :return: whether it does.
    """
    return hasattr(getattr(ti, "_ti_context_from_server", None), "xcom_keys_to_clear")


def was_delivered(ti: Any, previous: Collection[str] = (), *, by_trigger: bool = False) -> bool:
    """Tell whether the try before the one that begins now on a worker has returned a URL.

    :param ti: the task instance.
    :param previous: the keys of its XComs, beside those of which Airflow tells (default: none).
    :param by_trigger: whether a trigger would have ended it (default: a worker).
    :return: whether it has.
    """
    keys = ti._ti_context_from_server.xcom_keys_to_clear if are_previous_keys_known(ti) else None  # noqa: SLF001
    return (DELIVERED if by_trigger else RETURN_VALUE) in {*previous, *(keys or ())}
