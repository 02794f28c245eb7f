"""HailuoGenerateOperator in each of its ways to wait. A DAG's id is that of its connection."""

from typing import Any

import pendulum
from airflow.sdk import DAG

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

WAYS: dict[str, dict[str, Any]] = {
    "hailuo_on_worker": {"deferrable": False},
    "hailuo_visits_2": {"worker_visits": 2},
    "hailuo_visits_1": {"worker_visits": 1},
    "hailuo_visits_0": {"worker_visits": 0},
}

for name, way in WAYS.items():
    with DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), params={"prompt": "Clouds"}):
        HailuoGenerateOperator(task_id="video", prompt="{{ params.prompt }}", hailuo_conn_id=name, **way)
