"""Tasks that look at their job once, and then only if they are told to: their next look comes in a day."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, task

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor

DAY = 24 * 3600
START = {"start_date": pendulum.datetime(2026, 1, 1, tz="UTC"), "catchup": False}
GENERATE = {"prompt": "{{ dag_run.conf.prompt }}", "hailuo_conn_id": "hailuo_announced", "webhook_url": "auto"}

with DAG("announced", schedule=None, **START):
    HailuoGenerateOperator(task_id="video", **GENERATE, poll_interval=DAY, timeout=2 * DAY)

with DAG("announced_sensor", schedule=None, **START):
    submitted = HailuoGenerateOperator(task_id="submit", **GENERATE, wait_for_completion=False)
    HailuoJobSensor(
        task_id="video",
        job_id=submitted.output,
        hailuo_conn_id="hailuo_announced",
        poke_interval=DAY,
        timeout=2 * DAY,
        deferrable=True,
    )

with DAG("told_of_videos", schedule=[Asset("hailuo://hailuo_announced/jobs")], **START):

    @task
    def told(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        return [event.extra for events in triggering_asset_events.values() for event in events]

    told()
