"""What is on the wire, typed: the request for a video, the job, the account, the upload."""

from __future__ import annotations

import re
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import pendulum
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic.alias_generators import to_camel

from airflow_provider_hailuo.apiframe.errors import InvalidInputError

HAILUO_02: Final = "hailuo-02"


class JobStatus(str, Enum):
    """The five states of a job (Apiframe reference, "Get a job"); the last three are final."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL_STATUSES: Final = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


def is_http_url(value: str) -> bool:
    """Tell whether `value` is an absolute http(s) URL without blanks or control characters."""
    try:
        parts = urlsplit(value)
        absolute = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return absolute and value.isprintable() and " " not in value


def _http_url(value: str) -> str:
    if not is_http_url(value):
        raise ValueError("must be an absolute http:// or https:// URL (leave it out for none)")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must hold more than blanks")
    return value


_HttpUrl = Annotated[str, AfterValidator(_http_url)]


class VideoRequest(BaseModel):
    """One video to generate, checked before anything is sent or paid.

    Parameters (Apiframe reference, "Generate a video", Hailuo 02):

    - `prompt`: what to show, 1 to 2000 characters.
    - `model`: `hailuo-02` (default), `hailuo-2.3`, `hailuo-2.3-fast` or `hailuo-03`.
    - `image`: URL of the first frame; none by default.
    - `resolution`: `768p` (the API's default) or `1080p`.
    - `duration`: 6 (the API's default) or 10 seconds; 1080p renders 6 seconds only.
    - `end_image`: URL of the last frame, with `hailuo-02` only; none by default.
    - `prompt_optimizer`: whether the model may rewrite the prompt (the API's default: yes).
    - `webhook_url`: where the API announces events of the job; none by default.
    - `webhook_events`: which of `progress`, `completed`, `failed` it announces there.

    What is None is not sent, so that the API's own default holds. Numbers and booleans may come as text, which
    is what a rendered template is.

    Raises `InvalidInputError`, which names each wrong field, its value and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_not_blank)]
    model: Literal["hailuo-02", "hailuo-2.3", "hailuo-2.3-fast", "hailuo-03"] = HAILUO_02
    image: _HttpUrl | None = None
    resolution: Literal["768p", "1080p"] | None = None
    duration: int | None = None
    end_image: _HttpUrl | None = None
    prompt_optimizer: bool | None = None
    webhook_url: _HttpUrl | None = None
    webhook_events: Annotated[list[Literal["progress", "completed", "failed"]], Field(min_length=1)] | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = [
                (".".join(map(str, e["loc"])), e["input"], e["msg"].removeprefix("Value error, "))
                for e in error.errors()
            ]
            raise InvalidInputError.of(*problems) from None

    @field_validator("duration")
    @classmethod
    def _duration_fits(cls, duration: int | None, info: ValidationInfo) -> int | None:
        if duration not in {None, 6, 10}:
            raise ValueError("must be 6 or 10 (seconds)")
        if duration == 10 and info.data.get("resolution") == "1080p":
            raise ValueError("1080p renders 6 seconds only; take duration 6, or resolution 768p for 10 seconds")
        return duration

    @field_validator("end_image")
    @classmethod
    def _end_image_fits(cls, end_image: str | None, info: ValidationInfo) -> str | None:
        model = info.data.get("model", HAILUO_02)
        if end_image is not None and model != HAILUO_02:
            raise ValueError(f"only {HAILUO_02} takes a last frame, and model is {model}")
        return end_image

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON body of `POST /v2/videos/generate`, with only what was set."""
        params = self.model_dump(
            include={"image", "resolution", "duration", "end_image", "prompt_optimizer"}, exclude_none=True
        )
        body = {
            "prompt": self.prompt,
            "model": self.model,
            "hailuoParams": params or None,
            "webhookUrl": self.webhook_url,
            "webhookEvents": self.webhook_events,
        }
        return {name: value for name, value in body.items() if value is not None}


T = TypeVar("T")


def _none_if_odd(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


# A video that was paid for must not be lost because a field that only informs has a new shape.
_Informative = Annotated[T | None, WrapValidator(_none_if_odd), Field(default=None)]


def _moment(value: Any) -> Any:
    return pendulum.parse(value, tz="UTC") if isinstance(value, str) else value


_Moment = Annotated[datetime, BeforeValidator(_moment)]


def _safe_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", value):
        raise ValueError("must be the id of a job, a UUID")
    return value


JobId = Annotated[str, AfterValidator(_safe_id)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Submission(_Answer):
    """The answer to a submission: the job's id and its status at that moment, any of the five."""

    job_id: JobId
    status: str


class Job(_Answer):
    """A job as the API tells it (Apiframe reference, "Get a job").

    `progress` is in percent, `credit_cost` in credits (0 once a failure was refunded), `expired` is true when
    the file has been purged. `status` may be a string that nobody has documented yet.
    """

    id: JobId
    status: str
    model: _Informative[str]
    progress: _Informative[int | float]
    result: Any = None
    error: Any = None
    credit_cost: _Informative[int | float]
    input: _Informative[dict[str, Any]]
    expired: _Informative[bool]
    created_at: _Informative[_Moment]
    completed_at: _Informative[_Moment]

    @property
    def is_final(self) -> bool:
        """Whether the status will not change any more."""
        return self.status in FINAL_STATUSES

    @property
    def video_url(self) -> str | None:
        """The URL of the video, in any of the three shapes that the API's pages show; None without one."""
        result = self.result
        if isinstance(result, dict):
            videos = result.get("videos")
            result = result.get("videoUrl") or (videos[0] if isinstance(videos, list) and videos else None)
        if isinstance(result, dict):
            result = result.get("videoUrl") or result.get("url")
        return result if isinstance(result, str) and is_http_url(result) else None

    @property
    def seconds(self) -> float | None:
        """The seconds from creation to completion by the API's clock; None while either is unknown."""
        if self.created_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.created_at).total_seconds()


def _without_none(jobs: list[Any]) -> list[Any]:
    return [job for job in jobs if job is not None]


class JobPage(_Answer):
    """One page of jobs, newest first; `next_cursor` asks for the next one.

    A job of another shape than documented is left out: it must not hide the others.
    """

    jobs: Annotated[list[Annotated[Job, WrapValidator(_none_if_odd)]], AfterValidator(_without_none)]
    next_cursor: str | None = None
    has_more: bool = False


class User(_Answer):
    """The user an API key belongs to."""

    id: str
    email: _Informative[str]


class Team(_Answer):
    """The team that pays: `credits` is its balance in credits."""

    name: _Informative[str]
    credits: _Informative[int | float]
    plan: _Informative[str]


class Account(_Answer):
    """Whose API key this is (Apiframe reference, "Me")."""

    user: User
    team: Team | None = None


class Upload(_Answer):
    """An uploaded file: its `url` serves as `image` or `end_image` until `expires_at` (1 to 2 hours)."""

    id: str
    url: _HttpUrl
    kind: _Informative[str]
    content_type: _Informative[str]
    byte_size: _Informative[int]
    expires_at: _Informative[_Moment]
