from __future__ import annotations

import logging
from copy import deepcopy

import pytest

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.apiframe.polling import (
    REFUSALS,
    REFUSED_SECONDS,
    URL_SECONDS,
    Finished,
    GaveUp,
    JobPoll,
    Wait,
    video_url,
)

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
DEADLINE = 1000.0
URL = "https://cdn.example/v.mp4"

OUT = errors.ServerError("out of order", status=503)
REFUSED = errors.AuthenticationError("no such key", status=401, from_api=True)
REFUSED_IN_ANY_WAY = [
    errors.BadRequestError("no", status=400, details={"id": ["no"]}, from_api=True),
    REFUSED,
    errors.InsufficientCreditsError("no", status=402, required=5, from_api=True),
    errors.PermissionDeniedError("no", status=403, from_api=True),
    errors.NotFoundError("no", status=404, from_api=True),
    errors.ConflictError("no", status=409, from_api=True),
    errors.UnexpectedStatusError("no", status=418, from_api=True),
    errors.CredentialsUnavailableError("no connection"),
    errors.InvalidInputError("NO_PROXY"),
]


def of_kind(error: object) -> str:
    return f"{type(error).__name__}-{getattr(error, 'status', None)}"


def poll(interval: float = 5.0, draw: float = 0.5) -> JobPoll:
    return JobPoll(JOB_ID, DEADLINE, interval, draw=lambda: draw)


def job(status: str = "PROCESSING", **fields: object) -> Job:
    return Job.model_validate({"id": JOB_ID, "status": status, **fields})


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 4.75), (0.5, 5.0), (1.0, 5.25)])
def test_the_interval_is_spread_so_that_waiters_do_not_march_in_step(draw: float, seconds: float):
    assert poll(draw=draw).on_job(job(), now=0).seconds == pytest.approx(seconds)


def look_on(waiting: JobPoll, looks: list[errors.ApiframeError | Job], pause: float, begin: float = 0) -> list:
    """Return what follows from a look at each of `looks` in turn, `pause` seconds apart, until one ends the wait."""
    decisions: list = []
    for n, seen in enumerate(looks):
        look = waiting.on_job if isinstance(seen, Job) else waiting.on_error
        decisions.append(look(seen, begin + n * pause))
        if not isinstance(decisions[-1], Wait):
            break
    return decisions


FINAL = [
    {"status": "COMPLETED", "result": {"videoUrl": URL}},
    {"status": "FAILED"},
    {"status": "CANCELLED"},
]


@pytest.mark.parametrize("now", [0, DEADLINE + 1])
@pytest.mark.parametrize("fields", FINAL, ids=str)
def test_a_final_job_ends_the_wait_at_once_even_after_the_deadline(fields: dict, now: float):
    assert poll().on_job(job(**fields), now) == Finished(job(**fields))


@pytest.mark.parametrize("lacks_it", [{"result": {"videoUrl": " "}}, {"result": {"videoUrl": URL}, "expired": True}])
def test_a_job_that_is_completed_without_a_url_is_looked_at_again_for_a_while_before_that_is_believed(lacks_it: dict):
    waiting, without = poll(), job("COMPLETED", progress=100, **lacks_it)

    *waits, end = look_on(waiting, [without] * 100, pause=5)

    assert [wait.seconds for wait in waits] == [5.0] * int(URL_SECONDS / 5)
    assert end == Finished(without)
    told = f"Job {JOB_ID}: COMPLETED (without a URL yet: looking again)"
    assert [(wait.level, wait.news) for wait in waits if wait.news] == [(logging.INFO, told)]


def test_the_url_may_come_late():
    waiting, without, whole = poll(), job("COMPLETED"), job("COMPLETED", result={"videoUrl": URL})

    assert look_on(waiting, [without, without, whole], pause=5)[-1] == Finished(whole)


@pytest.mark.parametrize("meanwhile", [job("PROCESSING"), OUT, REFUSED], ids=of_kind)
def test_the_time_in_which_something_else_was_seen_does_not_make_a_missing_url_last(meanwhile):
    waiting = poll()
    look_on(waiting, [job("COMPLETED"), meanwhile], pause=5)

    decisions = look_on(waiting, [job("COMPLETED")] * 100, pause=5, begin=500)

    assert len(decisions) > (URL_SECONDS - 5) / 5
    assert isinstance(decisions[-1], Finished)


def test_at_the_deadline_a_missing_url_is_believed():
    waiting = poll()

    assert waiting.on_job(job("COMPLETED"), DEADLINE - 2).seconds == 2
    assert waiting.on_job(job("COMPLETED"), DEADLINE) == Finished(job("COMPLETED"))


def test_with_a_long_interval_too_a_missing_url_is_looked_at_twice():
    waiting = poll(interval=300)

    assert waiting.on_job(job("COMPLETED"), 0).seconds == 300
    assert isinstance(waiting.on_job(job("COMPLETED"), 300), Finished)


