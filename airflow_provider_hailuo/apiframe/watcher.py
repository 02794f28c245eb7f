"""`JobWatcher`: many jobs waited for with few requests, all through one client."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.calls import Call
from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    AuthenticationError,
    BadRequestError,
    CredentialsUnavailableError,
    InvalidInputError,
    NetworkError,
    NotFoundError,
    PermissionDeniedError,
    excerpt,
)
from airflow_provider_hailuo.apiframe.models import Job, JobStatus
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, Wait

T = TypeVar("T")

Log = Callable[[int, str], None]
"""Writes a message of a level (`logging.INFO`, ...) into a log, as `Logger.log` does."""

FEW = 3
"""A page of jobs pays when it may tell of more jobs than this; so many are asked for one by one."""

CONCURRENT_LOOKS = 20

DECISIONS_AT_ONCE = 20
"""Each may write into a log, which blocks the event loop while Airflow is slow to take it: others get a turn."""

REPLACEMENT_SECONDS = 1.0


class _WatchEndedError(Exception):
    """The watching task ended while somebody was waiting."""


@dataclass(eq=False)
class _Waiter:
    """One who waits for a job. `log` is called in its own `context`, so that a line finds the log of its task."""

    poll: JobPoll
    log: Log
    end: asyncio.Future[Finished | GaveUp]
    seconds: float
    context: Context = field(default_factory=copy_context)


class JobWatcher:
    """Waits for any number of jobs of one account, in one event loop. Get it from `shared_watcher`.

    One task looks at all jobs at each tick: one by one while they are few, else page by page from the newest to the
    oldest, and one by one at those that no page told of. The interval between two ticks is the smallest that any of
    the waiting asks for.

    Parameters: `open_client` returns the client for all requests; it is awaited when the first is needed, and again
    when a key that was accepted before is refused, because it may have been replaced.
    """

    def __init__(self, open_client: Callable[[], Awaitable[AsyncClient]]) -> None:
        self.users = 0
        self._open_client = open_client
        self._opening: asyncio.Future[AsyncClient] | None = None
        self._openings: set[asyncio.Future[AsyncClient]] = set()
        self._accepted: set[asyncio.Future[AsyncClient]] = set()
        self._waiters: dict[str, list[_Waiter]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._due = 0.0
        self._sooner = asyncio.Event()
        self._seen: set[str] = set()
        self._first_page: str | None = None
        self._quiet_until = 0.0

    async def send(self, call: Call[T], *, retries: int | None = None) -> T:
        """Send `call` through the shared client and return its value; as `AsyncClient.send`.

        Raises also what opening the client raises; the next call tries that anew.
        """
        opening = self._open()
        # The cancellation of one who waits for it disturbs no other.
        client = await asyncio.shield(opening)
        try:
            value = await client.send(call, retries=retries)
        except (AuthenticationError, PermissionDeniedError) as error:
            # The key may have been replaced: whoever asks next looks it up.
            if error.from_api and opening is self._opening:
                self._opening = None
            if opening not in self._accepted or not error.from_api:
                raise
            return await self.send(call, retries=retries)
        self._accepted.add(opening)
        return value

    async def wait(self, poll: JobPoll, log: Log) -> Finished | GaveUp:
        """Return how the job of `poll` ended, as `poll` decides; `log` gets what is worth a line.

        The first look is made at the next tick. Cancelling it disturbs nobody else.
        """
        while True:
            waiter = _Waiter(poll, log, asyncio.get_running_loop().create_future(), seconds=poll.interval)
            self._join(waiter)
            try:
                return await waiter.end
            except _WatchEndedError as error:
                log(logging.WARNING, f"Job {poll.job_id}: {error}; looking on")
                await asyncio.sleep(REPLACEMENT_SECONDS)
            finally:
                self._leave(waiter)

    async def close(self) -> None:
        """Stop watching and close the client."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        for opening in self._openings:
            opening.cancel()
        for client in set(await asyncio.gather(*self._openings, return_exceptions=True)):
            if isinstance(client, AsyncClient):
                await client.close()

    def _open(self) -> asyncio.Future[AsyncClient]:
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception())):
            if opening is not None:
                self._openings.discard(opening)
            self._opening = opening = asyncio.ensure_future(self._open_client())
            self._openings.add(opening)
        return opening

    def _join(self, waiter: _Waiter) -> None:
        self._waiters.setdefault(waiter.poll.job_id, []).append(waiter)
        if self._watching is None or self._watching.done():
            # In a context of its own, not in that of the task which happens to be the first.
            self._watching = Context().run(asyncio.ensure_future, self._watch())
            self._watching.add_done_callback(self._watch_ended)
        due = max(asyncio.get_running_loop().time() + waiter.seconds, self._quiet_until)
        if due < self._due:
            self._due = due
            self._sooner.set()

    def _leave(self, waiter: _Waiter) -> None:
        waiters = self._waiters.get(waiter.poll.job_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[waiter.poll.job_id]

    def _watch_ended(self, watching: asyncio.Task[None]) -> None:
        if watching is not self._watching:
            return
        error = None if watching.cancelled() else watching.exception()
        reason = f"watching was ended by {excerpt(repr(error))}" if error else "watching was cancelled"
        for waiters in list(self._waiters.values()):
            for waiter in waiters:
                if not waiter.end.done():
                    waiter.end.set_exception(_WatchEndedError(reason))

    async def _watch(self) -> None:
        now = asyncio.get_running_loop().time
        while self._waiters:
            began = now()
            await self._tick()
            waiting = [waiter for waiters in self._waiters.values() for waiter in waiters]
            if not waiting:
                return
            interval = min(waiter.poll.interval for waiter in waiting)
            # A slow API, or many deadlines one after the other, must not make it look all the time.
            pause = max(began + min(waiter.seconds for waiter in waiting) - now(), interval / 2)
            # Triggerers are not to march in step.
            self._due = now() + pause * (0.95 + random.random() / 10)  # noqa: S311
            while (left := self._due - now()) > 0:
                self._sooner.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._sooner.wait(), left)

    async def _tick(self) -> None:
        """Look once at each job that is waited for."""
        waited = set(self._waiters)
        left = set(waited)
        try:
            await self._walk(left)
        except ApiframeError as error:
            self._first_page = None
            # Whatever else makes the API refuse the list, it may still tell of each job.
            if not _is_about_the_list(error):
                await self._decide_each(dict.fromkeys(left, error))
                left.clear()
        await self._ask_each(left)
        self._seen = waited

    async def _walk(self, left: set[str]) -> None:
        """Look at the pages of the account, newest first, and take the jobs that they tell of out of `left`.

        It begins at the page where the newest job was met at the tick before, unless one is new. It ends when few are
        left, or when it meets none and the pages that told of none, as on an account where others are busy, are many
        for what is left.
        """
        cursor = self._first_page if left <= self._seen else None
        self._first_page = None
        met, fruitless = False, 0
        while len(left) > FEW:
            page = await self._ask(calls.list_jobs(cursor=cursor))
            found = {job.id: job for job in page.jobs if job.id in left and not _is_summary(job)}
            if found and not met:
                self._first_page, met = cursor, True
            left.difference_update(found)
            await self._decide_each(found)
            fruitless += not found
            cursor = page.next_cursor
            if cursor is None or (not found and len(left) <= FEW * (1 + fruitless)):
                return

    async def _ask_each(self, left: set[str]) -> None:
        """Ask for each job of `left` by itself, a few at a time, until the API fails as often in a row."""
        failures: list[ApiframeError] = []

        async def ask() -> None:
            while left and len(failures) < CONCURRENT_LOOKS:
                job_id = left.pop()
                try:
                    job = await self._ask(calls.get_job(job_id))
                except ApiframeError as error:
                    if not _is_about_the_job(error):
                        failures.append(error)
                    self._decide(job_id, error)
                else:
                    failures.clear()
                    self._decide(job_id, job)

        await asyncio.gather(*(ask() for _ in range(min(CONCURRENT_LOOKS, len(left)))))
        if failures:
            await self._decide_each(dict.fromkeys(left, failures[-1]))

    async def _ask(self, call: Call[T]) -> T:
        try:
            return await self.send(call, retries=0)
        except Exception as error:
            # While the API is in trouble, nobody new makes it look at once.
            self._quiet_until = asyncio.get_running_loop().time() + backoff(1, error)
            if isinstance(error, ApiframeError):
                raise
            # Airflow could not look up the connection just now, for example. The jobs are paid for: look on.
            raise NetworkError(f"{type(error).__name__}: {excerpt(str(error))}") from error

    async def _decide_each(self, seen: Mapping[str, Job | ApiframeError]) -> None:
        for n, (job_id, what) in enumerate(seen.items(), 1):
            self._decide(job_id, what)
            if n % DECISIONS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _decide(self, job_id: str, seen: Job | ApiframeError) -> None:
        now = time.time()
        for waiter in list(self._waiters.get(job_id, ())):
            on = waiter.poll.on_job(seen, now) if isinstance(seen, Job) else waiter.poll.on_error(seen, now)
            if not isinstance(on, Wait):
                self._leave(waiter)
                if not waiter.end.done():
                    waiter.end.set_result(on)
                continue
            waiter.seconds = on.seconds
            if on.news:
                waiter.context.run(waiter.log, on.level, on.news)


