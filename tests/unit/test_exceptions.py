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

LEFT = {"tries_left": True}
KEPT = {"kept": True}
JOB = {"job_id": "job_1"}
DOUBT = {"in_doubt": True}
WATCHES = {"watches": True}
RETRIED = {"retried": True}

RETRY = "A retry takes it up again and does not pay twice."
CLEAR = "Clearing the task takes it up again and does not pay twice."
INSTEAD = (
    "Clearing the task would pay for another one: HailuoHook('conn').get_job('job_1') reads the result of this one, "
    "and HailuoToObjectStorageOperator stores its video once there is one."
)
ANEW = "This task only waits for it: have it rendered anew where it was submitted"


def told(error: errors.ApiframeError, situation: dict[str, Any]) -> tuple[type, str]:
    """Return what a task fails with, and its text behind what the error itself says."""
    exception = explained(error, Situation("conn", **situation))
    said, text = f"{error}. ", str(exception)
    assert text.startswith(said)
    return type(exception), text.removeprefix(said)


@pytest.mark.parametrize(
    ("kind", "what_to_do"),
    [
        (errors.InvalidInputError, "Correct it. "),
        (errors.BadRequestError, "Correct the parameters of the task. "),
        (errors.AuthenticationError, "Check the API key in the connection 'conn'. "),
        (errors.InsufficientCreditsError, "Top up the credits of the account. "),
        (
            errors.PermissionDeniedError,
            "Check that the API key in the connection 'conn' is active and may do this. ",
        ),
        (errors.NotFoundError, "Check the host of the connection 'conn'. "),
        (errors.ConflictError, "Take another idempotency_key, or leave it out. "),
        (errors.UnexpectedStatusError, ""),
    ],
)
def test_what_no_retry_can_mend_before_anything_was_paid(kind: type[errors.ApiframeError], what_to_do: str):
    text = f"Nothing was paid. {what_to_do}Then clear the task."

    assert told(kind("So it is"), LEFT | KEPT) == (HailuoFailException, text)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.CredentialsUnavailableError, HailuoUnavailableException),
        (errors.NetworkError, HailuoUnavailableException),
        (errors.FileError, HailuoUnavailableException),
        (errors.RateLimitError, HailuoRateLimitException),
    ],
)
def test_what_may_pass_before_anything_was_paid(error: type[errors.ApiframeError], kind: type):
    assert told(error("So it is"), LEFT) == (kind, "Nothing was paid. A retry submits it.")
    assert told(error("So it is"), {}) == (kind, "Nothing was paid. Clearing the task submits it.")


@pytest.mark.parametrize(
    ("error", "situation", "text"),
    [
        (errors.RequestTimeoutError("x", in_doubt=True), LEFT, RETRY),
        (errors.RequestTimeoutError("x", in_doubt=True), KEPT, CLEAR),
        (
            errors.RequestTimeoutError("x", in_doubt=True),
            {},
            "Clearing the task may pay for another one: look first whether Apiframe lists the job.",
        ),
        (errors.ConflictError("x", in_doubt=True), LEFT, RETRY),
        (
            errors.ConflictError("x"),
            LEFT | RETRIED,
            (
                "An earlier try of this task has submitted another request under this key: its templates render to "
                f"something else at each try. Let them render to what they did at first. {RETRY}"
            ),
        ),
        (errors.ConflictError("x"), LEFT | KEPT | RETRIED, RETRY),
    ],
)
def test_when_a_job_may_have_been_created(error: errors.ApiframeError, situation: dict[str, Any], text: str):
    text = f"The job may have been created, and is paid then. {text}"

    assert told(error, DOUBT | situation) == (HailuoUnavailableException, text)


