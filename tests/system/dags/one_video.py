"""One video, whose prompt, connection, key, picture and destination come with the run."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

DIFFERENCES = {"one_video": {}, "one_late_video": {"timeout": 3}, "one_dear_video": {"max_credits": 4}}

for name, differences in DIFFERENCES.items():
    with DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False):
        HailuoGenerateOperator(
            task_id="video",
            prompt="{{ dag_run.conf.prompt }}",
            hailuo_conn_id="{{ dag_run.conf.connection }}",
            idempotency_key="{{ dag_run.conf.key }}",
            image="{{ dag_run.conf.get('image', '') }}",
            destination="{{ dag_run.conf.get('destination', '') }}",
            poll_interval=1,
            retries=0,
            retry_delay=timedelta(seconds=1),
            **differences,
        )
