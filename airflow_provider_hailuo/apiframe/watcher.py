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
from airflow_provider_hailuo.apiframe.models import Job
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

LOOK_UP_SECONDS = 60.0
"""How long a look-up of a connection may take, so that one that hangs lets nobody miss a deadline."""

FAILED_LOOK_UP_SECONDS = 1.0
"""How long a look-up that failed serves whoever comes: a secrets backend in trouble is not asked by each of a
thousand."""


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


@dataclass(eq=False)
class _Opening:
    """The client, once it is there, and whether the API has accepted its key since."""

    client: asyncio.Task[AsyncClient]
    accepted: bool = False


class JobWatcher:
    """Waits for any number of jobs of one account, in one event loop. Get it from `shared_watcher`.

    One task looks at all jobs at each tick: one by one while they are few, else page by page from the newest to the
    oldest, and one by one at those that no page told of. The interval between two ticks is the smallest that any of
    the waiting asks for.

    :param open_client: returns the client for all requests; it is awaited when the first is needed, and again when
        its key is refused, because it may have been replaced. It may return one that it returned before. All are
        closed with the watcher.
    """

    def __init__(self, open_client: Callable[[], Awaitable[AsyncClient]]) -> None:
        self.users = 0
        self._open_client = open_client
        self._opening: _Opening | None = None
        self._first: _Opening | None = None
        self._missed = False
        self._clients: list[AsyncClient] = []
        self._waiters: dict[str, list[_Waiter]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._due = 0.0
        self._sooner = asyncio.Event()
        self._seen: set[str] = set()
        self._first_page: str | None = None
        self._quiet_until = 0.0

    async def send(self, call: Call[T], *, retries: int | None = None) -> T:
        """Send a call through the shared client.

        A refused key is looked up anew, and this call, if the key was accepted before, or the next one is sent with
        what was found.

        :param call: what to send.
        :param retries: as for `AsyncClient.send`.
        :return: the value of the answer.
        :raises ApiframeError: also for what opening the client raises; the next call tries that anew.
        """
        try:
            return await self._send(call, retries, again=True)
        except ApiframeError:
            raise
        except Exception as error:
            # Of a look-up in Airflow, for example: it ends no wait for what is paid. What was sent may be paid for.
            raise NetworkError(f"{type(error).__name__}: {excerpt(str(error))}", in_doubt=call.creates) from error

    async def _send(self, call: Call[T], retries: int | None, *, again: bool) -> T:
        opening = self._open()
        # The cancellation of one who waits for it disturbs no other.
        client = await asyncio.shield(opening.client)
        try:
            value = await client.send(call, retries=retries)
        except (AuthenticationError, PermissionDeniedError) as error:
            # The key may have been replaced: whoever asks next looks it up.
            if error.from_api and opening is self._opening:
                self._opening = None
            if not (again and opening.accepted and error.from_api):
                raise
            return await self._send(call, retries, again=False)
        except NotFoundError as error:
            # Does the connection lead to another account now? Then the first key alone can tell of the job.
            self._missed |= error.from_api and call.job_id is not None and client is not self._clients[0]
            raise
        opening.accepted = True
        return value

    def take_first_client(self) -> None:
        """Go back to the client that was opened first: the connection leads to its account, or the jobs are there."""
        self._missed = False
        if self._first is not None and (self._opening is None or self._opening.client.done()):
            self._opening = self._first

    async def wait(self, poll: JobPoll, log: Log) -> Finished | GaveUp:
        """Wait for a job.

        The first look is made at the next tick. Cancelling it disturbs nobody else.

        :param poll: tells the job, and decides after each look.
        :param log: gets what is worth a line.
        :return: how the job ended, or why there is no use in waiting longer.
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
        """Stop watching and close the clients."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._opening is not None:
            self._opening.client.cancel()
            await asyncio.wait([self._opening.client])
        for client in self._clients:
            # Whatever a connection dies of that nobody needs any more, it spoils no video.
            with suppress(Exception):
                await client.close()

    def _open(self) -> _Opening:
        opening = self._opening
        if opening is None or _has_failed(opening.client):
            # None is replaced before it is done, so that this one alone may be under way.
            self._opening = opening = _Opening(asyncio.ensure_future(self._open_one()))
            if self._first is None or _has_failed(self._first.client):
                self._first = opening
        return opening

    async def _open_one(self) -> AsyncClient:
        client = await self._open_client()
        if client not in self._clients:
            self._clients.append(client)
        return client

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
        left, summaries = set(waited), set[str]()
        if self._missed:
            self.take_first_client()
        try:
            await self._walk(left, summaries)
        except ApiframeError as error:
            self._first_page = None
            # Whatever else makes the API refuse the list, it may still tell of each job.
            if not _is_about_the_list(error):
                await self._decide_each(dict.fromkeys(left | summaries, error))
                left, summaries = set(), set()
        self._seen = waited
        await self._ask_each(left | summaries)

    async def _walk(self, left: set[str], summaries: set[str]) -> None:
        """Look at the pages of the account, newest first, and take the jobs that they tell of out of `left`.

        Those whose URL they leave out go into `summaries`: they are asked for by themselves.

        It begins at the page where the newest job was met at the tick before, unless one is new. It ends when few are
        left, or when it meets none and the pages that told of none, as on an account where others are busy, are many
        for what is left.
        """
        cursor = self._first_page if left <= self._seen else None
        self._first_page = None
        met, fruitless = False, 0
        while len(left) > FEW:
            page = await self._ask(calls.list_jobs(cursor=cursor))
            found = {job.id: job for job in page.jobs if job.id in left}
            if found and not met:
                self._first_page, met = cursor, True
            left.difference_update(found)
            summaries.update(job.id for job in found.values() if job.lacks_url)
            await self._decide_each({job.id: job for job in found.values() if not job.lacks_url})
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
        except ApiframeError as error:
            # While the API is in trouble, nobody new makes it look at once.
            self._quiet_until = asyncio.get_running_loop().time() + backoff(1, error)
            raise

    async def _decide_each(self, seen: Mapping[str, Job | ApiframeError]) -> None:
        for n, (job_id, what) in enumerate(seen.items(), 1):
            self._decide(job_id, what)
            if n % DECISIONS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _decide(self, job_id: str, seen: Job | ApiframeError) -> None:
        now = time.time()
        for waiter in list(self._waiters.get(job_id, ())):
            poll = waiter.poll
            decision = poll.on_job(seen, now) if isinstance(seen, Job) else poll.on_error(seen, now)
            if not isinstance(decision, Wait):
                self._leave(waiter)
                if not waiter.end.done():
                    waiter.end.set_result(decision)
                continue
            waiter.seconds = decision.seconds
            if decision.news:
                waiter.context.run(waiter.log, decision.level, decision.news)


def _has_failed(task: asyncio.Task[T]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _is_about_the_job(error: ApiframeError) -> bool:
    """Tell whether `error` says nothing of how other jobs fare."""
    return error.from_api and isinstance(error, NotFoundError | BadRequestError)


def _is_about_the_list(error: ApiframeError) -> bool:
    """Tell whether `error` says nothing of how single jobs fare."""
    whole = AuthenticationError | CredentialsUnavailableError | InvalidInputError
    return not (error.transient or isinstance(error, whole))


@dataclass(eq=False)
class _LookUp:
    """A look-up and how many wait for it."""

    task: asyncio.Task[Settings]
    users: int = 0


@dataclass
class _Loop:
    """What the waiting of one event loop share: the look-ups, and one watcher for each account."""

    look_ups: dict[str, _LookUp] = field(default_factory=dict)
    watchers: dict[tuple[str, Settings], JobWatcher] = field(default_factory=dict)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


def known(settings: Settings) -> Callable[[], Awaitable[Settings]]:
    """Return a look-up for `shared_watcher` that tells what was looked up before.

    :param settings: what the connection was found to hold.
    :return: the look-up.
    """

    async def look_up() -> Settings:
        return settings

    return look_up


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
    :raises ApiframeError: what `look_up` raises.
    """
    shared = _loops.setdefault(asyncio.get_running_loop(), _Loop())
    settings = await _look_up(shared, name, look_up)
    watcher = shared.watchers.get((name, settings))
    if watcher is None:
        clients: dict[Settings, AsyncClient] = {}

        async def open_client() -> AsyncClient:
            if not clients:
                clients[settings] = connect(settings)
                return clients[settings]
            # The key was refused. While no other is to be had, the one before may be accepted again.
            with suppress(Exception):
                now = await _look_up(shared, name, look_up)
                # The last is the one in use.
                clients[now] = clients.pop(now) if now in clients else connect(now)
            return clients[next(reversed(clients))]

        shared.watchers[name, settings] = watcher = JobWatcher(open_client)
    watcher.take_first_client()
    watcher.users += 1
    try:
        yield settings, watcher
    finally:
        watcher.users -= 1
        if watcher.users == 0:
            del shared.watchers[name, settings]
            await watcher.close()


async def _look_up(shared: _Loop, name: str, look_up: Callable[[], Awaitable[Settings]]) -> Settings:
    """Look up a connection; one look-up serves all who come meanwhile, and a moment longer when it fails."""
    shares = shared.look_ups.get(name)
    if shares is None:
        shared.look_ups[name] = shares = _LookUp(asyncio.ensure_future(_look_up_in_time(name, look_up)))
        shares.task.add_done_callback(lambda task: _forget_later(shared, name, task))
    shares.users += 1
    try:
        # The cancellation of one who waits for it disturbs no other.
        return await asyncio.shield(shares.task)
    finally:
        shares.users -= 1
        if shares.users == 0 and not shares.task.done():
            _forget(shared, name, shares.task)
            shares.task.cancel()
            await asyncio.wait([shares.task])


async def _look_up_in_time(name: str, look_up: Callable[[], Awaitable[Settings]]) -> Settings:
    try:
        return await asyncio.wait_for(look_up(), LOOK_UP_SECONDS)
    except ApiframeError:
        raise
    except asyncio.TimeoutError:
        reason = f"it takes longer than {LOOK_UP_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - whatever a secrets backend raises, and its text may cite the key
        reason = type(error).__name__
    raise CredentialsUnavailableError(f"The connection {name!r} could not be looked up: {reason}")


def _forget(shared: _Loop, name: str, task: asyncio.Task[Settings]) -> None:
    if name in shared.look_ups and shared.look_ups[name].task is task:
        del shared.look_ups[name]


def _forget_later(shared: _Loop, name: str, task: asyncio.Task[Settings]) -> None:
    if _has_failed(task):
        asyncio.get_running_loop().call_later(FAILED_LOOK_UP_SECONDS, _forget, shared, name, task)
    else:
        _forget(shared, name, task)


async def wait_for_job(
    poll: JobPoll,
    log: Log,
    name: str,
    look_up: Callable[[], Awaitable[Settings]],
    connect: Callable[[Settings], AsyncClient] = AsyncClient,
) -> Finished | GaveUp:
    """Wait for a job in the watcher that `shared_watcher` gives.

    A look-up that fails is a look that failed: `poll` decides what follows.

    :param poll: tells the job, and decides after each look.
    :param log: gets what is worth a line.
    :param name: as for `shared_watcher`.
    :param look_up: as for `shared_watcher`.
    :param connect: as for `shared_watcher`.
    :return: how the job ended, or why there is no use in waiting longer.
    """
    while True:
        try:
            async with shared_watcher(name, look_up, connect) as (_, watcher):
                return await watcher.wait(poll, log)
        except ApiframeError as error:
            decision = poll.on_error(error, time.time())
        if not isinstance(decision, Wait):
            return decision
        if decision.news:
            log(decision.level, decision.news)
        await asyncio.sleep(decision.seconds)
