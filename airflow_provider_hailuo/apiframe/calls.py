"""Each endpoint once: how to ask, and how to read the answer. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import IO, Any, Generic, Literal, TypeVar
from urllib.parse import quote

import pydantic
import pydantic_core

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.idempotency import KEY_CHARACTERS
from airflow_provider_hailuo.apiframe.models import (
    Account,
    Job,
    JobPage,
    Submission,
    Upload,
    VideoRequest,
    canonical_job_id,
    check_job_id,
    is_nothing,
)

T = TypeVar("T")

_ERRORS: Mapping[int, type[errors.ApiframeError]] = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    402: errors.InsufficientCreditsError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    429: errors.RateLimitError,
}


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to the API and the way to read its answer.

    :param method: the HTTP method.
    :param path: the path below the base URL.
    :param read: turns the decoded JSON of a 2xx answer into a value, and raises `ValueError` (pydantic's
        `ValidationError` is one) when it has another shape.
    :param params: the query (default: none).
    :param json: the body; None (default) for none.
    :param files: the parts of a multipart body, each a field, what to call the file, and its content; None (default)
        for none.
    :param idempotency_key: the header of this name, with which the call may be sent again; None (default) for none.
    :param job_id: the job that it is about, for errors; None (default) for none.
    :param harmless: whether what a POST makes costs nothing and goes away by itself, so that it may be sent again
        (default no).
    """

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[Any], T]
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    files: Mapping[str, tuple[str, bytes | IO[bytes]]] | None = None
    idempotency_key: str | None = None
    job_id: str | None = None
    harmless: bool = False

    @property
    def creates(self) -> bool:
        """Whether it makes what may have to be paid: a failure may then mean that it was made all the same."""
        return self.method == "POST" and not self.harmless

    def parse(self, status: int, headers: Mapping[str, str], body: bytes) -> T:
        """Read an answer.

        :param status: the HTTP status.
        :param headers: lower-case names (or a mapping that ignores case) to values.
        :param body: the decoded bytes.
        :return: the value.
        :raises UnreadableAnswerError: the body has another shape than the reference tells.
        :raises ApiframeError: the one that fits a status other than 2xx.
        """
        request_id = errors.excerpt(headers.get("x-request-id", ""), 80) or None
        facts: dict[str, Any] = {"status": status, "request_id": request_id, "job_id": self.job_id}
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise _status_error(self, status, headers, body, facts)
        try:
            return self.read(pydantic_core.from_json(body))
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            reason = f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
        except ValueError as error:
            reason = str(error)
        told = f"The answer to {self.method} {self.path} cannot be read: {errors.excerpt(reason)}"
        begins = errors.excerpt(body, 120)
        raise errors.UnreadableAnswerError(f"{told}; it begins with {begins!r}", in_doubt=self.creates, **facts)


def check_idempotency_key(value: object) -> str | None:
    """Check an idempotency key as a user gives it.

    :param value: the key; None, "", blanks and "None" (what templates make of None) are none.
    :return: the key, or None for none.
    :raises InvalidInputError: it is no text, or not one that fits into a header.
    """
    if is_nothing(value):
        return None
    if isinstance(value, str) and re.fullmatch(rf"[!-~]([ -~]{{0,{KEY_CHARACTERS - 2}}}[!-~])?", value):
        return value
    problem = f"must be text of 1 to {KEY_CHARACTERS} printable ASCII characters, with no blank at either end"
    raise errors.InvalidInputError.of(("idempotency_key", value, problem))


def generate_video(request: VideoRequest | Mapping[str, Any], idempotency_key: str | None = None) -> Call[Submission]:
    """`POST /v2/videos/generate`: submit a request.

    With the same key within 24 hours the API answers with the original job and creates none (Apiframe reference,
    "Idempotency").

    :param request: what to generate; a mapping is a ready body, which is sent as it is.
    :param idempotency_key: as for `check_idempotency_key`; None (default) for none.
    :return: the call for the id of the job, and its status at that moment.
    :raises InvalidInputError: the key has another form.
    """
    return Call(
        "POST",
        "/v2/videos/generate",
        Submission.model_validate,
        json=request.to_wire() if isinstance(request, VideoRequest) else request,
        idempotency_key=check_idempotency_key(idempotency_key),
    )


