"""What is on the wire, typed: the request for a video, the job, the account, the upload."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from enum import Enum
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import quote, urlsplit

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
IMAGE_FIELDS: Final = ("image", "end_image")
PROMPT_UNITS: Final = 2000
JOB_ID_CHARACTERS: Final = 255
# What the API takes for a field that is not sent (Apiframe reference, Hailuo 02).
DEFAULT_RESOLUTION: Final = "768p"
DEFAULT_DURATION: Final = 6
WEBHOOK_EVENTS: Final = ("progress", "completed", "failed")

_NOT_IN_URLS: Final = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]|%(?![0-9A-Fa-f]{2})")
_NO_DATABASE_TAKES: Final = re.compile("[\0\ud800-\udfff]")
_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Fillers, which Unicode counts among the letters and symbols."""


class JobStatus(str, Enum):
    """The five states of a job (Apiframe reference, "Get a job"); the last three are final."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL_STATUSES: Final = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


def is_http_url(value: str) -> bool:
    """Tell whether a text is an absolute http(s) URL.

    :param value: the text.
    :return: whether it is, with a host, and without blanks and characters that cannot be printed.
    """
    try:
        parts = urlsplit(value)
        absolute = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return absolute and value.isprintable() and " " not in value


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_nothing(value: object) -> bool:
    """Tell whether a value stands for none.

    :param value: the value.
    :return: whether it is None or what templates make of it: text that is empty, blank or "None".
    """
    return value is None or (isinstance(value, str) and value.strip() in {"", "None"})


def check_job_id(value: str) -> str:
    """Check that a text can be the id of a job, of whatever form the API gives.

    :param value: the text.
    :return: the same.
    :raises ValueError: it is empty, too long, holds what cannot be printed, or would lead elsewhere in a path.
    """
    if value in {"", ".", ".."} or len(value) > JOB_ID_CHARACTERS or not value.isprintable():
        raise ValueError(f"must be the id of a job: 1 to {JOB_ID_CHARACTERS} printable characters")
    return value


def _http_url(value: str) -> str:
    odd = _NOT_IN_URLS.search(value)
    if odd:
        code, position = quote(odd[0]), odd.start()
        raise ValueError(f"{odd[0]!r} at position {position} cannot stand in a URL: percent-encode it, as {code}")
    if not is_http_url(value):
        raise ValueError("must be an absolute http:// or https:// URL (leave it out for none)")
    parts = urlsplit(value)
    if "[" in parts.netloc:
        _ = ip_address(parts.hostname or "")  # raises; urlsplit of Python 3.10 lets anything stand in brackets
    if re.search(r"[\[\]]|#.*#", value.partition(parts.netloc)[2]):
        raise ValueError("'[', ']' and a second '#' cannot stand in a URL: percent-encode them, as %5B, %5D and %23")
    return value


def _text_of_number(value: Any) -> Any:
    """Return what a native template made of a prompt of digits as text again."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _prompt(value: Any) -> Any:
    value = _text_of_number(value)
    if value is None or (isinstance(value, str) and value.strip() == "None"):
        raise ValueError("must be text; a template that renders to None has no value")
    if not isinstance(value, str):
        return value
    odd = _NO_DATABASE_TAKES.search(value)
    if odd:
        raise ValueError(f"holds U+{ord(odd[0]):04X} at position {odd.start()}, which no database takes: remove it")
    if not any(map(_is_visible, value)):
        raise ValueError("must hold something that can be seen")
    units = len(value.encode("utf-16-le")) // 2
    if units > PROMPT_UNITS:
        raise ValueError(f"has {units} characters, {PROMPT_UNITS} are allowed (an emoji counts as two)")
    return value


def _is_visible(character: str) -> bool:
    # Separators, marks without a letter, control and format characters; unassigned ones may be of a newer Unicode.
    hidden = unicodedata.category(character) in {"Zs", "Zl", "Zp", "Mn", "Me", "Cc", "Cf"}
    return not hidden and character not in _BLANK_LETTERS


def _in_order(events: list[str]) -> list[str]:
    return [event for event in WEBHOOK_EVENTS if event in events]


def _answered_url(value: str) -> str:
    if not is_http_url(value):
        raise ValueError("must be an absolute http:// or https:// URL")
    return value


_HttpUrl = Annotated[str, AfterValidator(_http_url)]
_Events = Annotated[list[Literal["progress", "completed", "failed"]], Field(min_length=1), AfterValidator(_in_order)]


