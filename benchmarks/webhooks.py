"""What the API's webhooks bring: videos that they announce beside videos that are looked for, on PostgreSQL."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common import Json, RunningSandbox, percentile, print_measured, progress, sandbox, status_requests

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "dev"))
from local_airflow import LocalAirflow  # noqa: E402

WITH, WITHOUT = 'ours, webhook_url="auto"', "ours, without webhooks"
CONTENDERS = {"many_with": WITH, "many_without": WITHOUT, "lone_with": WITH, "lone_without": WITHOUT}
"""The DAGs of `benchmarks/dags/announced.py`, and what they are called in results."""

RENDER_SECONDS = 180.0
SPREAD = 0.5
QUICK_RENDER_SECONDS = 60.0
PATIENCE_SECONDS = 1800.0

NOTES = [
    (
        f"All at the same time on one Airflow, each row with a connection and a sandbox of its own. The many take "
        f"{RENDER_SECONDS:g} s, {SPREAD:.0%} up or down, so that their renders end one by one; the lone one takes "
        f"{RENDER_SECONDS:g} s."
    ),
    (
        "COMPLETED: the sandbox's `completedAt`. Resumed: when the task instance was ready for its second worker; "
        "success: its `end_date`. Both ways with the defaults: `worker_visits=2`, `poll_interval` 5 s."
    ),
    "Status requests: for one job or a page of them, by triggerer, worker and API server, per video.",
    (
        "Airflow on PostgreSQL with one triggerer and one API server, LocalExecutor with 8 processes, `[workers] "
        "min_heartbeat_interval` 1 s, 10,000 active tasks of a DAG; all else is its default."
    ),
    "What happens once in an Airflow's life is left out: each contender has made a video before.",
]


@dataclass(frozen=True)
class Stage:
    """An Airflow with the DAGs of the contenders, and the sandbox of each of them."""

    airflow: LocalAirflow
    apis: Mapping[str, RunningSandbox]

    def measure(self, videos: Mapping[str, int], prompt: str = "Clouds") -> list[Json]:
        """Let all contenders make their `videos` at the same time, and return their rows of the result.

        :param videos: how many, by DAG.
        :param prompt: how all their prompts begin.
        :raises TimeoutError: one of them does not end.
        """
        progress(f"webhooks: {dict(videos)}")
        before = {name: status_requests(api.stats()) for name, api in self.apis.items()}
        runs = {n: self.airflow.trigger(n, {"videos": count, "prompt": prompt}) for n, count in videos.items()}
        deadline = time.monotonic() + PATIENCE_SECONDS
        for name, run_id in runs.items():
            self.airflow.wait(name, run_id, timeout=max(0.0, deadline - time.monotonic()))
        rows = []
        for name, run_id in runs.items():
            ends = self._ends(name, run_id)
            resumed, late = zip(*ends, strict=True) if ends else ((), ())
            row = {
                "contender": CONTENDERS[name],
                "videos": videos[name],
                "succeeded": len(ends),
                "resumed_p50_seconds": percentile(resumed, 50),
                "resumed_p95_seconds": percentile(resumed, 95),
                "late_p50_seconds": percentile(late, 50),
                "late_p95_seconds": percentile(late, 95),
                "requests_per_video": (status_requests(self.apis[name].stats()) - before[name]) / videos[name],
            }
            progress(f"webhooks: {row}")
            rows.append(row)
        return rows

    def _ends(self, dag_id: str, run_id: str) -> list[tuple[float, float]]:
        """Return how long after its render each task was resumed, and became a success, in seconds."""
        rows = self.airflow.query(
            "select t.scheduled_dttm, t.end_date, x.value "
            "from task_instance t join xcom x using (dag_id, run_id, task_id, map_index) "
            "where t.dag_id = %s and t.run_id = %s and t.state = 'success' and x.key = 'job'",
            *(dag_id, run_id),
        )
        completed = [datetime.fromisoformat(job["completed"]) for *_, job in rows]
        return [
            ((resumed - since).total_seconds(), (end - since).total_seconds())
            for since, (resumed, end, _) in zip(completed, rows, strict=True)
        ]


@contextmanager
def stage(render_seconds: float) -> Iterator[Stage]:
    """Run an Airflow in which each of the contenders has made a video, and a sandbox for each of them."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hailuo-webhooks-"))
        apis = {
            name: stack.enter_context(
                sandbox(render_seconds=render_seconds, jitter=SPREAD if name.startswith("many") else 0)
            )
            for name in CONTENDERS
        }
        dags = Path(directory, "dags")
        dags.mkdir()
        shutil.copy(HERE / "dags" / "announced.py", dags)
        airflow = LocalAirflow(
            Path(directory, "airflow"),
            dags,
            wait_for=CONTENDERS,
            connections={name: api.connection for name, api in apis.items()},
            database="postgres",
            config={"AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "10000", "AIRFLOW__CORE__PARALLELISM": "8"},
        )
        on = Stage(stack.enter_context(airflow), apis)
        on.measure(dict.fromkeys(CONTENDERS, 1), "[[slow: 15]] Clouds")
        yield on


def measure(quick: bool) -> Json:
    """Let the contenders make videos side by side, and return how late and how dear their ends were seen, as rows.

    Parameters: `quick`, whether to make 10 in place of 100, in shorter renders.
    """
    many = 10 if quick else 100
    with stage(QUICK_RENDER_SECONDS if quick else RENDER_SECONDS) as on:
        rows = on.measure({name: many if name.startswith("many") else 1 for name in CONTENDERS})
    return {"rows": rows, "notes": NOTES}


if __name__ == "__main__":
    print_measured(measure, __doc__)
