"""A job that was submitted elsewhere, waited for in each mode, where each poke may be a new process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo import metrics
from airflow_provider_hailuo.apiframe.errors import ApiframeError
from airflow_provider_hailuo.apiframe.polling import REFUSED_SECONDS, SHORTEST_WAIT_SECONDS, URL_SECONDS, JobPoll
from airflow_provider_hailuo.compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    BaseSensorOperator,
    TaskDeferred,
)
from airflow_provider_hailuo.exceptions import (
    HailuoFailException,
    HailuoJobFailedException,
    HailuoUnavailableException,
)
from airflow_provider_hailuo.hooks import hailuo as hooks
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.sensors import hailuo
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor
from airflow_provider_hailuo.triggers import hailuo as triggers
from airflow_provider_hailuo.triggers.hailuo import DEFER_TIMEOUT_MARGIN_SECONDS
from tests.unit.operators import fakes
from tests.unit.operators.fakes import EPOCH, World, make_dag, refuse, url
from tests.unit.test_metrics import Backend

base = sys.modules[BaseSensorOperator.__module__]
MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}


class TaskInstance(fakes.TaskInstance):
    """What a worker hands to a task, as far as the sensor and its base class look at it."""

    def __init__(self, world: World) -> None:
        super().__init__(task_id="wait", start_date=datetime.fromtimestamp(world.now, timezone.utc))
        self.world, self.began = world, world.now

    def get_first_reschedule_date(self, _: object) -> datetime:
        # The base class counts from there to the present moment of the system.
        return datetime.now(timezone.utc) - timedelta(seconds=self.world.now - self.began)


class Run:
    """One try of a sensor, through all its visits to a worker, each of which is a process of its own."""

    def __init__(self, world: World, **arguments: Any) -> None:
        self.world = world
        self.arguments = {"job_id": "job_1", "poke_interval": 10, "deferrable": False, **arguments}
        self.ti = TaskInstance(world)
        self.visits: list[float] = []

    @property
    def xcoms(self) -> dict[str, Any]:
        return self.ti.xcoms

    def sensor(self) -> HailuoJobSensor:
        return HailuoJobSensor(task_id="wait", **self.arguments)

    def to_the_end(self) -> Any:
        visit = self.begin
        while True:
            self.visits.append(self.world.now)
            try:
                return visit()
            except base.AirflowRescheduleException:
                self.world.now += self.arguments["poke_interval"]
            except TaskDeferred as deferral:
                visit = self.resuming(self.event(deferral))

    def begin(self) -> Any:
        return self.sensor().execute({"ti": self.ti})

    def deferral(self, visit: Callable[[], Any]) -> TaskDeferred:
        with pytest.raises(TaskDeferred) as raised:
            visit()
        return raised.value

    def resuming(self, event: object) -> Callable[[], Any]:
        method, context = "execute_complete", {"ti": self.ti}
        return lambda: self.sensor().resume_execution(method, {"event": event}, context)

    def event(self, deferral: TaskDeferred) -> dict[str, Any]:
        """Return what the trigger fires: it obeys the same decisions."""
        _, arguments = deferral.trigger.serialize()
        poll = JobPoll(arguments["job_id"], arguments["deadline"], arguments["poll_interval"])
        facts = {"job_id": poll.job_id, "try_number": arguments["try_number"]}
        try:
            HailuoHook(arguments["hailuo_conn_id"]).wait_with(poll)
        except ApiframeError as error:
            return {**facts, **triggers.error_facts(error)}
        return {**facts, "error": None}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """An API in memory with one job, which takes 20 s."""
    world = World()

    def get_conn(hook: HailuoHook) -> object:
        return world.conn(hook)

    monkeypatch.setattr(HailuoHook, "get_conn", get_conn)
    clock = SimpleNamespace(time=world.time, monotonic=world.time, sleep=world.sleep)
    for module in hailuo, hooks, base:
        monkeypatch.setattr(module, "time", clock)
    # Airflow 2 asks its database.
    began = world.now
    monkeypatch.setattr(
        base,
        "_orig_start_date",
        lambda **_: datetime.now(timezone.utc) - timedelta(seconds=world.now - began),
        raising=False,
    )
    return world


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


def submit(world: World, **outcome: object) -> None:
    world.outcomes = [{"status": "COMPLETED", **outcome}]
    HailuoHook().generate_video("a sunrise", idempotency_key="sunrise")


def final(world: World, **outcome: object) -> None:
    submit(world, **outcome)
    world.jobs["job_1"]["ends"] = world.now


def answers(world: World, *answers: Callable[[], httpx.Response | None]) -> None:
    """Let the first looks be answered like that."""
    left = list(answers)
    world.on_look = lambda: left.pop(0)() if left else None


def completed(**differences: object) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(200, json={"id": "job_1", "status": "COMPLETED", **differences})


# What it returns


def test_it_waits_and_tells_all_of_the_video(world: World, mode: dict[str, Any]):
    submit(world)
    run = Run(world, **mode)

    assert run.to_the_end() == url("job_1")
    # By this a webhook finds a task that is deferred.
    assert run.xcoms.pop("job_id", None) == ("job_1" if mode.get("deferrable") else None)
    assert run.xcoms == {
        "job": {
            "id": "job_1",
            "status": "COMPLETED",
            "url": url("job_1"),
            "prompt": "a sunrise",
            "model": None,
            "resolution": "768p",
            "duration": 6,
            "credits": 5,
            "created": None,
            "completed": None,
        },
        "credit_cost": 5,
    }
    assert EPOCH + 20 <= world.now <= EPOCH + 32
    assert len(world.looks) <= 6
    assert len(world.posts) == 1


def test_what_is_final_already_takes_one_visit_and_one_look(world: World, mode: dict[str, Any]):
    final(world)
    run = Run(world, **mode)

    assert run.to_the_end() == url("job_1")
    assert (run.visits, len(world.looks)) == ([EPOCH], 1)


@pytest.mark.parametrize(
    ("told", "prompt", "resolution", "duration"),
    [
        ({"prompt": "a boat", "hailuoParams": {"resolution": "1080p", "duration": 6}}, "a boat", "1080p", 6),
        ({"prompt": "a boat", "hailuoParams": {"duration": 10}}, "a boat", "768p", 10),
        ({"prompt": "a boat", "hailuoParams": "odd"}, "a boat", None, None),
        ({}, None, None, None),
        (None, None, None, None),
        ("odd", None, None, None),
    ],
)
def test_of_the_request_it_shows_what_the_api_tells(
    world: World, told: object, prompt: str | None, resolution: str | None, duration: int | None
):
    final(world, input=told, model="hailuo-02")
    run = Run(world)

    assert run.to_the_end() == url("job_1")
    shown = [run.xcoms["job"][name] for name in ("prompt", "model", "resolution", "duration")]
    assert shown == [prompt, "hailuo-02", resolution, duration]


TAGS = {"conn_id": "hailuo_default", "dag_id": "dag"}
VIDEO_TAGS = {**TAGS, "model": "hailuo-02"}


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        ("COMPLETED", [(metrics.COMPLETED, 1, VIDEO_TAGS), (metrics.CREDITS, 5, VIDEO_TAGS)]),
        ("FAILED", [(metrics.FAILED, 1, {**TAGS, "cause": "JobFailedError"})]),
        ("PROCESSING", [(metrics.FAILED, 1, {**TAGS, "cause": "JobTimeoutError"})]),
    ],
)
def test_what_it_ends_with_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch, status: str, counted: list[tuple[Any, ...]]
):
    backend = Backend()
    monkeypatch.setattr(metrics, "stats", lambda **_: backend)
    submit(world, status=status, model="hailuo-02")

    with suppress(HailuoFailException, AirflowSensorTimeout):
        Run(world, timeout=60, deferrable=True).to_the_end()

    assert [told for told in backend.told if told[0] != metrics.STATUS_REQUESTS] == counted


# How it ends otherwise


@pytest.mark.parametrize("start", [submit, final])
@pytest.mark.parametrize("status", ["FAILED", "CANCELLED"])
def test_a_job_that_failed_is_final_and_a_retry_is_not_promised_to_mend_it(
    world: World, mode: dict[str, Any], start: Callable[..., None], status: str
):
    start(world, status=status, error="content policy")
    run = Run(world, **mode)

    with pytest.raises(HailuoFailException) as raised:
        run.to_the_end()

    assert str(raised.value) == (
        f"The render ended as {status}: content policy. Its credits were refunded (job job_1). This task only waits "
        "for it: have it rendered anew where it was submitted."
    )
    assert (run.xcoms["job"]["status"], run.xcoms["job"]["url"], run.xcoms["credit_cost"]) == (status, None, 0)


@pytest.mark.parametrize(
    ("outcome", "kind", "told"),
    [
        ({"expired": True}, HailuoFailException, r"purged \(job job_1\)\. .* costs credits again"),
        ({"result": {}}, HailuoJobFailedException, r"carries no URL .*\(job job_1\)\. Clearing the task looks"),
    ],
)
def test_a_video_that_is_gone_or_never_comes_is_believed_when_that_lasts(
    world: World, mode: dict[str, Any], outcome: dict[str, Any], kind: type, told: str
):
    final(world, **outcome)
    run = Run(world, **mode)

    with pytest.raises(kind, match=told):
        run.to_the_end()
    assert EPOCH + URL_SECONDS <= world.now < EPOCH + 2 * URL_SECONDS
    assert run.xcoms["job"]["status"] == "COMPLETED"


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_believed_when_it_lasts_for_a_minute(world: World, mode: dict[str, Any], status: int):
    submit(world)
    world.on_look = refuse(status)
    run = Run(world, **mode)

    with pytest.raises(
        HailuoUnavailableException, match=rf"HTTP {status}, job job_1\).*Clearing the task looks again"
    ):
        run.to_the_end()
    assert EPOCH + REFUSED_SECONDS <= world.now < EPOCH + 2 * REFUSED_SECONDS
    # No other process would know how long it has been so.
    assert run.visits == [EPOCH]


def test_a_connection_that_is_not_there_is_told_when_that_lasts_for_a_minute(world: World, mode: dict[str, Any]):
    run = Run(world, hailuo_conn_id="nowhere", **mode)
    run.ti.max_tries = 1

    with pytest.raises(
        HailuoUnavailableException, match=r"no connection 'nowhere'.*job job_1\)\. A retry looks again"
    ):
        run.to_the_end()
    assert world.now >= EPOCH + REFUSED_SECONDS


@pytest.mark.parametrize("seconds", [15, 200])
def test_a_timeout_is_airflows_own_for_sensors(world: World, mode: dict[str, Any], seconds: int):
    submit(world, status="PROCESSING")

    with pytest.raises(AirflowSensorTimeout):
        Run(world, timeout=seconds, **mode).to_the_end()
    assert EPOCH + seconds <= world.now <= EPOCH + seconds + 10.1


def test_a_timeout_of_a_deferred_sensor_tells_the_job_and_what_was_seen_last(world: World):
    submit(world)

    with pytest.raises(
        AirflowSensorTimeout, match=r"its status was PROCESSING\. .*\(job job_1\)\. Clearing the task"
    ):
        Run(world, timeout=15, deferrable=True).to_the_end()


@pytest.mark.parametrize("outcome", [{"status": "FAILED"}, {"expired": True}, {"status": "PROCESSING"}], ids=str)
@pytest.mark.parametrize("start", [submit, final])
def test_soft_fail_skips(world: World, mode: dict[str, Any], start: Callable[..., None], outcome: dict[str, Any]):
    start(world, **outcome)

    with pytest.raises(base.AirflowSkipException):
        Run(world, soft_fail=True, timeout=3 * URL_SECONDS, **mode).to_the_end()


# What does not end it


@pytest.mark.parametrize(
    "odd",
    [
        refuse(400),
        refuse(401),
        refuse(403),
        refuse(404),
        refuse(429),
        refuse(503),
        lambda: httpx.Response(403, text="<html>"),
        lambda: httpx.Response(302, headers={"location": "https://login.example"}),
        lambda: httpx.Response(200, text="<html>"),
        completed(),
        completed(expired=True),
        completed(status="SLEEPING"),
    ],
)
@pytest.mark.parametrize("start", [submit, final])
def test_one_odd_answer_ends_no_wait(
    world: World, mode: dict[str, Any], start: Callable[..., None], odd: Callable[[], httpx.Response]
):
    start(world)
    answers(world, odd)

    assert Run(world, **mode).to_the_end() == url("job_1")


@pytest.mark.parametrize("out", [refuse(503), lambda: httpx.Response(403, text="<html>")], ids=["api", "proxy"])
def test_an_outage_is_waited_through_and_holds_no_slot(
    world: World, mode: dict[str, Any], out: Callable[[], httpx.Response]
):
    submit(world)
    world.on_look = lambda: out() if world.now < EPOCH + 600 else None
    run = Run(world, **mode)

    assert run.to_the_end() == url("job_1")
    assert EPOCH + 600 <= world.now <= EPOCH + 640
    # A poke that stays would be late for the next one.
    if "reschedule" in mode.values():
        assert [later - sooner for sooner, later in zip(run.visits, run.visits[1:], strict=False)] == [10] * 60


def test_a_connection_may_come_back(world: World, mode: dict[str, Any]):
    submit(world)
    world.found_from = EPOCH + 40

    assert Run(world, **mode).to_the_end() == url("job_1")


# While deferred


@pytest.mark.parametrize(("poke_interval", "poll_interval"), [(7, 7), (0, SHORTEST_WAIT_SECONDS)])
def test_it_defers_with_the_deadline_of_its_timeout(world: World, poke_interval: float, poll_interval: float):
    submit(world)
    run = Run(world, deferrable=True, timeout=100, poke_interval=poke_interval)

    deferral = run.deferral(run.begin)

    _, arguments = deferral.trigger.serialize()
    assert arguments == {
        "job_id": "job_1",
        "hailuo_conn_id": "hailuo_default",
        "poll_interval": poll_interval,
        "deadline": EPOCH + 100,
        "request": None,
        "end_from_trigger": False,
        "try_number": 1,
    }
    assert deferral.timeout == timedelta(seconds=100 + DEFER_TIMEOUT_MARGIN_SECONDS)


def test_an_api_that_is_away_when_it_resumes_is_waited_for_until_the_timeout(world: World):
    final(world)
    run = Run(world, deferrable=True, timeout=100)
    resume = run.resuming({"job_id": "job_1", "error": None, "try_number": 1})
    world.now += 60
    world.on_look = refuse(503)

    assert run.deferral(resume).trigger.deadline == EPOCH + 100

    world.now += 40
    with pytest.raises(AirflowSensorTimeout, match="job_1"):
        resume()


@pytest.mark.parametrize(
    "event", [None, "text", {}, {"job_id": "job_1", "error": "JobTimeoutError", "try_number": 7}]
)
def test_an_event_that_is_not_of_this_try_makes_it_look_itself(world: World, event: object):
    final(world)

    assert Run(world, deferrable=True).resuming(event)() == url("job_1")


def test_a_dag_that_was_changed_meanwhile_resumes_all_the_same(world: World):
    submit(world)
    run = Run(world, deferrable=False)
    resume = run.resuming({"job_id": "job_1", "error": None, "try_number": 1})

    run.deferral(resume)
    world.now += 60

    assert resume() == url("job_1")


# What it is given


@pytest.mark.parametrize("job_id", [None, "", " ", "None", 7, "..", "a\nb", "x" * 256])
@pytest.mark.parametrize("known", ["while the DAG is parsed", "at run time"])
def test_a_job_id_that_cannot_be_one_is_one_clear_error(world: World, mode: dict[str, Any], job_id: Any, known: str):
    with pytest.raises(AirflowFailException, match=r"job_id: .*: must be the id of a job"):
        if known == "at run time":
            sensor = Run(world, job_id="{{ later }}", **mode).sensor()
            sensor.job_id = job_id
            sensor.execute({"ti": TaskInstance(world)})
        else:
            Run(world, job_id=job_id, **mode).sensor()
    assert (world.looks, world.now) == ([], EPOCH)


def test_a_template_that_was_not_rendered_is_not_asked_for(world: World, mode: dict[str, Any]):
    with pytest.raises(HailuoFailException, match=r"job_id: '{{ later }}': .*rendered\. Correct it\. Then clear"):
        Run(world, job_id="{{ later }}", **mode).begin()
    assert world.looks == []


def test_whether_to_defer_is_a_yes_or_a_no():
    with pytest.raises(AirflowFailException, match="deferrable: 'yes': must be True or False"):
        HailuoJobSensor(task_id="wait", job_id="job_1", deferrable="yes")


def test_job_and_connection_are_templated_and_the_job_may_come_from_upstream(world: World):
    with make_dag():
        before = HailuoJobSensor(task_id="before", job_id="job_1")
        sensor = HailuoJobSensor(task_id="wait", job_id=before.output, hailuo_conn_id="{{ name }}")
    assert sensor.upstream_task_ids == {"before"}

    sensor.job_id = "{{ job }}"
    sensor.render_template_fields({"job": "job_7", "name": "other"})
    assert (sensor.job_id, sensor.hailuo_conn_id) == ("job_7", "other")


def test_it_can_be_mapped_over_the_jobs_of_another_task():
    with make_dag():
        before = HailuoJobSensor(task_id="before", job_id="job_1")
        mapped = HailuoJobSensor.partial(task_id="wait", deferrable=True).expand(job_id=before.output)

    assert mapped.upstream_task_ids == {"before"}


@pytest.mark.parametrize("configured", [True, False])
def test_it_defers_by_default_if_airflow_is_configured_so(monkeypatch: pytest.MonkeyPatch, configured: bool):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(configured))
    spec = importlib.util.spec_from_file_location("sensors_once_more", hailuo.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.HailuoJobSensor(task_id="wait", job_id="job_1").deferrable is configured


def test_it_is_a_sensor_to_airflow():
    sensor = HailuoJobSensor(task_id="wait", job_id="job_1", mode="reschedule", timeout=timedelta(minutes=5))

    assert (sensor.timeout, sensor.poke_interval, sensor.reschedule) == (300, 60, True)
