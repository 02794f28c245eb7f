"""Videos of one run, a mapped task for each, announced by webhooks or not. A DAG's id is that of its connection."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

SETTINGS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},  # a busy Airflow fails to start a task
}


@task
def prompts(**context: Any) -> list[str]:
    """Return as many prompts as the run was asked for, of videos that are `held` back until they are released."""
    conf = context["dag_run"].conf
    return [f"{'[[stall]] ' * conf['held']}Clouds {n}." for n in range(conf["videos"])]


for name in "many", "lone":
    for webhook_url in "auto", None:
        dag_id = f"{name}_with" if webhook_url else f"{name}_without"
        with DAG(dag_id, **SETTINGS):
            HailuoGenerateOperator.partial(task_id="video", hailuo_conn_id=dag_id, webhook_url=webhook_url).expand(
                prompt=prompts()
            )
