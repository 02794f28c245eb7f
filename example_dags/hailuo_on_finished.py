"""Stores each video that is finished, whoever has submitted it (Airflow 3.1.1 and newer).

The API announces its jobs to this Airflow's receiver of webhooks, which gives the asset of the connection an event
for each finished video. Submit with `webhook_url="auto"` from a DAG, or from anywhere else with the receiver's URL:
`<[api] base_url>/hailuo/webhooks/hailuo_default`.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pendulum

from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator

try:
    from airflow.sdk import Asset, dag, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag, task

VIDEOS = os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())  # or "s3://my-bucket/videos", or any other storage
VIDEOS_CONN_ID = os.environ.get("HAILUO_VIDEOS_CONN_ID")  # its connection, "aws_default" as an example


@dag(
    schedule=[Asset("hailuo://hailuo_default/jobs")],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["hailuo"],
)
def hailuo_on_finished() -> None:
    """Store the videos that have been finished since the last run."""

    @task
    def finished(triggering_asset_events: Any = None) -> list[str]:
        """Return the jobs: an event tells `job`, `url`, `prompt`, `model`, `credits` and more."""
        found = (triggering_asset_events or {}).values()  # none when it is started by hand
        return [event.extra["job"] for events in found for event in events]

    HailuoToObjectStorageOperator.partial(
        task_id="store",
        destination=f"{VIDEOS}/finished/",
        destination_conn_id=VIDEOS_CONN_ID,
        retries=2,
    ).expand(job_id=finished())


hailuo_on_finished()
