"""The running Airflow of tests/versions, of the version that is installed, and a sandbox for each of its DAGs.

It runs on PostgreSQL, where tasks run side by side in Airflow 2 too, or as `--deployment` says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from local_airflow import LocalAirflow
from packaging.version import Version

from airflow_provider_hailuo.sandbox import Sandbox

AIRFLOW = Version(version("apache-airflow")).release

SITUATIONS = (
    "success",
    "mapped",
    "render_failed_twice",
    "render_failed_once",
    "timeout_retried",
    "timeout_cleared",
    "execution_timeout",
    "killed",
    "delivered_cleared",
    "visits_0",
    "visits_1",
    "stored",
    "chain",
    "decorated",
    "batch",
    "announced",
    "triggerer_killed",
)
LATER = ("triggerer_killed",)
"""Those that would disturb the others."""

CONNECTIONS_IN_ENVIRONMENT = (3, 0) <= AIRFLOW < (3, 0, 3)
"""In these a triggerer that asks for several connections at once may wait for ever for one of them."""

PATIENCE_SECONDS = 900
"""For what takes half a minute on a quiet machine: enough for a much slower one."""

UNFINISHED = [{"fault": "unknown-status"}]
"""Faults with which no job is ever seen to end."""


class Situations:
    """A running Airflow, in which each situation has a run.

    :param airflow: the Airflow.
    :param sandboxes: the sandbox of each situation.
    :param directory: where those that store their videos do.
    """

    def __init__(self, airflow: LocalAirflow, sandboxes: dict[str, Sandbox], directory: Path) -> None:
        self.airflow = airflow
        self.sandboxes = sandboxes
        self.directory = directory
        for name in "timeout_retried", "timeout_cleared", "triggerer_killed":
            sandboxes[name].set_faults(UNFINISHED)
        self.runs = {
            name: airflow.trigger(name, {"directory": str(directory / name)})
            for name in SITUATIONS
            if name not in LATER
        }

    def begin(self, situation: str) -> None:
        """Start the run of one of `LATER`."""
        self.runs[situation] = self.airflow.trigger(situation)

    def ended(self, situation: str) -> str:
        """Wait for the end of the run and return its state."""
        return self.airflow.wait(situation, self.runs[situation], timeout=PATIENCE_SECONDS)

    def tries(self, situation: str) -> list[tuple[str | None, int]]:
        """Return state and number of tries of each instance of the task `video`."""
        return self.airflow.tries(situation, self.runs[situation], "video")

    def xcoms(self, situation: str, map_index: int = -1, task_id: str = "video") -> dict[str, Any]:
        """Return the XComs of a task."""
        return self.airflow.xcoms(situation, self.runs[situation], task_id, map_index)

    def log(self, situation: str, try_number: int = 1) -> str:
        """Return the log of a try of the task `video`."""
        return self.airflow.log(situation, self.runs[situation], "video", try_number)

    def clear(self, situation: str) -> None:
        """Clear the task `video`."""
        self.airflow.clear(situation, self.runs[situation], ["video"])

    def jobs(self, situation: str) -> list[str]:
        """Return the ids of all jobs that the situation has paid for, the oldest first."""
        return [job["id"] for job in reversed(self.sandboxes[situation].jobs())]


@pytest.fixture(scope="session")
def situations(tmp_path_factory: pytest.TempPathFactory, deploy: Callable[..., LocalAirflow]) -> Iterator[Situations]:
    """Return a running Airflow in which all situations but `LATER` are under way."""
    with ExitStack() as stack:
        sandboxes = {name: stack.enter_context(Sandbox(render_seconds=2, jitter=0)) for name in SITUATIONS}
        connections = {
            f"hailuo_{name}": {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
            for name, sandbox in sandboxes.items()
        }
        in_environment = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections.items()}
        airflow = deploy(
            tmp_path_factory.mktemp("airflow"),
            Path(__file__).parent / "dags",
            wait_for=SITUATIONS,
            connections={} if CONNECTIONS_IN_ENVIRONMENT else connections,
            config={
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
                # How soon another triggerer takes over.
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
                "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "3",
                **(in_environment if CONNECTIONS_IN_ENVIRONMENT else {}),
            },
            start_timeout=PATIENCE_SECONDS,
        )
        # What the tests ask is of no interest, and there is much of it.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        yield Situations(stack.enter_context(airflow), sandboxes, tmp_path_factory.mktemp("videos"))
