from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_hailuo import record
from airflow_provider_hailuo.apiframe import errors, watcher
from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from airflow_provider_hailuo.hooks.hailuo import HailuoConnectionNotFoundError, HailuoHook
from airflow_provider_hailuo.triggers import hailuo
from airflow_provider_hailuo.triggers.hailuo import (
    BACKSTOP_SECONDS,
    START_ON_WORKER,
    HailuoGenerateTrigger,
    HailuoJobTrigger,
    raise_unless_finished,
)
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


# The XComs that it leaves, and the end of the task

REQUEST = {"prompt": "a sunrise", "model": "hailuo-02", "resolution": "768p", "duration": 6}
URL = "https://cdn.example/v.mp4"
VIDEO = {"status": "COMPLETED", "result": {"videoUrl": URL}, "creditCost": 5}
JOB = {"id": JOB_ID, "status": "COMPLETED", "url": URL, **REQUEST, "credits": 5, "created": None, "completed": None}


def task_instance(trigger: BaseTrigger, **differences: object) -> BaseTrigger:
    """Give `trigger` what the triggerer gives it."""
    facts = {"dag_id": "dag", "run_id": "run", "task_id": "video", "map_index": -1, "try_number": 1, **differences}
    # Where it is a property it takes a real one only.
    name = "_task_instance" if hasattr(BaseTrigger, "task_instance") else "task_instance"
    setattr(trigger, name, SimpleNamespace(**facts))
    return trigger


def test_it_leaves_the_job_so_that_nobody_has_to_look_again(world: World):
    world.steps = ["PROCESSING", VIDEO]

    event = run(task_instance(trigger(request=REQUEST)))

    assert event == {"job_id": JOB_ID, "error": None}
    assert world.xcoms == {"job": JOB}


def test_it_ends_the_task_with_all_its_xcoms(world: World):
    world.steps = ["PROCESSING", VIDEO]

    event = end(task_instance(trigger(request=REQUEST, end_from_trigger=True)))

    assert isinstance(event, TaskSuccessEvent)
    assert world.xcoms == {"job": JOB, "credit_cost": 5, "return_value": URL, "_link_HailuoVideoLink": URL}


@pytest.mark.parametrize("end_from_trigger", [True, False])
@pytest.mark.parametrize(
    ("step", "kind", "told"),
    [
        ({"status": "FAILED", "error": "content policy", "creditCost": 0}, errors.JobFailedError, "content policy"),
        ({**VIDEO, "expired": True}, errors.JobExpiredError, "purged"),
        ({"status": "COMPLETED", "result": {}}, errors.JobWithoutVideoError, "no URL"),
    ],
)
def test_a_job_without_a_video_takes_a_worker_to_fail_the_task(
    world: World, step: dict, kind: type, told: str, end_from_trigger: bool
):
    world.steps = [step]

    event = run(task_instance(trigger(request=REQUEST, end_from_trigger=end_from_trigger)))

    assert event["error"] == kind.__name__
    with pytest.raises(kind, match=f"{told}.*job {JOB_ID}"):
        raise_unless_finished(json.loads(json.dumps(event)), JOB_ID)
    assert set(world.xcoms) == {"job"}
    assert world.xcoms["job"]["status"] == step["status"]


@pytest.mark.parametrize("reason", ["an older Airflow", "dag.test()", "an API server that is away", "an older row"])
def test_where_it_cannot_leave_xcoms_a_worker_looks_at_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: str
):
    async def fail(*_: object) -> None:
        raise RuntimeError("no API server")

    world.steps = [VIDEO]
    waiting = task_instance(trigger(request=None if reason == "an older row" else REQUEST, end_from_trigger=True))
    if reason == "an older Airflow":
        monkeypatch.setattr(record, "TRIGGERS_WRITE_XCOMS", False)
    if reason == "dag.test()":
        waiting = trigger(request=REQUEST, end_from_trigger=True)
    if reason == "an API server that is away":
        monkeypatch.setattr(record, "leave", fail)

    assert run(waiting) == {"job_id": JOB_ID, "error": None}
    assert world.xcoms == {}


def test_the_row_of_a_trigger_is_small():
    prompt = "x" * 300
    rows = (
        trigger(request={**REQUEST, "prompt": prompt}, end_from_trigger=True),
        HailuoGenerateTrigger(prompt=prompt, model="hailuo-02", resolution="768p"),
    )

    for waiting in rows:
        assert len(json.dumps(waiting.serialize()[1])) < len(prompt) + 400


# Where the task starts in the triggerer


def generate(**arguments: object) -> HailuoGenerateTrigger:
    path, kwargs = HailuoGenerateTrigger(
        **{"prompt": "a sunrise", "model": "hailuo-02", "poll_interval": 5, **arguments}
    ).serialize()
    assert path == "airflow_provider_hailuo.triggers.hailuo.HailuoGenerateTrigger"
    return HailuoGenerateTrigger(**json.loads(json.dumps(kwargs)), from_the_future=1)


def submitted(world: World) -> list[tuple[str, dict]]:
    posts = [request for request in world.requests if request.method == "POST"]
    return [(post.headers["idempotency-key"], json.loads(post.content)) for post in posts]


