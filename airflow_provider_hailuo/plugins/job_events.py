"""What a job that has ended sets off in Airflow's database, in the API server's process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from airflow.assets.manager import asset_manager
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger, handle_event_submit
from airflow.models.xcom import XComModel
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import String, and_, cast, select, update
from sqlalchemy.orm import Session

from airflow_provider_hailuo import xcoms
from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.triggers.hailuo import MIN_DEFERRED_SECONDS, HailuoJobTrigger
from airflow_provider_hailuo.webhooks import jobs_asset_uri

MAX_EVENT_AGE = timedelta(days=1)
"""How long after its end a video is announced: older webhooks are replayed, and their events may be cleaned away."""

_TRIGGER = f"{HailuoJobTrigger.__module__}.{HailuoJobTrigger.__qualname__}"


def resume_tasks(job_id: str) -> float | None:
    """Resume the tasks that wait for a job in the triggerer: each looks at the job, and waits on if it has not ended.

    Airflow does the same with a task that waits for a person (its route of human-in-the-loop tasks).

    :param job_id: the job.
    :return: seconds after which to try again, because a task is deferred since a moment only; None if there is none.
    """
    settled = datetime.now(timezone.utc) - timedelta(seconds=MIN_DEFERRED_SECONDS)
    with create_session() as session:
        waiting = session.execute(
            select(TaskInstance.id, Trigger.created_date)
            .join(Trigger, TaskInstance.trigger_id == Trigger.id)
            .join(
                XComModel,
                and_(
                    XComModel.dag_id == TaskInstance.dag_id,
                    XComModel.run_id == TaskInstance.run_id,
                    XComModel.task_id == TaskInstance.task_id,
                    XComModel.map_index == TaskInstance.map_index,
                ),
            )
            .where(
                TaskInstance.state == TaskInstanceState.DEFERRED,
                Trigger.classpath == _TRIGGER,
                XComModel.key == xcoms.JOB_ID,
                # A custom XCom backend may have made a JSON text of it before Airflow does.
                cast(XComModel.value, String).in_([json.dumps(job_id), json.dumps(json.dumps(job_id))]),
            )
        ).all()
    for ti_id, since in waiting:
        if since <= settled:
            with create_session() as session:
                _resume(session, ti_id, job_id)
    return min(((since - settled).total_seconds() for _, since in waiting if since > settled), default=None)


def _resume(session: Session, ti_id: object, job_id: str) -> None:
    # The lock keeps a clear, and another API server, from what is decided here.
    ti = session.get(TaskInstance, ti_id, with_for_update={"of": TaskInstance})
    if ti is None or ti.state != TaskInstanceState.DEFERRED or ti.trigger is None or ti.trigger.classpath != _TRIGGER:
        return
    waits_for = ti.trigger.kwargs
    if waits_for.get("job_id") == job_id:
        hint = {"job_id": job_id, "error": None, "hint": True}
        event = {**hint, "try_number": ti.try_number, "deadline": waits_for.get("deadline")}
        handle_event_submit(TriggerEvent(event), task_instance=ti, session=session)


def needs_asset_event(conn_id: str, job_id: str) -> bool:
    """Tell whether a DAG knows the asset of a connection's jobs, and it has no event of a job yet.

    :param conn_id: the Airflow connection.
    :param job_id: the job.
    :return: whether `create_asset_event` has something to do.
    """
    since = datetime.now(timezone.utc) - MAX_EVENT_AGE
    with create_session() as session:
        return any(True for _ in _assets_without_event(session, conn_id, job_id, since))


def create_asset_event(conn_id: str, job: Job) -> None:
    """Give the asset of the connection's jobs an event for a completed job, one however often this is called.

    Not twice at a time in one process: not every database locks rows.

    :param conn_id: the Airflow connection.
    :param job: the job, as the API tells of it; nothing happens if it has ended more than a day ago.
    """
    now = datetime.now(timezone.utc)
    ended = job.completed_at or now
    if now - ended > MAX_EVENT_AGE:
        return
    facts = xcoms.job_facts(job)
    facts["job"] = facts.pop("id")
    with create_session() as session:
        # An hour for clocks that differ.
        for asset in _assets_without_event(session, conn_id, job.id, min(ended, now) - timedelta(hours=1), lock=True):
            # A run that is about to be made takes the events until the moment it was asked for. Airflow leaves that
            # at the first event, and this one would wait for the next run.
            queued = AssetDagRunQueue.asset_id == asset.id
            session.execute(select(AssetDagRunQueue).where(queued).with_for_update())
            asset_manager.register_asset_change(asset=asset, extra=facts, session=session)
            session.execute(update(AssetDagRunQueue).where(queued).values(created_at=datetime.now(timezone.utc)))


def _assets_without_event(
    session: Session, conn_id: str, job_id: str, since: datetime, *, lock: bool = False
) -> Iterator[AssetModel]:
    assets = select(AssetModel).where(AssetModel.uri == jobs_asset_uri(conn_id))
    if lock:
        assets = assets.with_for_update(key_share=True)
    for asset in session.scalars(assets).all():
        known = select(AssetEvent.id).where(
            AssetEvent.asset_id == asset.id,
            AssetEvent.timestamp >= since,
            AssetEvent.extra["job"].as_string() == job_id,
        )
        if session.scalar(known.limit(1)) is None:
            yield asset
