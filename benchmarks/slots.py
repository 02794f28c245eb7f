"""What a video costs the workers of a real Airflow, by the way of waiting: slots, processes, CPU."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple
from uuid import UUID

import psutil  # type: ignore[import-untyped]
from common import HERE, Json, LocalAirflow, print_measured, progress, status_requests

from airflow_provider_hailuo.sandbox import Sandbox

CONTENDERS = {
    "documented_loop": "documented loop",
    "http_sensor_poke": "HttpSensor, poke",
    "http_sensor_reschedule": "HttpSensor, reschedule",
    "http_sensor_deferrable": "HttpSensor, deferrable",
    "hailuo_on_worker": "ours, deferrable=False",
    "hailuo_visits_2": "ours, worker_visits=2",
    "hailuo_visits_1": "ours, worker_visits=1",
    "hailuo_visits_0": "ours, worker_visits=0",
}
"""The DAGs of `benchmarks/dags`, and what they are called in results. A DAG's connection has the id of the DAG."""

POLL_SECONDS = 5
REAL_RENDER_SECONDS = 180
SAMPLE_SECONDS = 0.1
PATIENCE_SECONDS = 180
OVERLAP_SECONDS = 3
TITLE = "airflow worker -- LocalExecutor: "

NOTES = [
    "A video is a DAG run, with all tasks of its DAG. The runs of a contender are released together.",
    f"Their render times are spread evenly over {POLL_SECONDS} s around the one told: no lucky moments.",
    "Slot seconds: how long worker processes of LocalExecutor are at work for it, by their titles in the OS.",
    "Worker CPU: user and system seconds, by the kernel, of these processes and of the task processes they await.",
    "Worker processes: task processes in the OS. Recorded starts: events `running` in Airflow's own audit log.",
    "Total seconds: from the release of a contender's DAG runs to their end in Airflow's database (SQLite); median.",
    "Intervals between two looks are not scaled: 2 s in the documented loop, 5 s elsewhere.",
    "Airflow 3.3 holds a worker up to `[workers] min_heartbeat_interval` seconds, by default 5, after its task.",
    "With 5 HttpSensor, reschedule, is queued again while its last worker lives, and Airflow fails it: hence 1 s.",
    "HttpSensor with deferrable=True and a response_check does not defer (`HttpSensor.execute`): it is poke mode.",
    "An Airflow makes videos before it is measured: what happens once in its life is left out (quick: in part).",
    f"At {REAL_RENDER_SECONDS} s (from the slope): the line through the videos of both render times, and its error.",
]


class Slots(Thread):
    """Watches the worker processes of a LocalExecutor, as long as its `with` block, and tells what they worked for.

    Parameters: `scheduler`, the process whose children they are.

    Attributes, by the id of a task instance: `seconds` that workers were at work for it; `cpu_seconds` that these
    and its task processes used; `processes`, the process ids of the latter.
    """

    def __init__(self, scheduler: psutil.Process) -> None:
        super().__init__(name="slots")
        self.seconds: defaultdict[UUID, float] = defaultdict(float)
        self.cpu_seconds: defaultdict[UUID, float] = defaultdict(float)
        self.processes: defaultdict[UUID, set[int]] = defaultdict(set)
        self._scheduler = scheduler
        self._last: dict[int, tuple[UUID | None, float, float]] = {}
        self._left = Event()

    def __enter__(self) -> Slots:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self.join()

    @property
    def busy(self) -> bool:
        """Whether a worker was at work when they were last looked at. Raises `RuntimeError` if nobody looks."""
        if not self.is_alive():
            raise RuntimeError("The watch over the workers has died")
        return any(task for task, _, _ in list(self._last.values()))

    def run(self) -> None:
        """Look at the processes again and again, until the block is left."""
        while not self._left.wait(SAMPLE_SECONDS):
            with suppress(psutil.NoSuchProcess):
                children = defaultdict(list)
                for process in self._scheduler.children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        children[process.ppid()].append(process)
                for worker in children[self._scheduler.pid]:
                    self._look(worker, children[worker.pid])

    def _look(self, worker: psutil.Process, tasks: Sequence[psutil.Process]) -> None:
        title = " ".join(worker.cmdline()).strip()
        if not title.startswith(TITLE):
            return
        name = title.removeprefix(TITLE)
        task = None if name == "<idle>" else UUID(name)
        # User and system, its own and of the children that it has awaited.
        now, cpu = time.monotonic(), sum(worker.cpu_times()[:4])
        last_task, last, last_cpu = self._last.get(worker.pid, (None, now, cpu))
        self._last[worker.pid] = task, now, cpu
        if last_task:
            self.seconds[last_task] += now - last
        if charged := last_task or task:
            self.cpu_seconds[charged] += cpu - last_cpu
        if task:
            self.processes[task].update(process.pid for process in tasks)


