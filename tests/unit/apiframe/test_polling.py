from __future__ import annotations

import pytest

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, Wait, video_url

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
DEADLINE = 1000.0


def poll(interval: float = 5.0, draw: float = 0.5) -> JobPoll:
    return JobPoll(JOB_ID, DEADLINE, interval, draw=lambda: draw)


def job(status: str = "PROCESSING", **fields: object) -> Job:
    return Job.model_validate({"id": JOB_ID, "status": status, **fields})


def test_a_job_that_renders_is_looked_at_again_after_the_interval():
    assert poll().on_job(job(), now=0).seconds == 5.0


def test_the_interval_is_spread_so_that_waiters_do_not_march_in_step():
    assert poll(draw=0.0).on_job(job(), now=0).seconds == pytest.approx(4.75)
    assert poll(draw=1.0).on_job(job(), now=0).seconds == pytest.approx(5.25)


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
def test_a_final_job_ends_the_wait_even_after_the_deadline(status: str):
    assert poll().on_job(job(status), now=DEADLINE + 1) == Finished(job(status))


def test_only_changes_are_news():
    waiting = poll()

    news = [
        waiting.on_job(state, now=0).news
        for state in (job("QUEUED"), job("QUEUED"), job(progress=10), job(progress=10), job(progress=65))
    ]

    assert news == [
        f"Job {JOB_ID}: QUEUED",
        None,
        f"Job {JOB_ID}: PROCESSING 10 %",
        None,
        f"Job {JOB_ID}: PROCESSING 65 %",
    ]


def test_an_unknown_status_is_waited_out_and_told_once():
    waiting = poll()

    first, second = waiting.on_job(job("PAUSED\n"), now=0), waiting.on_job(job("PAUSED\n"), now=5)

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
    ],
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


@pytest.mark.parametrize(
    "error",
    [errors.AuthenticationError("no"), errors.PermissionDeniedError("no"), errors.NotFoundError("no")],
)
def test_a_refusal_ends_the_wait(error: errors.ApiframeError):
    assert poll().on_error(error, now=0) == GaveUp(error)


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
    assert (
        video_url(job("COMPLETED", result={"videoUrl": "https://cdn.example/v.mp4"})) == "https://cdn.example/v.mp4"
    )


@pytest.mark.parametrize(
    ("fields", "kind", "told"),
    [
        (
            {"status": "FAILED", "error": "content policy", "creditCost": 0},
            errors.JobFailedError,
            "content policy.*were refunded",
        ),
        ({"status": "FAILED", "creditCost": 5}, errors.JobFailedError, "no reason given.*does not show it yet"),
        ({"status": "FAILED", "error": {"code": "E1"}}, errors.JobFailedError, r"\{'code': 'E1'\}"),
        ({"status": "FAILED", "error": "a\n" * 5000}, errors.JobFailedError, r"a\\na\\n"),
        ({"status": "CANCELLED"}, errors.JobFailedError, "CANCELLED"),
        (
            {"status": "COMPLETED", "expired": True, "result": {"videoUrl": "https://cdn.example/v.mp4"}},
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
