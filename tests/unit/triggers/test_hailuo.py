from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import httpx
import pytest
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_hailuo import idempotency, xcoms
from airflow_provider_hailuo.apiframe import errors, watcher
from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.apiframe.polling import REFUSED_SECONDS
from airflow_provider_hailuo.hooks.hailuo import HailuoConnectionNotFoundError, HailuoHook
from airflow_provider_hailuo.triggers import hailuo
from airflow_provider_hailuo.triggers.hailuo import (
    DEFER_TIMEOUT_MARGIN_SECONDS,
    MIN_DEFERRED_SECONDS,
    START_ON_WORKER,
    HailuoGenerateTrigger,
    HailuoJobTrigger,
    raise_unless_finished,
)
from tests.virtual_time import EPOCH, patch_clock
from tests.virtual_time import run as in_virtual_time

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
KEY = "afk_secret_of_the_test"
REQUEST = {"prompt": "a sunrise", "model": "hailuo-02", "resolution": "768p", "duration": 6}
URL = "https://cdn.example/v.mp4"
PAGE = "hailuo/video?dag_id=dag&run_id=run&task_id=video&map_index=-1"
SUBMITTED = {"jobId": JOB_ID, "status": "QUEUED"}
VIDEO = {"status": "COMPLETED", "result": {"videoUrl": URL}, "creditCost": 5}
JOB = {"id": JOB_ID, "status": "COMPLETED", "url": URL, **REQUEST, "credits": 5, "created": None, "completed": None}


class World:
    """An API that answers by script, in virtual time, and the XComs that triggers leave."""

    def __init__(self) -> None:
        self.steps: list[object] = []
        self.looks = 0
        self.requests: list[httpx.Request] = []
        self.opened: list[AsyncClient] = []
        self.xcoms: dict[str, object] = {}
        self.progress: list[object] = []
        self.lost: Exception | None = None

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

    async def look_up(self) -> Settings:
        if self.lost is not None:
            raise self.lost
        return Settings(api_key=KEY)

    def connect(self, settings: Settings) -> AsyncClient:
        self.opened.append(AsyncClient(settings, transport=httpx.MockTransport(self.answer)))
        return self.opened[-1]

    async def push(self, ti: object, values: dict[str, object]) -> None:
        assert ti is not None
        written = json.loads(json.dumps(values))
        if "progress" in written:
            self.progress.append(written.pop("progress"))
        self.xcoms.update(written)

    async def pull_job_id(self, ti: object) -> object:
        assert ti is not None
        return self.xcoms.get("job_id")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(HailuoHook, "get_async_settings", lambda _: world.look_up())
    monkeypatch.setattr(HailuoHook, "connect", lambda _, settings: world.connect(settings))
    monkeypatch.setattr(xcoms, "push", world.push)
    monkeypatch.setattr(xcoms, "pull_job_id", world.pull_job_id)
    monkeypatch.setattr(xcoms, "TRIGGERS_PUSH_XCOMS", True)
    patch_clock(monkeypatch, watcher, hailuo)
    return world


async def fail(*_: object) -> None:
    """Read or write XComs as where that cannot be done."""
    raise UnicodeEncodeError("ascii", "видео", 0, 5, "ordinal not in range(128)")


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(xcoms, "push", fail)


def timed(trigger: BaseTrigger) -> tuple[TriggerEvent, float]:
    """Return the one event and the seconds that it took."""

    async def scenario() -> tuple[TriggerEvent, float]:
        (event,) = [event async for event in trigger.run()]
        return event, asyncio.get_running_loop().time()

    return in_virtual_time(scenario())


def end(trigger: BaseTrigger) -> TriggerEvent:
    return timed(trigger)[0]


def run(trigger: BaseTrigger) -> dict:
    """Return what the event tells, as it comes out of Airflow's database."""
    return json.loads(json.dumps(end(trigger).payload))


