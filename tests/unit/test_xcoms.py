from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from airflow_provider_hailuo import xcoms
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest
from tests.virtual_time import run as in_virtual_time

by_triggers = pytest.mark.skipif(not xcoms.TRIGGERS_PUSH_XCOMS, reason="triggers write XComs from Airflow 3.3 on")


def task_instance(**differences: object) -> SimpleNamespace:
    return SimpleNamespace(**{"dag_id": "dag", "run_id": "run", "task_id": "video", "map_index": -1, **differences})


def test_the_facts_of_a_job_are_json_and_hold_the_defaults_of_the_api():
    job = Job(id="j", status="COMPLETED", result={"videoUrl": "https://x.example/v.mp4"}, credit_cost=5)

    facts = xcoms.job_facts(job, xcoms.request_facts(VideoRequest(prompt="a sunrise").to_wire()))

    assert json.loads(json.dumps(facts)) == {
        "id": "j",
        "status": "COMPLETED",
        "url": "https://x.example/v.mp4",
        "prompt": "a sunrise",
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": 6,
        "credits": 5,
        "created": None,
        "completed": None,
    }


@pytest.mark.parametrize(("error", "told"), [("content policy", "content policy"), ({"code": 7}, "{'code': 7}")])
def test_the_facts_of_a_job_that_failed_say_why(error: object, told: str):
    assert xcoms.job_facts(Job(id="j", status="FAILED", error=error), {})["error"] == told


@pytest.mark.parametrize("map_index", [-1, None])
def test_what_an_earlier_try_left_is_deleted_and_told(monkeypatch: pytest.MonkeyPatch, map_index: int | None):
    kept = {"job_id": "1", "return_value": "u", "_link_HailuoVideoLink": "u", "mine": 1}

    def delete(key: str, dag_id: str, task_id: str, run_id: str, map_index: int) -> None:
        assert (dag_id, task_id, run_id, map_index) == ("dag", "video", "run", -1)
        del kept[key]

    monkeypatch.setattr(xcoms.XCom, "delete", delete, raising=False)
    ti = task_instance(xcom_pull=lambda key, **_: kept.get(key), map_index=map_index)

    previous = xcoms.pull_previous(ti)
    xcoms.delete_previous(ti, previous)

    assert previous == {"job_id": "1", "return_value": "u", "_link_HailuoVideoLink": "u"}
    # Nothing else may tell of the job.
    assert kept == {"job_id": "1", "mine": 1}


@pytest.mark.parametrize(
    ("context", "delivered"),
    [
        ({"_ti_context_from_server": SimpleNamespace(xcom_keys_to_clear=["job_id", "return_value"])}, True),
        ({"_ti_context_from_server": SimpleNamespace(xcom_keys_to_clear=["job_id"])}, False),
        ({"_ti_context_from_server": SimpleNamespace(xcom_keys_to_clear=None)}, False),
        ({"_ti_context_from_server": SimpleNamespace()}, False),
        ({"_ti_context_from_server": None}, False),
        ({}, False),
    ],
)
def test_a_url_among_what_airflow_clears_tells_of_a_delivery(context: dict, delivered: bool):
    assert xcoms.was_delivered(task_instance(**context)) is delivered


@by_triggers
def test_the_link_is_written_past_the_xcom_backend(monkeypatch: pytest.MonkeyPatch):
    base = pytest.importorskip("airflow.sdk.bases.xcom").BaseXCom
    written = []

    async def aset(cls: type, key: str, value: object, **where: object) -> None:
        assert where == {"dag_id": "dag", "task_id": "video", "run_id": "run", "map_index": -1}
        written.append((cls.__name__, key, value))

    class Backend(base):
        pass

    monkeypatch.setattr(base, "aset", classmethod(aset))
    monkeypatch.setattr(xcoms, "XCom", Backend)

    asyncio.run(xcoms.push(task_instance(map_index=None), {"return_value": "u", xcoms.LINK: "u"}))

    assert written == [("Backend", "return_value", "u"), ("BaseXCom", xcoms.LINK, "u")]


@by_triggers
def test_videos_write_their_xcoms_a_few_at_a_time_and_in_turn(monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    writing: set[str] = set()
    most = 0

    async def aset(key: str, value: str, **_: object) -> None:
        nonlocal most
        writing.add(value)
        most = max(most, len(writing))
        await asyncio.sleep(0)
        if key == "last":
            writing.remove(value)
            written.append(value)

    monkeypatch.setattr(xcoms, "XCom", SimpleNamespace(aset=aset))
    videos = [str(n) for n in range(5 * xcoms.CONCURRENT_PUSHES)]

    async def leave_all() -> None:
        await asyncio.gather(*(xcoms.push(task_instance(), {"job": video, "last": video}) for video in videos))

    # Each event loop has turns of its own.
    for _ in range(2):
        asyncio.run(leave_all())

    assert most == xcoms.CONCURRENT_PUSHES
    assert written == videos * 2


@by_triggers
def test_what_hangs_holds_up_no_other_video(monkeypatch: pytest.MonkeyPatch):
    async def aset(key: str, value: str, **_: object) -> None:
        await (asyncio.Event().wait() if value == "hangs" else asyncio.sleep(0))

    monkeypatch.setattr(xcoms, "XCom", SimpleNamespace(aset=aset))
    monkeypatch.setattr(xcoms, "PUSH_TIMEOUT_SECONDS", 0.01)
    values = [*["hangs"] * xcoms.CONCURRENT_PUSHES, "u"]

    async def leave_all() -> list[object]:
        leaving = (xcoms.push(task_instance(), {"return_value": value}) for value in values)
        return await asyncio.gather(*leaving, return_exceptions=True)

    *hung, done = asyncio.run(leave_all())

    assert [type(error) for error in hung] == [asyncio.TimeoutError] * xcoms.CONCURRENT_PUSHES
    assert done is None


@by_triggers
def test_progress_waits_for_no_turn_that_a_video_could_have(monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []

    async def aset(key: str, value: object, **_: object) -> None:
        await asyncio.sleep(1)
        written.append(key)

    monkeypatch.setattr(xcoms, "XCom", SimpleNamespace(aset=aset))

    async def both() -> None:
        videos = [
            asyncio.create_task(xcoms.push(task_instance(), {"job": 1})) for _ in range(xcoms.CONCURRENT_PUSHES)
        ]
        await asyncio.sleep(0)
        await xcoms.push_progress(task_instance(), {"status": "PROCESSING", "progress": 40})
        await asyncio.gather(*videos)

    in_virtual_time(both())
    assert written == ["job"] * xcoms.CONCURRENT_PUSHES
