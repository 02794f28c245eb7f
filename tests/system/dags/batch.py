"""Batches: of what upstream tells, of JSON in the run's conf, stored, retried."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator

SETTINGS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 1, "retry_delay": timedelta(seconds=1)},
}
BATCH: dict[str, Any] = {"hailuo_conn_id": "hailuo_batch", "poll_interval": 1, "max_in_flight": 4}


@task
def look(result: Any, summary: Any) -> Any:
    """Return what a task that follows gets to see."""
    return {"result": result, "summary": summary}


with DAG("many", **SETTINGS):

    @task
    def write(colours: list[str]) -> list[Any]:
        """Return prompts and dictionaries."""
        return [*(f"a {colour} boat" for colour in colours), {"prompt": "a long one", "duration": 10}]

    stored = HailuoGenerateBatchOperator(
        task_id="videos",
        requests=write(["red", "blue", "[[fail: content policy]]"]),
        destination="{{ dag_run.conf.directory }}/",
        on_item_failure="skip",
        max_credits=100,
        **BATCH,
    )
    look(stored.output, stored.output["summary"])

with DAG("many_json", **SETTINGS):
    HailuoGenerateBatchOperator(task_id="videos", requests="{{ dag_run.conf.requests | tojson }}", **BATCH)

with DAG("many_mapped", **SETTINGS):
    HailuoGenerateBatchOperator.partial(task_id="videos", **BATCH).expand(requests=[["one", "two"], ["one", "two"]])