class Video(NamedTuple):
    """What one video took: all figures are about the workers, but `total_seconds` and whether the run `succeeded`."""

    render_seconds: float
    slot_seconds: float
    worker_processes: int
    recorded_starts: int
    worker_cpu_seconds: float
    total_seconds: float
    succeeded: bool


@dataclass(frozen=True)
class Stage:
    """An Airflow with the DAGs of the contenders, a sandbox for each of them, and the watch over the workers."""

    airflow: LocalAirflow
    sandboxes: Mapping[str, Sandbox]
    slots: Slots

    def run(
        self, contenders: Sequence[str], videos: int, render_seconds: float, *, overlap: bool
    ) -> dict[str, list[Video]]:
        """Let each contender make that many videos, and return what these took, by contender.

        One contender follows the other when it has ended or, if they `overlap`, as soon as it has submitted.
        """
        # All runs wait in paused DAGs: in the REST API requests and tasks that start would block each other.
        self._sql("update dag set is_paused = true")
        renders = {
            f"{render_seconds:g}s-{n}": render_seconds + POLL_SECONDS * ((n + 0.5) / videos - 0.5)
            for n in range(videos)
        }
        for name, (run_id, seconds) in product(contenders, renders.items()):
            self.airflow.trigger(name, {"prompt": f"[[slow: {seconds:.2f}]] Clouds"}, run_id)
        begun = {}
        for name in contenders:
            progress(f"slots: {CONTENDERS[name]}, renders of {render_seconds:g} s")
            begun[name] = time.time()
            self._sql("update dag set is_paused = false where dag_id = ?", name)
            if overlap:
                time.sleep(OVERLAP_SECONDS)
            else:
                self._wait()
        self._wait()
        return {
            name: [self._video(name, run_id, seconds, begun[name]) for run_id, seconds in renders.items()]
            for name in contenders
        }

    def _wait(self) -> None:
        """Wait until no run goes on and no worker is at work. Raises `TimeoutError`."""
        unended = "select 1 from dag_run join dag using (dag_id) where end_date is null and not is_paused"
        self.airflow.until(lambda: not (self._sql(unended) or self.slots.busy), PATIENCE_SECONDS)

    def _video(self, dag_id: str, run_id: str, render_seconds: float, begun: float) -> Video:
        run = dag_id, run_id
        tasks = [
            UUID(task) for (task,) in self._sql("select id from task_instance where dag_id = ? and run_id = ?", *run)
        ]
        starts = self._sql("select 1 from log where event = 'running' and dag_id = ? and run_id = ?", *run)
        ((state, ended),) = self._sql("select state, end_date from dag_run where dag_id = ? and run_id = ?", *run)
        return Video(
            render_seconds=render_seconds,
            slot_seconds=sum(self.slots.seconds[task] for task in tasks),
            worker_processes=sum(len(self.slots.processes[task]) for task in tasks),
            recorded_starts=len(starts),
            worker_cpu_seconds=sum(self.slots.cpu_seconds[task] for task in tasks),
            total_seconds=datetime.fromisoformat(f"{ended}+00:00").timestamp() - begun,
            succeeded=state == "success",
        )

    def status_requests(self) -> Counter[str]:
        """Return how many requests for the status of jobs there were so far, by contender."""
        return Counter({name: status_requests(sandbox.stats()) for name, sandbox in self.sandboxes.items()})

    def _sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Execute a statement in Airflow's database, and return the rows that it selects."""
        with closing(sqlite3.connect(self.airflow.database, timeout=30)) as database, database:
            return database.execute(statement, values).fetchall()