def get_job(job_id: str) -> Call[Job]:
    """`GET /v2/jobs/{id}`: the job as it is now.

    :param job_id: the id as the submission returned it, of whatever form.
    :return: the call, whose answer has to be about this job.
    :raises InvalidInputError: it cannot be an id.
    """
    try:
        check_job_id(job_id)
    except ValueError as error:
        raise errors.InvalidInputError.of(("job_id", job_id, f"{error}, as the submission returned it")) from None

    def read(answer: Any) -> Job:
        job = Job.model_validate(answer)
        if job.id != canonical_job_id(job_id):
            raise ValueError(f"it is about job {errors.excerpt(job.id)}, asked was {job_id}")
        return job

    return Call("GET", f"/v2/jobs/{quote(job_id, safe='')}", read, job_id=job_id)


def list_jobs(*, limit: int = 100, cursor: str | None = None) -> Call[JobPage]:
    """`GET /v2/jobs`: one page of the user's jobs, newest first.

    :param limit: how many jobs, 1 to 100 (default 100).
    :param cursor: `next_cursor` of the page before; None (default) for the first page.
    :return: the call for the page.
    """
    params: dict[str, str | int] = {"limit": limit}
    if cursor is not None:
        params["cursor"] = cursor
    return Call("GET", "/v2/jobs", JobPage.model_validate, params=params)


def get_account() -> Call[Account]:
    """`GET /v2/me`: whose key this is, and the team's balance.

    :return: the call for the account.
    """
    return Call("GET", "/v2/me", Account.model_validate)


def upload(name: str, content: bytes | IO[bytes]) -> Call[Upload]:
    """`POST /v2/uploads`: store a file for 1 to 2 hours.

    :param name: what to call it: its last 100 characters, in which what is not a letter, a digit, `.`, `_` or `-` of
        ASCII is replaced; `file` when it is empty.
    :param content: a picture of at most 25 MB or a video of at most 50 MB: its bytes, or a file opened for reading
        that can seek, which each try sends from its beginning without loading it (`Client` only: an event loop must
        not wait for a disk).
    :return: the call for the URL of the file.
    """
    # Without a name the API would take the part for a text field.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", name[-100:]) or "file"
    return Call("POST", "/v2/uploads", Upload.model_validate, files={"file": (name, content)}, harmless=True)


def _status_error(
    call: Call[Any], status: int, headers: Mapping[str, str], body: bytes, facts: Mapping[str, Any]
) -> errors.ApiframeError:
    try:
        answer = pydantic_core.from_json(body)
    except ValueError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    said = answer.get("error")
    text = errors.excerpt(said if isinstance(said, str) and said else body or b"(no body)")
    from_api = isinstance(said, str)
    facts = {
        **facts,
        "retry_after": retry_after_seconds(headers, datetime.now(timezone.utc)),
        "from_api": from_api,
        # What the API refuses with one of its own statuses, it has not done.
        "in_doubt": call.creates and not (from_api and status in _ERRORS),
    }
    if status == HTTPStatus.BAD_REQUEST:
        details = _details(answer.get("details"))
        fields = "; ".join(f"{name}: {', '.join(complaints)}" for name, complaints in details.items())
        text += f": {errors.excerpt(fields, 1000)}" if fields else ""
        return errors.BadRequestError(f"Apiframe refuses the request: {text}", details=details, **facts)
    if status == HTTPStatus.PAYMENT_REQUIRED:
        required, available = (_number(answer.get(name)) for name in ("creditsRequired", "creditsAvailable"))
        text += "" if None in (required, available) else f": {required} credits needed, {available} there"
        return errors.InsufficientCreditsError(text, required=required, available=available, **facts)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return errors.ServerError(f"Apiframe is out of order: {text}", **facts)
    if status == HTTPStatus.NOT_FOUND and call.job_id is None:
        text += f": there is no {call.path} at this base URL, check the base URL"
    if status in _ERRORS:
        return _ERRORS[status](f"Apiframe answers: {text}", **facts)
    location = headers.get("location")
    redirect = f" (a redirect to {errors.excerpt(location)!r}, not followed)" if location else ""
    return errors.UnexpectedStatusError(f"Unexpected answer{redirect}: {text}", **facts)


def _details(details: Any) -> dict[str, list[str]]:
    if not isinstance(details, dict):
        return {}
    return {
        errors.excerpt(name, 80): [errors.excerpt(str(c)) for c in (found if isinstance(found, list) else [found])]
        for name, found in details.items()
    }


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return what `Retry-After` asks for: seconds, or an HTTP date (RFC 9110, 10.2.3).

    :param headers: those of the answer, as for `Call.parse`.
    :param now: the moment that a date is compared with.
    :return: seconds, 0 or more; None when the header is absent or unreadable.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment.replace(tzinfo=moment.tzinfo or timezone.utc) - now).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
