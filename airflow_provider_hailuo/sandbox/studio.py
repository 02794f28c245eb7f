"""The state of the sandbox: jobs that time drives, the credits they cost, the events they cause. No I/O.

Every moment in here is a whole number of milliseconds since the epoch: the precision of the API.
"""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

from airflow_provider_hailuo.apiframe.models import JobStatus

_Prices = Mapping[tuple[str, int], int]

PRICES: Final[Mapping[str, _Prices]] = {
    "hailuo-02": {("768p", 6): 5, ("768p", 10): 8, ("1080p", 6): 10},
    "hailuo-2.3": {("768p", 6): 5, ("768p", 10): 10, ("1080p", 6): 10},
}
"""Credits by model, then by resolution and seconds (Apiframe's pages of both models)."""

OTHER_PRICES: Final = PRICES["hailuo-2.3"]
"""What any other model is assumed to cost: no page tells."""

KEY_MEMORY_MS: Final = 24 * 3600 * 1000
"""How long an idempotency key is remembered (Apiframe reference, "Generate a video")."""

_QUEUED_PERCENT: Final = 10
_ANNOUNCED_PERCENT: Final = (25, 50, 75)
_COMMAND: Final = re.compile(r"\[\[\s*(stall|fail|slow)\s*(?::([^\[\]]*))?\]\]")
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]+)?")


class SettingError(ValueError):
    """A setting of the sandbox is out of its range: `name` is the parameter, `requirement` what it must be."""

    def __init__(self, name: str, requirement: str) -> None:
        super().__init__(f"{name} {requirement}")
        self.name = name
        self.requirement = requirement


class InsufficientCreditsError(Exception):
    """The balance does not cover a job: `required` and `available` are credits."""

    def __init__(self, required: int, available: int) -> None:
        super().__init__(f"{required} credits are required, {available} are available")
        self.required = required
        self.available = available


class KeyConflictError(Exception):
    """An idempotency key came again within its memory, with another request."""


