"""Many videos in a run: in one task, or in a mapped task for each. A DAG's id is that of its connection."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

SETTINGS: dict[str, Any] = {"schedule": None, "start_date": pendulum.datetime(2026, 1, 1, tz="UTC")}


@task
def prompts(**context: Any) -> list[str]:
    """Return as many prompts as the run was asked for."""
    return [f"Clouds {n}" for n in range(context["dag_run"].conf["videos"])]


with DAG("one_task", **SETTINGS):
    HailuoGenerateBatchOperator(task_id="video", requests=prompts(), hailuo_conn_id="one_task", max_in_flight=1000)

with DAG("mapped_tasks", **SETTINGS):
    HailuoGenerateOperator.partial(task_id="video", hailuo_conn_id="mapped_tasks").expand(prompt=prompts())
