"""The decision "what now?" while a job renders, as a pure object: job or error in, wait or end out.

The trigger, the blocking operator and whoever else waits for a job obey it, so that they cannot drift apart.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    JobExpiredError,
    JobFailedError,
    JobTimeoutError,
    JobWithoutVideoError,
    excerpt,
)
from airflow_provider_hailuo.apiframe.models import Job, JobStatus

SHORTEST_WAIT_SECONDS = 0.05
NEWS_PERCENT = 25
_KNOWN_STATUSES = frozenset(JobStatus)


@dataclass(frozen=True)
class Wait:
    """Look again after `seconds` (above 0, never past the deadline).

    `news` is worth a line in a log of that `level`, INFO for trouble and DEBUG for progress; None: nothing new.
    """

    seconds: float
    news: str | None = None
    level: int = logging.INFO


@dataclass(frozen=True)
class Finished:
    """The job is final: COMPLETED, FAILED or CANCELLED."""

    job: Job


@dataclass(frozen=True)
class GaveUp:
    """There is no use in waiting longer: the deadline has passed, or the API refuses to tell of the job."""

    error: ApiframeError


class JobPoll:
    """Decides after each look at a job.

    Parameters:

    - `job_id`: the job that is waited for.
    - `deadline`: the moment to give up at, in seconds since the epoch.
    - `interval`: seconds between two looks while all is well (above 0); spread by 10 % so that many waiters do
      not march in step.
    - `draw`: returns a number from 0 to 1 (default `random.random`).

    Tolerated until the deadline: network errors, timeouts, 429, 5xx, unreadable answers, unknown status strings.
    Not tolerated: 401, 403, 404 and other refusals.
    """

    def __init__(
        self, job_id: str, deadline: float, interval: float, *, draw: Callable[[], float] = random.random
    ) -> None:
        self.job_id = job_id
        self._deadline = deadline
        self.interval = interval
        self._draw = draw
        self._failures = 0
        self._told = ("", 0.0)

    def on_job(self, job: Job, now: float) -> Wait | Finished | GaveUp:
        """Decide after the API told `job` at the moment `now` (seconds since the epoch)."""
        recovered = f" (after {self._failures} failed looks)" if self._failures else ""
        level = logging.INFO if recovered else logging.DEBUG
        self._failures = 0
        if job.is_final:
            return Finished(job)
        seen, stage = excerpt(job.status, 40), 0.0
        if job.status not in _KNOWN_STATUSES:
            seen += " (a status that this version does not know: waiting on)"
            level = logging.INFO
        elif job.progress is not None:
            seen, stage = f"{seen} {job.progress:g} %", job.progress // NEWS_PERCENT
        news = f"Job {self.job_id}: {seen}{recovered}" if (job.status, stage) != self._told or recovered else None
        self._told = (job.status, stage)
        seconds = self.interval * (0.95 + self._draw() / 10)
        return self._wait(seconds, now, f"its status was {seen}", news, level)

    def on_error(self, error: ApiframeError, now: float) -> Wait | GaveUp:
        """Decide after a look failed with `error` at the moment `now` (seconds since the epoch)."""
        if not error.transient:
            return GaveUp(error)
        self._failures += 1
        news = f"Job {self.job_id}: cannot see it, looking on: {error.without_job()}" if self._failures == 1 else None
        seconds = max(self.interval, backoff(self._failures, error, draw=self._draw))
        return self._wait(seconds, now, f"the last look failed: {error.without_job()}", news)

    def _wait(
        self, seconds: float, now: float, last: str, news: str | None, level: int = logging.INFO
    ) -> Wait | GaveUp:
        left = self._deadline - now
        if left <= 0:
            return GaveUp(
                JobTimeoutError(
                    f"The deadline has passed and the video is not there; {last}. It may still be rendered, and is "
                    "paid then",
                    job_id=self.job_id,
                )
            )
        return Wait(min(max(seconds, SHORTEST_WAIT_SECONDS), left), news, level)


def video_url(job: Job) -> str:
    """Return the URL of the video of a final `job`.

    Raises `JobFailedError` when it failed or was cancelled, `JobExpiredError` when its file has been purged,
    `JobWithoutVideoError` when it is completed and carries no URL. Each message tells what became of the credits.
    """
    if job.status != JobStatus.COMPLETED:
        reason = (
            excerpt(job.error if isinstance(job.error, str) else repr(job.error)) if job.error else "no reason given"
        )
        raise JobFailedError(f"The render ended as {job.status}: {reason}. {_refund(job)}", job_id=job.id)
    if job.expired:
        raise JobExpiredError("The video was rendered and paid, but its file has been purged", job_id=job.id)
    if job.video_url is None:
        result = excerpt(repr(job.result), 120)
        raise JobWithoutVideoError(
            f"The job is COMPLETED and was charged, but carries no URL of a video (its result: {result}). Ask "
            "Apiframe's support with the job's id",
            job_id=job.id,
        )
    return job.video_url


def _refund(job: Job) -> str:
    if job.credit_cost == 0:
        return "Its credits were refunded"
    return "Apiframe refunds failed jobs in full; this one does not show it yet"
