"""The decision "what now?" while a job renders, as a pure object: job or error in, wait or end out.

The trigger, the blocking operator and whoever else waits for a job obey it, so that they cannot drift apart.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    CredentialsUnavailableError,
    InvalidInputError,
    JobExpiredError,
    JobFailedError,
    JobTimeoutError,
    JobWithoutVideoError,
    excerpt,
)
from airflow_provider_hailuo.apiframe.models import Job, JobStatus

SHORTEST_WAIT_SECONDS = 0.05
NEWS_PERCENT = 25

REFUSED_SECONDS = 60.0
"""How long the API has to refuse to tell of a job before that is believed: longer than a deployment of theirs
takes."""

REFUSALS = 3
"""How often it has to do so meanwhile, however long the pauses are."""

URL_SECONDS = 30.0
"""How long a job may be COMPLETED without a URL, or purged, before that is believed: replicas lag behind."""

_KNOWN_STATUSES = frozenset(JobStatus)


@dataclass(frozen=True)
class Wait:
    """Look again after a while.

    :param seconds: how long to wait: above 0, and never past the deadline.
    :param news: what is worth a line in a log; None (default): nothing is new.
    :param level: of that line: INFO (default) for trouble, DEBUG for progress.
    """

    seconds: float
    news: str | None = None
    level: int = logging.INFO


@dataclass(frozen=True)
class Finished:
    """The job is final: COMPLETED, FAILED or CANCELLED.

    :param job: the job.
    """

    job: Job


@dataclass(frozen=True)
class GaveUp:
    """There is no use in waiting longer.

    :param error: `JobTimeoutError` when the deadline has passed, else the refusal that has lasted.
    """

    error: ApiframeError


class _Spell:
    """How long something has held, all in all, and at how many looks: from each of them to the next look."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.looks = 0
        self._last: float | None = None

    def look(self, now: float, *, holds: bool) -> None:
        if self._last is not None:
            self.seconds += max(0.0, now - self._last)
        self._last = now if holds else None
        self.looks += holds