@pytest.mark.parametrize(
    ("error", "situation", "kind", "text"),
    [
        (
            errors.AuthenticationError,
            LEFT | KEPT,
            HailuoUnavailableException,
            f"The job goes on, and is paid if it completes. Check the API key in the connection 'conn'. {RETRY}",
        ),
        (
            errors.NotFoundError,
            LEFT,
            HailuoUnavailableException,
            (
                "The job goes on, and is paid if it completes. Check that the connection 'conn' leads to the account "
                "that submitted the job. If the job is gone for good, a changed request or idempotency_key is a new "
                f"one. {RETRY}"
            ),
        ),
        (errors.JobTimeoutError, LEFT, HailuoJobTimeoutException, RETRY),
        (errors.JobTimeoutError, KEPT, HailuoJobTimeoutException, CLEAR),
        (errors.JobTimeoutError, {}, HailuoJobTimeoutException, INSTEAD),
        (
            errors.DownloadError,
            LEFT,
            HailuoStorageException,
            "The video is there, and paid for. A retry stores it and does not pay twice.",
        ),
        (
            errors.DownloadError,
            KEPT,
            HailuoStorageException,
            "The video is there, and paid for. Clearing the task stores it and does not pay twice.",
        ),
        (errors.JobFailedError, LEFT, HailuoJobFailedException, "A retry renders it anew."),
        (errors.JobFailedError, KEPT, HailuoJobFailedException, "Clearing the task renders it anew."),
        (
            errors.JobExpiredError,
            LEFT,
            HailuoFailException,
            "Clearing the task renders it anew, which costs credits again.",
        ),
        (errors.JobWithoutVideoError, {}, HailuoJobFailedException, INSTEAD),
        (errors.FileError, LEFT | WATCHES, HailuoStorageException, "A retry stores it."),
        (errors.CredentialsUnavailableError, LEFT | WATCHES, HailuoUnavailableException, "A retry looks again."),
        (
            errors.NotFoundError,
            WATCHES,
            HailuoUnavailableException,
            (
                "Check the job_id, and that the connection 'conn' leads to the account that submitted the job. "
                "Clearing the task looks again."
            ),
        ),
        (
            errors.AuthenticationError,
            LEFT | WATCHES,
            HailuoUnavailableException,
            "Check the API key in the connection 'conn'. A retry looks again.",
        ),
        (errors.JobFailedError, LEFT | WATCHES, HailuoFailException, f"{ANEW}."),
        (errors.JobExpiredError, LEFT | WATCHES, HailuoFailException, f"{ANEW}, which costs credits again."),
        (errors.JobWithoutVideoError, WATCHES, HailuoJobFailedException, "Clearing the task looks again."),
    ],
)
def test_when_there_is_a_job(error: type[errors.ApiframeError], situation: dict[str, Any], kind: type, text: str):
    assert told(error("So it is"), JOB | situation) == (kind, text)


@pytest.mark.parametrize(
    ("error", "situation", "text"),
    [
        (
            errors.AuthenticationError("Apiframe answers: so it is", status=401, from_api=True),
            JOB | WATCHES,
            (
                "Apiframe answers: so it is (HTTP 401, job job_1). Check the API key in the connection 'conn'. "
                "Clearing the task looks again."
            ),
        ),
        (
            errors.CredentialsUnavailableError("Add one with --conn-password afk_..."),
            LEFT,
            "Add one with --conn-password afk_... Nothing was paid. A retry submits it.",
        ),
    ],
)
def test_what_happened_comes_first(error: errors.ApiframeError, situation: dict[str, Any], text: str):
    assert str(explained(error, Situation("conn", **situation))) == text


# A file that cannot be stored has sentences of its own, above.
ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ApiframeError) and not issubclass(kind, errors.FileError)
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
    assert "(job job_7)" in str(explained(errors.JobTimeoutError("late", job_id="job_7"), Situation("conn", **JOB)))


# No look at a job meets a conflict of keys.
@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not errors.ConflictError])
def test_a_task_that_only_waits_promises_no_render_and_tells_of_no_money_of_its_own(kind: type[errors.ApiframeError]):
    for job, left in product((None, "job_1"), (False, True)):
        exception = explained(kind("So it is."), Situation("conn", job_id=job, tries_left=left, watches=True))
        text = str(exception)
        final = isinstance(exception, HailuoFailException)

        assert not re.search("renders|submits|pay|paid|idempotency_key", text), text
        assert ("Clearing the task looks again" in text) is (not left and not final), text
