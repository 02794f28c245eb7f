"""Jobs, what they were asked for, and the events of their webhooks.

Every moment is a whole number of milliseconds since the epoch: the precision of the API.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

from airflow_provider_hailuo.apiframe.models import JobStatus

_COMMAND: Final = re.compile(r"\[\[\s*(stall|fail|slow)\s*(?::([^\[\]]*))?\]\]")
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]+)?")


class EventKind(str, Enum):
    """The events a webhook can be sent for (Apiframe reference, "Webhooks")."""

    PROGRESS = "progress"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A request for a video that was found valid, with the API's defaults filled in.

    :param prompt: what the video is to show.
    :param model: the model, such as `hailuo-02`.
    :param resolution: `768p` or `1080p`.
    :param duration: the length of the video in seconds.
    :param webhook_url: where to send webhooks; None for nowhere.
    :param webhook_events: the events to send them for.
    :param body: the request as it came: what an idempotency key stands for.
    """

    prompt: str
    model: str
    resolution: str
    duration: int
    webhook_url: str | None
    webhook_events: frozenset[EventKind]
    body: Mapping[str, Any]

    def webhook_for(self, kind: EventKind) -> str | None:
        """Tell where events of a kind are to be sent.

        :param kind: the kind.
        :return: the URL; None when nobody asked for them.
        """
        return self.webhook_url if kind in self.webhook_events else None


class Cursor(NamedTuple):
    """Where a job stands among all jobs (Apiframe reference, "List jobs": by creation, then by id).

    :param created_at: when the job was created.
    :param id: the id of the job.
    """

    created_at: int
    id: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was at one moment.

    :param id: a UUID.
    :param request: what was asked for.
    :param created_at: when it was submitted.
    :param starts_at: when it is planned to leave the queue.
    :param ends_at: when it is planned to end.
    :param credit_cost: what it costs, in credits; 0 once they are refunded.
    :param status: its status.
    :param error: why it has failed; None when it has not.
    :param completed_at: when it ended; None when it has not.
    :param expired: whether its video has been deleted.
    :param webhook_status: `pending`, `delivered` or `failed`; None when no webhook tells how the job ended.
    """

    id: str
    request: GenerateRequest
    created_at: int
    starts_at: int
    ends_at: int
    credit_cost: int
    status: JobStatus = JobStatus.QUEUED
    error: str | None = None
    completed_at: int | None = None
    expired: bool = False
    webhook_status: str | None = None

    @property
    def cursor(self) -> Cursor:
        """Where the job stands among all jobs."""
        return Cursor(self.created_at, self.id)

    def progress(self, now: int) -> int:
        """Tell how far the job is.

        :param now: the present moment.
        :return: the percentage; 0 in the queue and after a failure.
        """
        if self.status is JobStatus.PROCESSING:
            return min(99, (now - self.starts_at) * 100 // max(1, self.ends_at - self.starts_at))
        return 100 if self.status is JobStatus.COMPLETED else 0


@dataclass(frozen=True)
class Event:
    """Something that a webhook is to tell.

    :param kind: what happened.
    :param url: where to tell it.
    :param job: the job right then.
    :param at: when it happened.
    """

    kind: EventKind
    url: str
    job: Job
    at: int


class PromptCommands(NamedTuple):
    """What a prompt asks the sandbox for, beside the video.

    :param stalls: whether the job stays PROCESSING until it is released.
    :param failure: the reason with which the job fails; None for a job that does not.
    :param seconds: how long the render takes; None for the usual time.
    """

    stalls: bool
    failure: str | None
    seconds: float | None


def parse_commands(prompt: str) -> PromptCommands:
    """Find the commands `[[stall]]`, `[[fail: some reason]]` and `[[slow: 30]]` in a prompt.

    :param prompt: the prompt; what is no command in it is ignored.
    :return: the commands, of equal ones the last.
    """
    stalls, failure, seconds = False, None, None
    for name, text in _COMMAND.findall(prompt):
        argument = text.strip()
        if name == "stall":
            stalls = True
        elif name == "fail":
            failure = argument or "Generation failed"
        elif _SECONDS.fullmatch(argument):
            seconds = float(argument)
    return PromptCommands(stalls, failure, seconds)


def wall_clock() -> int:
    """Return the time of day.

    :return: milliseconds since the epoch.
    """
    return time.time_ns() // 1_000_000


def new_id(rng: Random) -> str:
    """Make an id.

    :param rng: what it is drawn from.
    :return: a UUID.
    """
    return str(UUID(int=rng.getrandbits(128), version=4))
