"""DAGs for breaking things: a batch of videos, and batches whose tasks die once, at a given moment."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

SETTINGS = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "max_active_tasks": 200,
    "default_args": {"retries": 20, "retry_delay": timedelta(seconds=1), "max_retry_delay": timedelta(seconds=2)},
}


class DyingOperator(HailuoGenerateOperator):
    """Kills its own process, as kill -9 does, the first time that it gets to the moment `dies`."""

    def __init__(self, *, dies: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dies = dies

    def _die(self, moment: str, context: Any) -> None:
        ti = context["ti"]
        death = Path(os.environ["HAILUO_DEATHS"], f"{ti.dag_id}-{ti.run_id}-{ti.map_index}")
        if moment == self.dies and not death.exists():
            death.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _submit(self, client: Any, request: Any, context: Any) -> Any:
        self._die("before the POST", context)
        send = client.send

        def send_and_die(call: Any, **options: Any) -> Any:
            answer = send(call, **options)
            self._die("between POST and answer", context)
            return answer

        client.send = send_and_die
        submitted = super()._submit(client, request, context)
        self._die("between answer and deferral", context)
        return submitted

    def execute_complete(self, context: Any, event: Any) -> str:
        url = super().execute_complete(context, event)
        self._die("in execute_complete", context)
        return url


@task
def prompts(**context: Any) -> list[str]:
    """Return as many prompts as the run was asked for, each its own."""
    run = context["dag_run"]
    return [f"{run.run_id} {n}" for n in range(run.conf["videos"])]


with DAG("batch", **SETTINGS):
    HailuoGenerateOperator.partial(task_id="video", poll_interval=1).expand(prompt=prompts())

for name, moment in {
    "dies_before_post": "before the POST",
    "dies_before_answer": "between POST and answer",
    "dies_before_deferral": "between answer and deferral",
    "dies_at_the_end": "in execute_complete",
}.items():
    with DAG(name, **SETTINGS):
        DyingOperator.partial(task_id="video", poll_interval=1, dies=moment).expand(prompt=prompts())
