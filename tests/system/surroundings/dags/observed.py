"""What is counted and told of: videos that are stored, waited for by a sensor, many at once, and one that fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG

from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor
from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator

SETTINGS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1), "hailuo_conn_id": "hailuo_observed"},
}
DIRECTORY = "{{ dag_run.conf.directory }}"
FAILS = "[[fail: content policy]]"

with DAG("stored", **SETTINGS):
    made = HailuoGenerateOperator(
        task_id="make", prompt="stored a boat", destination=f"{DIRECTORY}/made.mp4", poll_interval=1
    )
    HailuoToObjectStorageOperator(task_id="copy", job_id=made.output["job_id"], destination=f"{DIRECTORY}/copied.mp4")

with DAG("apart", **SETTINGS):
    job = HailuoGenerateOperator(task_id="submit", prompt="apart a boat", wait_for_completion=False)
    HailuoJobSensor(task_id="wait", job_id=job.output, deferrable=True, poke_interval=1)

with DAG("several", **SETTINGS):
    HailuoGenerateBatchOperator(
        task_id="videos",
        requests=["several a red boat", {"prompt": "several a long one", "duration": 10}, f"several {FAILS}"],
        on_item_failure="skip",
        destination=f"{DIRECTORY}/several/",
        poll_interval=1,
    )

with DAG("failing", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt=f"failing {FAILS}", poll_interval=1, retries=0)