class VideoRequest(BaseModel):
    """One video to generate, checked before anything is sent or paid.

    (Apiframe reference, "Generate a video", Hailuo 02.) What is None, empty, blank or "None" is left out, so that the
    API's own default holds; the prompt is needed. Numbers and booleans may come as text, which is what a rendered
    template is, and a prompt of digits as a number, which is what a native one is.

    :param prompt: what to show, 1 to 2000 UTF-16 code units: characters, of which an emoji counts as two.
    :param model: `hailuo-02` (default), `hailuo-2.3`, `hailuo-2.3-fast` or `hailuo-03`.
    :param image: URL of the first frame, percent-encoded (RFC 3986), as all URLs here; none by default.
    :param resolution: `768p` (the API's default) or `1080p`.
    :param duration: 6 (the API's default) or 10 seconds; 1080p renders 6 seconds only.
    :param end_image: URL of the last frame, with `hailuo-02` only; none by default.
    :param prompt_optimizer: whether the model may rewrite the prompt (the API's default: yes).
    :param webhook_url: where the API announces events of the job; none by default.
    :param webhook_events: which of `progress`, `completed`, `failed` it announces there: a list, tuple or set.
    :raises InvalidInputError: it names each wrong field, its value and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, BeforeValidator(_prompt)]
    model: Literal["hailuo-02", "hailuo-2.3", "hailuo-2.3-fast", "hailuo-03"] = HAILUO_02
    image: _HttpUrl | None = None
    resolution: Literal["768p", "1080p"] | None = None
    duration: int | None = None
    end_image: _HttpUrl | None = None
    prompt_optimizer: bool | None = None
    webhook_url: _HttpUrl | None = None
    webhook_events: _Events | None = None

    def __init__(self, **fields: Any) -> None:
        optional = type(self).model_fields.keys() - {"prompt"}
        given = {name: value for name, value in fields.items() if name not in optional or not is_nothing(value)}
        try:
            super().__init__(**given)
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
        """Return the JSON body of `POST /v2/videos/generate`.

        :return: the fields of the wire that were set: prompt and model, and what else is not None.
        """
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


def _known_status(value: Any) -> Any:
    known = value.strip().upper() if isinstance(value, str) else None
    return known if known in set(JobStatus) else value


def canonical_job_id(job_id: str) -> str:
    """Return the one form of a job's id by which ids are compared.

    :param job_id: the id.
    :return: a UUID in small letters (RFC 9562, 4), any other id as it is.
    """
    return job_id.lower() if _UUID.fullmatch(job_id) else job_id


_JobId = Annotated[
    str, BeforeValidator(_text_of_number), AfterValidator(check_job_id), AfterValidator(canonical_job_id)
]
_Status = Annotated[str, BeforeValidator(_known_status)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Submission(_Answer):
    """The answer to a submission (Apiframe reference, "Generate a video").

    :param job_id: the job's id.
    :param status: its status at that moment, as of `Job`: any of the five; None when the API does not tell.
    """

    job_id: _JobId
    status: _Status | None = None


class Job(_Answer):
    """A job as the API tells it (Apiframe reference, "Get a job").

    What the API leaves out is None, and so is what it tells in another form, but for id and status.

    :param id: its id.
    :param status: one of `JobStatus`, however it is written, or a string that nobody has documented yet.
    :param model: such as `hailuo-02`.
    :param progress: percent, 0 to 100.
    :param result: what it has made, in any form: see `video_url`.
    :param error: why it failed, in any form.
    :param credit_cost: credits; 0 once a failure was refunded.
    :param input: what was asked for; a job in a list has none.
    :param expired: whether the file has been purged.
    :param created_at: when it was submitted, by the API's clock.
    :param completed_at: when it was completed, by the API's clock.
    """

    id: _JobId
    status: _Status
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
        """The first URL of a video in `result`, in any shape that the API was seen to give; None without one.

        It is not checked as the URLs of a request are: no video that was paid for is refused for an odd character.
        """
        return _find_url(self.result, levels=4)

    @property
    def lacks_url(self) -> bool:
        """Whether it is COMPLETED and does not tell its URL, which may come later; of a purged file none comes."""
        return self.status == JobStatus.COMPLETED and not self.expired and self.video_url is None

    @property
    def seconds(self) -> float | None:
        """The seconds from creation to completion by the API's clock; None while either is unknown."""
        if self.created_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.created_at).total_seconds()


_URL_NAMES: Final = ("videoUrl", "video_url", "url", "output", "video", "videos")


def _find_url(found: Any, levels: int) -> str | None:
    """Return the first absolute http(s) URL in `found`, at most so many lists and objects deep; None without one."""
    if isinstance(found, str):
        url = "".join(c if c.isprintable() and c != " " else quote(c, errors="replace") for c in found.strip())
        return url if is_http_url(url) else None
    if isinstance(found, dict):
        found = [found.get(name) for name in _URL_NAMES]
    if not isinstance(found, list) or levels == 0:
        return None
    return next((url for url in (_find_url(inner, levels - 1) for inner in found) if url), None)


def _without_none(jobs: list[Any]) -> list[Any]:
    return [job for job in jobs if job is not None]


class JobPage(_Answer):
    """One page of jobs.

    :param jobs: newest first. One whose id or status cannot be read is left out: it must not hide the others.
    :param next_cursor: asks for the next page; None: this is the last.
    :param has_more: whether there is a next page.
    """

    jobs: Annotated[list[Annotated[Job, WrapValidator(_none_if_odd)]], AfterValidator(_without_none)]
    next_cursor: str | None = None
    has_more: bool = False


class User(_Answer):
    """The user an API key belongs to.

    :param id: the user's id.
    :param email: the address; None when the API does not tell.
    """

    id: str
    email: _Informative[str]


class Team(_Answer):
    """The team that pays. What the API does not tell is None.

    :param name: what it is called.
    :param credits: its balance.
    :param plan: what it has subscribed to, such as `pro`.
    """

    name: _Informative[str]
    credits: _Informative[int | float]
    plan: _Informative[str]


class Account(_Answer):
    """Whose API key this is (Apiframe reference, "Me").

    :param user: the user.
    :param team: the team that pays; None for none.
    """

    user: User
    team: Team | None = None


class Upload(_Answer):
    """An uploaded file (Apiframe reference, "Uploads"). What the API does not tell is None, but for id and URL.

    :param id: its id.
    :param url: serves as `image` or `end_image` of a request until it expires.
    :param kind: such as `image`.
    :param content_type: the media type that the API found by its bytes.
    :param byte_size: how large it is.
    :param expires_at: when it goes away: 1 to 2 hours after it was uploaded.
    """

    id: str
    url: Annotated[str, AfterValidator(_answered_url)]
    kind: _Informative[str]
    content_type: _Informative[str]
    byte_size: _Informative[int]
    expires_at: _Informative[_Moment]