def task_instance(trigger: BaseTrigger, **differences: object) -> BaseTrigger:
    """Give `trigger` what the triggerer gives it."""
    facts = {"dag_id": "dag", "run_id": "run", "task_id": "video", "map_index": -1, "try_number": 1, "id": 7}
    # Where it is a property it takes a real one only.
    name = "_task_instance" if hasattr(BaseTrigger, "task_instance") else "task_instance"
    setattr(trigger, name, SimpleNamespace(**{**facts, **differences}))
    return trigger


def trigger(seconds: float = 1800, poll_interval: float = 5, **arguments: object) -> HailuoJobTrigger:
    return HailuoJobTrigger(job_id=JOB_ID, poll_interval=poll_interval, deadline=EPOCH + seconds, **arguments)


def ending(seconds: float = 1800, **arguments: object) -> BaseTrigger:
    """Return a trigger that may end its task."""
    return task_instance(trigger(seconds, request=REQUEST, end_from_trigger=True, **arguments))


def test_it_is_made_again_from_what_it_serialises_and_arguments_of_a_newer_version_are_ignored():
    given = {
        "job_id": JOB_ID,
        "hailuo_conn_id": "other",
        "poll_interval": 7,
        "deadline": 123.5,
        "request": REQUEST,
        "end_from_trigger": True,
        "try_number": 3,
    }

    path, arguments = HailuoJobTrigger(**given, from_the_future=1).serialize()

    assert path == "airflow_provider_hailuo.triggers.hailuo.HailuoJobTrigger"
    assert json.loads(json.dumps(arguments)) == given


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
def test_a_final_job_fires_one_small_event(world: World, status: str):
    world.steps = ["QUEUED", "PROCESSING", "PROCESSING", {"status": status, "result": {"videoUrl": URL}}]

    event = run(trigger(try_number=2))
    assert world.looks == 4

    assert event == {"job_id": JOB_ID, "try_number": 2, "error": None}
    raise_unless_finished(event)


def test_it_outlives_whatever_passes(world: World):
    world.steps = [500, 429, httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), 401, 403, 404, VIDEO]

    assert run(trigger())["error"] is None
    assert world.looks == 8


def test_all_looks_of_triggers_of_one_connection_go_through_one_client_which_the_last_one_closes(world: World):
    world.steps = ["PROCESSING"] * 50 + [VIDEO]

    async def scenario() -> None:
        await asyncio.gather(*(anext(trigger().run()) for _ in range(20)))

    in_virtual_time(scenario())
    (client,) = world.opened
    assert client._http.is_closed


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, errors.AuthenticationError), (403, errors.PermissionDeniedError), (404, errors.NotFoundError)],
)
def test_a_refusal_that_lasts_comes_back_as_the_same_error(world: World, status: int, kind: type):
    world.steps = [status]

    event, seconds = timed(trigger())

    with pytest.raises(kind, match=f"so it is.*HTTP {status}, request req_1, job {JOB_ID}.") as raised:
        raise_unless_finished(event.payload)
    assert (raised.value.status, raised.value.from_api) == (status, True)
    assert seconds >= REFUSED_SECONDS


def test_a_connection_that_is_not_to_be_found_ends_the_wait_after_a_while(world: World):
    world.steps = [VIDEO]
    world.lost = HailuoConnectionNotFoundError("There is no connection 'x'")

    event, seconds = timed(trigger())

    with pytest.raises(errors.CredentialsUnavailableError, match="There is no connection 'x'"):
        raise_unless_finished(event.payload)
    assert REFUSED_SECONDS <= seconds <= 3 * REFUSED_SECONDS


def test_the_deadline_is_a_moment(world: World):
    world.steps = ["PROCESSING"]

    event, seconds = timed(trigger(seconds=60))

    assert 60 <= seconds <= 60 + 5 / 2 + 1
    with pytest.raises(errors.JobTimeoutError, match="may still be rendered"):
        raise_unless_finished(event.payload)


