"""The schemas of the API: requests, checked as strictly as it does, and answers, as it gives them."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import NAMESPACE_DNS, uuid5

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.state.jobs import Cursor, Event, EventKind, GenerateRequest, Job
from airflow_provider_hailuo.sandbox.state.uploads import Upload

Json = dict[str, Any]

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CURSOR: Final = re.compile(rf"([0-9]{{1,15}})/({_UUID.pattern})")
_ANY_URL: Final = TypeAdapter(AnyHttpUrl)
_MAX_KEY_LENGTH: Final = 255
_MAX_PROMPT_UNITS: Final = 2000
_END_IMAGE_MODEL: Final = "hailuo-02"

# RFC 3986: what may stand anywhere in a host, a path, a query and a fragment.
_UNIT: Final = r"[\w.~!$&'()*+,;=-]|%[\da-f]{2}"
_URI: Final = re.compile(
    rf"https?://(?:(?:{_UNIT}|:)*@)?(?:\[[\da-f:.]+\]|(?:{_UNIT})+)(?::\d*)?(?:/(?:{_UNIT}|[:@/])*)?"
    rf"(?:\?(?:{_UNIT}|[:@/?])*)?(?:#(?:{_UNIT}|[:@/?])*)?",
    re.ASCII | re.IGNORECASE,
)


class InvalidRequestError(Exception):
    """A request is not as the API wants it.

    :param message: what is wrong, in short.
    :param details: what is wrong with each field, by its path such as `hailuoParams.duration`; None or empty when it
        is not about a field.
    """

    def __init__(self, message: str, details: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}

    @classmethod
    def of_field(cls, path: str, complaint: str) -> InvalidRequestError:
        """Make the error that has one complaint, about one field.

        :param path: the field.
        :param complaint: what is wrong with it.
        :return: the error.
        """
        return cls("Invalid request", {path: [complaint]})


def _http_url(text: str) -> str:
    try:
        _ANY_URL.validate_python(text)
    except ValidationError:
        raise PydanticCustomError("url", "Must be an absolute http or https URL") from None
    if not _URI.fullmatch(text):
        raise PydanticCustomError("uri", "Must be a URI as in RFC 3986, with all other characters percent-encoded")
    return text


def _prompt(text: str) -> str:
    # As JavaScript counts: what lies beyond the first 65,536 characters of Unicode, such as an emoji, is two.
    if len(text.encode("utf-16-le")) > 2 * _MAX_PROMPT_UNITS:
        raise PydanticCustomError("prompt", f"Must be at most {_MAX_PROMPT_UNITS} UTF-16 units")
    return text


def _uuid(text: str) -> str:
    if not _UUID.fullmatch(text.lower()):
        raise PydanticCustomError("uuid", "Must be a UUID")
    return text.lower()


def _whole_number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise PydanticCustomError("whole_number", "Must be a whole number")
    return int(text)


def _parse_cursor(text: str) -> Cursor:
    try:
        match = _CURSOR.fullmatch(urlsafe_b64decode(text).decode())
    except ValueError:
        match = None
    if match is None:
        raise PydanticCustomError("cursor", "Invalid cursor")
    return Cursor(int(match[1]), match[2])


def _format_cursor(cursor: Cursor) -> str:
    return urlsafe_b64encode(f"{cursor.created_at}/{cursor.id}".encode()).decode()


_Url = Annotated[str, AfterValidator(_http_url)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Body(_Strict):
    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError("null", "Must not be null")
        return value


class _HailuoParams(_Body):
    image: _Url | None = None
    end_image: _Url | None = None
    resolution: Literal["768p", "1080p"] = "768p"
    duration: Literal[6, 10] = 6
    prompt_optimizer: bool = True


class _GenerateBody(_Body):
    prompt: Annotated[str, Field(min_length=1), AfterValidator(_prompt)]
    model: Literal["hailuo-02", "hailuo-2.3", "hailuo-2.3-fast", "hailuo-03"]
    params: Annotated[_HailuoParams, Field(alias="hailuoParams")] = _HailuoParams()
    webhook_url: Annotated[_Url | None, Field(alias="webhookUrl")] = None
    webhook_events: Annotated[
        list[Literal["progress", "completed", "failed"]], Field(alias="webhookEvents", min_length=1)
    ] = ["completed", "failed"]


class JobQuery(_Strict):
    """What `GET /v2/jobs` was asked for (Apiframe reference, "List jobs").

    What else it holds is ignored.

    :param limit: how many jobs at most, 1 to 100, default 20.
    :param before: what the `cursor` stands for; None for the newest jobs.
    :param status: only jobs with this status; None for any.
    :param model: only jobs of this model; None for any.
    :param scope: `user` (default) or `team`; the sandbox has one user, so that both are the same.
    :param search: only the job with this id, in lower case; None for any.
    :param include_models: `true` when the answer is to tell the models of all jobs, default `false`.
    """

    model_config = ConfigDict(extra="ignore")

    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole_number)] = 20
    before: Annotated[Cursor | None, PlainValidator(_parse_cursor), Field(alias="cursor")] = None
    status: Annotated[JobStatus | None, Field(strict=False)] = None
    model: Annotated[str, Field(min_length=1)] | None = None
    scope: Literal["user", "team"] = "user"
    search: Annotated[str, AfterValidator(_uuid)] | None = None
    include_models: Literal["true", "false"] = "false"

    @field_validator("*", mode="before")
    @classmethod
    def _once(cls, value: Any) -> Any:
        if not isinstance(value, str):
            raise PydanticCustomError("once", "Must be given once")
        return value


def parse_generate_request(raw: bytes) -> GenerateRequest:
    """Read the body of `POST /v2/videos/generate` (Apiframe reference, "Generate a video").

    :param raw: the body.
    :return: the request.
    :raises InvalidRequestError: when the API would refuse it.
    """
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidRequestError("The body is not valid JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("The body must be a JSON object")
    valid = _validate(_GenerateBody, body)
    params = valid.params
    if params.resolution == "1080p" and params.duration == 10:
        raise InvalidRequestError.of_field("hailuoParams.duration", "1080p does not do 10 seconds")
    if params.end_image is not None and valid.model != _END_IMAGE_MODEL:
        raise InvalidRequestError.of_field("hailuoParams.end_image", f"Only {_END_IMAGE_MODEL} takes it")
    return GenerateRequest(
        prompt=valid.prompt,
        model=valid.model,
        resolution=params.resolution,
        duration=params.duration,
        webhook_url=valid.webhook_url,
        webhook_events=frozenset(map(EventKind, valid.webhook_events)),
        body=body,
    )


def parse_idempotency_key(key: str | None) -> str | None:
    """Check the header `Idempotency-Key`.

    :param key: its value, None when absent.
    :return: the same.
    :raises InvalidRequestError: when it is too long.
    """
    if key is not None and len(key) > _MAX_KEY_LENGTH:
        raise InvalidRequestError.of_field("Idempotency-Key", f"Must be at most {_MAX_KEY_LENGTH} characters")
    return key


def parse_job_id(text: str) -> str:
    """Read the job id in a path.

    :param text: the part of the path.
    :return: the id, in lower case.
    :raises InvalidRequestError: when it is no UUID.
    """
    try:
        return _uuid(text)
    except PydanticCustomError as error:
        raise InvalidRequestError.of_field("id", error.message()) from None


def parse_job_query(pairs: Iterable[tuple[str, str]]) -> JobQuery:
    """Read the query of `GET /v2/jobs`.

    :param pairs: names and values.
    :return: the query.
    :raises InvalidRequestError: when the API would refuse it.
    """
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return _validate(JobQuery, {name: given[0] if len(given) == 1 else given for name, given in values.items()})


def job_json(job: Job, *, now: int, base_url: str) -> Json:
    """Tell a job as `GET /v2/jobs/{id}` does (Apiframe reference, "Get a job").

    :param job: the job.
    :param now: the present moment in milliseconds since the epoch.
    :param base_url: where the video is.
    :return: the job, decoded.
    """
    not_input = {"model", "webhookUrl", "webhookEvents"}
    given = {name: value for name, value in job.request.body.items() if name not in not_input}
    return {**_listed_json(job, now, base_url), "input": given}


def _listed_json(job: Job, now: int, base_url: str) -> Json:
    return {
        "id": job.id,
        "status": job.status.value,
        "model": job.request.model,
        "progress": job.progress(now),
        "result": _result(job, base_url),
        "error": job.error,
        "creditCost": job.credit_cost,
        "webhookStatus": job.webhook_status,
        "expired": job.expired,
        "createdAt": _timestamp(job.created_at),
        "completedAt": _timestamp(job.completed_at),
    }


def page_json(
    jobs: Sequence[Job], *, has_more: bool, now: int, base_url: str, models: Sequence[str] | None = None
) -> Json:
    """Tell a page of jobs as `GET /v2/jobs` does (Apiframe reference, "List jobs").

    :param jobs: the jobs, newest first; what they were asked for is not told.
    :param has_more: whether older ones follow.
    :param now: the present moment in milliseconds since the epoch.
    :param base_url: where the videos are.
    :param models: the models of all jobs, None when nobody asked for them.
    :return: the page, decoded.
    """
    page = {
        "jobs": [_listed_json(job, now, base_url) for job in jobs],
        "nextCursor": _format_cursor(jobs[-1].cursor) if has_more else None,
        "hasMore": has_more,
    }
    return page if models is None else {**page, "models": models}


def event_json(event: Event, *, base_url: str) -> Json:
    """Make the body of a webhook (Apiframe reference, "Webhooks").

    :param event: what happened.
    :param base_url: where the video is.
    :return: the body, decoded.
    """
    job = event.job
    body = {"event": event.kind.value, "jobId": job.id, "status": job.status.value, "model": job.request.model}
    match event.kind:
        case EventKind.PROGRESS:
            return {**body, "progress": job.progress(event.at)}
        case EventKind.FAILED:
            return {**body, "error": job.error}
        case EventKind.COMPLETED:
            return {
                **body,
                "progress": job.progress(event.at),
                "result": _result(job, base_url),
                "creditCost": job.credit_cost,
                "completedAt": _timestamp(job.completed_at),
            }


def upload_json(upload: Upload, *, base_url: str) -> Json:
    """Tell what `POST /v2/uploads` answers.

    :param upload: what was uploaded.
    :param base_url: where the file is.
    :return: the answer, decoded.
    """
    return {
        "id": upload.id,
        "url": f"{base_url}/uploads/{upload.id}",
        "kind": upload.kind,
        "contentType": upload.content_type,
        "byteSize": upload.byte_size,
        "expiresAt": _timestamp(upload.expires_at),
    }


def account_json(*, api_key: str, credits: int) -> Json:  # noqa: A002 - the name in the API
    """Tell what `GET /v2/me` answers: a made-up user and team, the balance, and how the key begins.

    :param api_key: the key.
    :param credits: the balance.
    :return: the answer, decoded.
    """
    user, team, key = (str(uuid5(NAMESPACE_DNS, f"{name}.hailuo-sandbox")) for name in ("user", "team", "key"))
    return {
        "user": {"id": user, "email": "sandbox@example.com", "role": "OWNER"},
        "team": {"id": team, "name": "Sandbox", "credits": credits, "plan": "sandbox", "customerId": None},
        "apiKey": {"id": key, "name": "sandbox", "prefix": api_key[:8]},
    }


_M = TypeVar("_M", bound=BaseModel)


def _validate(model: type[_M], value: Json) -> _M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details: dict[str, list[str]] = {}
        for complaint in error.errors(include_url=False, include_context=False, include_input=False):
            details.setdefault(".".join(map(str, complaint["loc"])), []).append(complaint["msg"])
        raise InvalidRequestError("Invalid request", details) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _result(job: Job, base_url: str) -> Json | None:
    return {"videoUrl": f"{base_url}/videos/{job.id}.mp4"} if job.status is JobStatus.COMPLETED else None


def _timestamp(moment: int | None) -> str | None:
    if moment is None:
        return None
    time = datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=moment)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
