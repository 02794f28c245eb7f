"""The first DAG: generate a video, then keep the file, because the API's URL is short-lived.

It runs as it is against the local sandbox and against the real API: only the connection `hailuo_default` differs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import httpx
import pendulum

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["hailuo"])
def hailuo_quickstart() -> None:
    """Generate one video and save it."""
    video = HailuoGenerateOperator(
        task_id="make_video",
        prompt="Drone shot flying over a tropical coastline at sunrise, smooth cinematic motion",
        resolution="768p",
        duration=6,
        retries=2,  # a retry takes the same job up again: it never pays twice
    )

    @task
    def save_video(url: str, job_id: str) -> str:
        """Download the video and return where it lies."""
        path = Path(os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())) / f"{job_id}.mp4"
        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as response:
            response.raise_for_status()
            with path.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
        return str(path)

    save_video(video.output, video.output["job_id"])


hailuo_quickstart()
