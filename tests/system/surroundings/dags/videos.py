"""One video in each of the modes of a task, for Airflows that are set up in other ways than the default."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator


@task
def look(url: str, job: dict) -> Any:
    """Return what a task that follows gets to see."""
    return {"url": url, "job": job}


def make(
    dag_id: str, visits: int, task_id: str = "video", conn_id: str = "hailuo_default", *, looked_at: bool = False
) -> None:
    """Make a DAG of one video, and perhaps of a task that looks at it."""
    with DAG(
        dag_id,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
    ):
        video = HailuoGenerateOperator(
            task_id=task_id,
            prompt=f"{dag_id} a sunrise",
            hailuo_conn_id=conn_id,
            poll_interval=1,
            worker_visits=visits,
        )
        if looked_at:
            look(video.output, video.output["job"])


for visits in 0, 1, 2:
    make(f"plain_{visits}", visits, looked_at=True)
    make(f"letters_{visits}", visits, task_id="видео")
    make(f"workers_only_{visits}", visits, conn_id="hailuo_workers_only")
