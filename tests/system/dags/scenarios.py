"""The DAGs of the system tests, each of one situation. The prompts ask the sandbox for what is to happen."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import httpx
import pendulum
from airflow.sdk import DAG, task

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.retry import hailuo_retry_policy

SETTINGS = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 0, "retry_delay": timedelta(seconds=1)},
}


@task
def look(url: str, job: dict) -> dict:
    """Return what a task that follows gets to see."""
    return {"url": url, "job": job}


def release(_: Any) -> None:
    """Let the renders end that are late."""
    url = f"{os.environ['HAILUO_SANDBOX']}/sandbox/release"
    httpx.post(url, params={"words": "a late"}, trust_env=False).raise_for_status()


with DAG("success", **SETTINGS):
    video = HailuoGenerateOperator(
        task_id="video",
        prompt="[[slow: 20]] a sunrise on {{ run_id }}",
        duration="{{ 10 }}",
        prompt_optimizer="{{ False }}",
        poll_interval=1,
    )
    look(video.output, video.output["job"])

with DAG("on_the_worker", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="a sunrise", deferrable=False, poll_interval=1)

with DAG("mapped_bad_input", **SETTINGS):
    HailuoGenerateOperator.partial(task_id="video", resolution="4k", retries=2).expand(prompt=["a red car"])

with DAG("job_failure", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="[[fail: content policy]] x", poll_interval=1)

with DAG("timeout_retried", **SETTINGS):
    HailuoGenerateOperator(
        task_id="video",
        prompt="[[stall]] a late sunrise",
        timeout=4,
        poll_interval=1,
        retries=5,
        on_retry_callback=release,
        retry_delay=timedelta(minutes=10),  # the policy's 1 s after a timeout is what makes this end in time
        retry_policy=hailuo_retry_policy(),
    )

with DAG("bad_input", **SETTINGS, params={"resolution": "4k"}):
    HailuoGenerateOperator(task_id="video", prompt="x", resolution="{{ params.resolution }}", retries=2)

with DAG("wrong_key", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="x", hailuo_conn_id="hailuo_wrong_key", retries=2)

with DAG("missing_connection", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="x", hailuo_conn_id="no_such_conn", retries=2)

with DAG("nested", **SETTINGS):

    @task
    def videos(**context: Any) -> list[str]:
        """Make two videos, one after the other, with the operator inside this task."""
        return [
            HailuoGenerateOperator(task_id="inner", prompt=f"a nested {colour} boat", poll_interval=1).execute(
                context
            )
            for colour in ("red", "green")
        ]

    videos()

for visits in 0, 2:
    with DAG(f"plain_{visits}", **SETTINGS):
        HailuoGenerateOperator(task_id="video", prompt=f"plain, {visits}", worker_visits=visits, poll_interval=1)
