"""Many videos: a few at a time are submitted and waited for, each under keys that are the same after any crash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import count, groupby
from math import ceil
from typing import Any, Final

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.calls import Call
from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InsufficientCreditsError,
    InvalidInputError,
    JobTimeoutError,
    NotFoundError,
    PermissionDeniedError,
)
from airflow_provider_hailuo.apiframe.idempotency import derive_key, nth_key
from airflow_provider_hailuo.apiframe.models import FINAL_STATUSES, IMAGE_FIELDS, JobStatus, Submission, VideoRequest
from airflow_provider_hailuo.apiframe.polling import REFUSED_SECONDS, GaveUp, JobPoll
from airflow_provider_hailuo.apiframe.watcher import JobWatcher, Log, shared_watcher

MOST_ITEMS: Final = 10_000

KEY_SECONDS: Final = 23 * 3600.0
"""How long after their first use keys are relied on: the API forgets them after 24 hours (Apiframe reference,
"Idempotency")."""

Item = Mapping[str, Any] | str
"""The fields of a `VideoRequest`, its pictures perhaps by where they lie (see `Plan`); or why it is none: then it is
told, and nothing is sent."""


@dataclass(frozen=True)
class Plan:
    """How the videos of a batch are made.

    :param readable: leads the idempotency keys, for the eyes of people.
    :param identity: on whose behalf they are made; with the index of an item and its request it makes the item's key.
    :param tries: how many keys an item may use: the next one each time when the job of the one before is dead.
    :param renew: whether a job is dead, too, whose video was purged: to render it again costs credits again.
    :param max_in_flight: how many videos render at a time, at most.
    :param poll_interval: seconds between two looks.
    :param timeout: seconds to wait for each video, from its submission.
    :param deadline: when to give up, in seconds since the epoch; a moment, so that a restart does not extend it.
    :param contents: the URLs that stand for the content of pictures in an item's key, by where they lie.
    :param uploads: the URLs at which they were uploaded, by where they lie, and what a receiver of webhooks was, for
        each key in turn: a key is always sent with the same body, which the API compares.
    :param refused: why pictures will not do, by where they lie: their items are not submitted.
    """

    readable: str
    identity: Sequence[str | int]
    tries: int
    renew: bool
    max_in_flight: int
    poll_interval: float
    timeout: float
    deadline: float
    contents: Mapping[str, str] = field(default_factory=dict)
    uploads: Sequence[Mapping[str, str]] = field(default_factory=list)
    refused: Mapping[str, str] = field(default_factory=dict)

    def uploaded(self, n: int) -> dict[str, str]:
        """Return what is sent with the `n`-th key of an item for its pictures and its receiver of webhooks.

        :param n: which key, 1 or more.
        :return: what was uploaded last until then, by what the item has there.
        """
        return {lies: url for uploads in self.uploads[:n] for lies, url in uploads.items()}


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    :param job_id: its job, the last one if there were several; None (default): none is known.
    :param error: why there is no job, or it is not final; None (default): it is final, whatever it ended as.
    """

    job_id: str | None = None
    error: ApiframeError | None = None


def seconds_for(items: int, max_in_flight: int, timeout: float) -> float:
    """Return how long a batch may take; never longer than keys last.

    :param items: how many videos it has.
    :param max_in_flight: how many of them render at a time.
    :param timeout: seconds that each of them may take.
    :return: seconds, at most 23 hours.
    """
    return min(ceil(items / max_in_flight) * timeout, KEY_SECONDS)


def request(item: Mapping[str, Any], places: Mapping[str, str]) -> VideoRequest:
    """Return the request of an item.

    :param item: its fields.
    :param places: what takes the place of its pictures and its receiver of webhooks, by what the item has there;
        what is not among them stays.
    :return: the request.
    :raises InvalidInputError: it is none that the API takes.
    """
    placed = {name: places.get(item[name], item[name]) for name in (*IMAGE_FIELDS, "webhook_url") if name in item}
    return VideoRequest(**{**item, **placed})


def refusal(item: Mapping[str, Any], refused: Mapping[str, str]) -> str | None:
    """Return why a picture of an item will not do.

    :param item: the fields of its request.
    :param refused: why pictures will not do, by where they lie.
    :return: why the first one will not; None if all will.
    """
    return next((refused[item[name]] for name in IMAGE_FIELDS if item.get(name) in refused), None)