def test_it_submits_waits_and_ends_the_task(world: World):
    world.steps = [{"jobId": JOB_ID, "status": "QUEUED"}, "PROCESSING", VIDEO]

    event = end(task_instance(generate(duration="10")))

    assert isinstance(event, TaskSuccessEvent)
    ((key, body),) = submitted(world)
    assert key.startswith("airflow/dag/video/")
    assert body == {"prompt": "a sunrise", "model": "hailuo-02", "hailuoParams": {"duration": 10}}
    assert world.xcoms == {
        "job_id": JOB_ID,
        "job": {**JOB, "duration": 10},
        "credit_cost": 5,
        "return_value": URL,
        "_link_HailuoVideoLink": URL,
    }
    assert len(world.opened) == 1


def test_a_triggerer_that_starts_it_again_asks_with_the_same_key(world: World):
    world.steps = [{"jobId": JOB_ID, "status": "QUEUED"}, VIDEO] * 2

    for _ in range(2):
        end(task_instance(generate()))

    (first, _), (second, _) = submitted(world)
    assert first == second


def test_a_key_of_the_user_is_used_as_it_is(world: World):
    world.steps = [{"jobId": JOB_ID, "status": "QUEUED"}, VIDEO]

    end(task_instance(generate(idempotency_key="order-7")))

    assert submitted(world)[0][0] == "order-7"


@pytest.mark.parametrize("differences", [{"try_number": 2}, None])
def test_what_only_a_worker_can_tell_is_left_to_it(world: World, differences: dict | None):
    waiting = generate()
    if differences is not None:
        task_instance(waiting, **differences)

    assert run(waiting) == START_ON_WORKER
    assert world.requests == []


rendering = pytest.mark.skipif(
    not hasattr(BaseTrigger, "render_template_fields"), reason="this Airflow renders nothing in the triggerer"
)


@rendering
def test_a_template_that_cannot_be_rendered_is_left_to_a_worker(world: World):
    for template in ("{{ nobody }}", "{{ params.nothing }}", "{{ 1 / 0 }}", "{{ x"):
        waiting = task_instance(generate(prompt=template))
        waiting.template_fields = ("prompt",)

        waiting.render_template_fields({"params": {}})

        assert run(waiting) == START_ON_WORKER
    assert world.requests == []


@rendering
def test_templates_are_rendered(world: World):
    world.steps = [{"jobId": JOB_ID, "status": "QUEUED"}, VIDEO]
    waiting = task_instance(generate(prompt="a sunrise on {{ ds }}"))
    waiting.template_fields = ("prompt", "image")

    waiting.render_template_fields({"ds": "2026-01-01"})
    end(waiting)

    assert submitted(world)[0][1]["prompt"] == "a sunrise on 2026-01-01"


@pytest.mark.parametrize(
    ("step", "arguments", "kind", "told"),
    [
        (402, {}, errors.InsufficientCreditsError, "so it is"),
        (401, {}, errors.AuthenticationError, "so it is"),
        (409, {}, errors.ConflictError, "the key is 'airflow/dag/video/.*a sunrise"),
        (200, {"resolution": "4k"}, errors.InvalidInputError, "resolution: '4k'"),
    ],
)
def test_what_is_refused_is_told_and_no_job_is_named(world: World, step: int, arguments: dict, kind: type, told: str):
    world.steps = [step]

    event = run(task_instance(generate(**arguments)))

    with pytest.raises(kind, match=told) as raised:
        raise_unless_finished(json.loads(json.dumps(event)), None)
    assert raised.value.job_id is None
    assert world.xcoms == {}


def test_an_xcom_that_could_not_be_written_at_first_is_written_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def fail_once(ti: object, xcoms: dict[str, object]) -> None:
        monkeypatch.setattr(record, "leave", world.leave)
        raise RuntimeError("no API server")

    world.steps = [{"jobId": JOB_ID, "status": "QUEUED"}, VIDEO]
    monkeypatch.setattr(record, "leave", fail_once)

    assert isinstance(end(task_instance(generate())), TaskSuccessEvent)
    assert world.xcoms["job_id"] == JOB_ID


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "handed_over", "given_up"),
    [
        (60, None, 0, 60),
        (60, None, -40, 20),
        (60, 30, 0, 25),
        (60, 30, -10, 15),
        (60, 1000, 0, 60),
    ],
)
def test_the_time_to_wait_is_counted_from_when_airflow_handed_over_the_task(
    world: World, timeout: float, execution_timeout: float | None, handed_over: float, given_up: float
):
    async def scenario() -> tuple[dict, float]:
        waiting = task_instance(generate(timeout=timeout, execution_timeout=execution_timeout))
        # As Airflow does it.
        ends = min(timeout + BACKSTOP_SECONDS, execution_timeout or float("inf"))
        waiting.timeout_after = datetime.fromtimestamp(EPOCH, timezone.utc) + timedelta(seconds=handed_over + ends)
        return (await anext(waiting.run())).payload, asyncio.get_running_loop().time()

    world.steps = [{"jobId": JOB_ID, "status": "QUEUED"}, "PROCESSING"]

    event, seconds = in_virtual_time(scenario())

    assert event["error"] == "JobTimeoutError"
    assert given_up <= seconds <= given_up + 5
