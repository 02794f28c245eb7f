"""The review: what a person answers in the running Airflow decides what becomes of the video."""

from __future__ import annotations

from typing import Any

import pytest

from tests.examples.conftest import SIX_SECONDS, VIDEOS, Stage

pytestmark = pytest.mark.system
pytest.importorskip("airflow.sdk.execution_time.hitl", reason="Airflow asks people from 3.1 on")

DAGS = ("hailuo_review",)
(DAG,) = DAGS

FIRST, SECOND = "A reviewed lighthouse {{ ds }}", "A reviewed harbour, 'by night' {{ ds }}"


def begin(stage: Stage) -> None:
    stage.start(DAG, "take_1", conf={"prompt": FIRST})


def question(stage: Stage, run_id: str) -> dict[str, Any]:
    """Wait until a run asks, and return what."""

    def asked() -> dict[str, Any] | None:
        found = stage.airflow.request("GET", f"dags/{DAG}/dagRuns/{run_id}/hitlDetails")["hitl_details"]
        return found[0] if found else None

    return stage.airflow.until(asked)


def answer(stage: Stage, run_id: str, option: str, **form: str | None) -> None:
    # Only a test is so quick that Airflow 3.3 fails the task: it goes on before the scheduler has seen it pause.
    task = f"task_id='review', run_id='{run_id}'"

    def has_paused() -> bool:
        lines = (line for log in stage.airflow.home.glob("scheduler*.log") for line in log.read_text().splitlines())
        return any("Received executor event with state success" in line and task in line for line in lines)

    stage.airflow.until(has_paused)
    path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/review/-1/hitlDetails"
    stage.airflow.request("PATCH", path, json={"chosen_options": [option], "params_input": form})


def states(stage: Stage, run_id: str) -> dict[str, str]:
    """Wait for the end of a run and return what has become of its tasks."""
    assert stage.ended(DAG, run_id) == "success"
    return {task["task_id"]: task["state"] for task in stage.airflow.task_instances(DAG, run_id)}


def next_take(stage: Stage, run_id: str) -> str:
    assert states(stage, run_id)["publish"] == "skipped"
    return stage.airflow.xcom(DAG, run_id, "another_take", "trigger_run_id")


def jobs(stage: Stage) -> list[dict[str, Any]]:
    """Return all jobs for this DAG, the oldest first."""
    return [job for job in reversed(stage.sandbox.jobs()) if "reviewed" in job["input"]["prompt"]]


def test_a_person_has_the_video_made_anew_until_it_may_be_published(stage: Stage):
    asked = question(stage, "take_1")
    (job,) = jobs(stage)
    assert job["input"]["prompt"] == FIRST
    assert asked["subject"] == "Publish this video?"
    assert f"[Watch it]({job['result']['videoUrl']})" in asked["body"]
    assert FIRST in asked["body"]
    assert f"{VIDEOS}/{job['id']}.mp4" in asked["body"]

    answer(stage, "take_1", "Another take", prompt=SECOND)
    second = next_take(stage, "take_1")
    assert SECOND in question(stage, second)["body"]

    answer(stage, second, "Another take")  # of the same prompt
    third = next_take(stage, second)
    assert SECOND in question(stage, third)["body"]

    made = jobs(stage)
    assert [job["input"]["prompt"] for job in made] == [FIRST, SECOND, SECOND]
    assert [job["creditCost"] for job in made] == [5, 5, 5]

    answer(stage, third, "Publish", prompt=None)
    ended = states(stage, third)
    assert ended["publish"] == "success"
    assert ended["another_take"] == "skipped"
    published = stage.airflow.xcom(DAG, third, "publish")
    assert published.startswith(f"{VIDEOS}/{made[-1]['id']}.mp4, approved by ")
    assert jobs(stage) == made
    assert stage.video(f"{VIDEOS}/{made[-1]['id']}.mp4") == SIX_SECONDS