def pack(items: Sequence[Item]) -> str:
    """Return items as short ASCII text.

    :param items: the items.
    :return: their JSON, compressed, in base64.
    """
    text = json.dumps(items, separators=(",", ":"), sort_keys=True)
    return base64.b64encode(zlib.compress(text.encode())).decode()


def unpack(packed: str) -> list[Item]:
    """Return the items that were packed.

    :param packed: what `pack` returned.
    :return: the items.
    """
    items: list[Item] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return items


def fingerprint(packed: str) -> str:
    """Return what tells whether two packed lists hold the same items, whatever library compressed them.

    :param packed: what `pack` returned.
    :return: 32 hexadecimal digits, which are the same for the same items.
    """
    return hashlib.sha256(zlib.decompress(base64.b64decode(packed))).hexdigest()[:32]


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as short text.

    :param numbers: in ascending order.
    :return: such as `0-5, 7`; empty if there are none.
    """
    runs = groupby(zip(numbers, count(), strict=False), lambda pair: pair[0] - pair[1])
    spans = [[pair[0] for pair in run] for _, run in runs]
    return ", ".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


async def generate_all(
    items: Sequence[Item],
    plan: Plan,
    log: Log,
    name: str,
    look_up: Callable[[], Awaitable[Settings]],
    *,
    connect: Callable[[Settings], AsyncClient] = AsyncClient,
) -> list[Outcome]:
    """Submit the items, in their order, and wait for each.

    What may pass is waited through until the deadline, also a look-up that fails. Nothing more is submitted when
    `max_in_flight` submissions in a row were refused for want of credits, or all of them for a minute for key or
    rights; what runs is waited for.

    Run again after a crash it submits the same requests under the same keys, for which the API answers with the
    original jobs and charges nothing.

    :param items: what to generate.
    :param plan: how.
    :param log: gets what is worth a line.
    :param name: the connection.
    :param look_up: looks up what it holds now.
    :param connect: makes the client (default: of httpx).
    :return: what became of each, in the same order.
    """
    for failures in count(1):
        try:
            async with shared_watcher(name, look_up, connect) as (_, watcher):
                return await _Batch(watcher, items, plan, log).run()
        except ApiframeError as error:
            lost = error
        if failures == 1:
            log(logging.WARNING, f"Nothing can be submitted yet, looking on: {lost}")
        left = plan.deadline - time.time()
        if left <= 0:
            break
        await asyncio.sleep(min(backoff(failures, lost), left))
    return [Outcome(error=InvalidInputError(item) if isinstance(item, str) else _too_late(lost)) for item in items]


def _too_late(last: ApiframeError | None, *, in_doubt: bool = False) -> JobTimeoutError:
    why = f"; the last try failed: {last}" if last else ""
    return JobTimeoutError(f"The time of the batch was over before the API told of a job{why}", in_doubt=in_doubt)


class _Batch:
    """The videos of one batch, in one watcher. No method but `run` is for others."""

    def __init__(self, watcher: JobWatcher, items: Sequence[Item], plan: Plan, log: Log) -> None:
        self._watcher = watcher
        self._items = items
        self._plan = plan
        self._log = log
        self._uploads = [plan.uploaded(n) for n in range(1, plan.tries + 1)]
        self._outcomes: dict[int, Outcome] = {}
        self._stopped: ApiframeError | None = None
        self._refused_since: float | None = None
        self._unaffordable = 0
        self._in_trouble = False

    async def run(self) -> list[Outcome]:
        waiting = iter(enumerate(self._items))
        many = min(self._plan.max_in_flight, len(self._items))
        slots = [asyncio.ensure_future(self._work(waiting)) for _ in range(many)]
        try:
            await asyncio.gather(*slots)
        finally:
            for slot in slots:
                slot.cancel()
            if slots:
                await asyncio.wait(slots)
        return [self._outcomes[index] for index in range(len(self._items))]

    async def _work(self, waiting: Iterator[tuple[int, Item]]) -> None:
        """Make one video after the other."""
        for index, item in waiting:
            self._outcomes[index] = await self._outcome(index, item)
            done, every = len(self._outcomes), max(1, len(self._items) // 10)
            if done % every == 0:
                self._log(logging.INFO, f"{done} of {len(self._items)} videos are final or given up")
                await asyncio.sleep(0)

    async def _outcome(self, index: int, item: Item) -> Outcome:
        if isinstance(item, str):
            return Outcome(error=InvalidInputError(item))
        job_id = None
        try:
            self._check_goes_on()  # before any work, so that the rest of a batch that has stopped takes no time
            if why := refusal(item, self._plan.refused):
                raise InvalidInputError(why)
            wanted = request(item, self._plan.contents)
            key = derive_key(self._plan.readable, [*self._plan.identity, index], wanted)
            for n in range(1, self._plan.tries + 1):
                job_id = None
                sent = request(item, self._uploads[n - 1])
                submission = await self._submit(calls.generate_video(sent, nth_key(key, n)))
                job_id = submission.job_id
                if not await self._is_dead(submission, last=n == self._plan.tries):
                    break
        except ApiframeError as error:
            return Outcome(job_id, error)
        return Outcome(job_id)

    async def _is_dead(self, submission: Submission, *, last: bool) -> bool:
        """Wait until a job is final; tell whether another one is to take its place, if it is not the `last`."""
        status, job_id = submission.status, submission.job_id
        renew = self._plan.renew and not last
        if status == JobStatus.COMPLETED:
            return renew and bool((await self._watcher.send(calls.get_job(job_id))).expired)
        if status in FINAL_STATUSES:
            return True
        deadline = min(time.time() + self._plan.timeout, self._plan.deadline)
        end = await self._watcher.wait(JobPoll(job_id, deadline, self._plan.poll_interval), self._log)
        if isinstance(end, GaveUp):
            raise end.error
        return end.job.status != JobStatus.COMPLETED or (renew and bool(end.job.expired))

    async def _submit(self, call: Call[Submission]) -> Submission:
        """Submit under a key, again and again while that may help.

        :raises ApiframeError: it does not, or nothing more is submitted.
        """
        began, in_doubt, last = time.time(), False, None
        for failures in count(1):
            self._check_goes_on(last, in_doubt=in_doubt)
            try:
                submission = await self._watcher.send(call, retries=0)
            except ApiframeError as error:
                last = error
            else:
                self._refused_since, self._unaffordable, self._in_trouble = None, 0, False
                return submission
            in_doubt |= last.in_doubt
            lasted = time.time() - began
            if self._ends(last) or (not last.transient and not last.from_api and lasted >= self._plan.timeout):
                raise _doubted(last, in_doubt=in_doubt)
            if not self._in_trouble:
                self._log(logging.WARNING, f"A video could not be submitted, trying on: {last}")
                self._in_trouble = True
            left = max(0.0, self._plan.deadline - time.time())
            await asyncio.sleep(min(backoff(failures, last), left))
        raise AssertionError  # counting never ends

    def _check_goes_on(self, last: ApiframeError | None = None, *, in_doubt: bool = False) -> None:
        """Raise what an item ends with that is not to be submitted any more; `last` is what it failed with before."""
        if self._stopped is not None:
            raise _doubted(self._stopped, in_doubt=in_doubt)
        if time.time() >= self._plan.deadline:
            raise _too_late(last, in_doubt=in_doubt)

    def _ends(self, error: ApiframeError) -> bool:
        """Tell whether it is of no use to send a submission again; what concerns all stops all."""
        if error.from_api and isinstance(error, InsufficientCreditsError):
            # Others may be cheaper, or, after a crash, have their jobs already.
            self._unaffordable += 1
            if self._unaffordable >= self._plan.max_in_flight:
                self._stop(error)
            return True
        if error.from_api and isinstance(error, BadRequestError | ConflictError):
            return True
        of_the_api = error.from_api and isinstance(error, AuthenticationError | PermissionDeniedError | NotFoundError)
        if not (of_the_api or isinstance(error, InvalidInputError)):
            self._refused_since = None
            return False
        now = time.time()
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since < REFUSED_SECONDS:
            return False
        self._stop(error)
        return True

    def _stop(self, error: ApiframeError) -> None:
        if self._stopped is None:
            self._stopped = error
            self._log(logging.WARNING, f"Nothing more is submitted: {error}")


def _doubted(error: ApiframeError, *, in_doubt: bool) -> ApiframeError:
    """Return `error` as that of one item, which may have been carried out at an earlier try."""
    own = copy(error)
    own.in_doubt = error.in_doubt or in_doubt
    return own
