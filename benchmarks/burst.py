"""How long videos take that are wanted all at once, by the way of waiting, on PostgreSQL with one triggerer."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from common import (
    Json,
    LocalAirflow,
    RunningSandbox,
    airflow_on_postgres,
    cpu_seconds,
    percentile,
    print_measured,
    progress,
    sandbox,
)

CONTENDERS = {
    "idle_visits_0": "idle, no worker",
    "hailuo_visits_0": "ours, worker_visits=0",
    "hailuo_visits_1": "ours, worker_visits=1",
    "hailuo_visits_2": "ours, worker_visits=2",
    "idle_visits_2": "idle, two worker visits",
}
"""The DAGs of `benchmarks/dags`, and what they are called in results. A DAG's connection has the id of the DAG."""

RENDER_SECONDS = 30.0
PATIENCE_SECONDS = 900.0
RUNS_MADE_AT_ONCE = 8
WARNING = "async thread was blocked"

NOTES = [
    "One DAG run for each video, of a DAG of one task. All of them are released at the same moment.",
    (
        f"Renders take {RENDER_SECONDS:g} s, 10 % up or down, from the submission; idle tasks wait as long in "
        "Airflow's own TimeDeltaTrigger, which writes a line into its log every second: they are the floor."
    ),
    (
        "Start to success: from the release. COMPLETED to success: from the end of the render, of an idle task from "
        "the end of its time, until it is a success in Airflow's database."
    ),
    (
        "Airflow on PostgreSQL with one triggerer, logging level INFO, LocalExecutor with 8 processes, `[workers] "
        "min_heartbeat_interval` 1 s; its limits of runs and tasks are lifted, all else is its default."
    ),
    "What happens once in a triggerer's life is left out: each contender has made a video before.",
    "Loop blocked: how often Airflow warned that the triggerer's event loop stood still for more than 0.2 s.",
    (
        "Airflow's supervisor of a triggerer takes one message of its triggers, as an XCom is, between two rounds of "
        "some ten database queries: the triggerer's CPU tells how much of that there is, on a busy machine as well."
    ),
]


