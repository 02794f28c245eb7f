"""A video that takes no worker slot at all (Airflow 3.3): the triggerer submits, waits and ends the task.

Where that would lose something, the task visits a worker by itself, and its log says why.
"""

from __future__ import annotations

import pendulum

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["hailuo"])
def hailuo_no_worker() -> None:
    """Generate a video, then tell where it is and what it cost."""
    video = HailuoGenerateOperator(
        task_id="make_video",
        prompt="A paper boat on a calm lake, run {{ run_id }}",
        worker_visits=0,
        retries=2,
    )

    @task
    def announce(url: str, job: dict) -> str:
        """Return a line for the people who wait for the video."""
        return f"{url} ({job['duration']} s, {job['credits']} credits)"

    announce(video.output, video.output["job"])


hailuo_no_worker()
