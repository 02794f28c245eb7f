"""A person watches the video before it is published, or asks for another take (Airflow 3.1 and newer).

The question waits under "Required Actions" in Airflow's UI, for as long as it takes, and holds no worker slot.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pendulum
from airflow.exceptions import AirflowOptionalProviderFeatureException

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
try:
    from airflow.providers.standard.operators.hitl import HITLOperator
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
except (ImportError, AirflowOptionalProviderFeatureException):  # before Airflow 3.1
    HITLOperator = None

VIDEOS = os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())  # or "s3://my-bucket/videos", or any other storage
VIDEOS_CONN_ID = os.environ.get("HAILUO_VIDEOS_CONN_ID")  # its connection, "aws_default" as an example

PUBLISH, ANOTHER_TAKE = "Publish", "Another take"


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={"prompt": "A lighthouse at dusk, its beam sweeps over the waves, slow aerial shot"},
    tags=["hailuo"],
)
def hailuo_review() -> None:
    """Make a video, ask what to do with it, and do that; each take is a run of its own."""
    video = HailuoGenerateOperator(
        task_id="make_video",
        prompt="{{ params.prompt }}",
        destination=f"{VIDEOS}/",
        destination_conn_id=VIDEOS_CONN_ID,
        retries=2,
    )

    review = HITLOperator(
        task_id="review",
        subject="Publish this video?",
        body="""[Watch it]({{ ti.xcom_pull(task_ids='make_video', key='job').url }})

> {{ params.prompt }}

The link is short-lived; the file stays: {{ ti.xcom_pull(task_ids='make_video') }}
""",
        options=[PUBLISH, ANOTHER_TAKE],
        params={
            "prompt": Param(
                None,
                type=["null", "string"],
                format="multiline",
                maxLength=2000,
                title="Prompt of another take",
                description="If it is empty, the prompt stays as it is.",
            )
        },
    )

    @task.branch
    def decide(answer: dict[str, Any]) -> str:
        """Return the task that follows."""
        return "publish" if answer["chosen_options"] == [PUBLISH] else "another_take"

    @task
    def publish(uri: str, answer: dict[str, Any]) -> str:
        """Return a line for the log: here the video goes out to the world."""
        return f"{uri}, approved by {answer['responded_by_user']['name']}"

    another_take = TriggerDagRunOperator(
        task_id="another_take",
        trigger_dag_id="hailuo_review",
        conf={"prompt": "{{ ti.xcom_pull(task_ids='review').params_input.get('prompt') or params.prompt }}"},
    )

    video >> review
    decide(review.output) >> [publish(video.output, review.output), another_take]


if HITLOperator:
    hailuo_review()
