"""Batches in a real Airflow: worker, triggerer, worker; a triggerer that is killed, a retry, a clearing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_airflow import LocalAirflow

from airflow_provider_hailuo.sandbox import Sandbox
from tests.system.conftest import API_KEY, PATIENCE_SECONDS

pytestmark = pytest.mark.system

DAGS = ("many", "many_json", "many_mapped")


@pytest.fixture(scope="module")
def api() -> Iterator[Sandbox]:
    """Return a local Apiframe."""
    with Sandbox(render_seconds=2, jitter=0, credits=1000, api_key=API_KEY, seed=3) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(api: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Return an Airflow of its own: its triggerer is killed."""
    home = tmp_path_factory.mktemp("batches")
    dags = home / "dags"
    dags.mkdir()
    (dags / "batch.py").symlink_to(Path(__file__).parent / "dags" / "batch.py")
    connection = {"conn_type": "hailuo", "host": api.base_url, "password": API_KEY}
    with LocalAirflow(
        home / "airflow",
        dags,
        wait_for=DAGS,
        connections={"hailuo_batch": connection},
        config={"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"},
    ) as airflow:
        yield airflow


def ended(airflow: LocalAirflow, dag_id: str, run_id: str) -> str:
    """Wait for the end of a run and return its state."""
    return airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS)


def made(api: Sandbox, words: str = "") -> Counter[str]:
    """Return how often each prompt that contains `words` was submitted."""
    return Counter(job["input"]["prompt"] for job in api.jobs() if words in job["input"]["prompt"])


def test_what_upstream_tells_is_rendered_and_stored_and_the_manifest_handed_on(
    airflow: LocalAirflow, api: Sandbox, tmp_path: Path
):
    run_id = airflow.trigger("many", {"directory": str(tmp_path)})

    assert ended(airflow, "many", run_id) == "success"

    seen = airflow.xcom("many", run_id, "look")
    summary = seen["summary"]
    manifest = summary.pop("manifest")
    assert seen["result"] == manifest
    assert summary == {"items": 4, "completed": 3, "failed": 1, "refused": 0, "credits": 18}
    lines = [json.loads(line) for line in Path(manifest.removeprefix("file://")).read_text().splitlines()]
    assert [line["status"] for line in lines] == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    assert "content policy" in lines[2]["error"]
    for line in (lines[0], lines[1], lines[3]):
        assert Path(line["uri"].removeprefix("file://")).stat().st_size == line["bytes"]
    assert "as DEFERRED" in airflow.log("many", run_id, "videos")
    assert API_KEY not in airflow.log("many", run_id, "videos")


def test_a_triggerer_that_is_killed_pays_nothing_twice(airflow: LocalAirflow, api: Sandbox):
    prompts = [f"[[stall]] killed {n}" for n in range(6)]
    run_id = airflow.trigger("many_json", {"requests": prompts})
    airflow.until(lambda: made(api, "killed").total() >= 4)

    airflow.kill("triggerer")
    replays = api.stats()["idempotentReplays"]
    airflow.start("triggerer")
    airflow.until(lambda: api.stats()["idempotentReplays"] >= replays + 4)

    def has_ended() -> bool:
        api.release("killed")
        return airflow.state("many_json", run_id) in {"success", "failed"}

    airflow.until(has_ended)

    assert ended(airflow, "many_json", run_id) == "success"
    results = airflow.xcom("many_json", run_id, "videos")
    assert made(api, "killed") == Counter(prompts)
    by_id = {job["id"]: job["input"]["prompt"] for job in api.jobs()}
    assert [by_id[result["job_id"]] for result in results] == prompts
    assert airflow.tries("many_json", run_id, "videos") == [("success", 1)]


def test_a_retry_and_a_clearing_make_only_what_is_missing(airflow: LocalAirflow, api: Sandbox):
    fails = "[[fail: content policy]] again"
    run_id = airflow.trigger("many_json", {"requests": ["again 1", fails, "again 2"]})
    assert ended(airflow, "many_json", run_id) == "failed"
    assert airflow.tries("many_json", run_id, "videos") == [("failed", 2)]
    assert made(api, "again") == {"again 1": 1, "again 2": 1, fails: 2}
    assert airflow.xcom("many_json", run_id, "videos", "summary")["completed"] == 2
    assert "A retry makes what is missing and pays for nothing twice" in airflow.log("many_json", run_id, "videos")

    airflow.clear("many_json", run_id)

    assert ended(airflow, "many_json", run_id) == "failed"
    assert made(api, "again") == {"again 1": 1, "again 2": 1, fails: 4}


def test_clearing_what_was_delivered_makes_all_anew(airflow: LocalAirflow, api: Sandbox):
    run_id = airflow.trigger("many_json", {"requests": ["anew"]})
    assert ended(airflow, "many_json", run_id) == "success"

    airflow.clear("many_json", run_id)

    assert ended(airflow, "many_json", run_id) == "success"
    assert made(api, "anew") == {"anew": 2}


def test_mapped_batches_have_videos_of_their_own(airflow: LocalAirflow, api: Sandbox):
    run_id = airflow.trigger("many_mapped")

    assert ended(airflow, "many_mapped", run_id) == "success"
    assert (made(api, "one"), made(api, "two")) == ({"a long one": 1, "one": 2}, {"two": 2})