class JobPoll:
    """Decides after each look at a job.

    Until the deadline it waits on through network errors, timeouts, 429, 5xx, unreadable answers, pages of proxies
    and unknown status strings. A refusal by the API itself (its own 401, 403, 404, ...), credentials that cannot be
    looked up and settings that will not do end the wait when they last for a minute and nothing was seen of the job,
    a job that is COMPLETED without a URL after half a minute: the job is paid for, and one odd answer says nothing.
    The time of other failures in between is not counted: an outage of an hour makes no refusal last that long.

    :param job_id: the job that is waited for.
    :param deadline: the moment to give up at, in seconds since the epoch.
    :param interval: seconds between two looks while all is well (above 0); spread by 10 % so that many waiters do not
        march in step.
    :param draw: returns a number from 0 to 1 (default `random.random`).

    Attribute `seen`: the job at the last look that told of it, None before that.
    """

    def __init__(
        self, job_id: str, deadline: float, interval: float, *, draw: Callable[[], float] = random.random
    ) -> None:
        self.job_id = job_id
        self.deadline = deadline
        self.interval = interval
        self.seen: Job | None = None
        self._draw = draw
        self._failures = 0
        self._refused = _Spell()
        self._without_url = _Spell()
        self._told = ("", 0.0)

    def on_job(self, job: Job, now: float) -> Wait | Finished | GaveUp:
        """Decide after the API told of the job.

        :param job: what it told.
        :param now: the moment, in seconds since the epoch.
        :return: what to do.
        """
        recovered = f" (after {self._failures} failed looks)" if self._failures else ""
        level = logging.INFO if recovered else logging.DEBUG
        self._failures = 0
        self.seen = job
        self._refused = _Spell()
        lacks_its_url = job.lacks_url or (job.status == JobStatus.COMPLETED and bool(job.expired))
        self._without_url.look(now, holds=lacks_its_url)
        may_get_its_url = lacks_its_url and self._without_url.seconds < URL_SECONDS and now < self.deadline
        if job.is_final and not may_get_its_url:
            return Finished(job)
        seen, stage = excerpt(job.status, 40), 0.0
        if job.is_final:
            seen += " (without a URL yet: looking again)"
            level = logging.INFO
        elif job.status not in _KNOWN_STATUSES:
            seen += " (a status that this version does not know: waiting on)"
            level = logging.INFO
        elif job.progress is not None:
            seen, stage = f"{seen} {job.progress:g} %", job.progress // NEWS_PERCENT
        news = f"Job {self.job_id}: {seen}{recovered}" if (job.status, stage) != self._told or recovered else None
        self._told = (job.status, stage)
        seconds = self.interval * (0.95 + self._draw() / 10)
        return self._wait(seconds, now, f"its status was {seen}", news, level)

    def on_error(self, error: ApiframeError, now: float) -> Wait | GaveUp:
        """Decide after a look failed.

        :param error: what it failed with.
        :param now: the moment, in seconds since the epoch.
        :return: what to do.
        """
        self._without_url.look(now, holds=False)
        refused, is_refusal = self._refused, _is_refusal(error)
        refused.look(now, holds=is_refusal)
        if is_refusal and refused.seconds >= REFUSED_SECONDS and refused.looks >= REFUSALS:
            lasting = copy(error)  # others are told the same, and it may name the job of one of them
            lasting.message += f"; so it has been for {refused.seconds:.0f} s"
            lasting.job_id = self.job_id
            return GaveUp(lasting)
        self._failures += 1
        news = f"Job {self.job_id}: cannot see it, looking on: {error.without_job()}" if self._failures == 1 else None
        seconds = max(self.interval, backoff(self._failures, error, draw=self._draw))
        return self._wait(seconds, now, f"the last look failed: {error.without_job()}", news)

    def _wait(
        self, seconds: float, now: float, last: str, news: str | None, level: int = logging.INFO
    ) -> Wait | GaveUp:
        left = self.deadline - now
        if left <= 0:
            told = f"The deadline has passed and the video is not there; {last}"
            advice = "It may still be rendered, and is paid then"
            return GaveUp(JobTimeoutError(f"{told}. {advice}", job_id=self.job_id))
        return Wait(min(max(seconds, SHORTEST_WAIT_SECONDS), left), news, level)


def _is_refusal(error: ApiframeError) -> bool:
    """Tell whether `error` may end a wait if it lasts; all others may pass by themselves, however long they take."""
    ours = CredentialsUnavailableError | InvalidInputError
    return not error.transient and (error.from_api or isinstance(error, ours))


def video_url(job: Job) -> str:
    """Return the URL of the video of a final job. Each error tells what became of the credits.

    :param job: the job.
    :return: the URL, never empty.
    :raises JobFailedError: it failed or was cancelled.
    :raises JobExpiredError: its file has been purged.
    :raises JobWithoutVideoError: it is completed and carries no URL.
    """
    if job.status != JobStatus.COMPLETED:
        reason = "no reason given"
        if job.error:
            reason = excerpt(job.error if isinstance(job.error, str) else repr(job.error)).rstrip(" .")
        refund = "Apiframe refunds failed jobs in full; this one does not show it yet"
        if job.credit_cost == 0:
            refund = "Its credits were refunded"
        raise JobFailedError(f"The render ended as {job.status}: {reason}. {refund}", job_id=job.id)
    if job.expired:
        raise JobExpiredError("The video was rendered and paid, but its file has been purged", job_id=job.id)
    if job.video_url is None:
        result = excerpt(repr(job.result), 120)
        told = f"The job is COMPLETED and was charged, but carries no URL of a video (its result: {result})"
        raise JobWithoutVideoError(f"{told}. Ask Apiframe's support with the job's id", job_id=job.id)
    return job.video_url