def test_no_event_holds_key_or_url_or_more_than_1_kb(world: World):
    for steps in ([VIDEO], [404], [500]):
        world.steps = steps
        event = json.dumps(run(trigger()))
        assert KEY not in event
        assert "http" not in event.lower().replace("http 500", "")
        assert len(event) < 1024


def test_an_event_of_an_unknown_error_is_an_error_all_the_same():
    with pytest.raises(errors.ApiframeError, match="from the future"):
        raise_unless_finished({"job_id": JOB_ID, "error": "FutureError", "message": "from the future"})


# When it may fire


@pytest.mark.parametrize("seconds", [1800, -5])
@pytest.mark.parametrize(
    "steps", [[{"status": "FAILED"}], ["PROCESSING", {"status": "FAILED"}], [VIDEO], [500]], ids=str
)
def test_what_resumes_a_worker_never_fires_right_after_the_deferral(world: World, steps: list, seconds: float):
    world.steps = steps

    event, took = timed(trigger(seconds, poll_interval=1))

    assert not isinstance(event, TaskSuccessEvent)
    assert took >= MIN_DEFERRED_SECONDS
    if steps != [500]:
        assert took == pytest.approx(MIN_DEFERRED_SECONDS, abs=0.1)


def test_what_takes_longer_anyway_is_not_delayed(world: World):
    world.steps = ["PROCESSING"] * 3 + [VIDEO]

    event, took = timed(trigger())

    assert event.payload["error"] is None
    assert took == pytest.approx(15, abs=1)


def test_the_end_of_the_task_is_not_delayed(world: World):
    world.steps = [VIDEO]

    event, took = timed(ending())

    assert isinstance(event, TaskSuccessEvent)
    assert took < MIN_DEFERRED_SECONDS / 2


@pytest.mark.usefixtures("unwritable")
def test_an_end_that_had_to_be_left_to_a_worker_is(world: World):
    world.steps = [VIDEO]

    event, took = timed(ending(try_number=4))

    assert event.payload == {"job_id": JOB_ID, "try_number": 4, "error": None}
    assert took >= MIN_DEFERRED_SECONDS


# The XComs that it leaves, and the end of the task


def test_it_leaves_the_job_so_that_nobody_has_to_look_again(world: World):
    world.steps = ["PROCESSING", VIDEO]

    event = run(task_instance(trigger(request=REQUEST, try_number=1)))

    assert event == {"job_id": JOB_ID, "try_number": 1, "error": None}
    assert world.xcoms == {"job": JOB}


def test_it_tells_how_far_the_render_is(world: World):
    rendering = [{"status": "PROCESSING", "progress": percent} for percent in (0, 40, 40, 80)]
    world.steps = ["QUEUED", *rendering, VIDEO]

    assert run(task_instance(trigger(request=REQUEST)))["error"] is None
    assert world.progress == [{"status": "QUEUED", "progress": None}, rendering[0], rendering[1], rendering[3]]


def test_nobody_loses_a_video_because_its_progress_could_not_be_told(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xcoms, "push_progress", fail)
    world.steps = ["QUEUED", {"status": "PROCESSING", "progress": 40}, VIDEO]

    assert run(task_instance(trigger(request=REQUEST)))["error"] is None
    assert world.xcoms == {"job": JOB}


def test_it_ends_the_task_with_all_its_xcoms(world: World):
    world.steps = ["PROCESSING", VIDEO]

    event = end(ending())

    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms == {"delivered": True}
    assert world.xcoms == {"job": JOB, "credit_cost": 5, "return_value": URL}


