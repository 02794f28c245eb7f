"""A task that stores its video, one that does not wait for it, and what a video may cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo import storage
from airflow_provider_hailuo.compat import AirflowFailException, Asset, AssetAlias, TaskDeferred
from airflow_provider_hailuo.exceptions import HailuoStorageException, HailuoUnavailableException
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sandbox import Sandbox
from tests.unit.operators.fakes import Airflow, KilledError, OutletEventAccessors, Store, added
from tests.unit.operators.test_hailuo import TaskInstance, charged, jobs, resume


class Worker(Airflow):
    """Runs the tries of one task, whose store outlives them, against whatever API its connection leads to."""

    def __init__(self) -> None:
        super().__init__(None, Store())


def task(destination: object, **arguments: Any) -> HailuoGenerateOperator:
    defaults = {"task_id": "video", "prompt": "a sunrise", "poll_interval": 0.05, "deferrable": False}
    return HailuoGenerateOperator(**{**defaults, "destination": destination, **arguments})


def test_the_video_is_stored_and_its_uri_returned(sandbox: Sandbox, tmp_path: Path):
    target = tmp_path / "new" / "boat.mp4"
    worker = Worker()

    uri = worker.run(task(f"file://{target}"))

    job = worker.xcoms["job"]
    content = httpx.get(job["url"], trust_env=False, timeout=None).content
    assert uri == job["uri"] == f"file://{target}"
    assert target.read_bytes() == content
    assert (job["bytes"], job["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [path.name for path in target.parent.iterdir()] == ["boat.mp4"]


def test_it_is_stored_in_the_visit_that_takes_the_result(sandbox: Sandbox, tmp_path: Path):
    stored, ti = task(f"{tmp_path}/", deferrable=True), TaskInstance()

    with pytest.raises(TaskDeferred) as deferral:
        stored.execute({"ti": ti})
    assert list(tmp_path.iterdir()) == []
    uri = resume(stored, ti, deferral.value)

    assert Path(uri.removeprefix("file://")) == tmp_path / f"{ti.xcoms['job_id']}.mp4"
    assert Path(uri.removeprefix("file://")).stat().st_size == ti.xcoms["job"]["bytes"]


@pytest.mark.parametrize("nothing", [None, "", " ", "None"])
def test_a_destination_that_renders_to_nothing_stores_nothing(sandbox: Sandbox, nothing: object):
    worker = Worker()

    assert worker.run(task(nothing)) == worker.xcoms["job"]["url"]
    assert "uri" not in worker.xcoms["job"]


def test_a_retry_after_a_failed_storing_stores_the_video_that_is_paid(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    worker = Worker()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_put", full)
        with pytest.raises(HailuoStorageException) as raised:
            worker.run(task(f"{tmp_path}/"))
    assert list(tmp_path.iterdir()) == []
    for part in ("No space left", worker.xcoms["job_id"], "The video is there, and paid for", "A retry", "not pay"):
        assert part in str(raised.value)

    uri = worker.run(task(f"{tmp_path}/"))

    assert Path(uri.removeprefix("file://")).exists()
    assert (jobs(sandbox), charged(sandbox)) == (1, 5)


def test_a_video_that_lies_there_whole_is_not_fetched_again(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    worker = Worker()

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_hailuo.operators.hailuo.report", die)
        with pytest.raises(KilledError):
            worker.run(task(f"{tmp_path}/boat.mp4"))
    (lies,) = tmp_path.iterdir()
    before = lies.stat()
    sent: list[str] = []
    monkeypatch.setattr(storage, "download", lambda *_, **__: sent.append("all of it"))

    uri = worker.run(task(f"{tmp_path}/boat.mp4"))

    assert uri == f"file://{lies}"
    assert worker.xcoms["job"]["sha256"] == hashlib.sha256(lies.read_bytes()).hexdigest()
    assert (lies.stat().st_mtime_ns, sent) == (before.st_mtime_ns, [])
    assert (jobs(sandbox), charged(sandbox)) == (1, 5)


def test_clearing_a_stored_video_makes_a_new_one_and_replaces_the_file(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()
    worker.run(task(f"{tmp_path}/boat.mp4"))
    first = worker.xcoms["job"]
    worker.clear()

    worker.run(task(f"{tmp_path}/boat.mp4"))

    second = worker.xcoms["job"]
    assert second["id"] != first["id"]
    assert hashlib.sha256((tmp_path / "boat.mp4").read_bytes()).hexdigest() == second["sha256"]


def occupied(path: Path) -> str:
    (path / "boat.mp4").write_text("another file")
    return f"{path}/boat.mp4"


def behind_a_file(path: Path) -> str:
    (path / "file").write_text("no directory")
    return f"{path}/file/boat.mp4"


@pytest.mark.parametrize(
    ("destination", "arguments", "told"),
    [
        (lambda _: "nosuch://bucket/boat.mp4", {}, "take the URL of a storage whose provider is installed"),
        (behind_a_file, {}, "cannot be made"),
        (occupied, {"if_exists": "fail"}, "lies there already, and if_exists is 'fail'"),
        (lambda _: None, {"max_credits": 4}, "max_credits: 4: 1 video costs 5 credits, and the account has 10"),
        (lambda _: None, {"max_credits": 9.5, "resolution": "1080p"}, "max_credits: 9.5: 1 video costs 10 credits"),
        (lambda _: None, {"max_credits": 50, "model": "hailuo-03"}, "no price is known of hailuo-03: leave max_c"),
    ],
    ids=["scheme", "directory", "occupied", "dear", "dearer", "unknown price"],
)
def test_what_could_not_be_stored_or_is_too_dear_is_not_paid_for(
    sandbox: Sandbox, tmp_path: Path, destination: Callable[[Path], str], arguments: dict[str, Any], told: str
):
    with pytest.raises(AirflowFailException) as raised:
        Worker().run(task(destination(tmp_path), **arguments))

    assert told in str(raised.value)
    assert "Nothing was paid" in str(raised.value)
    assert (jobs(sandbox), charged(sandbox)) == (0, 0)


def test_a_storage_that_is_away_is_asked_again_by_a_retry_and_nothing_is_paid(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise ConnectionError("refused")

    worker = Worker()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "object_storage_path", away)
        with pytest.raises(HailuoUnavailableException, match=r"Nothing was paid\. A retry submits it"):
            worker.run(task(f"{tmp_path}/"))
    assert jobs(sandbox) == 0

    assert worker.run(task(f"{tmp_path}/")).startswith("file://")


# What lies beside it


def test_metadata_and_poster_lie_beside_it(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()

    worker.run(task(f"{tmp_path}/boat.mp4", metadata=True, poster=True, duration=10))

    job = worker.xcoms["job"]
    told = json.loads((tmp_path / "boat.json").read_text())
    assert told.pop("seconds") > 0
    assert told == {
        "job": job["id"],
        **{name: job[name] for name in ("prompt", "model", "resolution", "duration", "credits", "created")},
        **{name: job[name] for name in ("completed", "uri", "bytes", "sha256")},
        "dag_id": "dag",
        "run_id": "run",
        "task_id": "video",
        "map_index": -1,
    }
    assert (tmp_path / "boat.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boat.jpg", "boat.json", "boat.mp4"]


# Assets


def test_asset_events_tell_of_the_video_and_an_alias_gets_one_for_it(sandbox: Sandbox, tmp_path: Path):
    asset, alias = Asset("videos"), AssetAlias("new videos")
    worker = Worker()
    worker.outlet_events = OutletEventAccessors()

    uri = worker.run(task(f"{tmp_path}/boat.mp4", outlets=[asset, alias]))

    job = worker.xcoms["job"]
    facts = {"job": job["id"], **{name: job[name] for name in ("prompt", "credits", "uri", "bytes", "sha256")}}
    assert worker.outlet_events[asset].extra == facts
    ((added_uri, added_facts),) = added(worker.outlet_events, alias)
    assert (added_uri.rstrip("/"), added_facts) == (uri, facts)


def test_an_asset_event_that_cannot_be_made_names_the_job_and_is_tried_again(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()

    with pytest.raises(HailuoStorageException) as raised:
        worker.run(task(f"{tmp_path}/boat.mp4", outlets=[Asset("videos")]))
    assert worker.xcoms["job_id"] in str(raised.value)
    worker.outlet_events = OutletEventAccessors()

    worker.run(task(f"{tmp_path}/boat.mp4", outlets=[Asset("videos")]))

    assert jobs(sandbox) == 1


# Not waiting


def test_without_waiting_it_returns_the_job_once_and_a_retry_the_same(sandbox: Sandbox):
    worker = Worker()
    made = task(None, wait_for_completion=False, deferrable=True)

    job_id = worker.run(made)

    assert worker.xcoms["job_id"] == job_id
    assert sandbox.jobs()[0]["id"] == job_id
    assert worker.run(made) == job_id
    assert jobs(sandbox) == 1
    worker.clear()
    assert worker.run(made) != job_id  # it was delivered, and cleared


def test_a_job_that_is_dead_at_once_is_no_job_to_return(sandbox: Sandbox):
    worker = Worker()
    made = task(None, prompt="[[slow: 0]] [[fail: no capacity]]", wait_for_completion=False)
    worker.run(made)

    # A retry finds it dead, and renders anew.
    first = worker.xcoms["job_id"]
    while sandbox.jobs()[0]["status"] != "FAILED":
        pass
    assert worker.run(made) != first


# Money


def test_a_video_within_its_cap_is_made(sandbox: Sandbox):
    assert Worker().run(task(None, max_credits=5)).startswith(sandbox.base_url)


@pytest.mark.parametrize("sandbox", [3], indirect=True)
def test_an_account_that_has_less_is_told_of_all_three_numbers(sandbox: Sandbox):
    told = "max_credits: 20: 1 video costs 5 credits, and the account has 3 credits.*Top up"

    with pytest.raises(AirflowFailException, match=told):
        Worker().run(task(None, max_credits=20))
    assert jobs(sandbox) == 0


@pytest.mark.parametrize("sandbox", [5], indirect=True)
def test_what_may_be_paid_already_is_not_given_up_for_money_or_storage(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Before Airflow 3.3 a retry cannot know: it sends the same once more, and gets the job that is paid."""
    airflow, made = Airflow(None, None), task(f"{tmp_path}/", max_credits=5)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_put", lambda *_: 1 / 0)
        with pytest.raises(HailuoStorageException):
            airflow.run(made)
    assert sandbox.stats()["credits"] == 0
    monkeypatch.setattr(storage.Destination, "check", lambda *_: 1 / 0)

    uri = airflow.run(made)

    assert Path(uri.removeprefix("file://")).exists()
    assert jobs(sandbox) == 1
