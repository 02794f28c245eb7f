"""One DAG for each situation, for every Airflow from 2.11 on. Each has a sandbox, and so a connection, of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pendulum

from airflow_provider_hailuo.compat import AIRFLOW
from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor
from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task


@contextmanager
def situation(dag_id: str, **default_args: Any) -> Iterator[None]:
    """Make the DAG of a situation; its tasks look at their jobs every second."""
    common = {"retries": 0, "retry_delay": timedelta(seconds=1), "poll_interval": 1}
    with DAG(
        dag_id,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        default_args={**common, "hailuo_conn_id": f"hailuo_{dag_id}", **default_args},
    ):
        yield


@task
def look(url: str, job: dict) -> dict:
    """Return what a task that follows gets to see."""
    return {"url": url, "job": job}


class DyingOperator(HailuoGenerateOperator):
    """Kills its own process, as kill -9 does, when its first try has submitted and is about to defer."""

    def execute(self, context: Any) -> Any:
        self.first = context["ti"].try_number == 1
        return super().execute(context)

    def defer(self, **options: Any) -> Any:
        if self.first:
            os.kill(os.getpid(), signal.SIGKILL)
        super().defer(**options)


with situation("success"):
    video = HailuoGenerateOperator(task_id="video", prompt="a sunrise on {{ run_id }}")
    look(video.output, video.output["job"])

with situation("mapped"):
    HailuoGenerateOperator.partial(task_id="video").expand(prompt=["a red car", "a green car", "a blue car"])

with situation("render_failed_twice", retries=1):
    HailuoGenerateOperator(task_id="video", prompt="[[fail: no capacity]] x")

with situation("render_failed_once", retries=1):
    HailuoGenerateOperator(
        task_id="video", prompt="{{ '[[fail: no capacity]]' if ti.try_number == 1 else 'another' }} try"
    )

with situation("timeout_retried", retries=9, retry_delay=timedelta(seconds=3)):
    HailuoGenerateOperator(task_id="video", prompt="x", timeout=4)

with situation("timeout_cleared"):
    HailuoGenerateOperator(task_id="video", prompt="x", timeout=4)

with situation("execution_timeout"):
    HailuoGenerateOperator(task_id="video", prompt="[[stall]] x", execution_timeout=timedelta(minutes=2))

with situation("killed", retries=2):
    DyingOperator(task_id="video", prompt="x")

with situation("delivered_cleared"):
    HailuoGenerateOperator(task_id="video", prompt="x")

with situation("triggerer_killed"):
    HailuoGenerateOperator(task_id="video", prompt="x")

with situation("stored"):
    HailuoGenerateOperator(task_id="video", prompt="x", destination="{{ dag_run.conf.directory }}/", metadata=True)

with situation("chain"):
    job = HailuoGenerateOperator(task_id="video", prompt="x", wait_for_completion=False)
    ready = HailuoJobSensor(task_id="ready", job_id=job.output, deferrable=True)
    store = HailuoToObjectStorageOperator(
        task_id="store", job_id=job.output, destination="{{ dag_run.conf.directory }}/"
    )
    job >> ready >> store

with situation("decorated"):

    @task.hailuo(task_id="video")
    def advert(product: str) -> dict[str, Any]:
        """Return a request."""
        return {"prompt": f"{product} on a table", "duration": 10}

    advert.expand(product=["a teapot", "a lamp"])

with situation("batch", retries=1):
    HailuoGenerateBatchOperator(
        task_id="video",
        requests=["a", "b", "{{ '[[fail: no capacity]]' if ti.try_number == 1 else 'c' }}"],
        destination="{{ dag_run.conf.directory }}/",
    )

for visits in 0, 1:
    with situation(f"visits_{visits}"):
        HailuoGenerateOperator(task_id="video", prompt="x", worker_visits=visits)

DAY = 86_400
# Its next look comes in a day: a webhook alone has it end.
announced = {"webhook_url": "auto", "poll_interval": DAY, "timeout": 2 * DAY} if AIRFLOW >= (3, 1) else {}
with situation("announced", **announced):
    HailuoGenerateOperator(task_id="video", prompt="[[slow: 15]] x")
