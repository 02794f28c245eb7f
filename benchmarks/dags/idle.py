"""Tasks that wait for a while in the triggerer and do nothing: what Airflow itself takes, with few worker visits."""

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, Context
from airflow.triggers.base import StartTriggerArgs

SECONDS = 30


class Idle(BaseOperator):
    """Waits in Airflow's own trigger, which starts and ends the task."""

    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls=f"{TimeDeltaTrigger.__module__}.{TimeDeltaTrigger.__qualname__}",
        trigger_kwargs={"delta": timedelta(seconds=SECONDS), "end_from_trigger": True},
        next_method="execute_complete",
    )

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Do nothing."""


class IdleOnWorker(BaseOperator):
    """Defers to Airflow's own trigger, and resumes on a worker."""

    def execute(self, context: Context) -> None:  # noqa: ARG002
        """Defer."""
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=SECONDS)), method_name="execute_complete")

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Do nothing."""


for name, operator in {"idle_visits_0": Idle, "idle_visits_2": IdleOnWorker}.items():
    with DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):
        operator(task_id="video")
