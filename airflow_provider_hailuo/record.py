"""What a task leaves behind of its video, the same whether a worker or the triggerer does it: key and XComs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.apiframe.errors import ConflictError, excerpt
from airflow_provider_hailuo.apiframe.idempotency import derive_key
from airflow_provider_hailuo.apiframe.models import DEFAULT_DURATION, DEFAULT_RESOLUTION, Job, VideoRequest
from airflow_provider_hailuo.compat import XCom

JOB_ID, JOB, CREDIT_COST, RETURN_VALUE = "job_id", "job", "credit_cost", "return_value"
DELIVERED = "delivered"
"""The XCom that Airflow writes together with the success of a task that a trigger ends. The others may be left by a
trigger that did not know yet that its task was cleared, or resumed."""

SUMMARY, ITEMS = "summary", "items"
"""The XComs of a batch: how many there are of what, and what a page shows of each video."""

PROGRESS = "progress"
"""The XCom in which a trigger tells of a job that renders: its `status`, and its `progress` in percent."""

LINK = "_link_HailuoVideoLink"
"""The XCom in which Airflow keeps the link to the video (see `links/hailuo.py`)."""

_KEYS = (JOB_ID, PROGRESS, JOB, CREDIT_COST, RETURN_VALUE, LINK, DELIVERED)

TRIGGERS_WRITE_XCOMS: bool = hasattr(XCom, "aset")
"""Whether this Airflow, 3.3 or newer, lets a trigger leave XComs."""

WRITERS = 4
"""How many videos of a triggerer write their XComs at a time. Airflow takes one XCom, or one report of the events
that have fired, between two rounds of database queries, in the order in which they come: if all wrote at once, none
would be done before nearly all are, and no task would end or start meanwhile."""

WRITE_SECONDS = 120.0
"""How long the XComs of a video may take once it is its turn, so that one that hangs holds up no others."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class TaskInstance(Protocol):
    """What identifies a task instance, on the worker as in the triggerer."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None


def task_key(
    ti: TaskInstance, hailuo_conn_id: str, settings: Settings, request: VideoRequest, *more: str | int
) -> str:
    """Return the first idempotency key of a request on behalf of a task instance.

    :param ti: the task instance.
    :param hailuo_conn_id: the Airflow connection.
    :param settings: what it holds; its namespace goes into the key.
    :param request: the request.
    :param more: what else is to make it another key: something that clearing the task changes, and a retry does not.
    """
    return derive_key(readable(ti), [*identity(ti, hailuo_conn_id, settings), *more], request)


def readable(ti: TaskInstance) -> str:
    """Return what leads the idempotency keys of a task instance, for the eyes of people."""
    return f"airflow/{ti.dag_id}/{ti.task_id}"


def identity(ti: TaskInstance, hailuo_conn_id: str, settings: Settings) -> list[str | int]:
    """Return on whose behalf a task instance asks for videos; the parameters are those of `task_key`."""
    return [hailuo_conn_id, settings.namespace, ti.dag_id, ti.run_id, ti.task_id, map_index(ti)]


def name_key(error: ConflictError, key: str, prompt: str) -> None:
    """Add to the message of `error` which key, and a request of which prompt, the API saw a conflict in."""
    error.message += f"; the key is {key!r}, this request's prompt {excerpt(prompt, 60)!r}"


def request_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the XCom `job` shows of a request.

    :param body: its JSON body, `VideoRequest.to_wire()`.
    """
    params = body.get("hailuoParams") or {}
    return {
        "prompt": body.get("prompt"),
        "model": body.get("model"),
        "resolution": params.get("resolution", DEFAULT_RESOLUTION),
        "duration": params.get("duration", DEFAULT_DURATION),
    }


def told_facts(job: Job) -> dict[str, Any]:
    """Return what the XCom `job` shows of a request, as far as the API tells of it."""
    told = job.input or {}
    params = told.get("hailuoParams") or {}
    known = {"prompt": told.get("prompt"), "model": job.model}
    if not told or not isinstance(params, dict):
        return {**known, "resolution": None, "duration": None}
    return request_facts({**known, "hailuoParams": params})


