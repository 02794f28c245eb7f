"""What a worker makes of an event, and of what a trigger has left or could not leave."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo import idempotency
from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.compat import AirflowFailException, TaskDeferred
from airflow_provider_hailuo.exceptions import (
    HailuoJobFailedException,
    HailuoJobTimeoutException,
    HailuoUnavailableException,
)
from airflow_provider_hailuo.operators.hailuo import RESULT_TIMEOUT_SECONDS
from airflow_provider_hailuo.operators.submission import STATE_KEY
from airflow_provider_hailuo.triggers.hailuo import START_ON_WORKER
from tests.unit.operators.fakes import Airflow, World, away, make_dag, nothing, operator, refuse, url, waiting

REQUEST = {"prompt": "a sunrise", "model": "hailuo-02", "resolution": "768p", "duration": 6}
KEY = "key-of-the-trigger"
TIMED_OUT = {"error": "JobTimeoutError", "message": "The deadline has passed"}
OF_FIRST_TRY = {"job_id": None, "key": KEY, "try_number": 1}
LOST = {**OF_FIRST_TRY, "error": "NetworkError", "message": "closed", "in_doubt": True}

pytestmark = pytest.mark.usefixtures("airflow_3_3")


def seen(job_id: str = "job_1", **differences: object) -> dict[str, Any]:
    """Return the XCom `job` as a trigger leaves it."""
    return {"id": job_id, "status": "COMPLETED", "url": url(job_id), **REQUEST, "credits": 5, **differences}


def submitted_by_a_trigger(world: World, airflow: Airflow, **xcoms: object) -> None:
    """Make the first try one that begins in the triggerer, and leave `xcoms`."""
    request = httpx.Request(
        "POST",
        "https://x.example/v2/videos/generate",
        headers={"x-api-key": "afk_1", "idempotency-key": KEY},
        json=VideoRequest(prompt="a sunrise").to_wire(),
    )
    world.answer(request)
    airflow.try_number = 1
    airflow.xcoms.update(xcoms)


def begin(by: str, world: World, airflow: Airflow) -> None:
    if by == "a worker":
        airflow.run(operator())
    else:
        submitted_by_a_trigger(world, airflow, job_id="job_1")


# An event of a job that is final


def test_what_the_trigger_left_is_not_looked_at_again(world: World, airflow: Airflow):
    airflow.run(operator())
    airflow.xcoms["job"] = seen()

    assert airflow.resume(operator(), airflow.event()) == url("job_1")
    assert world.looks == []
    assert airflow.xcoms["credit_cost"] == 5


@pytest.mark.parametrize("left", [None, seen("job_7"), seen(url=None), "text"], ids=str)
@pytest.mark.parametrize("begun_by", ["a worker", "a trigger"])
def test_the_event_alone_is_enough(world: World, airflow: Airflow, left: object, begun_by: str):
    begin(begun_by, world, airflow)
    event = airflow.event(key=KEY)
    airflow.xcoms.clear()
    if left is not None:
        airflow.xcoms["job"] = left
    world.now += 60

    assert airflow.resume(operator(), event) == url("job_1")
    assert airflow.xcoms["job"] == {**seen(), "created": None, "completed": None}
    assert (airflow.xcoms["job_id"], airflow.xcoms["credit_cost"]) == ("job_1", 5)
    assert world.paid == 1


@pytest.mark.parametrize("event", [None, "text", {}, {"job_id": "job_7", "error": None}], ids=str)
def test_an_event_that_tells_no_try_has_it_go_on_with_its_job(world: World, airflow: Airflow, event: object):
    airflow.run(operator())
    world.now += 60

    assert airflow.resume(operator(), event) == url("job_1")
    assert world.paid == 1


def test_nothing_is_returned_without_a_url(world: World, airflow: Airflow):
    world.outcomes = [{"status": "COMPLETED", "result": {}}]
    airflow.run(operator())
    airflow.xcoms["job"] = seen(url=None)
    world.now += 60

    with pytest.raises(HailuoJobFailedException, match=r"carries no URL.*job_1.*does not pay twice"):
        airflow.resume(operator(), airflow.event())
    assert len(world.looks) * 5.5 >= 30
    assert "return_value" not in airflow.xcoms
    # A retry believes it no more than this one did, and pays for no other.
    with pytest.raises(HailuoJobFailedException, match="carries no URL"):
        airflow.run(waiting())
    assert world.paid == 1


def test_an_api_that_is_away_at_the_end_is_looked_through_for_a_while(world: World, airflow: Airflow):
    airflow.run(operator())
    since = world.now = world.now + 60
    world.on_look = refuse(503)

    with pytest.raises(HailuoJobTimeoutException, match=r"job_1.*A retry takes it up again"):
        airflow.resume(operator(), airflow.event())
    assert world.now == pytest.approx(since + RESULT_TIMEOUT_SECONDS, abs=1)
    world.on_look = lambda: None

    assert airflow.run(operator()) == url("job_1")


@pytest.mark.parametrize("begun_by", ["a worker", "a trigger"])
def test_what_ended_otherwise_is_told_and_taken_up_by_a_retry(world: World, airflow: Airflow, begun_by: str):
    begin(begun_by, world, airflow)
    with pytest.raises(HailuoJobTimeoutException, match=r"The deadline has passed \(job job_1\)\. A retry takes"):
        airflow.resume(operator(), airflow.event(key=KEY, **TIMED_OUT))

    assert airflow.resume(waiting(prompt="rendered anew"), START_ON_WORKER, next_try=True) == url("job_1")
    assert world.paid == 1


# An event of a trigger that began the task itself


def test_a_key_in_doubt_is_written_down_for_the_next_try(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow)

    with pytest.raises(HailuoUnavailableException, match=r"closed\. The job may have been created"):
        airflow.resume(operator(), LOST)
    assert airflow.store.submission["key"] == KEY
    assert airflow.store.submission["body"] == VideoRequest(prompt="a sunrise").to_wire()

    assert airflow.resume(waiting(prompt="rendered anew"), START_ON_WORKER, next_try=True) == url("job_1")
    assert world.posts[0] == world.posts[1]


def test_what_a_trigger_was_certainly_refused_is_final_and_not_written_down(airflow: Airflow):
    airflow.try_number = 1
    refused = {**OF_FIRST_TRY, "error": "InsufficientCreditsError", "message": "10 credits needed"}

    with pytest.raises(AirflowFailException, match=r"10 credits needed\. Nothing was paid\. Top up"):
        airflow.resume(operator(), refused)
    assert airflow.store.submission is None


def test_a_key_in_doubt_without_a_request_that_is_valid_here_is_not_sent_with_another(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow)
    invalid = operator()
    invalid.resolution = "4k"

    with pytest.raises(HailuoUnavailableException, match="may have been created"):
        airflow.resume(invalid, LOST)
    assert airflow.store.submission is None


def test_a_trigger_that_was_started_again_and_refused_does_not_hide_the_job(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    refused = {**OF_FIRST_TRY, "error": "AuthenticationError", "message": "no such key", "status": 401}

    with pytest.raises(HailuoUnavailableException, match=r"\(HTTP 401, job job_1\)\. The job goes on"):
        airflow.resume(operator(), refused)

    assert airflow.resume(waiting(), START_ON_WORKER, next_try=True) == url("job_1")


def test_what_a_trigger_could_not_submit_a_worker_does_under_the_same_key(world: World, airflow: Airflow):
    airflow.try_number = 1
    ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="video", map_index=-1)
    settings = Settings(api_key="afk_1")
    key = idempotency.task_key(ti, "hailuo_default", settings, VideoRequest(prompt="a sunrise"), "id of try 1")

    assert airflow.resume(waiting(), START_ON_WORKER) == url("job_1")
    assert world.posts[0][0] == key
    assert airflow.store.submission["key"] == key


@pytest.mark.parametrize(("try_number", "told"), [(1, "Nothing was paid"), (2, "may have been created")])
def test_nothing_was_paid_is_not_said_where_a_trigger_may_have_begun_without_a_trace(
    world: World, airflow: Airflow, try_number: int, told: str
):
    airflow.try_number = try_number
    world.before_post = refuse(402)

    with pytest.raises((AirflowFailException, HailuoUnavailableException), match=told):
        airflow.resume(waiting(), START_ON_WORKER)


# A cleared task whose tries begin in the triggerer


def test_clearing_what_the_triggerer_has_delivered_asks_for_a_new_video(
    world: World, airflow: Airflow, log: Callable[[], str]
):
    xcoms = {"job": seen(), "return_value": url("job_1"), "credit_cost": 5, "delivered": True}
    submitted_by_a_trigger(world, airflow, job_id="job_1", **xcoms)
    airflow.clear()

    assert isinstance(airflow.resume(operator(), START_ON_WORKER, next_try=True), TaskDeferred)
    assert airflow.xcoms == {"job_id": "job_2"}
    assert "cleared after it had delivered job job_1" in log()


def test_what_a_trigger_leaves_of_a_task_that_was_cleared_meanwhile_is_no_delivery(
    world: World, airflow: Airflow, log: Callable[[], str]
):
    # The trigger is told late of the clear. Airflow has not taken its event, and so not written "delivered".
    submitted_by_a_trigger(world, airflow, job_id="job_1", job=seen(), return_value=url("job_1"), credit_cost=5)
    world.now += 60
    airflow.clear()

    assert airflow.resume(operator(), START_ON_WORKER, next_try=True) == url("job_1")
    assert "cleared before it had delivered job job_1" in log()
    assert world.paid == 1


@pytest.mark.parametrize("outage", [False, True])
def test_clearing_what_waits_in_the_triggerer_takes_up_its_job(
    world: World, airflow: Airflow, log: Callable[[], str], outage: bool
):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    airflow.clear()
    if outage:
        del world.connections["hailuo_default"]
        assert isinstance(airflow.resume(operator(), START_ON_WORKER, next_try=True), TaskDeferred)
        assert airflow.xcoms == {"job_id": "job_1"}
        world.connections["hailuo_default"] = "afk_1"

    assert airflow.resume(waiting(), START_ON_WORKER, next_try=True) == url("job_1")
    assert "cleared before it had delivered job job_1" in log()
    assert len(world.posts) == 1


def test_a_changed_request_of_such_a_task_is_a_new_job(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    airflow.clear()

    assert airflow.resume(waiting(prompt="a sunset"), START_ON_WORKER, next_try=True) == url("job_2")


def test_a_dead_job_of_the_triggerer_makes_room_for_a_new_one(world: World, airflow: Airflow):
    world.outcomes = [{"status": "FAILED"}]
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    world.now += 60
    failed = {"error": "JobFailedError", "message": "The render ended as FAILED"}
    with pytest.raises(HailuoJobFailedException):
        airflow.resume(operator(), airflow.event(key=KEY, **failed))

    assert airflow.resume(waiting(), START_ON_WORKER, next_try=True) == url("job_2")


def test_a_delivered_job_is_not_taken_up_after_its_successor_was_refused(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow, job_id="job_1", return_value=url("job_1"), delivered=True)
    airflow.clear()
    world.before_post = refuse(402)
    with pytest.raises(AirflowFailException, match="Nothing was paid"):
        airflow.resume(waiting(), START_ON_WORKER, next_try=True)
    world.before_post = lambda: None
    airflow.clear()

    assert airflow.resume(waiting(), START_ON_WORKER, next_try=True) == url("job_2")


def test_what_a_trigger_submitted_is_not_forgotten_before_it_is_written_down(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    airflow.clear()
    airflow.store.on_get = away
    with pytest.raises(HailuoUnavailableException):
        airflow.resume(waiting(), START_ON_WORKER, next_try=True)
    airflow.store.on_get = lambda: None

    assert airflow.resume(waiting(), START_ON_WORKER, next_try=True) == url("job_1")
    assert world.paid == 1


def test_a_bad_request_after_a_trigger_names_the_job_that_was_submitted(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    airflow.clear()

    with pytest.raises(HailuoUnavailableException, match=r"resolution: .*job job_1\).*does not pay twice"):
        airflow.resume(waiting(resolution="{{ unknown }}"), START_ON_WORKER, next_try=True)


@pytest.mark.parametrize("next_try", [False, True])
def test_a_worker_that_goes_on_for_a_trigger_takes_no_retry_for_a_clear(
    world: World, airflow: Airflow, next_try: bool
):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    later = waiting(prompt="a sunset by now", retries=airflow.retries)

    assert airflow.resume(later, START_ON_WORKER, next_try=next_try) == url("job_1")
    assert world.paid == 1


def test_in_doubt_a_retry_sends_what_the_trigger_has_sent(world: World, airflow: Airflow):
    submitted_by_a_trigger(world, airflow)
    body = VideoRequest(prompt="a sunrise").to_wire()
    with pytest.raises(HailuoUnavailableException):
        airflow.resume(operator(prompt="a sunset by now"), {**LOST, "body": body})

    assert airflow.run(waiting(prompt="a sunset by now")) == url("job_1")
    assert len(world.jobs) == 1


def test_a_changed_request_that_is_refused_leaves_the_job_that_a_trigger_has_submitted(
    world: World, airflow: Airflow
):
    submitted_by_a_trigger(world, airflow, job_id="job_1")
    airflow.clear()
    world.before_post = refuse(402)
    with pytest.raises(AirflowFailException, match="Nothing was paid"):
        airflow.resume(waiting(prompt="a sunset"), START_ON_WORKER, next_try=True)
    world.before_post = nothing
    airflow.clear()

    assert airflow.resume(waiting(), START_ON_WORKER, next_try=True) == url("job_1")
    assert len(world.jobs) == 1


# Events that resume a try that they do not belong to


def test_a_retry_that_is_resumed_with_the_event_of_another_try_begins_anew(world: World, storeless: Airflow):
    world.outcomes = [{"status": "FAILED"}]
    storeless.run(operator())
    storeless.xcoms.update({"job": seen(url=None, status="FAILED"), "credit_cost": 0})
    world.now += 60

    of_first_try = storeless.event()
    deferral = storeless.resume(operator(), of_first_try, next_try=True)

    assert (deferral.trigger.job_id, deferral.trigger.try_number) == ("job_2", 2)
    assert storeless.xcoms == {"job_id": "job_2"}


def test_and_it_finds_the_job_that_was_paid_for(world: World, storeless: Airflow):
    storeless.run(operator())
    timed_out = storeless.event(**TIMED_OUT)
    world.now += 60

    assert storeless.resume(operator(), timed_out, next_try=True) == url("job_1")
    assert world.paid == 1


def test_a_trigger_that_was_told_of_no_try_resumes_the_one_that_waits(world: World, storeless: Airflow):
    submitted_by_a_trigger(world, storeless)
    world.now += 60

    assert storeless.resume(operator(), storeless.event(try_number=0)) == url("job_1")
    assert world.paid == 1


# What the deferral tells


@pytest.mark.parametrize(("worker_visits", "ends"), [(2, False), (1, True), (0, True)])
def test_the_trigger_learns_whether_it_ends_the_task_and_of_which_try(
    airflow: Airflow, worker_visits: int, ends: bool
):
    airflow.run(operator(worker_visits=worker_visits))
    trigger = airflow.run(operator(worker_visits=worker_visits)).trigger

    assert (trigger.end_from_trigger, trigger.try_number, trigger.request) == (ends, 2, REQUEST)


@pytest.mark.parametrize(
    ("arguments", "ends", "told"),
    [
        ({"worker_visits": 1, "map_index_template": "{{ task.job_id }}"}, False, "=1 cannot be had with map_index_t"),
        ({"worker_visits": 0, "do_xcom_push": False}, False, "=0 cannot be had with do_xcom_push=False: it is 2"),
        ({"worker_visits": 0}, True, "worker_visits=0 cannot be had with mapping: it is 1"),
    ],
)
def test_what_stands_in_the_way_is_logged(
    airflow: Airflow, log: Callable[[], str], arguments: dict[str, Any], ends: bool, told: str
):
    airflow.map_index = 3
    with make_dag():
        task = operator(**arguments)

    assert airflow.run(task).trigger.end_from_trigger is ends
    assert told in log()


# Inside another task


@pytest.mark.parametrize("worker_visits", [0, 1, 2])
def test_inside_another_task_it_waits_right_there_and_keeps_no_record(
    world: World, airflow: Airflow, worker_visits: int
):
    assert airflow.run(operator(worker_visits=worker_visits), inside=object()) == url("job_1")
    assert STATE_KEY not in airflow.store.kept
    assert world.now >= 1_000_020


def test_several_videos_inside_another_task_are_several_jobs(world: World, airflow: Airflow):
    outer = object()
    videos = [operator(prompt=f"scene {n}") for n in range(3)] + [operator(task_id="other", prompt="scene 0")]

    for retry in range(2):
        airflow.try_number = retry  # all of them belong to one try
        for n, video in enumerate(videos, 1):
            airflow.try_number = retry
            assert airflow.run(video, inside=outer) == url(f"job_{n}")
    assert world.paid == 4


def test_the_task_itself_is_not_taken_for_one_inside_another(airflow: Airflow):
    task = operator()

    assert isinstance(airflow.run(task, inside=task), TaskDeferred)