def test_only_changes_are_news():
    seen = [job("QUEUED"), job("QUEUED"), job(progress=10), job(progress=10), job(progress=65)]

    news = [wait.news for wait in look_on(poll(), seen, pause=5)]

    told = f"Job {JOB_ID}:"
    assert news == [f"{told} QUEUED", None, f"{told} PROCESSING 10 %", None, f"{told} PROCESSING 65 %"]


def test_an_unknown_status_is_waited_out_and_told_once():
    first, second = look_on(poll(), [job("PAUSED\n")] * 2, pause=5)

    assert first.news == f"Job {JOB_ID}: PAUSED\\n (a status that this version does not know: waiting on)"
    assert (first.seconds, second) == (5.0, Wait(5.0, None))


@pytest.mark.parametrize(
    "error",
    [
        errors.NetworkError("refused"),
        errors.RequestTimeoutError("slow"),
        errors.RateLimitError("slow down"),
        errors.ServerError("out of order"),
        errors.UnreadableAnswerError("html"),
        # What proxies, firewalls and redirects answer, not the API.
        errors.AuthenticationError("<html>", status=401),
        errors.PermissionDeniedError("<html>", status=403),
        errors.NotFoundError("<html>", status=404),
        errors.BadRequestError("<html>", status=400),
        errors.ConflictError("<html>", status=409),
        errors.UnexpectedStatusError("<html>", status=302),
        errors.UnexpectedStatusError("<html>", status=418),
        # An outage of the API itself.
        errors.ServerError("out", status=500, from_api=True),
        errors.RateLimitError("slow down", status=429, from_api=True),
    ],
    ids=of_kind,
)
def test_passing_failures_are_outwaited_for_as_long_as_the_deadline_allows(error: errors.ApiframeError):
    waiting, now, looks = poll(), 0.0, 0
    while isinstance(decision := waiting.on_error(error, now), Wait):
        assert 0 < decision.seconds <= DEADLINE - now
        now, looks = now + decision.seconds, looks + 1

    assert now == DEADLINE
    assert 30 < looks < 60
    assert isinstance(decision.error, errors.JobTimeoutError)
    assert decision.error.job_id == JOB_ID
    assert "may still be rendered, and is paid then" in str(decision.error)
    assert str(error) in str(decision.error)


@pytest.mark.parametrize("error", REFUSED_IN_ANY_WAY, ids=of_kind)
def test_a_refusal_ends_the_wait_when_it_lasts(error: errors.ApiframeError):
    *waits, end = look_on(poll(), [error] * 100, pause=5)

    assert len(waits) == REFUSED_SECONDS / 5
    assert isinstance(end, GaveUp)
    assert type(end.error) is type(error)
    assert end.error.job_id == JOB_ID
    assert end.error.message == f"{error.message}; so it has been for {REFUSED_SECONDS:.0f} s"
    assert (end.error.status, end.error.from_api) == (error.status, error.from_api)
    assert [(wait.level, wait.news) for wait in waits if wait.news] == [
        (logging.INFO, f"Job {JOB_ID}: cannot see it, looking on: {error}")
    ]


@pytest.mark.parametrize("error", REFUSED_IN_ANY_WAY, ids=of_kind)
def test_an_error_that_many_share_stays_as_it_is(error: errors.ApiframeError):
    shared = deepcopy(error)
    shared.job_id = "another"

    ends = [look_on(poll(), [shared] * 100, pause=5)[-1] for _ in range(3)]

    assert (vars(shared), shared.args) == (vars(error) | {"job_id": "another"}, error.args)
    assert len({str(end.error) for end in ends}) == 1
    assert "another" not in str(ends[0].error)


@pytest.mark.parametrize("seen", [job(), job("PAUSED")], ids=lambda seen: seen.status)
def test_one_good_look_makes_refusals_begin_anew(seen: Job):
    waiting = poll()

    for begin in range(0, 900, 60):
        assert isinstance(look_on(waiting, [REFUSED] * 12, pause=4, begin=begin)[-1], Wait)
        assert isinstance(waiting.on_job(seen, begin + 48), Wait)
    assert isinstance(look_on(waiting, [REFUSED] * 100, pause=5, begin=900)[-1], GaveUp)


def test_refusals_of_any_kind_count_together():
    decisions = look_on(poll(), REFUSED_IN_ANY_WAY * 10, pause=5)

    assert len(decisions) == REFUSED_SECONDS / 5 + 1
    assert isinstance(decisions[-1], GaveUp)