def job_facts(job: Job, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the XCom `job`: all that a page would show of a `job`; `facts` are those of its request."""
    error = job.error if isinstance(job.error, str) else repr(job.error)
    return {
        "id": job.id,
        "status": job.status,
        "url": job.video_url,
        **facts,
        "credits": job.credit_cost,
        "created": job.created_at and job.created_at.isoformat(),
        "completed": job.completed_at and job.completed_at.isoformat(),
        **({"error": excerpt(error)} if job.error else {}),
    }


def task_facts(ti: TaskInstance) -> dict[str, Any]:
    """Return what tells which task instance made a video."""
    names = ("dag_id", "run_id", "task_id", "map_index")
    return {name: map_index(ti) if name == "map_index" else getattr(ti, name) for name in names}


async def submitted_job(ti: TaskInstance) -> str | None:
    """Return the id of the job that a trigger has submitted for `ti`, read in a trigger; None if none has.

    Raises whatever Airflow's API server or XCom backend raises.
    """
    job_id: str | None = await XCom.aget_one(key=JOB_ID, **_place(ti))
    return job_id


async def leave(ti: TaskInstance, xcoms: Mapping[str, Any]) -> None:
    """Write `xcoms` of `ti` from a trigger. Raises whatever Airflow's API server or XCom backend raises."""
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(WRITERS)):
        await asyncio.wait_for(_write(ti, xcoms), WRITE_SECONDS)


async def tell_progress(ti: TaskInstance, progress: Mapping[str, Any]) -> None:
    """Write from a trigger how far a job is, unless videos use up all turns; raises as `leave`."""
    turns = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(WRITERS))
    if not turns.locked():
        await leave(ti, {PROGRESS: progress})


async def _write(ti: TaskInstance, xcoms: Mapping[str, Any]) -> None:
    from airflow.sdk.bases.xcom import BaseXCom  # noqa: PLC0415 - of Airflow 3

    # Not TaskSuccessEvent(xcoms=...): Airflow 3.3.2 encodes those twice.
    for key, value in xcoms.items():
        # The page reads the link as it stands in the database, past any XCom backend.
        await (BaseXCom if key == LINK else XCom).aset(key, value, **_place(ti))


def left_over(ti: Any) -> dict[str, Any]:
    """Return the XComs that an earlier try has left, by key, on a worker that resumes."""
    pulled = {key: ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index) for key in _KEYS}
    return {key: value for key, value in pulled.items() if value is not None}


def forget(ti: Any, left: Mapping[str, Any]) -> None:
    """Delete what an earlier try has left; Airflow does it only for tries that begin on a worker.

    The job's id stays until `forget_job`: nothing else may tell of a job that a trigger has submitted.

    :param left: what `left_over` has told.
    """
    for key in left.keys() - {JOB_ID}:
        XCom.delete(key=key, **_place(ti))


def forget_job(ti: Any) -> None:
    """Delete the XCom of a job in whose place another is submitted, and which no later try is to take up."""
    XCom.delete(key=JOB_ID, **_place(ti))


def tells_deliveries(ti: Any) -> bool:
    """Tell whether this Airflow lets a try know which XComs the one before has left."""
    return hasattr(getattr(ti, "_ti_context_from_server", None), "xcom_keys_to_clear")


def was_delivered(ti: Any, left: Collection[str] = (), *, by_trigger: bool = False) -> bool:
    """Tell whether the try before the one that begins now on a worker has returned a URL.

    :param left: the XComs that it has left, beside those of which Airflow tells.
    :param by_trigger: whether a trigger would have ended it (default: a worker).
    """
    keys = ti._ti_context_from_server.xcom_keys_to_clear if tells_deliveries(ti) else None  # noqa: SLF001
    return (DELIVERED if by_trigger else RETURN_VALUE) in {*left, *(keys or ())}


def _place(ti: TaskInstance) -> dict[str, Any]:
    """Return where the XComs of `ti` are, as Airflow wants it."""
    return {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": map_index(ti)}


def tries_left(ti: Any) -> bool:
    """Tell whether Airflow is going to retry the task of `ti` if this try fails."""
    return bool(ti.try_number <= (ti.max_tries or 0))


def is_nested(task: Any, ti: Any) -> bool:
    """Tell whether another task's code calls `task`: the record would be its, and nobody could resume."""
    return getattr(ti, "task", task) is not task


def map_index(ti: TaskInstance) -> int:
    """Return the map index of `ti`, -1 if it is not mapped."""
    return -1 if ti.map_index is None else ti.map_index
