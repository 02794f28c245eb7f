"""The two smallest examples: a video that is kept, and one that takes no worker."""

from __future__ import annotations

import pytest

from tests.examples.conftest import SIX_SECONDS, VIDEOS, Stage

pytestmark = pytest.mark.system

DAGS = ("hailuo_quickstart", "hailuo_no_worker")
RUN = "first_steps"


def begin(stage: Stage) -> None:
    for dag_id in DAGS:
        stage.start(dag_id, RUN)


def test_the_quick_start_keeps_its_video(stage: Stage):
    assert stage.ended("hailuo_quickstart", RUN) == "success"

    xcoms = stage.airflow.xcoms("hailuo_quickstart", RUN, "make_video")
    assert xcoms["return_value"] == f"{VIDEOS}/{xcoms['job_id']}.mp4"
    assert stage.video(xcoms["return_value"]) == SIX_SECONDS
    assert len(stage.prompts("tropical coastline")) == 1
    announced = stage.airflow.xcom("hailuo_quickstart", RUN, "announce")
    assert announced == f"{xcoms['return_value']} ({xcoms['job']['bytes']} bytes, 5 credits)"


def test_a_video_without_a_worker_is_announced(stage: Stage):
    assert stage.ended("hailuo_no_worker", RUN) == "success"

    (prompt,) = stage.prompts("calm lake")
    assert prompt == f"A paper boat on a calm lake, run {RUN}"
    job = stage.airflow.xcom("hailuo_no_worker", RUN, "make_video", "job")
    assert stage.airflow.xcom("hailuo_no_worker", RUN, "announce") == f"{job['url']} (6 s, 5 credits)"
