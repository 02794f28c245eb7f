"""A retry takes up what the task began, a cleared task what was paid for and not delivered."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo import xcoms
from airflow_provider_hailuo.compat import AirflowFailException, TaskDeferred
from airflow_provider_hailuo.exceptions import (
    HailuoException,
    HailuoJobFailedException,
    HailuoJobTimeoutException,
    HailuoUnavailableException,
)
from airflow_provider_hailuo.operators import hailuo
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.operators.submission import (
    STATE_KEY,
    Submission,
    SubmissionStore,
    decide_resume,
)
from tests.unit.operators.fakes import (
    EPOCH,
    Airflow,
    KilledError,
    Store,
    TaskInstance,
    World,
    away,
    nothing,
    operator,
    refuse,
    url,
    waiting,
)

BODY = {"prompt": "a sunrise", "model": "hailuo-02"}
BEGUN = Submission("key", BODY, "hailuo_default", max_tries=3, job_id="job_1")
DELIVERED = replace(BEGUN, delivered=True)


def kill() -> None:
    raise KilledError


def dies_before_the_answer(world: World, airflow: Airflow) -> None:
    world.after_post = kill
    with pytest.raises(KilledError):
        airflow.run(operator())
    world.after_post = nothing


# The decision


@pytest.mark.parametrize(
    ("begun", "now", "goes_on", "told"),
    [
        (BEGUN, {}, True, "This try goes on with job job_1$"),
        (BEGUN, {"conn_id": "another"}, True, "job_1 and the connection 'hailuo_default'$"),
        (BEGUN, {"conn_id": "another", "max_tries": 7}, True, "and the connection 'hailuo_default', and pays no"),
        (replace(BEGUN, job_id=None), {}, True, "This try goes on with the submission that was begun before"),
        (BEGUN, {"body": {**BODY, "prompt": "a sunset"}}, True, "job_1; its parameters render to something else"),
        (BEGUN, {"body": {**BODY, "webhookUrl": "https://x.example"}}, True, "render to something else"),
        (BEGUN, {"own_key": "mine"}, True, "render to something else"),
        (BEGUN, {"body": {}}, True, "job_1, whatever its parameters would be by now"),
        (DELIVERED, {}, True, "goes on with job job_1"),
        (BEGUN, {"max_tries": 7}, True, "cleared before it had delivered job job_1: it goes on with that"),
        (DELIVERED, {"max_tries": 7}, False, "cleared after it had delivered job job_1: a new video"),
        (BEGUN, {"max_tries": 7, "body": {**BODY, "prompt": "a sunset"}}, False, "another request than that of job"),
        (BEGUN, {"max_tries": 7, "body": {**BODY, "webhookUrl": "https://x.example"}}, True, "goes on with that"),
        (BEGUN, {"max_tries": 7, "body": {**BODY, "hailuoParams": {"duration": 6}}}, True, "goes on with that"),
        (BEGUN, {"max_tries": 7, "body": {**BODY, "hailuoParams": {"duration": 10}}}, False, "another request"),
        (BEGUN, {"max_tries": 7, "own_key": "mine"}, False, "another request"),
        (replace(BEGUN, own_key="mine"), {"max_tries": 7}, False, "another request"),
        (replace(BEGUN, own_key="mine"), {"max_tries": 7, "own_key": "mine"}, True, "goes on with that"),
    ],
)
def test_a_retry_goes_on_and_a_cleared_task_does_if_the_same_video_is_owed(
    begun: Submission, now: dict[str, Any], goes_on: bool, told: str
):
    decided, note = decide_resume(
        begun, **{"max_tries": 3, "body": BODY, "own_key": None, "conn_id": BEGUN.conn_id, **now}
    )

    assert decided is goes_on
    assert re.search(told, note)


# The store


def test_what_is_written_comes_back_from_json_and_fields_of_a_newer_version_are_ignored():
    context = {"task_state_store": Store()}
    full = replace(BEGUN, own_key="mine", delivered=True)

    SubmissionStore(context, nested=False, needed=False).save(full)
    context["task_state_store"].set(STATE_KEY, {**context["task_state_store"].submission, "from_the_future": 1})

    assert SubmissionStore(context, nested=False, needed=False).load() == full


# It is written before it is sent


def test_key_and_body_are_in_the_store_when_the_submission_arrives(world: World, airflow: Airflow):
    seen = []
    world.before_post = lambda: seen.append(airflow.store.submission)

    airflow.run(operator(duration=10, webhook_url="https://x.example/done"))

    ((key, body),) = world.posts
    (submission,) = seen
    assert (submission["key"], submission["body"]) == (key, body)
    assert (submission["conn_id"], submission["max_tries"]) == ("hailuo_default", 3)
    assert "job_id" not in submission
    assert airflow.store.submission["job_id"] == "job_1"
    assert airflow.store.submission["delivered"] is False


def test_it_is_delivered_when_airflow_has_kept_its_url_and_not_before(airflow: Airflow, log: Callable[[], str]):
    airflow.run(waiting())
    # What came after the task had returned has failed: a hook, or the XCom backend.
    del airflow.xcoms["return_value"]
    airflow.clear()

    assert airflow.run(waiting()) == url("job_1")
    airflow.clear()
    assert airflow.run(waiting()) == url("job_2")
    assert "cleared after it had delivered job job_1: a new video is submitted" in log()


def test_where_airflow_keeps_no_url_it_is_written_down_at_once(airflow: Airflow):
    assert airflow.run(waiting(do_xcom_push=False)) == url("job_1")

    assert airflow.store.submission["delivered"] is True


@pytest.mark.parametrize(("hook", "done"), [("on_set", "written"), ("on_get", "read")])
def test_without_the_store_nothing_is_sent_and_a_retry_tries_again(
    world: World, airflow: Airflow, hook: str, done: str
):
    setattr(airflow.store, hook, away)

    with pytest.raises(HailuoUnavailableException, match=f"could not be {done}: RuntimeError: API_SERVER") as raised:
        airflow.run(operator())
    assert (world.posts, world.looks) == ([], [])
    assert "A retry" not in str(raised.value)  # there may be none
    assert ".." not in str(raised.value)

    setattr(airflow.store, hook, nothing)
    airflow.run(operator())
    assert len(world.posts) == 1


def test_a_store_that_goes_away_after_the_submission_loses_nothing(
    world: World, airflow: Airflow, log: Callable[[], str]
):
    world.after_post = airflow.store.go_away

    assert isinstance(airflow.run(operator()), TaskDeferred)
    assert airflow.xcoms == {"job_id": "job_1"}
    assert "could not be written" in log()
    assert "job_id" not in airflow.store.submission

    # The worker that resumes knows the job from its event, and the request from before.
    world.now += 60
    assert airflow.resume(operator(prompt="rendered anew"), airflow.event()) == url("job_1")
    assert airflow.xcoms["job"]["prompt"] == "a sunrise"
    assert world.paid == 1


def test_a_store_that_goes_away_after_the_submission_still_holds_the_key_for_a_retry(world: World, airflow: Airflow):
    world.after_post = airflow.store.go_away
    airflow.run(operator())
    world.now += 60

    assert airflow.run(operator(prompt="rendered anew")) == url("job_1")
    assert world.posts[0] == world.posts[1]
    assert world.paid == 1


def test_a_store_that_cannot_be_read_at_a_resumption_loses_nothing(world: World, airflow: Airflow):
    airflow.run(operator())
    world.now += 60
    airflow.store.on_get = away

    assert airflow.resume(operator(), airflow.event()) == url("job_1")


# Retries


@pytest.mark.parametrize(
    "rendered",
    [
        {"prompt": "a sunset"},
        {"webhook_url": "https://x.example/2"},
        {"image": "https://x.example/signed?at=2"},
        {"idempotency_key": "order-2"},
        {"resolution": "4k"},
        {"prompt": "\u200b"},
        {"retries": 9},
        {"hailuo_conn_id": "other"},
        {"hailuo_conn_id": "no_such_conn"},
    ],
    ids=str,
)
def test_whatever_the_templates_render_to_at_a_retry_it_is_the_same_job(
    world: World, airflow: Airflow, log: Callable[[], str], rendered: dict[str, Any]
):
    assert isinstance(airflow.run(operator()), TaskDeferred)
    later = operator()
    for name, value in rendered.items():
        setattr(later, name, value)

    for _ in range(2):
        deferral = airflow.run(later)
        assert deferral.trigger.job_id == airflow.xcoms["job_id"] == "job_1"
        assert deferral.trigger.hailuo_conn_id == "hailuo_default"
        assert deferral.trigger.request["prompt"] == "a sunrise"
    world.now += 60

    assert airflow.run(later) == url("job_1")
    assert len(world.posts) == world.paid == 1
    assert {account for account, _ in world.looks} == {"afk_1"}
    unseen = rendered.keys() <= {"retries", "hailuo_conn_id"}
    notes = ("its parameters render to something else by now", "whatever its parameters would be by now")
    assert any(note in log() for note in notes) is not unseen


@pytest.mark.parametrize("moment", ["before_post", "after_post", "after_note", "before_note"])
def test_wherever_the_worker_dies_there_is_one_job(world: World, airflow: Airflow, moment: str):
    store = airflow.store
    if moment == "before_post":
        store.after_set = kill  # the submission is there
    elif moment == "after_post":
        world.after_post = kill
    else:
        world.after_post = lambda: setattr(store, "after_set" if moment == "after_note" else "on_set", kill)
    with pytest.raises(KilledError):
        airflow.run(operator())
    assert len(world.posts) == (moment != "before_post")
    store.on_set = store.after_set = world.after_post = nothing

    deferral = airflow.run(operator(prompt="rendered anew"))

    assert deferral.trigger.job_id == "job_1"
    assert world.paid == 1
    assert all(post == world.posts[0] for post in world.posts)
    assert world.posts[0][1]["prompt"] == "a sunrise"


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("failing", [xcoms.JOB_ID, xcoms.JOB, xcoms.CREDIT_COST])
def test_whichever_xcom_cannot_be_pushed_there_is_one_job(
    world: World, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, failing: str, cleared: bool
):
    push = TaskInstance.xcom_push

    def fail(ti: TaskInstance, key: str, value: object) -> None:
        if key == failing:
            raise RuntimeError("API_SERVER_ERROR")
        push(ti, key, value)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(TaskInstance, "xcom_push", fail)
        airflow.run(operator())
        world.now += 60
        airflow.resume(operator(), airflow.event())
    world.now += 60
    if cleared:
        airflow.clear()

    assert airflow.run(operator(prompt="a sunrise" if cleared else "rendered anew")) == url("job_1")
    assert world.paid == 1


@pytest.mark.parametrize(
    "lost",
    [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("closed"), httpx.Response(504, text="proxy")],
    ids=repr,
)
def test_after_a_lost_answer_a_retry_asks_with_the_same_key_and_body(world: World, airflow: Airflow, lost: object):
    def lose() -> httpx.Response:
        if isinstance(lost, Exception):
            raise lost
        return lost

    world.after_post = lose
    with pytest.raises(HailuoUnavailableException, match=r"may have been created, and is paid then\. A retry takes"):
        airflow.run(operator())
    world.after_post = nothing

    airflow.run(operator(prompt="rendered anew"))

    assert world.posts[0] == world.posts[1]
    assert world.paid == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409])
def test_a_refusal_after_a_lost_answer_leaves_it_in_doubt_and_the_record_in_the_store(
    world: World, airflow: Airflow, status: int
):
    dies_before_the_answer(world, airflow)
    world.before_post = refuse(status)

    with pytest.raises(HailuoUnavailableException, match="may have been created") as raised:
        airflow.run(operator())
    assert "Take another idempotency_key" not in str(raised.value)
    world.before_post = nothing

    airflow.run(operator())
    assert world.paid == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409])
def test_a_refusal_of_the_first_submission_leaves_no_record(world: World, airflow: Airflow, status: int):
    world.before_post = refuse(status)

    with pytest.raises(AirflowFailException, match=rf"HTTP {status}.*Nothing was paid"):
        airflow.run(operator())
    assert airflow.store.submission is None


@pytest.mark.parametrize(
    ("dead", "cleared"),
    [
        ({"status": "FAILED"}, False),
        ({"status": "FAILED"}, True),
        ({"status": "CANCELLED"}, False),
        ({"status": "COMPLETED", "expired": True}, True),
    ],
)
@pytest.mark.parametrize("own_key", [None, "order-7"])
def test_a_dead_job_makes_room_for_a_new_one(
    world: World, airflow: Airflow, dead: dict[str, Any], own_key: str | None, cleared: bool
):
    prompts = ["a"] * 3 if cleared else ["a", "b", "c"]
    world.outcomes = [dead, dead]
    for n, prompt in enumerate(prompts[:2], 1):
        with pytest.raises((HailuoJobFailedException, AirflowFailException), match=f"job_{n}"):
            airflow.run(waiting(prompt=prompt, idempotency_key=own_key))
        if cleared:
            airflow.clear()

    assert airflow.run(waiting(prompt=prompts[2], idempotency_key=own_key)) == url("job_3")
    assert [body["prompt"] for _, body in world.posts] == prompts
    assert len({key for key, _ in world.posts}) == len(world.jobs) == 3


def test_no_retry_pays_again_for_a_video_that_has_been_purged(world: World, airflow: Airflow):
    airflow.run(operator())
    world.now += 60
    world.jobs["job_1"]["outcome"] = {"status": "COMPLETED", "expired": True}

    for _ in range(2):
        with pytest.raises(
            AirflowFailException, match="Clearing the task renders it anew, which costs credits again"
        ):
            airflow.run(waiting())
    assert len(world.posts) == 1


def test_a_job_that_is_dead_as_soon_as_it_is_submitted_ends_the_try(world: World, airflow: Airflow):
    world.outcomes = [{"status": "FAILED", "error": "content policy"}] * 20
    world.takes = 0

    with pytest.raises(HailuoJobFailedException, match="content policy"):
        airflow.run(operator())
    assert len(world.posts) == 1


def test_an_invalid_rendering_after_a_dead_job_does_not_say_that_the_job_goes_on(world: World, airflow: Airflow):
    world.outcomes = [{"status": "FAILED"}]
    with pytest.raises(HailuoJobFailedException):
        airflow.run(waiting())
    later = waiting()
    later.resolution = "4k"

    with pytest.raises(AirflowFailException, match=r"resolution: '4k'.*Nothing was paid") as raised:
        airflow.run(later)
    assert "job_1" not in str(raised.value)
    assert len(world.posts) == 1


@pytest.mark.parametrize("away", ["job", "connection"])
def test_a_job_that_cannot_be_seen_at_a_retry_is_waited_for(world: World, airflow: Airflow, away: str):
    airflow.run(operator())
    if away == "job":
        world.on_look = refuse(404)
    else:
        world.connections.clear()

    assert airflow.run(operator()).trigger.job_id == airflow.xcoms["job_id"] == "job_1"
    assert len(world.posts) == 1


def test_a_url_that_is_not_there_yet_at_a_retry_is_waited_for(world: World, airflow: Airflow):
    airflow.run(operator())
    world.now += 60
    early = [httpx.Response(200, json={"id": "job_1", "status": "COMPLETED"})]
    world.on_look = lambda: early.pop() if early else None

    assert airflow.run(waiting()) == url("job_1")
    assert not early


# Clearing


def timed_out(airflow: Airflow, **arguments: Any) -> None:
    with pytest.raises(HailuoJobTimeoutException):
        airflow.run(waiting(timeout=1, **arguments))


@pytest.mark.parametrize("delivered_by", ["a worker", "a trigger"])
def test_a_delivery_is_remembered_when_the_try_after_the_clear_comes_to_nothing(
    world: World, airflow: Airflow, airflow_3_3: None, delivered_by: str
):
    if delivered_by == "a worker":
        airflow.run(waiting())
    else:
        airflow.run(operator(worker_visits=1))
        world.now += 60
        airflow.xcoms |= {"return_value": url("job_1"), "delivered": True}  # which the store does not know
    airflow.clear()
    del world.connections["hailuo_default"]
    with pytest.raises(HailuoUnavailableException):
        airflow.run(operator())
    world.connections["hailuo_default"] = "afk_1"

    assert airflow.run(waiting()) == url("job_2")


@pytest.mark.parametrize("delivered", [False, True])
def test_a_trigger_has_delivered_when_airflow_says_so(
    world: World, airflow: Airflow, airflow_3_3: None, delivered: bool
):
    deferral = airflow.run(operator(worker_visits=1))
    assert deferral.trigger.end_from_trigger
    world.now += 60
    # What the trigger leaves, also when the task is cleared, or resumed by a webhook, right before that.
    airflow.xcoms |= {"return_value": url("job_1"), **({"delivered": True} if delivered else {})}
    airflow.clear()

    assert airflow.run(waiting()) == (url("job_2") if delivered else url("job_1"))
    assert world.paid == (2 if delivered else 1)


@pytest.mark.parametrize("again", [operator, waiting])
def test_what_a_worker_delivers_in_place_of_the_trigger_is_delivered(
    world: World, airflow: Airflow, airflow_3_3: None, again: Callable[..., HailuoGenerateOperator]
):
    airflow.run(operator(worker_visits=1))
    world.now += 60
    if again is operator:
        airflow.resume(operator(worker_visits=1), airflow.event())
    else:
        airflow.run(waiting())
    airflow.clear()

    assert airflow.run(waiting()) == url("job_2")


@pytest.mark.parametrize("announced", [{}, {"webhook_url": "https://x.example/2", "webhook_events": ["failed"]}])
def test_clearing_a_task_that_has_not_delivered_takes_up_its_job(
    world: World, airflow: Airflow, log: Callable[[], str], announced: dict[str, Any]
):
    timed_out(airflow)
    airflow.clear()

    assert airflow.run(waiting(**announced)) == url("job_1")
    assert "cleared before it had delivered job job_1: it goes on with that" in log()
    assert len(world.posts) == world.paid == 1


@pytest.mark.parametrize(
    ("store", "try_number", "told"),
    [
        (True, 1, "A retry takes it up again and does not pay twice"),
        (True, 2, "A retry takes it up again and does not pay twice"),
        (True, 3, "Clearing the task takes it up again and does not pay twice"),
        (False, 2, "A retry takes it up again and does not pay twice"),
        (False, 3, r"Clearing the task would pay for another one: HailuoHook\('hailuo_default'\)"),
    ],
)
def test_each_try_advises_what_holds_for_it(world: World, store: bool, try_number: int, told: str):
    airflow = Airflow(world, Store() if store else None, retries=2)
    airflow.try_number = try_number - 1

    with pytest.raises(HailuoJobTimeoutException, match=told):
        airflow.run(waiting(timeout=1))


def test_a_retry_after_such_a_clear_goes_on_whatever_it_renders_to(world: World, airflow: Airflow):
    timed_out(airflow)
    airflow.clear()
    timed_out(airflow)

    assert airflow.run(waiting(prompt="rendered anew")) == url("job_1")
    assert world.paid == 1


@pytest.mark.parametrize("changed", [{"prompt": "a sunset"}, {"duration": 10}, {"idempotency_key": "order-2"}])
def test_a_request_that_was_changed_and_cleared_is_a_new_job(
    airflow: Airflow, log: Callable[[], str], changed: dict[str, Any]
):
    timed_out(airflow)
    airflow.clear()

    assert airflow.run(waiting(**changed)) == url("job_2")
    assert "cleared with another request than that of job job_1: a new video is submitted" in log()
    # And from then on it is the new one that is taken up.
    assert airflow.run(waiting()) == url("job_2")


def test_a_refusal_of_the_new_job_is_final_and_the_one_that_was_delivered_is_not_taken_up_again(
    world: World, airflow: Airflow
):
    assert airflow.run(waiting()) == url("job_1")
    airflow.clear()
    world.before_post = refuse(402)

    with pytest.raises(AirflowFailException, match="Nothing was paid") as raised:
        airflow.run(waiting())
    # The message tells all; what it was made of would bury it.
    assert raised.value.__suppress_context__
    assert raised.value.__cause__ is None
    world.before_post = nothing

    assert airflow.run(waiting()) == url("job_2")


def test_an_invalid_request_after_a_clear_names_a_job_that_is_owed_and_no_other(airflow: Airflow):
    invalid = waiting()
    invalid.resolution = "4k"
    timed_out(airflow)
    airflow.clear()
    with pytest.raises(HailuoUnavailableException, match=r"'4k'.*\(job job_1\).*is paid if it completes"):
        airflow.run(invalid)
    assert airflow.run(waiting()) == url("job_1")
    airflow.clear()

    with pytest.raises(AirflowFailException, match=r"'4k'.*Nothing was paid") as raised:
        airflow.run(invalid)
    assert "job_1" not in str(raised.value)


def test_clearing_while_a_lost_submission_is_in_doubt_asks_with_the_same_key(world: World, airflow: Airflow):
    dies_before_the_answer(world, airflow)
    airflow.clear()

    assert airflow.run(waiting()) == url("job_1")
    assert world.posts[0] == world.posts[1]


def test_a_run_that_is_made_again_under_the_same_id_starts_afresh(world: World):
    world.outcomes = [{"status": "FAILED"}]
    with pytest.raises(HailuoJobFailedException):
        Airflow(world, Store()).run(waiting())

    assert Airflow(world, Store()).run(waiting()) == url("job_2")
    assert Airflow(world, Store()).run(waiting()) == url("job_3")


def test_and_renders_anew_under_a_key_of_its_own_whose_render_failed(world: World):
    world.outcomes = [{"status": "FAILED"}]
    with pytest.raises(HailuoJobFailedException):
        Airflow(world, Store()).run(waiting(idempotency_key="order-7"))

    assert Airflow(world, Store()).run(waiting(idempotency_key="order-7")) == url("job_2")
    # And the same key stands for the same video.
    assert Airflow(world, Store()).run(waiting(idempotency_key="order-7")) == url("job_2")


# Waiting on the worker


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_lasts_ends_the_try_and_leaves_the_job_to_a_retry(world: World, airflow: Airflow, status: int):
    world.on_look = refuse(status)

    with pytest.raises(
        HailuoUnavailableException, match=rf"HTTP {status}, job job_1\)\. The job goes on, and is paid"
    ):
        airflow.run(waiting())
    assert 60 <= world.now - EPOCH < 120
    world.on_look = nothing

    assert airflow.run(waiting()) == url("job_1")
    assert world.paid == 1


# Without a store


def test_without_a_store_a_retry_has_the_same_key_and_a_clear_another(world: World, storeless: Airflow):
    storeless.run(operator(retries=2))
    # `retries` is edited while the task waits for its retry.
    storeless.run(operator(retries=4))
    assert world.posts[0] == world.posts[1]
    assert world.paid == 1

    storeless.clear()
    storeless.run(operator())
    assert world.posts[1][0] != world.posts[2][0]
    assert world.paid == 2


def test_without_a_store_dead_jobs_make_room_within_one_try(world: World, storeless: Airflow):
    world.outcomes = [{"status": "FAILED"}] * 3
    for n in (1, 2, 3):
        with pytest.raises(HailuoJobFailedException, match=f"job_{n}"):
            storeless.run(waiting())

    assert storeless.run(waiting()) == url("job_4")
    keys = [key for key, _ in world.posts]
    assert keys[-4:] == [keys[0], f"{keys[0]}/2", f"{keys[0]}/3", f"{keys[0]}/4"]


def test_a_try_gives_up_after_so_many_dead_jobs(world: World, storeless: Airflow, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hailuo, "MAX_DEAD_JOBS", 2)
    world.outcomes = [{"status": "FAILED"}] * 9
    for _ in range(5):
        with pytest.raises(HailuoJobFailedException):
            storeless.run(waiting())

    assert len(world.jobs) == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_without_a_store_a_later_try_is_never_sure_that_nothing_was_paid(
    world: World, storeless: Airflow, status: int
):
    dies_before_the_answer(world, storeless)
    world.before_post = refuse(status)

    with pytest.raises(HailuoUnavailableException, match="may have been created, and is paid then"):
        storeless.run(operator())


def test_without_a_store_a_conflict_at_a_retry_says_what_happened(storeless: Airflow):
    storeless.run(operator(idempotency_key="order-7"))

    with pytest.raises(HailuoException, match="templates render to something else at each try") as raised:
        storeless.run(operator(idempotency_key="order-7", prompt="rendered anew"))
    assert "'order-7'" in str(raised.value)
    assert "another idempotency_key" not in str(raised.value)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_changed_request_that_is_refused_leaves_the_job_that_is_owed(world: World, airflow: Airflow, dead: int):
    changed = waiting(prompt="a sunset", idempotency_key="order-7")
    airflow.run(operator())
    airflow.clear()
    world.outcomes = [{"status": "FAILED"}] * dead
    for _ in range(dead):
        with pytest.raises(HailuoJobFailedException):
            Airflow(world, Store()).run(changed)
    answers = [*[None] * dead, refuse(402)()]
    world.before_post = lambda: answers.pop(0)
    with pytest.raises(AirflowFailException):
        airflow.run(changed)
    world.before_post = nothing
    airflow.clear()

    assert airflow.run(waiting()) == url("job_1")
    assert world.paid == 1
    assert answers == []


@pytest.mark.parametrize(
    "stored", ["k", {"key": "k"}, {"key": "k", "body": None, "conn_id": "c", "max_tries": 1}], ids=str
)
def test_what_is_no_submission_any_more_is_named(world: World, airflow: Airflow, stored: dict[str, Any]):
    airflow.store.set(STATE_KEY, stored)

    with pytest.raises(
        HailuoUnavailableException, match=f"'{STATE_KEY}' in the task state store holds something else"
    ):
        airflow.run(operator())
    assert world.posts == []


def test_where_the_key_was_written_down_clearing_is_advised(world: World):
    airflow = Airflow(world, Store(), retries=0)
    world.after_post = airflow.store.go_away

    with pytest.raises(HailuoJobTimeoutException, match="Clearing the task takes it up again"):
        airflow.run(waiting(timeout=1))


def test_where_nothing_could_be_written_down_clearing_is_not_advised(airflow: Airflow):
    airflow.store.go_away()
    airflow.try_number, airflow.max_tries = 1, 0
    timed_out = {"job_id": "job_1", "error": "JobTimeoutError", "message": "too late", "try_number": 1}

    with pytest.raises(HailuoJobTimeoutException, match="Clearing the task would pay for another one"):
        airflow.resume(operator(), timed_out)


@pytest.mark.parametrize("conn_id", [None, "", " ", "None"])
def test_a_connection_that_renders_to_nothing_is_the_default_one(airflow: Airflow, conn_id: str | None):
    airflow.run(operator(hailuo_conn_id=conn_id))

    assert airflow.store.submission["conn_id"] == "hailuo_default"
