"""`webhook_url="auto"`: what is sent, and what a task does that a webhook resumes."""

from __future__ import annotations

import httpx
import pytest

from airflow_provider_hailuo.compat import AIRFLOW, TaskDeferred
from airflow_provider_hailuo.exceptions import HailuoException, HailuoFailException
from airflow_provider_hailuo.webhooks import FALLBACK_POLL_SECONDS
from tests.unit.operators.fakes import Airflow, World, operator, refuse, url, waiting

pytestmark = pytest.mark.skipif(AIRFLOW < (3, 1), reason="there is no receiver before Airflow 3.1")
FIRST, SECOND = "https://first.example", "https://second.example"


@pytest.fixture(autouse=True)
def base_url(monkeypatch: pytest.MonkeyPatch):
    def set_it(base: str) -> None:
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)

    set_it(FIRST)
    return set_it


def hint(airflow: Airflow, deferral: TaskDeferred | None = None) -> dict[str, object]:
    """Return the event of a webhook (`plugins/job_events.py`)."""
    deadline = deferral.trigger.deadline if deferral else None
    return airflow.event(hint=True, deadline=deadline)


# What is sent


def test_the_receiver_is_sent(world: World, airflow: Airflow):
    airflow.run(operator(webhook_url="auto"))

    assert world.posts[0][1]["webhookUrl"] == f"{FIRST}/hailuo/webhooks/hailuo_default"
    assert world.posts[0][1]["webhookEvents"] == ["completed", "failed"]


@pytest.mark.parametrize(
    ("webhook_url", "poll_interval", "taken"),
    [("auto", 5, FALLBACK_POLL_SECONDS), ("auto", 300, 300), ("https://example.com", 5, 5)],
)
def test_a_job_that_is_announced_here_is_looked_at_seldom(
    airflow: Airflow, webhook_url: str, poll_interval: float, taken: float
):
    task = operator(webhook_url=webhook_url, poll_interval=poll_interval)

    assert airflow.run(task).trigger.poll_interval == taken


def test_who_waits_on_the_worker_looks_as_ever(world: World, airflow: Airflow):
    assert airflow.run(waiting(webhook_url="auto")) == url("job_1")
    assert len(world.looks) >= 4


def test_a_retry_sends_what_was_sent_first(world: World, airflow: Airflow, base_url):
    world.after_post = refuse(503)
    with pytest.raises(HailuoException):
        airflow.run(operator(webhook_url="auto"))
    world.after_post = lambda: None
    base_url(SECOND)

    assert airflow.run(operator(webhook_url="auto")).trigger.poll_interval == FALLBACK_POLL_SECONDS
    assert world.posts[0] == world.posts[1]
    assert len(world.jobs) == 1


def test_where_nothing_is_written_down_an_edited_base_url_is_a_conflict_and_no_second_payment(
    world: World, storeless: Airflow, base_url
):
    world.after_post = refuse(503)
    with pytest.raises(HailuoException):
        storeless.run(operator(webhook_url="auto"))
    world.after_post = lambda: None
    base_url(SECOND)
    with pytest.raises(HailuoException, match="another request"):
        storeless.run(operator(webhook_url="auto"))
    assert len(world.jobs) == 1

    base_url(FIRST)
    storeless.run(operator(webhook_url="auto"))
    assert len(world.jobs) == 1


def test_a_receiver_that_the_api_cannot_reach_costs_nothing(world: World, airflow: Airflow, base_url):
    base_url("http://localhost:8080")

    with pytest.raises(HailuoFailException, match="cannot reach"):
        airflow.run(operator(webhook_url="auto"))
    assert world.posts == []


def test_a_base_url_that_is_gone_by_now_does_not_give_up_what_is_paid_for(world: World, airflow: Airflow, base_url):
    airflow.run(operator(webhook_url="auto"))
    base_url("http://localhost:8080")

    world.now += 30
    assert airflow.run(operator(webhook_url="auto")) == url("job_1")
    assert world.paid == 1


# What a task does that a webhook resumes


@pytest.fixture(params=["airflow", "storeless"])
def runs(request: pytest.FixtureRequest) -> Airflow:
    return request.getfixturevalue(request.param)


def test_it_looks_at_the_job_and_takes_the_video(world: World, runs: Airflow):
    deferral = runs.run(operator(webhook_url="auto"))
    world.now += 20

    assert runs.resume(operator(webhook_url="auto"), hint(runs, deferral)) == url("job_1")
    assert runs.xcoms["job"]["status"] == "COMPLETED"
    assert runs.xcoms["credit_cost"] == 5
    assert len(world.posts) == len(world.looks) == 1


def test_one_that_says_what_is_not_so_has_it_wait_on_until_the_same_moment(world: World, runs: Airflow):
    first = runs.run(operator(webhook_url="auto", prompt="a sunrise"))
    world.now += 5

    # Whatever the templates render to by now.
    again = runs.resume(operator(webhook_url="auto", prompt="another"), hint(runs, first))

    for name in ("job_id", "deadline", "try_number"):
        assert getattr(again.trigger, name) == getattr(first.trigger, name)
    assert len(world.posts) == 1
    world.now += 20
    assert runs.resume(operator(webhook_url="auto"), hint(runs, again)) == url("job_1")


@pytest.mark.parametrize(
    "answer", [refuse(503), refuse(404), refuse(401), lambda: httpx.Response(200, text="<html>")]
)
def test_one_odd_answer_has_it_wait_on(world: World, airflow: Airflow, answer):
    first = airflow.run(operator(webhook_url="auto"))
    world.now += 20
    world.on_look = answer

    again = airflow.resume(operator(webhook_url="auto"), hint(airflow, first))

    assert again.trigger.deadline == first.trigger.deadline


def test_a_connection_that_cannot_be_looked_up_has_it_wait_on(world: World, airflow: Airflow):
    first = airflow.run(operator(webhook_url="auto"))
    world.connections.clear()

    assert airflow.resume(operator(webhook_url="auto"), hint(airflow, first)).trigger.job_id == "job_1"


def test_a_failed_render_fails_the_task_at_once(world: World, airflow: Airflow):
    world.outcomes = [{"status": "FAILED", "error": "content policy"}]
    first = airflow.run(operator(webhook_url="auto"))
    world.now += 20

    with pytest.raises(HailuoException, match="content policy"):
        airflow.resume(operator(webhook_url="auto"), hint(airflow, first))


def test_what_the_trigger_has_left_meanwhile_is_taken(world: World, airflow: Airflow):
    first = airflow.run(operator(webhook_url="auto"))
    airflow.xcoms["job"] = {"id": "job_1", "status": "COMPLETED", "url": url("job_1"), "prompt": "a", "credits": 5}

    assert airflow.resume(operator(webhook_url="auto"), hint(airflow, first)) == url("job_1")
    assert world.looks == []


def test_one_of_an_earlier_try_resumes_none(world: World, airflow: Airflow):
    first = airflow.run(operator(webhook_url="auto"))
    late = hint(airflow, first)
    airflow.run(operator(webhook_url="auto"))
    world.now += 5

    again = airflow.resume(operator(webhook_url="auto"), late)

    assert again.trigger.job_id == "job_1"
    assert len(world.jobs) == 1
