"""A few videos each day, and a second DAG that publishes them when all of them are stored.

`hailuo_scheduled_content` begins when somebody unpauses it: from then on it spends credits every day.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pendulum

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import Asset, dag, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag, task

VIDEOS = os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())  # or "s3://my-bucket/videos", or any other storage
VIDEOS_CONN_ID = os.environ.get("HAILUO_VIDEOS_CONN_ID")  # its connection, "aws_default" as an example

# As {{ ds }}, which a run of Airflow 3 has only if it has a logical date: one that is started by hand may have none.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"
SUBJECTS = {
    "harbour": "A harbour at sunrise, fishing boats leaving",
    "market": "A street market seen from above, people strolling",
}

daily_videos = Asset("hailuo_daily_videos")


@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,  # else it would pay for each day since then
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["hailuo"],
)
def hailuo_scheduled_content() -> None:
    """Generate the videos of a day, one for each of SUBJECTS, then say that they are there."""
    videos = HailuoGenerateOperator.partial(
        task_id="make_video",
        resolution="768p",
        duration=6,
        destination_conn_id=VIDEOS_CONN_ID,
        map_index_template="{{ task.destination }}",
        retries=2,
    ).expand_kwargs(
        [
            # Named after the day: a run that is made again replaces its videos.
            {"prompt": f"{subject}, calendar picture of {DAY}", "destination": f"{VIDEOS}/daily/{DAY}/{name}.mp4"}
            for name, subject in SUBJECTS.items()
        ]
    )

    # Not by `outlets` of the mapped task: of events that come right after one another Airflow may pass on the first,
    # and keep the others for the next run.
    @task(outlets=[daily_videos])
    def announce(jobs: Any, outlet_events: Any = None) -> None:
        """Tell in one event where the videos are."""
        fields = ("uri", "prompt", "credits")
        outlet_events[daily_videos].extra["videos"] = [{name: job[name] for name in fields} for job in jobs]

    announce(videos.output["job"])


@dag(
    schedule=[daily_videos],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["hailuo"],
)
def hailuo_publish() -> None:
    """Publish the videos of a day."""

    @task
    def publish(**context: Any) -> list[str]:
        """Publish what an event tells of: `uri`, `prompt`, `credits`. Put the call of your own channel here."""
        try:
            events = context["triggering_asset_events"]
        except KeyError:  # Airflow 2.11
            events = context["triggering_dataset_events"]
        # Several events after days on which this DAG was paused, none when it is started by hand.
        videos = [video for found in events.values() for event in found for video in event.extra["videos"]]
        return [video["uri"] for video in videos]

    publish()


hailuo_scheduled_content()
hailuo_publish()