@contextmanager
def stage(contenders: Collection[str], warm_up: Sequence[str], heartbeat_seconds: int) -> Iterator[Stage]:
    """Run an Airflow for these contenders, and their sandboxes.

    Parameters: `warm_up`, those that make a video before the block begins, because a first task takes seconds more;
    `heartbeat_seconds`, Airflow's `[workers] min_heartbeat_interval`.
    """
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="hailuo-bench-"))
        sandboxes = {name: stack.enter_context(Sandbox(credits=10_000, jitter=0)) for name in contenders}
        airflow = LocalAirflow(
            Path(home, "airflow"),
            HERE / "dags",
            wait_for=contenders,
            connections={name: connection(name, sandbox) for name, sandbox in sandboxes.items()},
            config={
                "AIRFLOW__CORE__PARALLELISM": "24",
                "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
                "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": str(heartbeat_seconds),
            },
        )
        stack.enter_context(airflow)
        slots = stack.enter_context(Slots(psutil.Process(airflow.pid("scheduler"))))
        on = Stage(airflow, sandboxes, slots)
        on.run(warm_up, videos=1, render_seconds=0.5, overlap=True)
        yield on


def connection(contender: str, sandbox: Sandbox) -> Json:
    """Return the Airflow connection by which a contender reaches its sandbox."""
    if contender.startswith("http"):
        return {"conn_type": "http", "host": sandbox.base_url, "extra": {"X-API-Key": sandbox.api_key}}
    return {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}


def predict(videos: Sequence[Video], render_seconds: float) -> Json:
    """Return the slot seconds of a longer render, by the straight line through `videos`, with its standard error."""
    renders, slots = [video.render_seconds for video in videos], [video.slot_seconds for video in videos]
    slope, intercept = statistics.linear_regression(renders, slots)
    residuals = sum((y - intercept - slope * x) ** 2 for x, y in zip(renders, slots, strict=True)) / (len(videos) - 2)
    mean = statistics.fmean(renders)
    leverage = 1 / len(videos) + (render_seconds - mean) ** 2 / sum((x - mean) ** 2 for x in renders)
    return {
        "slot_seconds_per_render_second": slope,
        "slot_seconds_at_180": intercept + slope * render_seconds,
        "slot_seconds_at_180_error": (residuals * leverage) ** 0.5,
    }


@dataclass(frozen=True)
class Series:
    """What is run in one Airflow: `contenders`, how many `videos` of each with each of the `render_seconds`.

    `heartbeat_seconds` is Airflow's `[workers] min_heartbeat_interval`. For `overlap` see `Stage.run`; if it is set,
    only the first contender is warmed up.
    """

    contenders: Sequence[str]
    videos: int
    render_seconds: Sequence[int]
    heartbeat_seconds: int = 1
    overlap: bool = False

    def rows(self) -> Iterator[Json]:
        """Run it, and yield a row of figures for each render time and contender."""
        made: defaultdict[str, list[Video]] = defaultdict(list)
        warm_up = self.contenders[:1] if self.overlap else self.contenders
        with stage(self.contenders, warm_up, self.heartbeat_seconds) as on:
            for render in self.render_seconds:
                before = on.status_requests()
                videos = on.run(self.contenders, self.videos, render, overlap=self.overlap)
                requests = on.status_requests() - before
                for name in self.contenders:
                    made[name] += videos[name]
                    yield {
                        "contender": CONTENDERS[name],
                        "min_heartbeat_interval": self.heartbeat_seconds,
                        "render_seconds": render,
                        **summary(videos[name]),
                        "status_requests": requests[name] / self.videos,
                        **(predict(made[name], REAL_RENDER_SECONDS) if len(made[name]) > self.videos else {}),
                    }


def summary(videos: Sequence[Video]) -> Json:
    """Return the figures of `videos` per video."""
    means = ("slot_seconds", "worker_processes", "recorded_starts", "worker_cpu_seconds")
    return {
        "videos": len(videos),
        "succeeded": sum(video.succeeded for video in videos),
        **{figure: statistics.fmean(getattr(video, figure) for video in videos) for figure in means},
        "total_seconds": statistics.median(video.total_seconds for video in videos),
    }


ALL = tuple(CONTENDERS)
FEW = ("documented_loop", "http_sensor_reschedule", "hailuo_visits_2", "hailuo_visits_1", "hailuo_visits_0")
QUICK = [Series(FEW, videos=3, render_seconds=[10], overlap=True)]
FULL = [
    Series(ALL, videos=10, render_seconds=[10, 30]),
    Series([name for name in FEW if "sensor" not in name], videos=10, render_seconds=[10], heartbeat_seconds=5),
]


def measure(quick: bool) -> Json:
    """Let the contenders make videos, and return what these took, as rows and notes.

    Parameters: `quick`, whether to run `QUICK` in place of `FULL`.
    """
    return {"rows": [row for series in (QUICK if quick else FULL) for row in series.rows()], "notes": NOTES}


if __name__ == "__main__":
    print_measured(measure, __doc__)
