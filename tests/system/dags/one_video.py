"""One video, whose prompt, connection and key come with the run."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

for name, timeout in {"one_video": 600, "one_late_video": 3}.items():
    with DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False):
        HailuoGenerateOperator(
            task_id="video",
            prompt="{{ dag_run.conf.prompt }}",
            hailuo_conn_id="{{ dag_run.conf.connection }}",
            idempotency_key="{{ dag_run.conf.key }}",
            poll_interval=1,
            timeout=timeout,
            retries=0,
            retry_delay=timedelta(seconds=1),
        )