@pytest.mark.parametrize("end_from_trigger", [True, False])
@pytest.mark.parametrize(
    ("step", "kind", "told"),
    [
        ({"status": "FAILED", "error": "content policy", "creditCost": 0}, errors.JobFailedError, "content policy"),
        ({**VIDEO, "expired": True}, errors.JobExpiredError, "purged"),
        ({"status": "COMPLETED", "result": {}}, errors.JobWithoutVideoError, "no URL"),
        ({"status": "CANCELLED"}, errors.JobFailedError, "CANCELLED"),
    ],
)
def test_a_job_without_a_video_takes_a_worker_to_fail_the_task(
    world: World, step: dict, kind: type, told: str, end_from_trigger: bool
):
    world.steps = [step]

    event = run(task_instance(trigger(request=REQUEST, end_from_trigger=end_from_trigger)))

    assert event["error"] == kind.__name__
    with pytest.raises(kind, match=f"{told}.*job {JOB_ID}"):
        raise_unless_finished(event)
    assert (set(world.xcoms), world.xcoms["job"]["status"]) == ({"job"}, step["status"])


@pytest.mark.parametrize("reason", ["an older Airflow", "dag.test()", "an older row"])
def test_where_it_cannot_leave_xcoms_a_worker_looks_at_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: str
):
    world.steps = [VIDEO]
    waiting = trigger(request=None if reason == "an older row" else REQUEST, end_from_trigger=True)
    if reason != "dag.test()":
        task_instance(waiting)
    monkeypatch.setattr(xcoms, "TRIGGERS_PUSH_XCOMS", reason != "an older Airflow")

    assert run(waiting) == {"job_id": JOB_ID, "try_number": 0, "error": None}
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
    world.steps = [SUBMITTED, "PROCESSING", VIDEO]

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
        "_link_HailuoVideoLink": PAGE,
    }
    assert len(world.opened) == 1


@pytest.mark.parametrize("arguments", [{}, {"prompt": "a sunset by now"}, {"resolution": "4k"}], ids=str)
def test_a_triggerer_that_starts_it_again_goes_on_with_the_job_whatever_it_would_ask_for_now(
    world: World, arguments: dict[str, str]
):
    world.xcoms["job_id"] = JOB_ID
    world.steps = ["PROCESSING", VIDEO]

    assert isinstance(end(task_instance(generate(**arguments))), TaskSuccessEvent)
    assert submitted(world) == []
    assert world.xcoms["return_value"] == URL
    # What cannot be told any more is left open.
    assert world.xcoms["job"]["resolution"] == (None if "resolution" in arguments else "768p")


