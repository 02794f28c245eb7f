"""The first DAG: generate a video and keep the file, because the API's URL is short-lived.

It runs as it is against the local sandbox and against the real API: only the connection `hailuo_default` differs.
"""

from __future__ import annotations

import os
import tempfile

import pendulum

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task

VIDEOS = os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())  # or "s3://my-bucket/videos", or any other storage
VIDEOS_CONN_ID = os.environ.get("HAILUO_VIDEOS_CONN_ID")  # its connection, "aws_default" as an example


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["hailuo"])
def hailuo_quickstart() -> None:
    """Generate one video and keep it."""
    video = HailuoGenerateOperator(
        task_id="make_video",
        prompt="Drone shot flying over a tropical coastline at sunrise, smooth cinematic motion",
        resolution="768p",
        duration=6,
        destination=f"{VIDEOS}/",  # the file is called after the job
        destination_conn_id=VIDEOS_CONN_ID,
        retries=2,  # a retry takes the same job up again: it never pays twice
    )

    @task
    def announce(uri: str, job: dict) -> str:
        """Return a line for the people who wait for the video."""
        return f"{uri} ({job['bytes']} bytes, {job['credits']} credits)"

    announce(video.output, video.output["job"])


hailuo_quickstart()
