"""DAGs for breaking things: batches of videos whose tasks die, give up too early, or change from try to try."""

from __future__ import annotations

import os
import random
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, get_parsing_context, task

from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
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

    def _die(self, moment: str, ti: Any) -> None:
        death = Path(os.environ["HAILUO_DEATHS"], f"{ti.dag_id}-{ti.run_id}-{ti.map_index}")
        if moment == self.dies and not death.exists():
            death.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _send(self, client: Any, ti: Any, submissions: Any, submission: Any) -> Any:
        self._die("before the POST", ti)
        send = client.send

        def send_and_die(call: Any, **options: Any) -> Any:
            answer = send(call, **options)
            self._die("between POST and answer", ti)
            return answer

        client.send = send_and_die
        sent = super()._send(client, ti, submissions, submission)
        self._die("between answer and deferral", ti)
        return sent

    def execute_complete(self, context: Any, event: Any = None) -> str:
        url = super().execute_complete(context, event)
        self._die("in execute_complete", context["ti"])
        return url


@task
def prompts(**context: Any) -> list[str]:
    """Return as many prompts as the run was asked for, each its own."""
    run = context["dag_run"]
    return [f"{run.run_id} {n}" for n in range(run.conf["videos"])]


def batch(dag_id: str, operator: type[HailuoGenerateOperator] = HailuoGenerateOperator, **arguments: Any) -> None:
    """Make a DAG whose task `video` is mapped over the prompts."""
    with DAG(dag_id, **SETTINGS):
        operator.partial(task_id="video", poll_interval=1, **arguments).expand(prompt=prompts())


# Each worker that looks at the DAG sees another number, as if somebody edited it all the time.
EDITED = 20 + (random.randrange(5) if get_parsing_context().dag_id else 0)
IMPATIENT = {"timeout": 3}

with DAG("one_task", **SETTINGS):
    HailuoGenerateBatchOperator(task_id="video", requests=prompts(), max_in_flight=100, poll_interval=1)

batch("batch")
batch("gives_up", **IMPATIENT)
batch(
    "differs",
    webhook_url="http://127.0.0.1:9/{{ ti.id }}",
    prompt_optimizer="{{ [true, false] | random }}",
    webhook_events={"progress", "completed", "failed"},
    **IMPATIENT,
)
batch("edited", retries=EDITED, **IMPATIENT)
for visits in 1, 2:
    batch(f"failed_and_cleared_{visits}", retries=0, worker_visits=visits, **IMPATIENT)
# Together the tries last longer than the outage.
batch("secret", hailuo_conn_id="hailuo_secret", retry_delay=timedelta(seconds=10), max_retry_delay=None)

for name, moment in {
    "dies_before_post": "before the POST",
    "dies_before_answer": "between POST and answer",
    "dies_before_deferral": "between answer and deferral",
    "dies_at_the_end": "in execute_complete",
}.items():
    batch(name, DyingOperator, dies=moment)
    batch(
        f"{name}_and_differs",
        DyingOperator,
        dies=moment,
        webhook_url="http://127.0.0.1:9/{{ ti.id }}",
        prompt_optimizer="{{ [true, false] | random }}",
    )
