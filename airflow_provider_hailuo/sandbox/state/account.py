"""The account: jobs that time drives, the credits they cost, the events they cause. No I/O.

Every moment is a whole number of milliseconds since the epoch: the precision of the API.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any, Final, NamedTuple

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.errors import SettingError
from airflow_provider_hailuo.sandbox.state.jobs import (
    Cursor,
    Event,
    EventKind,
    GenerateRequest,
    Job,
    new_id,
    parse_commands,
    wall_clock,
)

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


class InsufficientCreditsError(Exception):
    """The balance does not cover a job.

    :param required: what the job costs, in credits.
    :param available: the balance, in credits.
    """

    def __init__(self, required: int, available: int) -> None:
        super().__init__(f"{required} credits are required, {available} are available")
        self.required = required
        self.available = available


class KeyConflictError(Exception):
    """An idempotency key came again within its memory, with another request."""


class _Transition(NamedTuple):
    due: int
    number: int
    job_id: str
    apply: Callable[[Job, int], None]


class Account:
    """All jobs and the balance. Whenever a method is called, all that is due by then happens first.

    `credits` is the balance, `now` the moment up to which everything has happened, `replays` how many submissions
    were answered with the original job.

    A prompt may ask for trouble: `[[fail: some reason]]` ends the render as FAILED with that reason,
    `[[stall]]` leaves it PROCESSING until it is released, `[[slow: 30]]` makes it take 30 seconds.

    :param credits: the balance at the start.
    :param render_seconds: seconds from submission to the end of a job.
    :param jitter: by which fraction of it, up or down, a render time may differ, 0 to 1.
    :param retention_seconds: seconds from completion until the video is gone.
    :param rng: makes the ids and the render times; a seeded one makes them reproducible.
    :param clock: returns the present moment, default the time of day.
    :raises SettingError: when a number is out of its range.
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
        amounts = {"credits": credits, "render_seconds": render_seconds, "retention_seconds": retention_seconds}
        for name, value in amounts.items():
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
        self._cursors: list[Cursor] = []
        self._keys: dict[str, str] = {}
        self._transitions: list[_Transition] = []
        self._numbers = count()
        self._stalled: dict[str, Callable[[Job, int], None]] = {}
        self._events: list[Event] = []
        self._expired: list[str] = []

    def submit(self, request: GenerateRequest, idempotency_key: str | None = None) -> Job:
        """Charge for a new job, unless the key is remembered.

        :param request: what was asked for.
        :param idempotency_key: the key of the request, None without one.
        :return: the new job, or the one that the key stands for.
        :raises InsufficientCreditsError: when the balance does not cover a new job.
        :raises KeyConflictError: when the key stands for another request.
        """
        self.advance()
        original = self._jobs.get(self._keys.get(idempotency_key, "")) if idempotency_key else None
        if original and self.now - original.created_at < KEY_MEMORY_MS:
            if original.request.body != request.body:
                raise KeyConflictError
            self.replays += 1
            return original
        price = PRICES.get(request.model, OTHER_PRICES)[request.resolution, request.duration]
        if price > self.credits:
            raise InsufficientCreditsError(price, self.credits)
        self.credits -= price
        job = self._schedule(request, price)
        insort(self._cursors, job.cursor)
        if idempotency_key:
            self._keys[idempotency_key] = job.id
        return job

    def job(self, job_id: str) -> Job | None:
        """Look a job up.

        :param job_id: its id.
        :return: the job as it is now; None when there is none.
        """
        self.advance()
        return self._jobs.get(job_id)

    def page(
        self,
        *,
        limit: int,
        before: Cursor | None = None,
        status: JobStatus | None = None,
        model: str | None = None,
        search: str | None = None,
    ) -> tuple[list[Job], bool]:
        """List jobs, newest first. Without filters: of all jobs.

        :param limit: how many at most.
        :param before: only jobs that are older than this, which later submissions do not move.
        :param status: only jobs with this status.
        :param model: only jobs of this model.
        :param search: only the job with this id.
        :return: the jobs, and whether there are more.
        """
        self.advance()
        found: list[Job] = []
        index = len(self._cursors) if before is None else bisect_left(self._cursors, before)
        while index > 0 and len(found) <= limit:
            index -= 1
            job = self._jobs[self._cursors[index].id]
            if search in {None, job.id} and status in {None, job.status} and model in {None, job.request.model}:
                found.append(job)
        return found[:limit], len(found) > limit

    def release(self, words: str = "") -> list[str]:
        """End the render of every job that its prompt has stalled so far, as if all its time had passed.

        A job that is still in the queue ends too; progress that it has not reached by now is never announced.

        :param words: only jobs whose prompt contains this, default all.
        :return: the ids of these jobs, oldest first.
        """
        self.advance()
        ends = {job_id: end for job_id, end in self._stalled.items() if words in self._jobs[job_id].request.prompt}
        # Whatever is planned for later would take the job back from its end.
        self._transitions = [transition for transition in self._transitions if transition.job_id not in ends]
        heapify(self._transitions)
        for job_id, end in ends.items():
            del self._stalled[job_id]
            self._plan(self._jobs[job_id], self.now, end)
        self.advance()
        return list(ends)

    def models(self) -> list[str]:
        """List the models that any job has.

        :return: their names, in alphabetical order.
        """
        return sorted({job.request.model for job in self._jobs.values()})

    def advance(self) -> None:
        """Let everything happen that is due by now, in its order. Time does not go back, even when the clock does."""
        self.now = max(self.now, self._clock())
        while self._transitions and self._transitions[0].due <= self.now:
            transition = heappop(self._transitions)
            transition.apply(self._jobs[transition.job_id], transition.due)

    def take_events(self) -> list[Event]:
        """Take the events since the last call.

        :return: the events, oldest first.
        """
        events, self._events = self._events, []
        return events

    def take_expired(self) -> list[str]:
        """Take the jobs whose videos have expired since the last call.

        :return: their ids.
        """
        expired, self._expired = self._expired, []
        return expired

    def record_delivery(self, event: Event, *, delivered: bool) -> None:
        """Note how the delivery of a webhook went; that of a progress event is not told to anyone.

        :param event: what it told.
        :param delivered: whether the receiver took it.
        """
        if event.kind is not EventKind.PROGRESS:
            job = self._jobs[event.job.id]
            self._jobs[job.id] = replace(job, webhook_status="delivered" if delivered else "failed")

    @property
    def credits_charged(self) -> int:
        """The credits charged so far, less those refunded."""
        return self._initial_credits - self.credits

    def statuses(self) -> dict[JobStatus, int]:
        """Count the jobs.

        :return: how many have each status.
        """
        self.advance()
        found = Counter(job.status for job in self._jobs.values())
        return {status: found[status] for status in JobStatus}

    def _schedule(self, request: GenerateRequest, price: int) -> Job:
        commands = parse_commands(request.prompt)
        job_id = new_id(self._rng)
        seconds = self._render_seconds * self._rng.uniform(1 - self._jitter, 1 + self._jitter)
        if commands.seconds is not None:
            seconds = commands.seconds
        duration = round(seconds * 1000)
        job = Job(
            id=job_id,
            request=request,
            created_at=self.now,
            starts_at=self.now + duration * _QUEUED_PERCENT // 100,
            ends_at=self.now + duration,
            credit_cost=price,
            webhook_status="pending" if request.webhook_url is not None else None,
        )
        self._jobs[job_id] = job
        self._plan(job, job.starts_at, self._start)
        if request.webhook_for(EventKind.PROGRESS):
            for percent in _ANNOUNCED_PERCENT:
                way = math.ceil((job.ends_at - job.starts_at) * percent / 100)
                self._plan(job, job.starts_at + way, partial(self._announce, EventKind.PROGRESS))
        end = self._complete if commands.failure is None else partial(self._fail, commands.failure)
        if commands.stalls:
            self._stalled[job_id] = end
        else:
            self._plan(job, job.ends_at, end)
        return job

    def _plan(self, job: Job, due: int, apply: Callable[[Job, int], None]) -> None:
        heappush(self._transitions, _Transition(due, next(self._numbers), job.id, apply))

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
        url = job.request.webhook_for(kind)
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
        return changed
