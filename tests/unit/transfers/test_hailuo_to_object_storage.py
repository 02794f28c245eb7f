from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_hailuo import metrics
from airflow_provider_hailuo.compat import AirflowFailException, Asset
from airflow_provider_hailuo.exceptions import HailuoException, HailuoJobTimeoutException
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.transfers import hailuo_to_object_storage as transfers
from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator
from tests.unit.operators.fakes import OutletEventAccessors, TaskInstance, connect
from tests.unit.test_metrics import Backend


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.05, jitter=0, credits=100) as sandbox:
        connect(monkeypatch, sandbox, extra=json.dumps({"retries": 0}))
        yield sandbox


def submit(prompt: str = "a boat") -> str:
    """Submit a job elsewhere, and wait for its end."""
    job_id = HailuoHook().generate_video(prompt).job_id
    HailuoHook().wait_for_job(job_id, poll_interval=0.05)
    return job_id


def store(job_id: str, destination: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """Run the task once; return what it returns, and its XComs."""
    context = arguments.pop("context", {})
    made = HailuoToObjectStorageOperator(task_id="store", job_id=job_id, destination=destination, **arguments)
    ti = TaskInstance(task_id="store", max_tries=1)
    return made.execute({"ti": ti, **context}), ti.xcoms


def test_the_video_of_a_job_made_elsewhere_is_stored(sandbox: Sandbox, tmp_path: Path):
    job_id = submit()

    uri, xcoms = store(job_id, f"{tmp_path}/", metadata=True)

    path = Path(uri.removeprefix("file://"))
    assert path == tmp_path / f"{job_id}.mp4"
    told = {"id": job_id, "uri": uri, "bytes": path.stat().st_size, "prompt": "a boat"}
    assert xcoms["job"] == {**xcoms["job"], **told}
    assert json.loads(path.with_suffix(".json").read_text())["task_id"] == "store"
    assert sandbox.stats()["jobsCreated"] == 1


def test_asset_events_tell_of_it(sandbox: Sandbox, tmp_path: Path):
    asset, events = Asset("videos"), OutletEventAccessors()

    uri, _ = store(submit(), f"{tmp_path}/boat.mp4", outlets=[asset], context={"outlet_events": events})

    assert events[asset].extra["uri"] == uri


def test_a_job_that_failed_is_an_error_at_once_and_no_retry_mends_it(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job_id, backend = submit("[[fail: content policy]]"), Backend()
    monkeypatch.setattr(metrics, "stats", lambda **_: backend)

    with pytest.raises(AirflowFailException, match=f"content policy.*{job_id}"):
        store(job_id, f"{tmp_path}/")

    assert list(tmp_path.iterdir()) == []
    tags = {"model": "hailuo-02", "conn_id": "hailuo_default", "dag_id": "dag", "cause": "JobFailedError"}
    assert backend.told[-1] == (metrics.FAILED, 1, tags)


def test_a_job_that_was_purged_is_an_error_and_no_retry_mends_it(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job_id = submit()
    sandbox.set_faults([{"fault": "expired"}])
    monkeypatch.setattr("airflow_provider_hailuo.apiframe.polling.URL_SECONDS", 0)

    with pytest.raises(AirflowFailException, match="purged"):
        store(job_id, f"{tmp_path}/")


def test_a_job_that_renders_still_is_waited_for_elsewhere(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transfers, "RESULT_TIMEOUT_SECONDS", 0.1)
    job_id = HailuoHook().generate_video("[[stall]]").job_id

    with pytest.raises(HailuoJobTimeoutException, match=job_id):
        store(job_id, f"{tmp_path}/")


@pytest.mark.parametrize(
    ("job_id", "arguments", "told"),
    [
        ("", {}, "job_id"),
        ("None", {}, "job_id"),
        ("https://cdn.example/videos/boat.mp4", {}, "job_id"),
        ("job_1", {"destination": "boat.mp4"}, "destination: 'boat.mp4': must be a URL"),
        ("job_1", {"if_exists": "never"}, "if_exists: 'never'"),
    ],
    ids=str,
)
def test_bad_input_is_one_error_that_names_it(
    sandbox: Sandbox, tmp_path: Path, job_id: str, arguments: dict[str, Any], told: str
):
    with pytest.raises(AirflowFailException, match=told):
        store(job_id, **{"destination": f"{tmp_path}/", **arguments})


def test_a_storage_that_fails_may_be_tried_again(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job_id = submit()
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_hailuo.storage._put", lambda *_: 1 / 0)
        with pytest.raises(HailuoException, match=rf"job {job_id}\)\. A retry stores it\.$"):
            store(job_id, f"{tmp_path}/")

    store(job_id, f"{tmp_path}/")