def _is_summary(job: Job) -> bool:
    """Tell whether a list leaves out what is needed of `job`: it is asked for by itself then."""
    return job.status == JobStatus.COMPLETED and job.video_url is None and not job.expired


def _is_about_the_job(error: ApiframeError) -> bool:
    """Tell whether `error` says nothing of how other jobs fare."""
    return error.from_api and isinstance(error, NotFoundError | BadRequestError)


def _is_about_the_list(error: ApiframeError) -> bool:
    """Tell whether `error` says nothing of how single jobs fare."""
    whole = AuthenticationError | CredentialsUnavailableError | InvalidInputError
    return not (error.transient or isinstance(error, whole))


@dataclass
class _Loop:
    """What the waiting of one event loop share: the look-ups under way, and one watcher for each account."""

    looking_up: dict[str, asyncio.Future[Settings]] = field(default_factory=dict)
    watchers: dict[tuple[str, Settings], JobWatcher] = field(default_factory=dict)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


@asynccontextmanager
async def shared_watcher(
    name: str,
    look_up: Callable[[], Awaitable[Settings]],
    connect: Callable[[Settings], AsyncClient] = AsyncClient,
) -> AsyncIterator[tuple[Settings, JobWatcher]]:
    """Share, for the length of the block, the watcher of the account to which the connection `name` leads now.

    All of one event loop who come while it leads to the same account share one. When it was changed, who comes gets
    another, and who is there already stays with the old key, under which its job was paid for. The last one's leaving
    closes a watcher.

    :param name: the connection.
    :param look_up: looks up what it holds now; one look-up serves all who come meanwhile.
    :param connect: makes the client (default: of httpx).
    :return: what the connection holds, and the watcher.
    :raises ApiframeError: what `look_up` or making the client raises.
    """
    shared = _loops.setdefault(asyncio.get_running_loop(), _Loop())
    settings = await _look_up(shared, name, look_up)
    watcher = shared.watchers.get((name, settings))
    if watcher is None:
        clients: list[AsyncClient] = []

        async def open_client() -> AsyncClient:
            now = settings
            if clients:
                # The key was refused. While no other is to be had, the old one may be accepted again.
                with suppress(CredentialsUnavailableError):
                    now = await look_up()
            if not clients or clients[-1].settings != now:
                clients.append(connect(now))
            return clients[-1]

        shared.watchers[name, settings] = watcher = JobWatcher(open_client)
    watcher.users += 1
    try:
        yield settings, watcher
    finally:
        watcher.users -= 1
        if watcher.users == 0:
            del shared.watchers[name, settings]
            await watcher.close()