def test_where_it_cannot_be_known_what_was_submitted_a_worker_goes_on(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(xcoms, "pull_job_id", fail)

    assert run(task_instance(generate())) == START_ON_WORKER
    assert world.requests == []


def test_a_job_that_is_dead_when_it_is_submitted_is_left_to_a_worker(world: World):
    world.steps = [{"jobId": JOB_ID, "status": "FAILED"}]

    assert run(task_instance(generate())) == START_ON_WORKER
    assert world.xcoms == {}


def test_its_key_is_the_one_that_a_worker_derives_and_another_in_a_run_that_is_made_again(world: World):
    runs = [task_instance(generate(), id=n) for n in (7, 7, 8)]
    for waiting in runs:
        world.steps = [SUBMITTED, VIDEO]
        world.xcoms.clear()
        end(waiting)

    request = VideoRequest(prompt="a sunrise", model="hailuo-02")
    assert [key for key, _ in submitted(world)] == [
        idempotency.task_key(waiting.task_instance, "hailuo_default", Settings(api_key=KEY), request, str(n))
        for waiting, n in zip(runs, (7, 7, 8), strict=True)
    ]


@pytest.mark.parametrize(
    "lost", [errors.CredentialsUnavailableError("throttled"), HailuoConnectionNotFoundError("none")]
)
def test_credentials_that_it_does_not_see_are_left_to_a_worker(world: World, lost: Exception):
    world.lost = lost

    assert run(task_instance(generate())) == START_ON_WORKER
    assert world.requests == []


@pytest.mark.parametrize(
    ("step", "arguments", "kind", "told"),
    [
        (401, {}, errors.AuthenticationError, "so it is"),
        (402, {}, errors.InsufficientCreditsError, "so it is"),
        (409, {}, errors.ConflictError, "the key is 'airflow/dag/video/.*a sunrise"),
        (httpx.ReadTimeout("slow"), {}, errors.RequestTimeoutError, "slow"),
        (httpx.ConnectError("refused"), {}, errors.NetworkError, "refused"),
        (200, {"resolution": "4k"}, errors.InvalidInputError, "resolution: '4k'"),
    ],
)
def test_an_event_of_what_went_wrong_holds_all_that_a_retry_needs(
    world: World, step: object, arguments: dict, kind: type, told: str
):
    world.steps = [step]

    event = run(task_instance(generate(**arguments)))

    with pytest.raises(kind, match=told) as raised:
        raise_unless_finished(event)
    assert (raised.value.job_id, event["try_number"]) == (None, 1)
    # A retry has to send the same where a job may have been created.
    assert ("body" in event) is raised.value.in_doubt is (kind is errors.RequestTimeoutError)
    assert {event.get("key")} - {None} == {key for key, _ in submitted(world)}
    assert KEY not in json.dumps(event)
    assert world.xcoms == {}


def test_a_timeout_tells_job_and_key(world: World):
    world.steps = [SUBMITTED, "PROCESSING"]

    event = run(task_instance(generate(timeout=60)))

    assert (event["error"], event["job_id"], event["try_number"]) == ("JobTimeoutError", JOB_ID, 1)
    assert event["key"] == submitted(world)[0][0]
    assert world.xcoms == {"job_id": JOB_ID, "_link_HailuoVideoLink": PAGE}


@pytest.mark.usefixtures("unwritable")
def test_where_it_cannot_write_xcoms_its_event_alone_tells_all(world: World):
    world.steps = [SUBMITTED, VIDEO]

    event = run(task_instance(generate()))

    assert event == {"job_id": JOB_ID, "try_number": 1, "key": submitted(world)[0][0], "error": None}


def test_a_key_of_the_user_is_used_as_it_is(world: World):
    world.steps = [SUBMITTED, VIDEO]

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
    world.steps = [SUBMITTED, VIDEO]
    waiting = task_instance(generate(prompt="a sunrise on {{ ds }}"))
    waiting.template_fields = ("prompt", "image")

    waiting.render_template_fields({"ds": "2026-01-01"})
    end(waiting)

    assert submitted(world)[0][1]["prompt"] == "a sunrise on 2026-01-01"


def test_an_xcom_that_could_not_be_written_at_first_is_written_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def fail_once(ti: object, values: dict[str, object]) -> None:
        monkeypatch.setattr(xcoms, "push", world.push)
        raise RuntimeError("no API server")

    world.steps = [SUBMITTED, VIDEO]
    monkeypatch.setattr(xcoms, "push", fail_once)

    assert isinstance(end(task_instance(generate())), TaskSuccessEvent)
    assert world.xcoms["job_id"] == JOB_ID


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "handed_over", "given_up"),
    [
        (60, None, 0, 60),
        (60, None, -40, 20),
        (60, 30, 0, 22.5),
        (60, 30, -10, 12.5),
        (60, 1000, 0, 60),
    ],
)
def test_the_time_to_wait_is_counted_from_when_airflow_handed_over_the_task(
    world: World, timeout: float, execution_timeout: float | None, handed_over: float, given_up: float
):
    waiting = task_instance(generate(timeout=timeout, execution_timeout=execution_timeout))
    # As Airflow does it.
    ends = min(timeout + DEFER_TIMEOUT_MARGIN_SECONDS, execution_timeout or float("inf"))
    waiting.timeout_after = datetime.fromtimestamp(EPOCH, timezone.utc) + timedelta(seconds=handed_over + ends)
    world.steps = [SUBMITTED, "PROCESSING"]

    event, seconds = timed(waiting)

    assert event.payload["error"] == "JobTimeoutError"
    assert given_up <= seconds <= given_up + 5
