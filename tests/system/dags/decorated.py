"""Functions that write prompts, decorated with `@task.hailuo`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pendulum
from airflow.sdk import DAG, task

SETTINGS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retry_delay": timedelta(seconds=1), "poll_interval": 1},
}


@task
def look(url: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return what a task that follows gets to see."""
    return {"url": url, "job": job}


def release(_: Any) -> None:
    """Let the render end that is late."""
    url = f"{os.environ['HAILUO_SANDBOX']}/sandbox/release"
    httpx.post(url, params={"words": "decorated late"}, trust_env=False).raise_for_status()


with DAG("decorated_text", **SETTINGS):

    @task.hailuo
    def video(run_id: str, **context: Any) -> str:
        """Write a prompt that is a template."""
        return f"a decorated sunrise on {run_id} of {context['dag'].dag_id}, try {{{{ ti.try_number }}}}"

    video()

with DAG("decorated_fields", **SETTINGS):

    @task.hailuo(task_id="video", duration=6, resolution="768p")
    def write(product: str) -> dict[str, Any]:
        """Write a prompt, and how long the video is to be."""
        return {"prompt": f"a decorated {product}", "duration": 10}

    made = write(product="boat")
    look(made, made["job"])

with DAG("decorated_mapped", **SETTINGS):

    @task.hailuo(worker_visits=0)
    def advert(product: str, place: str) -> dict[str, str]:
        """Write one prompt of several."""
        return {"prompt": f"a decorated {product} {place}"}

    advert.override(task_id="video").partial(place="on a table").expand(product=["teapot", "lamp"])
    advert.override(task_id="another", resolution="1080p")("box", place="under a table")

with DAG("decorated_retried", **SETTINGS):

    @task.hailuo(task_id="video", timeout=4, retries=5, on_retry_callback=release)
    def write_anew() -> str:
        """Write another prompt each time."""
        return f"[[stall]] a decorated late sunrise, {uuid4()}"

    write_anew()

with DAG("decorated_nothing", **SETTINGS):

    @task.hailuo(task_id="video", retries=2)
    def write_nothing() -> None:
        """Write nothing."""

    write_nothing()