async def _look_up(shared: _Loop, name: str, look_up: Callable[[], Awaitable[Settings]]) -> Settings:
    looking_up = shared.looking_up.get(name)
    if looking_up is None:
        shared.looking_up[name] = looking_up = asyncio.ensure_future(look_up())
        looking_up.add_done_callback(lambda _: shared.looking_up.pop(name))
    # The cancellation of one who waits for it disturbs no other.
    return await asyncio.shield(looking_up)


async def wait_for_job(
    poll: JobPoll,
    log: Log,
    name: str,
    look_up: Callable[[], Awaitable[Settings]],
    connect: Callable[[Settings], AsyncClient] = AsyncClient,
) -> Finished | GaveUp:
    """Wait for the job of `poll` in the watcher that `shared_watcher(name, look_up, connect)` tells.

    A look-up that fails is a look that failed: `poll` decides what follows.

    :param poll: decides.
    :param log: gets what is worth a line.
    :return: how the job ended, or why there is no use in waiting longer.
    """
    while True:
        try:
            async with shared_watcher(name, look_up, connect) as (_, watcher):
                return await watcher.wait(poll, log)
        except ApiframeError as error:
            on = poll.on_error(error, time.time())
        if not isinstance(on, Wait):
            return on
        if on.news:
            log(on.level, on.news)
        await asyncio.sleep(on.seconds)