class EventKind(str, Enum):
    """The events a webhook can be sent for (Apiframe reference, "Webhooks")."""

    PROGRESS = "progress"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request for a video that was found valid, with the API's defaults filled in.

    `duration` is in seconds. `body` is the request as it came: what an idempotency key stands for.
    """

    prompt: str
    model: str
    resolution: str
    duration: int
    webhook_url: str | None
    webhook_events: frozenset[EventKind]
    body: Mapping[str, Any]

    def webhook_for(self, kind: EventKind) -> str | None:
        """Return the URL that events of this kind are to be sent to; None when nobody asked for them."""
        return self.webhook_url if kind in self.webhook_events else None


class Place(NamedTuple):
    """A place in the order of jobs (Apiframe reference, "List jobs": by creation, then by id)."""

    created_at: int
    id: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was at one moment.

    `starts_at` and `ends_at` tell when it is planned to be processed. `credit_cost` is in credits, 0 once they
    are refunded. `webhook_status` is None when no webhook will tell how the job ended.
    """

    id: str
    order: Order
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
    def place(self) -> Place:
        """Where the job stands in the order of all jobs."""
        return Place(self.created_at, self.id)

    def progress(self, now: int) -> int:
        """Tell how far the job is.

        :param now: the present moment in milliseconds since the epoch.
        :return: the percentage; 0 in the queue and after a failure.
        """
        if self.status is JobStatus.PROCESSING:
            return min(99, (now - self.starts_at) * 100 // max(1, self.ends_at - self.starts_at))
        return 100 if self.status is JobStatus.COMPLETED else 0


@dataclass(frozen=True)
class Event:
    """Something to be told: what happened, the URL to tell, the job right then, and the moment."""

    kind: EventKind
    url: str
    job: Job
    at: int


class _Step(NamedTuple):
    due: int
    number: int
    job_id: str
    take: Callable[[Job, int], None]


class _Script(NamedTuple):
    """What a prompt asks the sandbox for, beside the video."""

    stalls: bool
    failure: str | None
    seconds: float | None


def wall_clock() -> int:
    """Return the time of day in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def new_id(rng: Random) -> str:
    """Return a UUID made by `rng`."""
    return str(UUID(int=rng.getrandbits(128), version=4))


class Studio:
    """All jobs and the balance. Whenever a method is called, all that is due by then happens first.

    `credits` is the balance, `now` the moment up to which everything has happened, `replays` how many submissions
    were answered with the original job.

    A prompt may ask for trouble: `[[fail: some reason]]` ends the render as FAILED with that reason,
    `[[stall]]` leaves it PROCESSING until it is released, `[[slow: 30]]` makes it take 30 seconds.

    Parameters:

    - `credits`: the balance at the start.
    - `render_seconds`: seconds from submission to the end of a job.
    - `jitter`: by which fraction of it, up or down, a render time may differ, 0 to 1.
    - `retention_seconds`: seconds from completion until the video is gone.
    - `rng`: makes the ids and the render times; a seeded one makes them reproducible.
    - `clock`: returns the present moment in milliseconds since the epoch, default the time of day.

    Raises `SettingError` when a number is out of its range.
    """

    def __init__(
        self,
        *,
        credits: int,  # noqa: A002 - the name in the API
        render_seconds: float,
        jitter: float,
        retention_seconds: float,
        rng: Random,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        for name, value in (
            ("credits", credits),
            ("render_seconds", render_seconds),
            ("retention_seconds", retention_seconds),
        ):
            if not 0 <= value < math.inf:
                raise SettingError(name, f"must be a number from 0, not {value}")
        if not 0 <= jitter <= 1:
            raise SettingError("jitter", f"must be a fraction from 0 to 1, not {jitter}")
        self.credits = credits
        self._initial_credits = credits
        self._render_seconds = render_seconds
        self._jitter = jitter
        self._retention_ms = round(retention_seconds * 1000)
        self._rng = rng
        self._clock = clock
        self.now = clock()
        self.replays = 0
        self._jobs: dict[str, Job] = {}
        self._places: list[Place] = []
        self._statuses: Counter[JobStatus] = Counter()
        self._keys: dict[str, str] = {}
        self._steps: list[_Step] = []
        self._step_numbers = count()
        self._stalled: dict[str, Callable[[Job, int], None]] = {}
        self._events: list[Event] = []
        self._expired: list[str] = []

    def submit(self, order: Order, idempotency_key: str | None = None) -> Job:
        """Charge for a new job, unless the key is remembered.

        :param order: what was asked for.
        :param idempotency_key: the key of the request, None without one.
        :return: the new job, or the one that the key stands for.
        :raises InsufficientCreditsError: when the balance does not cover a new job.
        :raises KeyConflictError: when the key stands for another request.
        """
        self.settle()
        original = self._jobs.get(self._keys.get(idempotency_key, "")) if idempotency_key else None
        if original and self.now - original.created_at < KEY_MEMORY_MS:
            if original.order.body != order.body:
                raise KeyConflictError
            self.replays += 1
            return original
        price = PRICES.get(order.model, OTHER_PRICES)[order.resolution, order.duration]
        if price > self.credits:
            raise InsufficientCreditsError(price, self.credits)
        self.credits -= price
        job = self._schedule(order, price)
        self._statuses[job.status] += 1
        insort(self._places, job.place)
        if idempotency_key:
            self._keys[idempotency_key] = job.id
        return job

    def job(self, job_id: str) -> Job | None:
        """Return the job with this id as it is now; None when there is none."""
        self.settle()
        return self._jobs.get(job_id)

    def page(
        self,
        *,
        limit: int,
        before: Place | None = None,
        status: JobStatus | None = None,
        model: str | None = None,
        search: str | None = None,
    ) -> tuple[list[Job], bool]:
        """Return at most `limit` jobs, newest first, and whether there are more.

        Parameters: `before`, only jobs older than this place, which later submissions do not move; `status`,
        `model` and `search` (a job id), only jobs that have these. Default: all.
        """
        self.settle()
        places = self._places if search is None else [job.place for job in (self._jobs.get(search),) if job]
        found: list[Job] = []
        index = len(places) if before is None else bisect_left(places, before)
        while index > 0 and len(found) <= limit:
            index -= 1
            job = self._jobs[places[index].id]
            if status in {None, job.status} and model in {None, job.order.model}:
                found.append(job)
        return found[:limit], len(found) > limit

    def release(self, words: str = "") -> list[str]:
        """End the render of every job that its prompt has stalled so far, as if all its time had passed.

        A job that is still in the queue ends too; progress that it has not reached by now is never announced.

        :param words: only jobs whose prompt contains this, default all.
        :return: the ids of these jobs, oldest first.
        """
        self.settle()
        ends = {job_id: end for job_id, end in self._stalled.items() if words in self._jobs[job_id].order.prompt}
        # Whatever is planned for later would take the job back from its end.
        self._steps = [step for step in self._steps if step.job_id not in ends]
        heapify(self._steps)
        for job_id, end in ends.items():
            del self._stalled[job_id]
            self._plan(self._jobs[job_id], self.now, end)
        self.settle()
        return list(ends)

    def models(self) -> list[str]:
        """Return the models that any job has, in alphabetical order.

        :return: their names.
        """
        return sorted({job.order.model for job in self._jobs.values()})

    def settle(self) -> None:
        """Let everything happen that is due by now, in its order. Time does not go back, even when the clock does."""
        self.now = max(self.now, self._clock())
        while self._steps and self._steps[0].due <= self.now:
            step = heappop(self._steps)
            step.take(self._jobs[step.job_id], step.due)

    def take_events(self) -> list[Event]:
        """Return the events since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def take_expired(self) -> list[str]:
        """Return the ids of the jobs whose files have expired since the last call."""
        expired, self._expired = self._expired, []
        return expired

    def record_delivery(self, event: Event, *, delivered: bool) -> None:
        """Note how the delivery of `event` went; that of a progress event is not told to anyone."""
        if event.kind is not EventKind.PROGRESS:
            job = self._jobs[event.job.id]
            self._jobs[job.id] = replace(job, webhook_status="delivered" if delivered else "failed")

    @property
    def credits_charged(self) -> int:
        """The credits charged so far, less those refunded."""
        return self._initial_credits - self.credits

    def statuses(self) -> dict[JobStatus, int]:
        """Return how many jobs have each status."""
        self.settle()
        return {status: self._statuses[status] for status in JobStatus}

    def _schedule(self, order: Order, price: int) -> Job:
        script = _script(order.prompt)
        job_id = new_id(self._rng)
        seconds = self._render_seconds * self._rng.uniform(1 - self._jitter, 1 + self._jitter)
        if script.seconds is not None:
            seconds = script.seconds
        duration = round(seconds * 1000)
        job = Job(
            id=job_id,
            order=order,
            created_at=self.now,
            starts_at=self.now + duration * _QUEUED_PERCENT // 100,
            ends_at=self.now + duration,
            credit_cost=price,
            webhook_status="pending" if order.webhook_url is not None else None,
        )
        self._jobs[job_id] = job
        self._plan(job, job.starts_at, self._start)
        if order.webhook_for(EventKind.PROGRESS):
            for percent in _ANNOUNCED_PERCENT:
                way = math.ceil((job.ends_at - job.starts_at) * percent / 100)
                self._plan(job, job.starts_at + way, partial(self._announce, EventKind.PROGRESS))
        end = self._complete if script.failure is None else partial(self._fail, script.failure)
        if script.stalls:
            self._stalled[job_id] = end
        else:
            self._plan(job, job.ends_at, end)
        return job

    def _plan(self, job: Job, due: int, take: Callable[[Job, int], None]) -> None:
        heappush(self._steps, _Step(due, next(self._step_numbers), job.id, take))

    def _start(self, job: Job, _: int) -> None:
        self._change(job, status=JobStatus.PROCESSING)

    def _complete(self, job: Job, now: int) -> None:
        job = self._change(job, status=JobStatus.COMPLETED, completed_at=now)
        self._plan(job, now + self._retention_ms, self._expire)
        self._announce(EventKind.COMPLETED, job, now)

    def _fail(self, error: str, job: Job, now: int) -> None:
        self.credits += job.credit_cost
        job = self._change(job, status=JobStatus.FAILED, completed_at=now, error=error, credit_cost=0)
        self._announce(EventKind.FAILED, job, now)

    def _announce(self, kind: EventKind, job: Job, now: int) -> None:
        url = job.order.webhook_for(kind)
        if url:
            self._events.append(Event(kind, url, job, now))
        else:
            # Whoever waits for this webhook to be delivered would wait in vain.
            self._change(job, webhook_status=None)

    def _expire(self, job: Job, _: int) -> None:
        self._change(job, expired=True)
        self._expired.append(job.id)

    def _change(self, job: Job, **changes: Any) -> Job:
        changed = self._jobs[job.id] = replace(job, **changes)
        self._statuses[job.status] -= 1
        self._statuses[changed.status] += 1
        return changed


def _script(prompt: str) -> _Script:
    stalls, failure, seconds = False, None, None
    for name, text in _COMMAND.findall(prompt):
        argument = text.strip()
        if name == "stall":
            stalls = True
        elif name == "fail":
            failure = argument or "Generation failed"
        elif _SECONDS.fullmatch(argument):
            seconds = float(argument)
    return _Script(stalls, failure, seconds)