@dataclass(frozen=True)
class Stage:
    """An Airflow with the DAGs of the contenders, and the sandbox of all of them."""

    airflow: LocalAirflow
    api: RunningSandbox

    def measure(self, contender: str, videos: int) -> Json:
        """Let a contender make that many videos at once, and return its row of the result."""
        progress(f"burst: {CONTENDERS[contender]}, {videos}")
        self._pause(contender, paused=True)
        runs = [f"{videos}-{n}" for n in range(videos)]
        with ThreadPoolExecutor(RUNS_MADE_AT_ONCE) as threads:
            list(threads.map(lambda run_id: self.airflow.trigger(contender, run_id=run_id), runs))
        warnings, cpu, begun = self._warnings(), self._cpu_seconds(), time.time()
        self._pause(contender, paused=False)
        self._wait(contender)
        ended = self._ended(contender, f"{videos}-")
        ready = self._ready(contender, f"{videos}-")
        totals = [end - begun for end in ended.values()]
        late = [end - ready[run_id] for run_id, end in ended.items() if run_id in ready]
        row = {
            "contender": CONTENDERS[contender],
            "videos": videos,
            "succeeded": len(ended),
            "total_p50_seconds": percentile(totals, 50),
            "total_p95_seconds": percentile(totals, 95),
            "ready_spread_seconds": max(ready.values()) - min(ready.values()),
            "late_p50_seconds": percentile(late, 50),
            "late_p95_seconds": percentile(late, 95),
            "blocked": self._warnings() - warnings,
            "cpu_seconds_per_video": (self._cpu_seconds() - cpu) / videos,
        }
        progress(f"burst: {row}")
        return row

    def _pause(self, dag_id: str, *, paused: bool) -> None:
        self.airflow.request("PATCH", f"dags/{dag_id}", json={"is_paused": paused})

    def _wait(self, dag_id: str) -> None:
        """Wait until no run of a DAG goes on. Raises `TimeoutError`."""
        unended = "select 1 from dag_run where dag_id = %s and end_date is null limit 1"
        self.airflow.until(lambda: not self.airflow.query(unended, dag_id), PATIENCE_SECONDS)

    def _ended(self, dag_id: str, prefix: str) -> dict[str, float]:
        """Return when tasks became a success, in seconds since the epoch, by run id."""
        rows = self.airflow.query(
            "select run_id, end_date from task_instance where dag_id = %s and run_id like %s and state = 'success'",
            *(dag_id, f"{prefix}%"),
        )
        return {run_id: end.timestamp() for run_id, end in rows}

    def _ready(self, dag_id: str, prefix: str) -> dict[str, float]:
        """Return when videos were there, or the times of idle tasks over, in seconds since the epoch, by run id."""
        if dag_id.startswith("idle"):
            logs = (self.airflow.home / "logs" / f"dag_id={dag_id}").glob(f"run_id={prefix}*/*/*.trigger.*")
            wait = timedelta(seconds=RENDER_SECONDS)
            return {log.parts[-3].partition("=")[2]: (_started(log) + wait).timestamp() for log in logs}
        rows = self.airflow.query(
            "select run_id, value from xcom where dag_id = %s and run_id like %s and key = 'job'",
            dag_id,
            f"{prefix}%",
        )
        return {run_id: datetime.fromisoformat(job["completed"]).timestamp() for run_id, job in rows}

    def _cpu_seconds(self) -> float:
        """Return the CPU seconds that the triggerer has used so far, with its event loop's process."""
        supervisor = psutil.Process(self.airflow.pid("triggerer"))
        return sum(map(cpu_seconds, (supervisor, *supervisor.children(recursive=True))))

    def _warnings(self) -> int:
        log = self.airflow.home / "triggerer.log"
        return int(log.read_text(errors="replace").count(WARNING))


def _started(log: Path) -> datetime:
    """Return when a trigger started, as the first line of its log tells."""
    with log.open() as lines:
        return datetime.fromisoformat(json.loads(next(lines))["timestamp"])


@contextmanager
def stage(contenders: Sequence[str]) -> Iterator[Stage]:
    """Run an Airflow in which each of the contenders has made a video, and a sandbox."""
    # Each trigger has a log file that stays open.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = {"AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "10000", "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
    with (
        sandbox(render_seconds=RENDER_SECONDS) as api,
        airflow_on_postgres(["hailuo.py", "idle.py"], dict.fromkeys(contenders, api.connection), config) as airflow,
    ):
        for name in contenders:
            airflow.trigger(name, {"prompt": "[[slow: 1]] Clouds"}, "warm-up")
        for name in contenders:
            airflow.wait(name, "warm-up")
        yield Stage(airflow, api)


FULL: Mapping[str, Sequence[int]] = {
    "idle_visits_0": (1, 300, 1000),
    "hailuo_visits_0": (1, 300, 1000),
    "hailuo_visits_1": (1, 300, 1000),
    "hailuo_visits_2": (1, 300, 1000),
    "idle_visits_2": (1, 300, 1000),
}
QUICK: Mapping[str, Sequence[int]] = dict.fromkeys(("idle_visits_0", *list(FULL)[1:4]), (1, 60))
"""How many videos each contender makes at once."""


def measure(quick: bool) -> Json:
    """Let the contenders make videos at once, and return how long these took, as rows and notes.

    Parameters: `quick`, whether to run `QUICK` in place of `FULL`.
    """
    plan = QUICK if quick else FULL
    with stage(list(plan)) as on:
        rows = [on.measure(contender, videos) for contender, bursts in plan.items() for videos in bursts]
    return {"rows": rows, "notes": NOTES}


if __name__ == "__main__":
    print_measured(measure, __doc__)
