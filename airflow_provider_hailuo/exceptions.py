"""What the tasks of this provider fail with: one class for each way in which a retry may mend it, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.compat import AirflowException, AirflowFailException


class HailuoFailException(AirflowFailException):
    """No retry can mend it: input, key, credits, rights, by which nothing was paid, or a video that was purged."""


class HailuoException(AirflowException):
    """Base of what a retry may mend. A retry finds the job of the try before, and pays no second time."""


class HailuoRateLimitException(HailuoException):
    """The API wants fewer requests (429)."""


class HailuoUnavailableException(HailuoException):
    """The API, the connection or Airflow's store could not be reached, or refuses what may be paid already."""


class HailuoJobTimeoutException(HailuoException):
    """The video was not there in time; the job may still complete."""


class HailuoStorageException(HailuoException):
    """The video is there and paid for, and its file could not be fetched or stored; a retry does only that."""


class HailuoJobFailedException(HailuoException):
    """The job ended without a video; a retry renders it anew."""


@dataclass(frozen=True)
class Situation:
    """What a task knows when an error strikes.

    :param conn_id: the Airflow connection.
    :param job_id: the job that was submitted; None while none is known.
    :param in_doubt: whether a job may have been created without the task having been told.
    :param tries_left: whether Airflow is going to retry the task.
    :param kept: whether the task state store keeps what was submitted, so that clearing the task takes it up.
    :param retried: whether there was a try before this one.
    :param watches: whether the task only waits for a job that was submitted elsewhere: it pays and renders nothing.
    """

    conn_id: str
    job_id: str | None = None
    in_doubt: bool = False
    tries_left: bool = False
    kept: bool = False
    retried: bool = False
    watches: bool = False

    @property
    def may_be_paid(self) -> bool:
        """Whether giving up for good could leave a video behind that was paid for."""
        return self.job_id is not None or self.in_doubt


def explained(error: errors.ApiframeError, situation: Situation) -> AirflowException:
    """Return the exception that a task fails with because of `error`: what happened, what is paid, what to do.

    :param error: what happened; its job is named if the situation knows it.
    :param situation: what the task knows.
    :return: an exception that Airflow retries, unless it is certain that nothing was paid and no retry can mend it.
    """
    error.job_id = error.job_id or situation.job_id
    kind = _kind(error, situation)
    parts = (str(error), _money(error, situation), _cause(error, situation), _next(error, situation, kind))
    return kind(" ".join(map(_sentence, filter(None, parts))))


def _sentence(text: str) -> str:
    return text if text.endswith(("...", "…")) else f"{text.rstrip('. ')}."


def _kind(error: errors.ApiframeError, situation: Situation) -> type[AirflowException]:
    if isinstance(error, errors.JobFailedError) and situation.watches:
        return HailuoFailException  # nothing renders it anew here
    for of_error, kind in _KINDS.items():
        if isinstance(error, of_error):
            return kind
    if isinstance(error, errors.FileError) and error.job_id is not None:
        return HailuoStorageException
    passing = error.transient or error.in_doubt or isinstance(error, errors.CredentialsUnavailableError)
    return HailuoUnavailableException if passing or situation.may_be_paid else HailuoFailException


def _money(error: errors.ApiframeError, situation: Situation) -> str:
    if isinstance(error, errors.JobError) or situation.watches:
        return ""  # its own message tells it, or nothing is known of it here
    if isinstance(error, errors.FileError) and situation.job_id is not None:
        return "The video is there, and paid for"
    if situation.job_id is not None:
        return "The job goes on, and is paid if it completes"
    if situation.in_doubt:
        return "The job may have been created, and is paid then"
    return "Nothing was paid"


def _cause(error: errors.ApiframeError, situation: Situation) -> str:
    if isinstance(error, errors.ConflictError) and situation.may_be_paid:
        if error.in_doubt or situation.kept or not situation.retried:
            return ""  # it is the first request that is in the way: another key would pay for a second one
        return (
            "An earlier try of this task has submitted another request under this key: its templates render to "
            "something else at each try. Let them render to what they did at first"
        )
    if isinstance(error, errors.NotFoundError) and situation.watches:
        return (
            f"Check the job_id, and that the connection {situation.conn_id!r} leads to the account that submitted "
            "the job"
        )
    if isinstance(error, errors.NotFoundError) and situation.job_id is None:
        return f"Check the host of the connection {situation.conn_id!r}"
    text = next((text for kind, text in _CAUSES.items() if isinstance(error, kind)), "")
    return text.format(conn_id=situation.conn_id)


def _next(error: errors.ApiframeError, situation: Situation, kind: type[AirflowException]) -> str:
    whoever = "A retry" if situation.tries_left else "Clearing the task"
    if situation.watches:
        return _next_look(error, whoever, kind)
    if isinstance(error, errors.JobFailedError):
        return f"{whoever} renders it anew"
    if isinstance(error, errors.JobExpiredError):
        return "Clearing the task renders it anew, which costs credits again"
    if not situation.may_be_paid:
        return "Then clear the task" if issubclass(kind, AirflowFailException) else f"{whoever} submits it"
    if situation.tries_left or situation.kept:
        does = "stores it" if isinstance(error, errors.FileError) else "takes it up again"
        return f"{whoever} {does} and does not pay twice"
    return _instead_of_clearing(situation)


def _next_look(error: errors.ApiframeError, whoever: str, kind: type[AirflowException]) -> str:
    if not issubclass(kind, AirflowFailException):
        return f"{whoever} {'stores it' if isinstance(error, errors.FileError) else 'looks again'}"
    if isinstance(error, errors.JobError):
        costs = ", which costs credits again" if isinstance(error, errors.JobExpiredError) else ""
        return f"This task only waits for it: have it rendered anew where it was submitted{costs}"
    return "Then clear the task"


def _instead_of_clearing(situation: Situation) -> str:
    if situation.job_id is None:
        return "Clearing the task may pay for another one: look first whether Apiframe lists the job"
    look = f"HailuoHook({situation.conn_id!r}).get_job({situation.job_id!r})"
    return (
        f"Clearing the task would pay for another one: {look} reads the result of this one, and "
        "HailuoToObjectStorageOperator stores its video once there is one"
    )


_KINDS: Mapping[type[errors.ApiframeError], type[AirflowException]] = {
    errors.JobTimeoutError: HailuoJobTimeoutException,
    errors.JobExpiredError: HailuoFailException,  # to pay once more is for people to decide
    errors.JobError: HailuoJobFailedException,
    errors.RateLimitError: HailuoRateLimitException,
}
"""What an error of the API is for Airflow; the first that fits."""

_CAUSES: Mapping[type[errors.ApiframeError], str] = {
    errors.InvalidInputError: "Correct it",
    errors.BadRequestError: "Correct the parameters of the task",
    errors.AuthenticationError: "Check the API key in the connection {conn_id!r}",
    errors.InsufficientCreditsError: "Top up the credits of the account",
    errors.PermissionDeniedError: "Check that the API key in the connection {conn_id!r} is active and may do this",
    errors.NotFoundError: "Check that the connection {conn_id!r} leads to the account that submitted the job. If the "
    "job is gone for good, a changed request or idempotency_key is a new one",
    errors.ConflictError: "Take another idempotency_key, or leave it out",
}
