"""What waiting for videos costs the API and the user: requests, delay and CPU, ours beside what is done elsewhere.

Some renders are in flight at once, and one process waits for all of them. Who waits:

- documented loop: the vendor's quick start, a GET every 2 s; a thread for each video stands for a worker process.
- one poller per trigger: a coroutine for each video, a GET every 5 s, all through one client. The openai and http
  providers' triggers work like that, but with a client for each, or blocking the loop: this is the kind form.
- ours: a `HailuoJobTrigger` for each video, `poll_interval` 5 s.

Renders of 180 s, 10 % up or down, are submitted at random moments within 30 s. Each run has a new sandbox, whose
render times are the same in all. Scaled by 10, all of these times are a tenth.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from random import Random
from statistics import mean
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any, cast

import httpx
import pendulum
import requests
from common import (
    Json,
    RunningSandbox,
    at_once,
    cpu_seconds,
    percentile,
    print_measured,
    progress,
    sandbox,
    status_requests,
    submit,
)

RENDER_SECONDS = 180.0
SPREAD_SECONDS = 30.0
FINAL = ("COMPLETED", "FAILED", "CANCELLED")
DEADLINE_SECONDS = 3600.0
# Fewer requests than this share of those due, or a p95 of the delay of more intervals than this: it looks late.
DUE_SHARE = 0.9
LATE_INTERVALS = 1.2
SCALE = 10

Wait = Callable[[str], Awaitable[float]]
"""Waits until the job with this id is final; returns the moment it knew (seconds since the epoch), or raises."""


@dataclass(frozen=True)
class Site:
    """Where to wait and how: the API, its key, the poll interval in seconds, and a directory for Airflow."""

    base_url: str
    api_key: str
    interval: float
    airflow_home: str


@dataclass(frozen=True)
class Contender:
    """A way to wait.

    - `interval`: seconds between two polls.
    - `start`: starts it inside the waiting process.
    - `each`: whether it asks for each job by itself at each interval.
    """

    interval: float
    start: Callable[[Site], AbstractAsyncContextManager[Wait]]
    each: bool


@dataclass(frozen=True)
class Waited:
    """What became of the waiters of one process.

    - `known`: the moment (seconds since the epoch) at which the waiter for a job knew that it was final.
    - `lost`: how many waiters died, by the name of the error.
    - `forgotten`: how many still waited when patience ended.
    - `cpu_seconds`: what the process used from its first waiter to its last.
    """

    known: dict[str, float]
    lost: dict[str, int]
    forgotten: int
    cpu_seconds: float


def documented_loop(site: Site, job_id: str) -> float:
    """Poll as the vendor's page does: no time-out, no look at the HTTP status."""
    while True:
        job = requests.get(  # noqa: S113 - as it stands there
            f"{site.base_url}/v2/jobs/{job_id}",
            headers={"X-API-Key": site.api_key},
        ).json()
        if job["status"] in ("COMPLETED", "FAILED"):
            return time.time()
        time.sleep(site.interval)


@asynccontextmanager
async def documented_loops(site: Site) -> AsyncIterator[Wait]:
    """Wait in a thread for each job."""
    with ThreadPoolExecutor(max_workers=10_000) as threads:

        async def wait(job_id: str) -> float:
            return await asyncio.get_running_loop().run_in_executor(threads, documented_loop, site, job_id)

        yield wait


@asynccontextmanager
async def pollers(site: Site) -> AsyncIterator[Wait]:
    """Wait in a coroutine for each job, all with one client; an error ends it, as it ends a trigger."""
    # What httpx lets through at once. Thousands in its own queue make it slow, which is not what is measured here.
    connections = asyncio.Semaphore(100)
    async with httpx.AsyncClient(base_url=site.base_url, headers={"X-API-Key": site.api_key}, timeout=30) as client:

        async def wait(job_id: str) -> float:
            while True:
                async with connections:
                    answer = await client.get(f"/v2/jobs/{job_id}")
                if answer.raise_for_status().json()["status"] in FINAL:
                    return time.time()
                await asyncio.sleep(site.interval)

        yield wait


@asynccontextmanager
async def ours(site: Site) -> AsyncIterator[Wait]:
    """Wait in a trigger of this provider for each job."""
    connection = {"conn_type": "hailuo", "host": site.base_url, "password": site.api_key}
    os.environ["AIRFLOW_CONN_HAILUO_DEFAULT"] = json.dumps(connection)
    os.environ["AIRFLOW_HOME"] = site.airflow_home
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
    # Airflow reads its environment when it is imported.
    from airflow_provider_hailuo.triggers.hailuo import HailuoJobTrigger, raise_unless_finished  # noqa: PLC0415

    async def wait(job_id: str) -> float:
        deadline = time.time() + DEADLINE_SECONDS
        trigger = HailuoJobTrigger(job_id=job_id, poll_interval=site.interval, deadline=deadline)
        async with aclosing(cast("Any", trigger.run())) as events:
            event = await anext(events)
            known = time.time()
        raise_unless_finished(event.payload)
        return known

    yield wait


