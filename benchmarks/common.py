"""What the benchmarks share: an Airflow, a sandbox in a process of its own, many submissions, percentiles."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx
import psutil  # type: ignore[import-untyped]

from airflow_provider_hailuo.sandbox.faults.rules import JOB_ROUTES

if TYPE_CHECKING:
    from airflow_provider_hailuo.sandbox.server import Stats

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "dev"))
from local_airflow import LocalAirflow as LocalAirflow  # noqa: E402, PLC0414 - for the others too

T = TypeVar("T")

Json = dict[str, Any]
SUBMISSIONS_AT_ONCE = 20
READY_SECONDS = 120.0
# With it the first render, the first 10, and the first 100 take close to the mean.
SEED = 129


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox in another process. Any thread may use it.

    `base_url` and `api_key` are what its clients need; `process` is where it runs.
    """

    base_url: str
    api_key: str
    process: psutil.Process
    http: httpx.Client

    @property
    def connection(self) -> dict[str, str]:
        """The fields of the Airflow connection that leads to it."""
        return {"conn_type": "hailuo", "host": self.base_url, "password": self.api_key}

    def stats(self) -> Stats:
        """Return what it has counted so far; this is not counted itself."""
        return cast("Stats", self.http.get("/sandbox/stats").raise_for_status().json())

    def set_faults(self, rules: Sequence[Json]) -> None:
        """Put these rules in force, in place of all others; they are when this returns."""
        self.http.put("/sandbox/faults", json=rules).raise_for_status()

    def jobs(self) -> Iterator[Json]:
        """Yield all jobs of the account, newest first. The pages that this asks for are counted."""
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = self.http.get("/v2/jobs", params=query).raise_for_status().json()
            yield from page["jobs"]
            if not page["hasMore"]:
                return
            query["cursor"] = page["nextCursor"]


@contextmanager
def sandbox(*, render_seconds: float, jitter: float = 0.1, seed: int = SEED) -> Iterator[RunningSandbox]:
    """Run a sandbox with credits for any number of videos in a process of its own, for the length of the block.

    Parameters: `render_seconds`, `jitter` and `seed` as of `Sandbox`. Render times are the same in every run.
    """
    options = {"port": 0, "credits": 10**9, "render-seconds": render_seconds, "jitter": jitter, "seed": seed}
    command = [sys.executable, "-m", "airflow_provider_hailuo.sandbox"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            told = json.loads(cast("Any", process.stdout).readline())
            headers = {"X-API-Key": told["api_key"]}
            with httpx.Client(base_url=told["base_url"], headers=headers, timeout=60, trust_env=False) as http:
                yield RunningSandbox(**told, process=psutil.Process(process.pid), http=http)
        finally:
            process.terminate()


@contextmanager
def airflow_on_postgres(
    files: Sequence[str], connections: Mapping[str, Mapping[str, str]], config: Mapping[str, str] | None = None
) -> Iterator[LocalAirflow]:
    """Run an Airflow on PostgreSQL with 8 worker processes, whose limits of tasks are lifted, for the block.

    :param files: the files of `benchmarks/dags` that it has.
    :param connections: the fields of its connections, by the DAGs that it must know; each has that of its name.
    :param config: more of its environment variables.
    """
    with tempfile.TemporaryDirectory(prefix="hailuo-bench-") as directory:
        dags = Path(directory, "dags")
        dags.mkdir()
        for file in files:
            shutil.copy(HERE / "dags" / file, dags)
        with LocalAirflow(
            Path(directory, "airflow"),
            dags,
            wait_for=connections,
            connections=connections,
            database="postgres",
            config={
                "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "10000",
                "AIRFLOW__CORE__PARALLELISM": "8",
                **(config or {}),
            },
        ) as airflow:
            yield airflow


async def submit(to: RunningSandbox, delays: Sequence[float], prompt: str = "Clouds") -> AsyncIterator[str]:
    """Submit one job after each of the `delays` (seconds from now), and yield its id as soon as it has one."""
    limit = asyncio.Semaphore(SUBMISSIONS_AT_ONCE)
    headers = {"X-API-Key": to.api_key}
    async with httpx.AsyncClient(base_url=to.base_url, headers=headers, timeout=60, trust_env=False) as http:

        async def one(delay: float) -> str:
            await asyncio.sleep(delay)
            async with limit:
                answer = await http.post("/v2/videos/generate", json={"prompt": prompt, "model": "hailuo-02"})
            return cast("str", answer.raise_for_status().json()["jobId"])

        for submitted in asyncio.as_completed([one(delay) for delay in delays]):
            yield await submitted


def at_once(measure: Callable[[T, Barrier], Json], batch: Sequence[T]) -> list[Json]:
    """Call `measure` for all of `batch` at the same time, and return their rows.

    Each of them waits at the barrier until all are ready to begin.
    """
    barrier = Barrier(len(batch), timeout=READY_SECONDS)
    with ThreadPoolExecutor(len(batch)) as threads:
        return list(threads.map(lambda one: measure(one, barrier), batch))


def status_requests(stats: Stats) -> int:
    """Return how often somebody asked for the status of jobs, one by one or by the page."""
    return sum(stats["requests"][route] for route in JOB_ROUTES)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds, of user and system, that a process has used, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least of the `values` such that `percent` of them all are not above it; NaN of none."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)] if values else math.nan


def progress(text: str) -> None:
    """Tell on stderr what goes on."""
    print(text, file=sys.stderr, flush=True)


def print_measured(measure: Callable[[bool], Json], about: str | None) -> None:
    """Be the program of a benchmark: `--quick` for the short form; what `measure` returns is printed as JSON.

    `about` is what `--help` says.
    """
    parser = ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    print(json.dumps(measure(parser.parse_args().quick), indent=2))
