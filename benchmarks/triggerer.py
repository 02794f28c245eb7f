"""What one real triggerer costs while tasks wait in it for videos of 180 s: CPU, memory, lag, time to take them up.

An Airflow is started, then all of it is ended but the triggerer. Deferred tasks and their triggers are put into its
database with Airflow's own models; each measurement has a triggerer and a sandbox of its own. What the triggers do:

- idle: they await an event for ever. This is the floor.
- one poller per trigger: each polls its own job every 5 s, all through one client with at most 20 requests at once.
- ours: `HailuoJobTrigger`, `poll_interval` 5 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from common import (
    Json,
    LocalAirflow,
    RunningSandbox,
    cpu_seconds,
    percentile,
    print_measured,
    progress,
    sandbox,
    status_requests,
    submit,
)

DAG_ID = "waiting"
PROMPT = "Time-lapse of clouds over a mountain range, warm golden light"
DAG = f"""
from airflow.sdk import DAG
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

with DAG("{DAG_ID}", schedule=None):
    HailuoGenerateOperator(task_id="video", prompt="{PROMPT}")
"""

CONN_ID = "hailuo_default"
INTERVAL_SECONDS = 5.0
RENDER_SECONDS = 180.0
RENDER_SECONDS_PER_TASK = 0.08
PATIENCE_SECONDS = 100.0
PROBE_SECONDS = 0.02
PROBE_PAUSE_SECONDS = 1.0

TriggerRow = tuple[str, Json]
"""The class path of a trigger and its arguments."""


def idle(_: str) -> TriggerRow:
    """Return a trigger that waits for nothing."""
    return "triggerer_triggers.IdleTrigger", {}


def poller(job_id: str) -> TriggerRow:
    """Return a trigger that polls its own job."""
    arguments = {"job_id": job_id, "conn_id": CONN_ID, "interval": INTERVAL_SECONDS}
    return "triggerer_triggers.PollingTrigger", arguments


def ours(job_id: str) -> TriggerRow:
    """Return the trigger of this provider."""
    arguments = {
        "job_id": job_id,
        "hailuo_conn_id": CONN_ID,
        "poll_interval": INTERVAL_SECONDS,
        "deadline": time.time() + 3600,
        "request": {"prompt": PROMPT, "model": "hailuo-02", "resolution": "768p", "duration": 6},
        "end_from_trigger": False,
    }
    return "airflow_provider_hailuo.triggers.hailuo.HailuoJobTrigger", arguments


def probe_trigger(path: Path) -> TriggerRow:
    """Return the trigger that measures, whatever else there is, how late the event loop is."""
    arguments = {"conn_id": CONN_ID, "path": str(path), "pause": PROBE_PAUSE_SECONDS, "period": PROBE_SECONDS}
    return "triggerer_triggers.ProbeTrigger", arguments


CONTENDERS: dict[str, Callable[[str], TriggerRow]] = {
    "idle": idle,
    "one poller per trigger": poller,
    "ours": ours,
}


@dataclass(frozen=True)
class Case:
    """What waits in the triggerer.

    `waiting` tasks of a contender, and on the account `older` jobs of others that are final and `newer` ones that are
    still being rendered, submitted before and after the jobs of the tasks.
    """

    contender: str
    waiting: int
    older: int = 0
    newer: int = 0


@dataclass(frozen=True)
class Plan:
    """Which cases to measure, each over `window` seconds that begin `settle` seconds after the pick-up."""

    cases: Sequence[Case]
    settle: float
    window: float


FULL = Plan(
    [
        Case("idle", 0),
        *(Case(contender, 100) for contender in ("idle", "ours")),
        *(Case(contender, 1000) for contender in CONTENDERS),
        *(Case(contender, 5000) for contender in ("idle", "ours")),
        Case("ours", 1000, older=9000, newer=1000),
    ],
    settle=6,
    window=30,
)
QUICK = Plan([Case("idle", 300), Case("ours", 300)], settle=2, window=6)


@dataclass(frozen=True)
class Triggerer:
    """The processes of a triggerer: `supervisor` talks to the database, `runner` is its child with the event loop."""

    supervisor: psutil.Process
    runner: psutil.Process

    def cpu_seconds(self) -> tuple[float, float]:
        """Return what runner and supervisor have used so far, in CPU seconds."""
        return cpu_seconds(self.runner), cpu_seconds(self.supervisor)

    def memory(self) -> tuple[int, int]:
        """Return what runner and supervisor have for themselves (USS), in bytes."""
        return self.runner.memory_full_info().uss, self.supervisor.memory_full_info().uss


class Stage:
    """An Airflow of which nothing runs, and what is needed to measure its triggerer.

    Parameters: `airflow`, whose components were killed; `inside`, a process in its environment.
    """

    def __init__(self, airflow: LocalAirflow, inside: Executor) -> None:
        self._airflow = airflow
        self._inside = inside
        self._runs = 0

    def measure(self, case: Case, settle: float, window: float) -> Json:
        """Measure a case in a triggerer and with a sandbox of its own, and return its row of the result."""
        self._runs += 1
        run_id = f"run_{self._runs}"
        probe = self._airflow.home / f"{run_id}.probe"
        logs = self._airflow.home / f"logs/dag_id={DAG_ID}/run_id={run_id}"
        # Renders have to last until the window ends, also where it takes long to take up all tasks.
        render_seconds = max(RENDER_SECONDS, RENDER_SECONDS_PER_TASK * case.waiting)
        with sandbox(render_seconds=render_seconds, jitter=0.2) as api:
            triggers = [CONTENDERS[case.contender](job_id) for job_id in asyncio.run(_submit(api, case))]
            self._do("begin", run_id, {"conn_id": CONN_ID, **api.connection})
            self._do("defer", [probe_trigger(probe)])
            with self._triggerer(probe) as triggerer:
                unused = triggerer.memory()
                self._airflow.until(lambda: probe.stat().st_size, PATIENCE_SECONDS)
                empty = triggerer.memory()
                inserted = self._do("defer", triggers)
                # It is a result, too, if it does not pick up all of them.
                with suppress(TimeoutError):
                    self._airflow.until(lambda: len(_logs(logs)) == 1 + case.waiting, PATIENCE_SECONDS)
                time.sleep(settle)
                seen = self._window(triggerer, api, probe, window)
                still_waiting = self._do("deferred") - 1
            starts = sorted(_started(log) for log in _logs(logs) if log.stat().st_size)[1:]
        row = {
            "contender": case.contender,
            "foreign_jobs": case.older + case.newer,
            "waiting": case.waiting,
            "picked_up": len(starts),
            "still_waiting": still_waiting,
            "pick_up_seconds": starts[-1] - inserted if starts and len(starts) == case.waiting else None,
            **seen,
            "kb_per_job": (1000 * seen["memory_mb"] - sum(empty) / 1000) / len(starts) if starts else None,
            "first_connection_mb": (sum(empty) - sum(unused)) / 1e6,
        }
        progress(f"triggerer: {row}")
        return row

    def _window(self, triggerer: Triggerer, api: RunningSandbox, probe: Path, seconds: float) -> Json:
        """Watch a triggerer for some seconds, and return what it used and how late its event loop was."""
        requests, cpu, start = status_requests(api.stats()), triggerer.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        used, end = triggerer.cpu_seconds(), time.monotonic()
        requests = status_requests(api.stats()) - requests
        runner_cpu, supervisor_cpu = (100 * (b - a) / (end - start) for a, b in zip(cpu, used, strict=True))
        runner_mb, supervisor_mb = (own / 1e6 for own in triggerer.memory())
        self._airflow.until(lambda: _samples(probe)[-1][0] > end, PATIENCE_SECONDS)
        lags = _lags([late for at, late in _samples(probe) if at > start and at - late < end])
        return {
            "cpu_percent": runner_cpu + supervisor_cpu,
            "runner_cpu_percent": runner_cpu,
            "supervisor_cpu_percent": supervisor_cpu,
            "memory_mb": runner_mb + supervisor_mb,
            "runner_memory_mb": runner_mb,
            "supervisor_memory_mb": supervisor_mb,
            "lag_p50_ms": percentile(lags, 50),
            "lag_p99_ms": percentile(lags, 99),
            "lag_max_ms": max(lags),
            "requests_per_second": requests / (end - start),
        }

    @contextmanager
    def _triggerer(self, probe: Path) -> Iterator[Triggerer]:
        """Run a triggerer; it has started the first trigger when the block begins."""
        self._airflow.start("triggerer")
        try:
            self._airflow.until(probe.exists, PATIENCE_SECONDS)
            supervisor = psutil.Process(self._airflow.pid("triggerer"))
            (runner,) = supervisor.children(recursive=True)
            yield Triggerer(supervisor, runner)
        finally:
            self._airflow.kill("triggerer")

    def _do(self, operation: str, *arguments: Any) -> Any:
        """Call a function of `triggerer_rows.py` inside Airflow's environment, and return what it returns."""
        return self._inside.submit(_call, operation, DAG_ID, *arguments).result()