CONTENDERS = {
    "documented loop": Contender(2.0, documented_loops, each=True),
    "one poller per trigger": Contender(5.0, pollers, each=True),
    "ours": Contender(5.0, ours, each=False),
}


def wait_for_all(contender: str, site: Site, patience: float, pipe: Connection) -> None:
    """Be the waiting process: say that it is ready, take job ids until None comes, answer with what became of them.

    Parameters: `contender`, one of `CONTENDERS`; `patience`, how many seconds to wait after the last id.
    """
    os.environ["NO_PROXY"] = "127.0.0.1"
    asyncio.run(_wait_for_all(contender, site, patience, pipe))


async def _wait_for_all(contender: str, site: Site, patience: float, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    waiters: dict[str, asyncio.Future[float]] = {}
    async with CONTENDERS[contender].start(site) as wait:
        pipe.send("ready")
        start = time.process_time()

        def begin(job_id: str) -> None:
            waiters[job_id] = asyncio.ensure_future(wait(job_id))

        def take() -> None:
            while job_id := pipe.recv():
                loop.call_soon_threadsafe(begin, job_id)

        # In a thread, so that a loop that is late makes no submission late.
        await loop.run_in_executor(None, take)
        await asyncio.wait(waiters.values(), timeout=patience)
        used = time.process_time() - start
        ended = {job_id: waiter for job_id, waiter in waiters.items() if waiter.done()}
        errors = {job_id: waiter.exception() for job_id, waiter in ended.items()}
        pipe.send(
            Waited(
                known={job_id: waiter.result() for job_id, waiter in ended.items() if errors[job_id] is None},
                lost=Counter(type(error).__name__ for error in errors.values() if error),
                forgotten=len(waiters) - len(ended),
                cpu_seconds=used,
            )
        )


@contextmanager
def waiting_process(contender: str, box: RunningSandbox, interval: float, patience: float) -> Iterator[Connection]:
    """Run `wait_for_all` in a process of its own for the length of the block; yield the pipe to it, once ready."""
    context = get_context("spawn")
    here, there = context.Pipe()
    with TemporaryDirectory(prefix="hailuo-bench-") as home:
        site = Site(box.base_url, box.api_key, interval, home)
        process = context.Process(target=wait_for_all, args=(contender, site, patience, there), daemon=True)
        process.start()
        there.close()  # so that its death is the end of the pipe
        try:
            here.recv()
            yield here
        finally:
            process.kill()
            process.join()


@dataclass(frozen=True)
class Run:
    """One run: who waits, for how many jobs, and by what all times are divided."""

    contender: str
    jobs: int
    scale: int


def runs(contenders: Sequence[str], levels: Sequence[int], scale: int) -> list[Run]:
    """Return the runs of each of the `contenders` with each number of jobs in `levels`."""
    return [Run(contender, jobs, scale) for contender, jobs in product(contenders, levels)]


# Runs of one batch go on at the same time. Only light ones share a batch, all others have the machine for themselves.
FULL = [
    runs(list(CONTENDERS), [1, 10], SCALE),
    *([run] for run in runs(list(CONTENDERS), [100], SCALE)),
    runs(list(CONTENDERS), [100], 1),
    *([run] for run in runs(list(CONTENDERS), [1000], 1)),
    *([run] for run in runs(["one poller per trigger", "ours"], [5000], 1)),
]
QUICK = [
    runs(["documented loop"], [1, 10], SCALE)
    + runs(["one poller per trigger"], [1, 10, 100], SCALE)
    + runs(["ours"], [1, 10, 100, 1000], SCALE)
]
NOTES = [
    f"Renders take {RENDER_SECONDS:g} s, 10 % up or down; submitted at random moments in {SPREAD_SECONDS:g} s.",
    f"Scale {SCALE}: these times and the poll intervals are a {SCALE}th. Render times are told as if not.",
    "Requests are counted by the API's side: GET /v2/jobs/{id} and GET /v2/jobs.",
    "The delay is the moment at which the waiter knows less the job's completedAt, by the same clock.",
    "The documented loop is not run with 5000 renders: that is 5000 worker processes, on any number of machines.",
    "The documented loop runs as a thread per video: its CPU is that of the requests, without a worker process each.",
    "One poller per trigger has one client for all; the openai and http providers' triggers do not share theirs.",
    f"`why`: below {DUE_SHARE:.0%} of the requests due, or delays (p95) above {LATE_INTERVALS:g} intervals.",
    "Left out (None): what that spoils and nobody would run: scaled, or a process full of documented loops.",
    "With one job in flight a delay is a single draw.",
]


def measure(quick: bool) -> Json:
    """Measure all runs, or with `quick` those of a minute, and return `rows` and `notes`.

    A row tells of one `contender` with this many `jobs` in flight at that `scale`:

    - `render_seconds`: mean time of a render.
    - `requests_per_video`: for its status.
    - `delay_p50_intervals`, `_p95_`, `_max_`: from the end of a render until its waiter knows, in poll intervals.
    - `delay_p50_seconds` and so on: the same in seconds, and `peak_requests_per_second`: those in the busiest second;
      None where times are scaled.
    - `cpu_seconds_per_video`: of the waiting process.
    - `waiting_cpu_percent`, `sandbox_cpu_percent`: how busy each was during the run, of one core.
    - `lost`: waiters that died, and `errors`: of what; `forgotten`: waiters that never heard of their job.
    - `why`: what is wrong with the figures, None when nothing is.
    """
    rows = [row for batch in (QUICK if quick else FULL) for row in at_once(measure_run, batch)]
    return {"rows": rows, "notes": NOTES}


def measure_run(run: Run, barrier: Barrier) -> Json:
    """Let the waiters of one run wait, from the `barrier` on, and return the row about them."""
    contender = CONTENDERS[run.contender]
    interval = contender.interval / run.scale
    render = RENDER_SECONDS / run.scale
    draw = Random(run.jobs)  # noqa: S311 - the same moments for all contenders
    delays = [draw.uniform(0, SPREAD_SECONDS / run.scale) for _ in range(run.jobs)]
    with (
        sandbox(render_seconds=render) as box,
        waiting_process(run.contender, box, interval, patience=2 * render + 120) as pipe,
    ):
        barrier.wait()
        cpu, began = cpu_seconds(box.process), time.monotonic()
        waited, peak = asyncio.run(_wait(box, pipe, delays))
        cpu, seconds = cpu_seconds(box.process) - cpu, time.monotonic() - began
        asked = status_requests(box.stats())
        jobs = {job["id"]: job for job in box.jobs()}
    ended = {job_id: moment(job["completedAt"]) for job_id, job in jobs.items() if job["completedAt"]}
    renders = [at - moment(jobs[job_id]["createdAt"]) for job_id, at in ended.items()]
    late = [known - ended[job_id] for job_id, known in waited.known.items()]
    due = mean(renders) / interval + 1
    p95 = percentile(late, 95) / interval
    why = []
    if contender.each and asked < DUE_SHARE * due * run.jobs:
        why.append(f"{asked / run.jobs:.0f} of {due:.0f} requests per video were made")
    if p95 > LATE_INTERVALS:
        why.append(f"delays of {p95:.1f} intervals (p95)")
    unreal = why and (run.scale > 1 or run.contender == "documented loop")
    figures = {
        "requests_per_video": asked / run.jobs,
        "peak_requests_per_second": peak if run.scale == 1 else None,
        **{f"delay_{name}_intervals": delay / interval for name, delay in spread(late).items()},
        **{f"delay_{name}_seconds": delay if run.scale == 1 else None for name, delay in spread(late).items()},
        "cpu_seconds_per_video": waited.cpu_seconds / run.jobs,
    }
    row = {
        **asdict(run),
        "render_seconds": mean(renders) * run.scale,
        **(dict.fromkeys(figures) if unreal else figures),
        "waiting_cpu_percent": 100 * waited.cpu_seconds / seconds,
        "sandbox_cpu_percent": 100 * cpu / seconds,
        "lost": sum(waited.lost.values()),
        "errors": waited.lost,
        "forgotten": waited.forgotten,
        "why": "looks late: " + ", ".join(why) if why else None,
    }
    progress(f"polling: {row}")
    return row


def spread(delays: Sequence[float]) -> dict[str, float]:
    """Return the middle, the 95th percentile and the greatest of some delays, by name."""
    return {name: percentile(delays, percent) for name, percent in (("p50", 50), ("p95", 95), ("max", 100))}


def moment(timestamp: str) -> float:
    """Return the seconds since the epoch that a timestamp of the API tells."""
    return cast("pendulum.DateTime", pendulum.parse(timestamp)).timestamp()


async def _wait(box: RunningSandbox, pipe: Connection, delays: Sequence[float]) -> tuple[Waited, float]:
    """Submit a job after each of the `delays`; return what became of the waiters, and the most requests a second."""
    samples: list[tuple[float, int]] = []

    async def sample() -> None:
        while True:
            samples.append((time.monotonic(), status_requests(await asyncio.to_thread(box.stats))))
            await asyncio.sleep(1)

    sampling = asyncio.create_task(sample())
    async for job_id in submit(box, delays):
        pipe.send(job_id)
    pipe.send(None)
    waited: Waited = await asyncio.to_thread(pipe.recv)
    sampling.cancel()
    return waited, max((b - a) / (t - s) for (s, a), (t, b) in pairwise(samples))


if __name__ == "__main__":
    print_measured(measure, __doc__)
