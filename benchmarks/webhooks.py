"""What the API's webhooks bring: videos that they announce beside videos that are looked for, on PostgreSQL."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from common import (
    Json,
    LocalAirflow,
    RunningSandbox,
    airflow_on_postgres,
    percentile,
    print_measured,
    progress,
    sandbox,
    status_requests,
)

WITH, WITHOUT = 'ours, webhook_url="auto"', "ours, without webhooks"
CONTENDERS = {"many_with": WITH, "many_without": WITHOUT, "lone_with": WITH, "lone_without": WITHOUT}
"""The DAGs of `benchmarks/dags/announced.py`, and what they are called in results."""

RENDER_SECONDS, QUICK_RENDER_SECONDS = 180.0, 60.0
"""How long the lone videos render. The many are held back until all of them are waited for."""

PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 1800.0

NOTES = [
    (
        "All at the same time on one Airflow, each row with a connection and a sandbox of its own. The many end one "
        f"by one, those with and those without webhooks in turn, {PAUSE_SECONDS:g} s apart in the mean, once all of "
        "them are waited for: a burst is another matter."
    ),
    (
        "COMPLETED: the sandbox's `completedAt`. Resumed: when the task instance was ready for its second worker; "
        "success: its `end_date`. Both ways with the defaults: `worker_visits=2`, `poll_interval` 5 s. Lone ones end "
        "while the many are submitted, and wait for a worker behind them: theirs are left out."
    ),
    "Status requests: for one job or a page of them, by triggerer, worker and API server, per video.",
    (
        "Airflow on PostgreSQL with one triggerer and one API server, LocalExecutor with 8 processes, `[workers] "
        "min_heartbeat_interval` 1 s, 10,000 active tasks of a DAG; all else is its default."
    ),
    "What happens once in an Airflow's life is left out: it has made a video in both ways before.",
]


@dataclass(frozen=True)
class Stage:
    """An Airflow with the DAGs of the contenders, and the sandbox of each of them."""

    airflow: LocalAirflow
    apis: Mapping[str, RunningSandbox]

    def measure(self, videos: Mapping[str, int]) -> list[Json]:
        """Let all contenders make their `videos`, by DAG, at the same time, and return their rows of the result.

        :raises TimeoutError: one of them does not end.
        """
        progress(f"webhooks: {dict(videos)}")
        before = {name: status_requests(api.stats()) for name, api in self.apis.items()}
        runs = {
            name: self.airflow.trigger(name, {"videos": count, "held": name.startswith("many")})
            for name, count in videos.items()
        }
        many = {name: run_id for name, run_id in runs.items() if name.startswith("many")}
        self._await_deferred(sum(videos[name] for name in many), many)
        for n in range(max(videos.values())):
            for name in many:
                # Not in step with whoever looks at intervals.
                time.sleep(random.uniform(0, 2 * PAUSE_SECONDS))  # noqa: S311
                self.apis[name].http.post("/sandbox/release", params={"words": f"Clouds {n}."}).raise_for_status()
        for name, run_id in runs.items():
            self.airflow.wait(name, run_id, timeout=PATIENCE_SECONDS)
        rows = []
        for name, run_id in runs.items():
            ends = self._ends(name, run_id)
            renders, resumed, late = zip(*ends, strict=True) if ends else ((), (), ())
            row = {
                "contender": CONTENDERS[name],
                "videos": videos[name],
                "succeeded": len(ends),
                "render_seconds": sum(renders) / len(ends) if ends else None,
                "requests_per_video": (status_requests(self.apis[name].stats()) - before[name]) / videos[name],
            }
            if name in many:
                row |= {
                    "resumed_p50_seconds": percentile(resumed, 50),
                    "resumed_p95_seconds": percentile(resumed, 95),
                    "late_p50_seconds": percentile(late, 50),
                    "late_p95_seconds": percentile(late, 95),
                }
            progress(f"webhooks: {row}")
            rows.append(row)
        return rows

    def _await_deferred(self, count: int, runs: Mapping[str, str]) -> None:
        """Wait until so many tasks of these runs wait for their videos. Raises `TimeoutError` if they never do."""
        query = "select count(*) from task_instance where state = 'deferred' and run_id = any(%s)"
        ids = list(runs.values())
        self.airflow.until(lambda: self.airflow.query(query, ids)[0][0] >= count, PATIENCE_SECONDS)

    def _ends(self, dag_id: str, run_id: str) -> list[tuple[float, ...]]:
        """Return how long each video took to render, and how long after that its task was resumed and a success."""
        rows = self.airflow.query(
            "select x.value, t.scheduled_dttm, t.end_date "
            "from task_instance t join xcom x using (dag_id, run_id, task_id, map_index) "
            "where t.dag_id = %s and t.run_id = %s and t.state = 'success' and x.key = 'job'",
            *(dag_id, run_id),
        )
        ends = []
        for job, resumed, ended in rows:
            created, completed = (datetime.fromisoformat(job[name]) for name in ("created", "completed"))
            spans = completed - created, resumed - completed, ended - completed
            ends.append(tuple(span.total_seconds() for span in spans))
        return ends


@contextmanager
def stage(render_seconds: float) -> Iterator[Stage]:
    """Run an Airflow that has made a video in both ways, and a sandbox for each of the contenders."""
    with ExitStack() as stack:
        # Jobs of the same id would be announced to each other's tasks.
        apis = {
            name: stack.enter_context(sandbox(render_seconds=render_seconds, jitter=0, seed=seed))
            for seed, name in enumerate(CONTENDERS)
        }
        connections = {name: api.connection for name, api in apis.items()}
        on = Stage(stack.enter_context(airflow_on_postgres(["announced.py"], connections)), apis)
        on.measure(dict.fromkeys(list(CONTENDERS)[:2], 1))
        yield on


def measure(quick: bool) -> Json:
    """Let the contenders make videos side by side, and return how late and how dear their ends were seen, as rows.

    Parameters: `quick`, whether to make 10 in place of 100, and a lone one in a shorter render.
    """
    many = 10 if quick else 100
    with stage(QUICK_RENDER_SECONDS if quick else RENDER_SECONDS) as on:
        rows = on.measure({name: many if name.startswith("many") else 1 for name in CONTENDERS})
    return {"rows": rows, "notes": NOTES}


if __name__ == "__main__":
    print_measured(measure, __doc__)
