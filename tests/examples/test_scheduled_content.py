"""`hailuo_scheduled_content`, and `hailuo_publish`, which its asset starts."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from airflow_provider_hailuo.compat import AIRFLOW
from tests.examples.conftest import SIX_SECONDS, VIDEOS, Stage

pytestmark = pytest.mark.system

CONTENT, PUBLISH = DAGS = ("hailuo_scheduled_content", "hailuo_publish")
NAMES = ("harbour", "market")


def begin(stage: Stage) -> None:
    assert stage.airflow.request("GET", f"dags/{CONTENT}")["is_paused"] is True
    stage.start(CONTENT, "dated", logical_date="2026-03-01T00:00:00Z")
    stage.start(CONTENT, "by_hand")


def runs(stage: Stage, dag_id: str) -> dict[str, dict[str, Any]]:
    found = stage.airflow.request("GET", f"dags/{dag_id}/dagRuns", params={"limit": 100})["dag_runs"]
    return {run["dag_run_id"]: run for run in found}


def events(stage: Stage, run_id: str) -> list[dict[str, Any]]:
    """Return the asset events of a run."""
    what = "asset" if AIRFLOW >= (3, 0) else "dataset"
    params = {"source_dag_id": CONTENT, "source_run_id": run_id, "limit": 100}
    return stage.airflow.request("GET", f"{what}s/events", params=params)[f"{what}_events"]


def scheduled(stage: Stage) -> str:
    """Return the run that the scheduler has made by itself."""
    (run_id,) = stage.airflow.until(lambda: [run for run in runs(stage, CONTENT) if run.startswith("scheduled__")])
    return run_id


def jobs(stage: Stage, run_id: str) -> list[dict[str, Any]]:
    return [stage.airflow.xcom(CONTENT, run_id, "make_video", "job", index) for index in range(len(NAMES))]


def test_a_dated_run_makes_the_videos_of_its_day(stage: Stage):
    assert stage.ended(CONTENT, "dated") == "success"

    uris = [f"{VIDEOS}/daily/2026-03-01/{name}.mp4" for name in NAMES]
    made = jobs(stage, "dated")
    assert [job["uri"] for job in made] == uris
    assert [stage.video(uri) for uri in uris] == [SIX_SECONDS] * 2
    assert [len(stage.s3.read(uri)) for uri in uris] == [job["bytes"] for job in made]
    prompts = stage.prompts("calendar picture of 2026-03-01")
    assert prompts == sorted(job["prompt"] for job in made)
    assert [prompt.partition(" at ")[0].partition(" seen ")[0] for prompt in prompts] == [
        "A harbour",
        "A street market",
    ]
    assert [job["credits"] for job in made] == [5, 5]
    assert stage.airflow.tries(CONTENT, "dated", "make_video") == [("success", 1)] * 2
    tasks = stage.airflow.task_instances(CONTENT, "dated")
    assert sorted(filter(None, (task["rendered_map_index"] for task in tasks))) == uris


@pytest.mark.parametrize("which", ["by_hand", "scheduled"])
def test_a_run_without_a_date_of_ours_makes_those_of_the_day_on_which_it_runs(stage: Stage, which: str):
    run_id = which if which == "by_hand" else scheduled(stage)
    assert stage.ended(CONTENT, run_id) == "success"

    run = runs(stage, CONTENT)[run_id]
    if AIRFLOW >= (3, 0) and which == "by_hand":
        assert run["logical_date"] is None  # so that {{ ds }} is not defined
    day = (run["logical_date"] or run["run_after"])[:10]
    assert [job["uri"] for job in jobs(stage, run_id)] == [f"{VIDEOS}/daily/{day}/{name}.mp4" for name in NAMES]
    assert all(job["prompt"].endswith(f" of {day}") for job in jobs(stage, run_id))


def test_the_last_run_of_a_day_is_what_lies_there(stage: Stage):
    run_ids = ["dated", "by_hand", scheduled(stage)]
    assert [stage.ended(CONTENT, run_id) for run_id in run_ids] == ["success"] * 3

    known = runs(stage, CONTENT)
    in_order = sorted(run_ids, key=lambda run_id: known[run_id]["end_date"])
    last = {job["uri"]: job["sha256"] for run_id in in_order for job in jobs(stage, run_id)}
    assert {uri: sha256(stage.s3.read(uri)).hexdigest() for uri in last} == last


def test_one_event_of_the_asset_tells_of_the_videos_of_a_day(stage: Stage):
    assert stage.ended(CONTENT, "dated") == "success"

    (event,) = events(stage, "dated")
    told = [{name: job[name] for name in ("uri", "prompt", "credits")} for job in jobs(stage, "dated")]
    assert event["extra"]["videos"] == told
    assert [video["uri"] for video in told] == [f"{VIDEOS}/daily/2026-03-01/{name}.mp4" for name in NAMES]


def test_what_is_stored_starts_its_publication_and_each_video_is_published_once(stage: Stage):
    run_ids = ["dated", "by_hand", scheduled(stage)]
    assert [stage.ended(CONTENT, run_id) for run_id in run_ids] == ["success"] * 3
    stored = {run_id: [job["uri"] for job in jobs(stage, run_id)] for run_id in run_ids}

    started = {}
    for run_id in run_ids:
        (created,) = stage.airflow.until(lambda run_id=run_id: events(stage, run_id)[0]["created_dagruns"])
        started[run_id] = created.get("run_id") or created["dag_run_id"]
    assert sorted(started.values()) == sorted(runs(stage, PUBLISH))
    assert [stage.ended(PUBLISH, run_id) for run_id in started.values()] == ["success"] * 3
    published = {run_id: stage.airflow.xcom(PUBLISH, started[run_id], "publish") for run_id in run_ids}
    assert published == stored
    assert len(stage.prompts("calendar picture of")) == 6