def test_an_outage_among_refusals_neither_ends_the_wait_nor_lets_them_begin_anew():
    decisions = look_on(poll(), [REFUSED, OUT] * 100, pause=5)

    # From each refusal to the look after it, which is half of the time.
    assert len(decisions) in range(int(2 * REFUSED_SECONDS / 5), int(2 * REFUSED_SECONDS / 5) + 3)
    assert isinstance(decisions[-1], GaveUp)
    assert isinstance(decisions[-1].error, errors.AuthenticationError)


def test_an_outage_after_a_refusal_does_not_make_it_last():
    waiting = poll()
    look_on(waiting, [REFUSED, *[OUT] * 100], pause=5)

    decisions = look_on(waiting, [REFUSED] * 100, pause=5, begin=505)

    assert len(decisions) == REFUSED_SECONDS / 5
    assert isinstance(decisions[-1], GaveUp)


def test_what_is_not_a_refusal_never_ends_a_wait_before_the_deadline_whatever_was_refused_before():
    waiting = poll()
    assert isinstance(look_on(waiting, [REFUSED] * 12, pause=5)[-1], Wait)

    assert all(isinstance(decision, Wait) for decision in look_on(waiting, [OUT] * 100, pause=5, begin=60))


def test_with_a_long_interval_a_refusal_has_to_be_repeated_all_the_same():
    decisions = look_on(JobPoll(JOB_ID, 1e6, 600, draw=lambda: 0.5), [REFUSED] * 10, pause=600)

    assert [wait.seconds for wait in decisions[:-1]] == [600.0] * (REFUSALS - 1)
    assert isinstance(decisions[-1], GaveUp)


def test_the_deadline_holds_while_the_api_refuses_too():
    waiting = poll()

    assert waiting.on_error(REFUSED, DEADLINE - 2).seconds == 2
    end = waiting.on_error(REFUSED, DEADLINE)
    assert isinstance(end.error, errors.JobTimeoutError)
    assert "no such key (HTTP 401)" in str(end.error)


def test_a_clock_that_is_set_back_does_no_harm():
    waiting = poll()
    waiting.on_error(REFUSED, now=500)

    assert isinstance(look_on(waiting, [REFUSED] * 100, pause=5)[-1], GaveUp)


def test_the_api_may_ask_for_a_longer_wait():
    assert poll().on_error(errors.RateLimitError("slow down", retry_after=60), now=0).seconds == pytest.approx(60.375)


def test_an_outage_is_told_once_and_so_is_its_end():
    waiting = poll()
    waiting.on_job(job(progress=10), now=0)

    news = [waiting.on_error(errors.ServerError("out"), now=n).news for n in range(3)]
    back = waiting.on_job(job(progress=10), now=10).news

    assert news == [f"Job {JOB_ID}: cannot see it, looking on: out", None, None]
    assert back == f"Job {JOB_ID}: PROCESSING 10 % (after 3 failed looks)"
    assert waiting.on_job(job(progress=10), now=15).news is None


def test_the_last_look_is_at_the_deadline_and_none_comes_after():
    waiting = poll()

    assert waiting.on_job(job(), now=DEADLINE - 2).seconds == 2
    ended = waiting.on_job(job(progress=99), now=DEADLINE)
    assert isinstance(ended, GaveUp)
    assert "its status was PROCESSING 99 %" in str(ended.error)


def test_a_tiny_interval_is_not_a_busy_loop():
    assert poll(interval=1e-9).on_job(job(), now=0).seconds == 0.05


def test_the_url_of_a_completed_job():
    assert video_url(job("COMPLETED", result={"videoUrl": URL})) == URL


@pytest.mark.parametrize(
    ("fields", "kind", "told"),
    [
        ({"status": "FAILED", "error": "no", "creditCost": 0}, errors.JobFailedError, "FAILED: no.*were refunded"),
        ({"status": "FAILED", "creditCost": 5}, errors.JobFailedError, "no reason given.*does not show it yet"),
        ({"status": "FAILED", "error": {"code": "E1"}}, errors.JobFailedError, r"\{'code': 'E1'\}"),
        ({"status": "FAILED", "error": "a\n" * 5000}, errors.JobFailedError, r"a\\na\\n"),
        ({"status": "CANCELLED"}, errors.JobFailedError, "CANCELLED"),
        (
            {"status": "COMPLETED", "expired": True, "result": {"videoUrl": URL}},
            errors.JobExpiredError,
            "rendered and paid.*purged",
        ),
        ({"status": "COMPLETED", "result": {"images": []}}, errors.JobWithoutVideoError, "was charged.*images"),
        ({"status": "COMPLETED"}, errors.JobWithoutVideoError, "support"),
    ],
)
def test_a_job_without_a_video_is_an_error_that_names_it_and_the_credits(fields: dict, kind: type, told: str):
    with pytest.raises(kind, match=told) as raised:
        video_url(job(**fields))

    assert f"job {JOB_ID}" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 2000
