from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_hailuo import record
from airflow_provider_hailuo.apiframe import errors, watcher
from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from airflow_provider_hailuo.hooks.hailuo import HailuoConnectionNotFoundError, HailuoHook
from airflow_provider_hailuo.triggers import hailuo
from airflow_provider_hailuo.triggers.hailuo import HailuoJobTrigger, raise_unless_finished
from tests.virtual_time import EPOCH, patch_clock
from tests.virtual_time import run as in_virtual_time

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
KEY = "afk_secret_of_the_test"


class World:
    """An API that answers by script, in virtual time, and the XComs that triggers leave."""

    def __init__(self) -> None:
        self.steps: list[object] = []
        self.looks = 0
        self.requests: list[httpx.Request] = []
        self.opened: list[AsyncClient] = []
        self.xcoms: dict[str, object] = {}

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.method == "GET":
            self.looks += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            return httpx.Response(step, json={"error": "so it is"}, headers={"x-request-id": "req_1"})
        if isinstance(step, dict):
            return httpx.Response(200, json={"id": JOB_ID, **step})
        return httpx.Response(200, json={"id": JOB_ID, "status": step})

    async def open(self) -> AsyncClient:
        if isinstance(self.steps[0], LookupError | AirflowNotFoundException):
            raise self.steps.pop(0)
        self.opened.append(AsyncClient(Settings(api_key=KEY), transport=httpx.MockTransport(self.answer)))
        return self.opened[-1]

    async def leave(self, ti: object, xcoms: dict[str, object]) -> None:
        assert ti is not None
        self.xcoms.update(json.loads(json.dumps(xcoms)))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(HailuoHook, "get_async_conn", lambda _: world.open())
    monkeypatch.setattr(record, "leave", world.leave)
    monkeypatch.setattr(record, "TRIGGERS_WRITE_XCOMS", True)
    patch_clock(monkeypatch, watcher, hailuo)
    return world


def end(trigger: BaseTrigger) -> TriggerEvent:
    async def events() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    (event,) = in_virtual_time(events())
    return event


def run(trigger: BaseTrigger) -> dict:
    return end(trigger).payload


def trigger(seconds: float = 1800, **arguments: object) -> HailuoJobTrigger:
    return HailuoJobTrigger(job_id=JOB_ID, poll_interval=5, deadline=EPOCH + seconds, **arguments)


def test_it_is_made_again_from_what_it_serialises():
    first = HailuoJobTrigger(job_id=JOB_ID, hailuo_conn_id="other", poll_interval=7, deadline=123.5)

    path, arguments = first.serialize()

    assert path == "airflow_provider_hailuo.triggers.hailuo.HailuoJobTrigger"
    assert HailuoJobTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
    assert len(json.dumps(arguments)) < 300


def test_arguments_of_a_newer_version_are_ignored():
    assert HailuoJobTrigger(job_id=JOB_ID, from_the_future=1).job_id == JOB_ID


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
def test_a_final_job_fires_one_small_event(world: World, status: str):
    world.steps = ["QUEUED", "PROCESSING", "PROCESSING", status]

    event = run(trigger())

    assert event == {"job_id": JOB_ID, "error": None}
    assert world.looks == 4
    raise_unless_finished(event, JOB_ID)


def test_it_outlives_any_number_of_failed_looks(world: World):
    world.steps = [500, 429, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")] * 10 + ["COMPLETED"]

    assert run(trigger())["error"] is None
    assert world.looks == 41


def test_it_outlives_an_airflow_that_cannot_look_up_the_connection(world: World):
    world.steps = [LookupError("API server is down"), LookupError("API server is down"), "COMPLETED"]

    assert run(trigger())["error"] is None


def test_all_its_looks_go_through_one_client_which_it_closes(world: World):
    world.steps = ["PROCESSING"] * 20 + ["COMPLETED"]

    run(trigger())

    (client,) = world.opened
    assert client._http.is_closed


def test_triggers_of_one_connection_share_a_client(world: World):
    world.steps = ["PROCESSING"] * 50 + ["COMPLETED"]

    async def scenario() -> None:
        await asyncio.gather(*(anext(trigger().run()) for _ in range(20)))

    in_virtual_time(scenario())
    assert len(world.opened) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, errors.AuthenticationError), (403, errors.PermissionDeniedError), (404, errors.NotFoundError)],
)
def test_a_refusal_comes_back_as_the_same_error(world: World, status: int, kind: type):
    world.steps = [status]

    event = run(trigger())

    with pytest.raises(kind, match=f"so it is .HTTP {status}, request req_1, job {JOB_ID}.") as raised:
        raise_unless_finished(json.loads(json.dumps(event)), JOB_ID)
    assert raised.value.status == status
    assert world.looks == 1


def test_a_missing_connection_ends_the_wait(world: World):
    world.steps = [HailuoConnectionNotFoundError("There is no connection 'x'")]

    with pytest.raises(errors.InvalidInputError, match="There is no connection 'x'"):
        raise_unless_finished(run(trigger()), JOB_ID)


def test_the_deadline_is_a_moment(world: World):
    world.steps = ["PROCESSING"]

    async def scenario() -> tuple[dict, float]:
        return (await anext(trigger(seconds=60).run())).payload, asyncio.get_running_loop().time()

    event, seconds = in_virtual_time(scenario())

    assert 60 <= seconds <= 60 + 5 / 2 + 1
    with pytest.raises(errors.JobTimeoutError, match="may still be rendered"):
        raise_unless_finished(event, JOB_ID)


def test_a_deadline_that_passed_while_no_triggerer_ran_still_takes_a_finished_job(world: World):
    world.steps = ["COMPLETED"]

    assert run(trigger(seconds=-3600))["error"] is None


def test_no_event_holds_key_or_url_or_more_than_1_kb(world: World):
    for steps in (["COMPLETED"], [404], [500]):
        world.steps = steps
        event = json.dumps(run(trigger()))
        assert KEY not in event
        assert "http" not in event.lower().replace("http 500", "")
        assert len(event) < 1024


@pytest.mark.parametrize(
    "event",
    [None, {}, "x", {"job_id": "00000000-0000-4000-8000-000000000000", "error": None}, {"job_id": JOB_ID}],
)
def test_an_event_about_something_else_is_refused(event: object):
    with pytest.raises(errors.UnreadableAnswerError, match=f"event about job .*job {JOB_ID}"):
        raise_unless_finished(event, JOB_ID)
