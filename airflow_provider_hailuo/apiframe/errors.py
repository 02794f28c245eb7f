"""One exception for each way a call or a job can go wrong.

Whatever comes from outside is escaped and cut before it enters a message, so that no answer can forge or
flood a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

EXCERPT_CHARACTERS = 300


def excerpt(text: str | bytes, limit: int = EXCERPT_CHARACTERS) -> str:
    """Return a text from outside as it may stand in a message.

    :param text: the text; bytes are read as UTF-8.
    :param limit: the most characters (default 300).
    :return: one printable line, which ends in "…" if it was cut.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


class ApiframeError(Exception):
    """Base of all errors of this package. Each parameter is an attribute as well.

    :param message: what happened, in one line.
    :param status: the HTTP status of the answer; None when there was none.
    :param request_id: the API's `x-request-id` (worth telling its support); None when there was none.
    :param job_id: the job that this is about; None when none is known.
    :param retry_after: seconds that the API asks to wait before the next try; None when it does not say.
    :param from_api: whether the answer was the API's own (JSON with a text under `error`); what a proxy, a firewall
        or a redirect answers says nothing about the job.
    :param in_doubt: whether the call may have been carried out although it failed: a submission in doubt may have
        been paid, one that is not in doubt was not.
    """

    transient: ClassVar[bool] = False
    """Whether the same call may well succeed a little later."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        job_id: str | None = None,
        retry_after: float | None = None,
        from_api: bool = False,
        in_doubt: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.request_id = request_id
        self.job_id = job_id
        self.retry_after = retry_after
        self.from_api = from_api
        self.in_doubt = in_doubt

    def __str__(self) -> str:
        return self._about(self.job_id)

    def without_job(self) -> str:
        """Return the text of the error without the job, for a line that names it already.

        :return: the message, with status and request as far as they are known.
        """
        return self._about(None)

    def _about(self, job_id: str | None) -> str:
        facts = {"HTTP": self.status, "request": self.request_id, "job": job_id}
        known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
        return f"{self.message} ({known})" if known else self.message


def name_of(error: ApiframeError) -> str:
    """Return which class of this module an error is of.

    :param error: the error; what derives elsewhere from a class of this module counts as that one.
    :return: the name of the class.
    """
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)


class InvalidInputError(ApiframeError, ValueError):
    """Input was refused here, before anything was sent or paid. The message names field, value and remedy."""

    @classmethod
    def of(cls, *problems: tuple[str, object, str]) -> InvalidInputError:
        """Return one error for all problems.

        :param problems: for each the field, its value, and what is wrong with it or what to do.
        :return: the error; its message is cut to 2000 characters, and each value in it to 80.
        """
        told = "; ".join(f"{field}: {excerpt(repr(value), 80)}: {problem}" for field, value, problem in problems)
        return cls(excerpt(told, 2000))


class CredentialsUnavailableError(ApiframeError):
    """The credentials could not be looked up just now, or there are none. Whoever waits for a job asks again."""


class BadRequestError(ApiframeError):
    """400: the API refuses the input.

    :param message: what happened, in one line.
    :param details: the complaints about each field, by its name in the JSON body; None (default) for none.
    :param facts: the other parameters of `ApiframeError`.
    """

    def __init__(self, message: str, *, details: Mapping[str, list[str]] | None = None, **facts: object) -> None:
        super().__init__(message, **facts)  # type: ignore[arg-type]
        self.details = dict(details or {})


class AuthenticationError(ApiframeError):
    """401: the API key is missing or wrong."""


class InsufficientCreditsError(ApiframeError):
    """402: the balance is too low.

    :param message: what happened, in one line.
    :param required: the credits that it takes; None (default): not known.
    :param available: the credits that are there; None (default): not known.
    :param facts: the other parameters of `ApiframeError`.
    """

    def __init__(
        self, message: str, *, required: float | None = None, available: float | None = None, **facts: object
    ) -> None:
        super().__init__(message, **facts)  # type: ignore[arg-type]
        self.required = required
        self.available = available


class PermissionDeniedError(ApiframeError):
    """403: the API key is inactive or has no right to do this."""


class NotFoundError(ApiframeError):
    """404: there is no such job, or it belongs to another account."""


class ConflictError(ApiframeError):
    """409: the idempotency key was used for another request within the last 24 hours."""


class UnexpectedStatusError(ApiframeError):
    """A status that the API's reference does not know, a redirect for example."""


class RateLimitError(ApiframeError):
    """429: too many requests; `retry_after` tells how long to wait."""

    transient = True


class ServerError(ApiframeError):
    """5xx: an outage or no capacity."""

    transient = True


class UnreadableAnswerError(ApiframeError):
    """An answer whose body is missing, cut off, too large, no JSON or not of the documented shape."""

    transient = True


class NetworkError(ApiframeError):
    """No answer: the name, the connection, TLS or the transfer failed."""

    transient = True


class RequestTimeoutError(NetworkError):
    """No complete answer in time."""


class JobError(ApiframeError):
    """A job did not end with a video. The message says what became of it and of the credits."""


class JobFailedError(JobError):
    """The render failed or was cancelled. Its credits are refunded (Apiframe reference, "Errors")."""


class JobExpiredError(JobError):
    """The job was completed, but its file has been purged."""


class JobWithoutVideoError(JobError):
    """The job is COMPLETED and carries no URL of a video."""


class JobTimeoutError(JobError):
    """The job was not final at the deadline. It may still complete, and is paid then."""


class FileError(ApiframeError):
    """The job was completed, and its file could not be fetched or kept."""

    transient = True


class DownloadError(FileError):
    """The file could not be fetched, or is not whole. The message says what happened."""
