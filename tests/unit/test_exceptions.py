"""What a task says when it fails: what happened, what is paid, what to do. Each text is one that people read."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.exceptions import (
    HailuoException,
    HailuoFailException,
    HailuoJobFailedException,
    HailuoJobTimeoutException,
    HailuoRateLimitException,
    HailuoStorageException,
    HailuoUnavailableException,
    Situation,
    explained,
)

JOB = {"job_id": "job_1"}
LEFT = {"tries_left": True}
KEPT = {"kept": True}
LOOK = "HailuoHook('conn').get_job('job_1')"


def api(kind: type[errors.ApiframeError], status: int, **facts: Any) -> errors.ApiframeError:
    return kind("Apiframe answers: so it is", status=status, from_api=True, **facts)


def told(error: errors.ApiframeError, **situation: Any) -> tuple[type, str]:
    exception = explained(error, Situation("conn", **situation))
    return type(exception), str(exception)


@pytest.mark.parametrize(
    ("error", "situation", "kind", "text"),
    [
        # Before anything was paid.
        (
            errors.InvalidInputError("resolution: '4k': must be 768p or 1080p"),
            {},
            HailuoFailException,
            "resolution: '4k': must be 768p or 1080p. Nothing was paid. Correct it. Then clear the task.",
        ),
        (
            api(errors.BadRequestError, 400),
            LEFT,
            HailuoFailException,
            (
                "Apiframe answers: so it is (HTTP 400). Nothing was paid. Correct the parameters of the task. "
                "Then clear the task."
            ),
        ),
        (
            api(errors.AuthenticationError, 401),
            LEFT | KEPT,
            HailuoFailException,
            (
                "Apiframe answers: so it is (HTTP 401). Nothing was paid. Check the API key in the connection "
                "'conn'. Then clear the task."
            ),
        ),
        (
            api(errors.InsufficientCreditsError, 402),
            {},
            HailuoFailException,
            (
                "Apiframe answers: so it is (HTTP 402). Nothing was paid. Top up the credits of the account. "
                "Then clear the task."
            ),
        ),
        (
            api(errors.NotFoundError, 404),
            {},
            HailuoFailException,
            (
                "Apiframe answers: so it is (HTTP 404). Nothing was paid. Check the host of the connection "
                "'conn'. Then clear the task."
            ),
        ),
        (
            api(errors.ConflictError, 409),
            {},
            HailuoFailException,
            (
                "Apiframe answers: so it is (HTTP 409). Nothing was paid. Take another idempotency_key, or leave "
                "it out. Then clear the task."
            ),
        ),
        (
            errors.CredentialsUnavailableError("Airflow finds no connection; add one with --conn-password afk_..."),
            LEFT,
            HailuoUnavailableException,
            "Airflow finds no connection; add one with --conn-password afk_... Nothing was paid. A retry submits it.",
        ),
        (
            errors.NetworkError("ConnectError refused."),
            {},
            HailuoUnavailableException,
            "ConnectError refused. Nothing was paid. Clearing the task submits it.",
        ),
        (
            api(errors.RateLimitError, 429),
            LEFT,
            HailuoRateLimitException,
            "Apiframe answers: so it is (HTTP 429). Nothing was paid. A retry submits it.",
        ),
        # When a job may have been created.
        (
            errors.RequestTimeoutError("no answer", in_doubt=True),
            {"in_doubt": True} | LEFT,
            HailuoUnavailableException,
            (
                "no answer. The job may have been created, and is paid then. A retry takes it up again and does "
                "not pay twice."
            ),
        ),
        (
            errors.RequestTimeoutError("no answer", in_doubt=True),
            {"in_doubt": True} | KEPT,
            HailuoUnavailableException,
            (
                "no answer. The job may have been created, and is paid then. Clearing the task takes it up again "
                "and does not pay twice."
            ),
        ),
        (
            errors.RequestTimeoutError("no answer", in_doubt=True),
            {"in_doubt": True},
            HailuoUnavailableException,
            (
                "no answer. The job may have been created, and is paid then. Clearing the task may pay for "
                "another one: look first whether Apiframe lists the job."
            ),
        ),
        (
            api(errors.ConflictError, 409, in_doubt=True),
            {"in_doubt": True} | LEFT,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 409). The job may have been created, and is paid then. A retry "
                "takes it up again and does not pay twice."
            ),
        ),
        (
            api(errors.ConflictError, 409),
            {"in_doubt": True, "retried": True} | LEFT,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 409). The job may have been created, and is paid then. An "
                "earlier try of this task has submitted another request under this key: its templates render to "
                "something else at each try. Let them render to what they did at first. A retry takes it up "
                "again and does not pay twice."
            ),
        ),
        (
            api(errors.ConflictError, 409),
            {"in_doubt": True, "retried": True} | LEFT | KEPT,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 409). The job may have been created, and is paid then. A retry "
                "takes it up again and does not pay twice."
            ),
        ),
        # When there is a job.
        (
            api(errors.AuthenticationError, 401, job_id="job_1"),
            JOB | LEFT | KEPT,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 401, job job_1). The job goes on, and is paid if it completes. "
                "Check the API key in the connection 'conn'. A retry takes it up again and does not pay twice."
            ),
        ),
        (
            api(errors.NotFoundError, 404),
            JOB | LEFT,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 404, job job_1). The job goes on, and is paid if it completes. "
                "Check that the connection 'conn' leads to the account that submitted the job. If the job is "
                "gone for good, a changed request or idempotency_key is a new one. A retry takes it up again and "
                "does not pay twice."
            ),
        ),
        (
            errors.JobTimeoutError("The deadline has passed"),
            JOB | LEFT,
            HailuoJobTimeoutException,
            "The deadline has passed (job job_1). A retry takes it up again and does not pay twice.",
        ),
        (
            errors.JobTimeoutError("The deadline has passed"),
            JOB | KEPT,
            HailuoJobTimeoutException,
            "The deadline has passed (job job_1). Clearing the task takes it up again and does not pay twice.",
        ),
        # Its file could not be fetched or stored.
        (
            errors.DownloadError("HTTP 503"),
            JOB | LEFT,
            HailuoStorageException,
            "HTTP 503 (job job_1). The video is there, and paid for. A retry stores it and does not pay twice.",
        ),
        (
            errors.DownloadError("HTTP 503"),
            JOB | KEPT,
            HailuoStorageException,
            (
                "HTTP 503 (job job_1). The video is there, and paid for. Clearing the task stores it and does not "
                "pay twice."
            ),
        ),
        (
            errors.FileError("s3://bucket/: refused"),
            LEFT,
            HailuoUnavailableException,
            "s3://bucket/: refused. Nothing was paid. A retry submits it.",
        ),
        (
            errors.FileError("s3://bucket/: refused", job_id="job_1"),
            {"watches": True, **LEFT},
            HailuoStorageException,
            "s3://bucket/: refused (job job_1). A retry stores it.",
        ),
        (
            errors.JobTimeoutError("The deadline has passed"),
            JOB,
            HailuoJobTimeoutException,
            (
                f"The deadline has passed (job job_1). Clearing the task would pay for another one: {LOOK} reads "
                "the result of this one, and HailuoToObjectStorageOperator stores its video once there is one."
            ),
        ),
        (
            errors.JobFailedError("The render ended as FAILED: no. Its credits were refunded"),
            JOB | LEFT,
            HailuoJobFailedException,
            "The render ended as FAILED: no. Its credits were refunded (job job_1). A retry renders it anew.",
        ),
        (
            errors.JobFailedError("The render ended as FAILED: no. Its credits were refunded"),
            JOB | KEPT,
            HailuoJobFailedException,
            (
                "The render ended as FAILED: no. Its credits were refunded (job job_1). Clearing the task "
                "renders it anew."
            ),
        ),
        (
            errors.JobExpiredError("The video was rendered and paid, but its file has been purged"),
            JOB | LEFT,
            HailuoFailException,
            (
                "The video was rendered and paid, but its file has been purged (job job_1). Clearing the task "
                "renders it anew, which costs credits again."
            ),
        ),
        (
            errors.JobWithoutVideoError("Ask Apiframe's support with the job's id"),
            JOB,
            HailuoJobFailedException,
            (
                "Ask Apiframe's support with the job's id (job job_1). Clearing the task would pay for another "
                f"one: {LOOK} reads the result of this one, and HailuoToObjectStorageOperator stores its video "
                "once there is one."
            ),
        ),
    ],
)
def test_what_happened_what_is_paid_and_what_to_do(
    error: errors.ApiframeError, situation: dict[str, Any], kind: type, text: str
):
    assert told(error, **situation) == (kind, text)


ERRORS = [
    errors.InvalidInputError,
    errors.CredentialsUnavailableError,
    errors.BadRequestError,
    errors.AuthenticationError,
    errors.InsufficientCreditsError,
    errors.PermissionDeniedError,
    errors.NotFoundError,
    errors.ConflictError,
    errors.UnexpectedStatusError,
    errors.RateLimitError,
    errors.ServerError,
    errors.UnreadableAnswerError,
    errors.NetworkError,
    errors.RequestTimeoutError,
    errors.JobFailedError,
    errors.JobExpiredError,
    errors.JobWithoutVideoError,
    errors.JobTimeoutError,
]
SITUATIONS = [
    Situation("conn", job_id=job, in_doubt=in_doubt, tries_left=left, kept=kept, retried=retried)
    for job, in_doubt, left, kept, retried in product((None, "job_1"), *[(False, True)] * 4)
]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("in_doubt", [False, True])
def test_no_text_promises_what_does_not_hold(kind: type[errors.ApiframeError], in_doubt: bool):
    for situation in SITUATIONS:
        error = kind("So it is.", in_doubt=in_doubt)
        job_error = isinstance(error, errors.JobError)
        if (in_doubt and not situation.in_doubt) or (job_error and (situation.job_id is None or in_doubt)):
            continue  # does not happen
        exception = explained(error, situation)
        text = str(exception)
        owed = situation.job_id is not None or situation.in_doubt
        final = isinstance(exception, HailuoFailException)

        assert final or isinstance(exception, HailuoException)
        # What was purged is gone: to pay for another one is for people to decide.
        purged = isinstance(error, errors.JobExpiredError)
        assert not (owed and final and not purged), text
        assert ("Nothing was paid" in text) is (not owed), text
        assert not ("A retry" in text and (final or not situation.tries_left)), text
        assert ("Then clear the task" in text) is (final and not purged), text
        # Clearing pays again where nothing is kept.
        renders_anew = isinstance(error, errors.JobFailedError | errors.JobExpiredError)
        if owed and not situation.tries_left and not situation.kept and not renders_anew:
            assert re.search(r"Clearing the task (would|may) pay for another one", text), text
        elif owed and not renders_anew:
            assert "does not pay twice" in text, text
            assert "for another one" not in text, text
        if owed:
            assert "another idempotency_key" not in text, text
        assert ".." not in text, text
        assert re.fullmatch(r"So it is.*\.", text), text
        sentences = text.split(". ")
        assert len(set(sentences)) == len(sentences), text
        if situation.job_id:
            assert "job_1" in text


def test_a_job_that_the_error_names_itself_is_kept():
    assert "(job job_7)" in told(errors.JobTimeoutError("late", job_id="job_7"), **JOB)[1]


WATCHES = {"watches": True}


@pytest.mark.parametrize(
    ("error", "situation", "kind", "text"),
    [
        (
            errors.InvalidInputError("job_id: '': must be the id of a job"),
            LEFT,
            HailuoFailException,
            "job_id: '': must be the id of a job. Correct it. Then clear the task.",
        ),
        (
            errors.CredentialsUnavailableError("Airflow finds no connection; so it has been for 61 s"),
            JOB | LEFT,
            HailuoUnavailableException,
            "Airflow finds no connection; so it has been for 61 s (job job_1). A retry looks again.",
        ),
        (
            api(errors.NotFoundError, 404),
            JOB,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 404, job job_1). Check the job_id, and that the connection 'conn' "
                "leads to the account that submitted the job. Clearing the task looks again."
            ),
        ),
        (
            api(errors.AuthenticationError, 401),
            JOB | LEFT,
            HailuoUnavailableException,
            (
                "Apiframe answers: so it is (HTTP 401, job job_1). Check the API key in the connection 'conn'. A "
                "retry looks again."
            ),
        ),
        (
            errors.JobFailedError("The render ended as FAILED: no. Its credits were refunded"),
            JOB | LEFT,
            HailuoFailException,
            (
                "The render ended as FAILED: no. Its credits were refunded (job job_1). This task only waits for "
                "it: have it rendered anew where it was submitted."
            ),
        ),
        (
            errors.JobExpiredError("The video was rendered and paid, but its file has been purged"),
            JOB | LEFT,
            HailuoFailException,
            (
                "The video was rendered and paid, but its file has been purged (job job_1). This task only waits "
                "for it: have it rendered anew where it was submitted, which costs credits again."
            ),
        ),
        (
            errors.JobWithoutVideoError("Ask Apiframe's support with the job's id"),
            JOB,
            HailuoJobFailedException,
            "Ask Apiframe's support with the job's id (job job_1). Clearing the task looks again.",
        ),
    ],
)
def test_a_task_that_only_waits_says_what_helps(
    error: errors.ApiframeError, situation: dict[str, Any], kind: type, text: str
):
    assert told(error, **WATCHES, **situation) == (kind, text)


# No look at a job meets a conflict of keys.
@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not errors.ConflictError])
def test_a_task_that_only_waits_promises_no_render_and_tells_of_no_money_of_its_own(kind: type[errors.ApiframeError]):
    for job, left in product((None, "job_1"), (False, True)):
        exception = explained(kind("So it is."), Situation("conn", job_id=job, tries_left=left, watches=True))
        text = str(exception)
        final = isinstance(exception, HailuoFailException)

        assert not re.search("renders|submits|pay|paid|idempotency_key", text), text
        assert ("Clearing the task looks again" in text) is (not left and not final), text
