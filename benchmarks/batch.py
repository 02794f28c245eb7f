"""What many videos of one run cost: one task of all beside a mapped task for each, on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import psutil  # type: ignore[import-untyped]
from common import (
    Json,
    LocalAirflow,
    RunningSandbox,
    airflow_on_postgres,
    print_measured,
    progress,
    sandbox,
    status_requests,
)
from slots import Slots

CONTENDERS = {"one_task": "ours, one task", "mapped_tasks": "ours, a mapped task for each"}
"""The DAGs of `benchmarks/dags/many.py`, and what they are called in results."""

RENDER_SECONDS = 30.0
PATIENCE_SECONDS = 1800.0
SUBMIT = "POST /v2/videos/generate"

NOTES = [
    (
        f"One DAG run. Renders take {RENDER_SECONDS:g} s, 10 % up or down, from the submission; all may render at "
        "once (`max_in_flight=1000`; Airflow counts no deferred task)."
    ),
    "Slot seconds: how long worker processes of LocalExecutor are at work for it, by their titles in the OS.",
    "Total: from the trigger of the run to its end in the database. Status requests: for one job or a page of them.",
    (
        "Airflow on PostgreSQL with one triggerer, LocalExecutor with 8 processes, `[workers] "
        "min_heartbeat_interval` 1 s, 10,000 active tasks of a DAG; all else is its default."
    ),
    "What happens once in an Airflow's life is left out: each contender has made two videos before.",
]


@dataclass(frozen=True)
class Stage:
    """An Airflow with the DAGs of the contenders, the sandbox of both, and the watch over the workers."""

    airflow: LocalAirflow
    api: RunningSandbox
    slots: Slots

    def measure(self, contender: str, videos: int) -> Json:
        """Let a contender make that many videos, and return its row of the result. Raises `TimeoutError`."""
        progress(f"batch: {CONTENDERS[contender]}, {videos}")
        before = self.api.stats()
        begun = time.time()
        run_id = self.airflow.trigger(contender, {"videos": videos})
        run = contender, run_id
        ended = "select end_date, state from dag_run where dag_id = %s and run_id = %s and end_date is not null"
        self.airflow.until(lambda: not self.slots.busy and self.airflow.query(ended, *run), PATIENCE_SECONDS)
        ((end, state),) = self.airflow.query(ended, *run)
        after = self.api.stats()
        tasks = self.airflow.query(
            "select id from task_instance where dag_id = %s and run_id = %s and task_id = 'video'", *run
        )
        ids = [UUID(str(task)) for (task,) in tasks]
        row = {
            "contender": CONTENDERS[contender],
            "videos": videos,
            "succeeded": state == "success" and after["jobs"]["COMPLETED"] - before["jobs"]["COMPLETED"],
            "submissions": after["requests"][SUBMIT] - before["requests"][SUBMIT],
            "status_requests": status_requests(after) - status_requests(before),
            "slot_seconds": sum(self.slots.seconds[task] for task in ids),
            "worker_processes": sum(len(self.slots.processes[task]) for task in ids),
            "credits": after["creditsCharged"] - before["creditsCharged"],
            "total_seconds": end.timestamp() - begun,
        }
        progress(f"batch: {row}")
        return row


@contextmanager
def stage() -> Iterator[Stage]:
    """Run an Airflow in which each of the contenders has made two videos, and a sandbox."""
    with (
        sandbox(render_seconds=RENDER_SECONDS) as api,
        airflow_on_postgres(["many.py"], dict.fromkeys(CONTENDERS, api.connection)) as airflow,
        Slots(psutil.Process(airflow.pid("scheduler"))) as slots,
    ):
        on = Stage(airflow, api, slots)
        for name in CONTENDERS:
            on.measure(name, 2)
        yield on


def measure(quick: bool) -> Json:
    """Let the contenders make videos, and return what these cost, as rows and notes.

    Parameters: `quick`, whether to make 20 in place of 1,000.
    """
    with stage() as on:
        return {"rows": [on.measure(contender, 20 if quick else 1000) for contender in CONTENDERS], "notes": NOTES}


if __name__ == "__main__":
    print_measured(measure, __doc__)