def _enter(environment: dict[str, str]) -> None:
    os.environ.update(environment, AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING")
    # Airflow logs to stdout, which is for the result.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _call(operation: str, *arguments: Any) -> Any:
    return getattr(import_module("triggerer_rows"), operation)(*arguments)


async def _submit(api: RunningSandbox, case: Case) -> list[str]:
    """Submit the jobs of the tasks and, before and after them, those of others; return the ids of the first."""
    for _ in [job_id async for job_id in submit(api, [0] * case.older, "[[slow: 0]]")]:
        pass
    job_ids = [job_id async for job_id in submit(api, [0] * case.waiting)]
    for _ in [job_id async for job_id in submit(api, [0] * case.newer)]:
        pass
    return job_ids


def _logs(run: Path) -> list[Path]:
    """Return the logs of the triggers of a run that have started; each has one from its start on."""
    return list(run.glob("task_id=*/map_index=*/*"))


def _started(log: Path) -> float:
    """Return when a trigger started, as the first line of its log tells, in seconds since the epoch."""
    with log.open() as lines:
        return datetime.fromisoformat(json.loads(next(lines))["timestamp"]).timestamp()


def _samples(probe: Path) -> list[tuple[float, float]]:
    """Return what `ProbeTrigger` has written so far."""
    return list(struct.iter_unpack("dd", probe.read_bytes()))


def _lags(late: Sequence[float]) -> list[float]:
    """Return how late (in ms) callbacks would be that come due every `PROBE_SECONDS`, whatever the loop does.

    `late` are the seconds by which a sleep of that length was too long, again and again. During a long one more
    callbacks would have come due: each would have waited for the rest of it.
    """
    return [1000 * (long - n * PROBE_SECONDS) for long in late for n in range(1 + int(long / PROBE_SECONDS))]


@contextmanager
def _stage() -> Iterator[Stage]:
    # Each trigger has a log file that stays open.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="hailuo-triggerer-") as directory:
        dags = Path(directory, "dags")
        dags.mkdir()
        (dags / f"{DAG_ID}.py").write_text(DAG)
        config = {
            "PYTHONPATH": str(Path(__file__).parent),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__TRIGGERER__CAPACITY": "10000",
        }
        with LocalAirflow(Path(directory, "airflow"), dags, wait_for=[DAG_ID], config=config) as airflow:
            for component in "scheduler", "dag-processor", "triggerer", "api-server":
                airflow.kill(component)
            with ProcessPoolExecutor(1, get_context("spawn"), _enter, (airflow.environment,)) as inside:
                yield Stage(airflow, inside)


def _compared(row: Json, rows: Sequence[Json]) -> Json:
    """Return a row with what it has above the one of as many idle triggers, and with what is wrong with it."""
    (floor,) = (other for other in rows if other["contender"] == "idle" and other["waiting"] == row["waiting"])
    above = {name: row[name] - floor[name] for name in ("cpu_percent", "memory_mb")}
    why = None
    if row["picked_up"] < row["waiting"]:
        why = f"after {PATIENCE_SECONDS:g} s only {row['picked_up']} had been picked up"
    elif row["still_waiting"] < row["waiting"]:
        why = f"{row['waiting'] - row['still_waiting']} did not wait until the end"
    return {
        **row,
        "cpu_percent_above_idle": None if why else above["cpu_percent"],
        "kb_per_job_above_idle": None if why or not row["waiting"] else 1000 * above["memory_mb"] / row["waiting"],
        "why": why,
    }


NOTES = [
    "One poller per trigger is run with 1000 only: with 5000 it cannot keep up, as the part about requests shows.",
    (
        "One `airflow triggerer` on SQLite, logging level INFO (Airflow's default), capacity 10000; no other part of "
        "Airflow runs. Task instances and triggers are made with Airflow's own models, and picked up as any others."
    ),
    (
        "CPU is user and system time of the process tree: the runner has the event loop, the supervisor talks to the "
        "database and writes the logs. Memory is what the two have for themselves (USS), in MB of 10^6 bytes."
    ),
    (
        "kB per job: above the same triggerer before the tasks came; above idle: above a triggerer with as many idle "
        "triggers. Both hold what does not depend on the number of jobs, such as modules that are imported."
    ),
    (
        "Each triggerer, the idle ones too, has looked up a connection before, as any trigger that talks to an API "
        "does: that alone takes `first_connection_mb`, once."
    ),
    (
        f"Lag: how late callbacks are that come due every {1000 * PROBE_SECONDS:g} ms, whether the loop runs or not. "
        "A trigger measures it from within; it costs the same everywhere."
    ),
    (
        f"Renders take {RENDER_SECONDS:g} s, or {RENDER_SECONDS_PER_TASK:g} s per task if that is more, so that none "
        "ends in the window; 20 % up or down. All are submitted at once, before the triggerer starts."
    ),
    "Foreign jobs: 9000 older ones, which are final, and 1000 newer ones, which are still being rendered.",
    (
        "The pick-up ends when the last trigger starts, as its log tells. Airflow takes 50 in one go. Its supervisor "
        "reads 4 kB of what triggers log between two rounds of database queries, and who logs meanwhile waits: what "
        "triggers log makes the pick-up slow."
    ),
    "The greatest lag is often a full garbage collection of Python, which strikes once in a while.",
]


def measure(quick: bool) -> Json:
    """Measure all cases, or with `quick` two small ones, and return `rows` and `notes`.

    A row tells of a triggerer in which `waiting` tasks of one `contender` wait, with `foreign_jobs` on the account:

    - `picked_up`: how many of the triggers started; `pick_up_seconds`: from their insertion until the last start.
    - `still_waiting`: how many tasks are deferred when it is over.
    - `cpu_percent` of one core, of it `runner_cpu_percent` and `supervisor_cpu_percent`; `cpu_percent_above_idle`.
    - `memory_mb`, of it `runner_memory_mb` and `supervisor_memory_mb`; `kb_per_job`, `kb_per_job_above_idle`.
    - `first_connection_mb`: memory that the first look-up of a connection took.
    - `lag_p50_ms`, `lag_p99_ms`, `lag_max_ms`: of the event loop.
    - `requests_per_second`: for the status of jobs, as the API counts them.
    - `why`: what is wrong with the figures, None when nothing is.
    """
    plan = QUICK if quick else FULL
    with _stage() as stage:
        rows = [stage.measure(case, plan.settle, plan.window) for case in plan.cases]
    return {"rows": [_compared(row, rows) for row in rows], "notes": NOTES}


if __name__ == "__main__":
    print_measured(measure, __doc__)
