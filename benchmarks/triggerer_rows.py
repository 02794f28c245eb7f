"""Defers tasks in the database of an Airflow without the workers that would do it, for `triggerer.py`.

To be imported where the environment variables say which Airflow.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.models import Connection, DagRun, TaskInstance, Trigger
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, func, select


def begin(dag_id: str, run_id: str, connection: dict[str, str]) -> None:
    """Forget all runs, tasks, triggers and connections there are; start a run of a DAG and store a connection."""
    now = datetime.now(timezone.utc)
    with create_session() as session:
        for model in (TaskInstance, Trigger, DagRun, Connection):
            session.execute(delete(model))
        session.add(Connection(**connection))  # type: ignore[arg-type]
        _dag(dag_id, session).dag.create_dagrun(
            run_id=run_id,
            run_after=now,
            start_date=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=session,
        )


def defer(dag_id: str, triggers: list[tuple[str, dict[str, Any]]]) -> float:
    """Add one deferred task instance for each trigger (class path and arguments) to the run.

    Returns the moment at which they are in the database, in seconds since the epoch.
    """
    now = datetime.now(timezone.utc)
    with create_session() as session:
        serialized = _dag(dag_id, session)
        (task,) = serialized.dag.tasks
        (run,) = session.scalars(select(DagRun))
        first = (session.scalar(select(func.max(TaskInstance.map_index))) or 0) + 1
        rows = [Trigger(classpath=classpath, kwargs=kwargs) for classpath, kwargs in triggers]
        session.add_all(rows)
        session.flush()
        # As the scheduler makes them, and as the execution API defers them.
        made = [
            TaskInstance.insert_mapping(run.run_id, task, n, dag_version_id=serialized.dag_version_id, dag_run=run)
            for n in range(first, first + len(rows))
        ]
        deferred = {
            "state": TaskInstanceState.DEFERRED,
            "try_number": 1,
            "start_date": now,
            "next_method": "execute_complete",
            "trigger_timeout": now + timedelta(hours=1),
        }
        session.bulk_insert_mappings(
            TaskInstance.__mapper__,
            [mapping | deferred | {"trigger_id": row.id} for mapping, row in zip(made, rows, strict=True)],
        )
    return time.time()


def deferred(dag_id: str) -> int:
    """Return how many tasks of a DAG wait for a trigger."""
    with create_session() as session:
        tasks = select(func.count()).where(TaskInstance.dag_id == dag_id)
        return int(session.scalar(tasks.where(TaskInstance.state == TaskInstanceState.DEFERRED)) or 0)


def _dag(dag_id: str, session: Any) -> SerializedDagModel:
    serialized = SerializedDagModel.get(dag_id, session=session)
    if serialized is None:
        raise LookupError(f"There is no DAG {dag_id}")
    return serialized
