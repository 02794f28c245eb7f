"""One sandbox and one real Airflow for all system tests; all scenarios are started at once, to save time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from local_airflow import LocalAirflow

from airflow_provider_hailuo.sandbox import Sandbox

API_KEY = "afk_9f2c_the_key_that_must_appear_nowhere"
WRONG_KEY = "afk_77aa_the_wrong_key_that_must_appear_nowhere"
PATIENCE_SECONDS = 900
"""How long a run may take on a machine that is many times slower."""

SCENARIOS = (
    "success",
    "job_failure",
    "timeout_retried",
    "mapped_bad_input",
    "on_the_worker",
    "bad_input",
    "wrong_key",
    "missing_connection",
    "nested",
    "decorated_text",
    "decorated_fields",
    "decorated_mapped",
    "decorated_retried",
    "decorated_nothing",
)


class Runs:
    """One run of each scenario, and a look into the database of the Airflow that runs them."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self.airflow = airflow
        self.ids = {scenario: airflow.trigger(scenario) for scenario in SCENARIOS}
        self.trigger_rows: set[str] = set()

    @cache  # noqa: B019 - there is one such Airflow
    def ended(self, scenario: str) -> str:
        """Wait for the run of `scenario` and return its state."""
        return self.airflow.wait(scenario, self.ids[scenario], timeout=PATIENCE_SECONDS)

    def all_ended(self) -> None:
        """Wait for the runs of all scenarios."""
        for scenario in self.ids:
            self.ended(scenario)

    def tries(self, scenario: str, task_id: str = "video") -> list[tuple[str, int]]:
        """Return state and number of tries of each instance of a task, by map index."""
        return self.query(
            "select state, try_number from task_instance where dag_id = %s and task_id = %s order by map_index",
            scenario,
            task_id,
        )

    def xcoms(self, scenario: str, map_index: int = -1) -> dict:
        """Return the XComs of the task `video`."""
        return self.airflow.xcoms(scenario, self.ids[scenario], "video", map_index)

    def log(self, scenario: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of the task `video`."""
        return self.airflow.log(scenario, self.ids[scenario], "video", try_number, map_index)

    def await_line(self, component: str, pattern: str, *, times: int) -> None:
        """Wait until the log of a component has so many lines in which `pattern` is found."""
        log = self.airflow.home / f"{component}.log"
        self.airflow.until(lambda: len(re.findall(pattern, log.read_text(errors="replace"))) >= times)

    def query(self, sql: str, *values: object) -> list[tuple]:
        """Return the rows that `sql` selects in Airflow's database; `%s` stands for each of `values`."""
        return self.airflow.query(sql, *values)

    def watch_triggers(self, stop: threading.Event) -> None:
        """Keep the decrypted arguments of every trigger: its row lives only while a task is deferred."""
        fernet = Fernet(self.airflow.environment["AIRFLOW__CORE__FERNET_KEY"])
        while not stop.wait(0.2):
            for (arguments,) in self.query('select kwargs from "trigger"'):
                # 3.3 stores those of a deferral as plain JSON, the older versions encrypt all.
                plain = arguments.startswith("{")
                self.trigger_rows.add(arguments if plain else fernet.decrypt(arguments.encode()).decode())


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    """Return a local Apiframe whose renders take three seconds."""
    with Sandbox(render_seconds=3, jitter=0, credits=1000, api_key=API_KEY, seed=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="package")
def runs(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory, deploy: Callable[..., LocalAirflow]
) -> Iterator[Runs]:
    """Return the runs of all scenarios, in a real Airflow."""
    connection = {"conn_type": "hailuo", "host": sandbox.base_url}
    connections = {
        "hailuo_default": {**connection, "password": API_KEY},
        "hailuo_wrong_key": {**connection, "password": WRONG_KEY},
    }
    home = tmp_path_factory.mktemp("airflow")
    dags = Path(__file__).parent / "dags"
    with deploy(
        home,
        dags,
        wait_for=(
            *SCENARIOS,
            "one_video",
            "one_late_video",
            "one_dear_video",
            "plain_0",
            "plain_2",
            "sensors",
            "hasty_sensors",
            "announced",
            "announced_sensor",
            "told_of_videos",
        ),
        connections=connections,
        config={
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "HAILUO_SANDBOX": sandbox.base_url,
        },
    ) as airflow:
        runs, stop = Runs(airflow), threading.Event()
        watcher = threading.Thread(target=runs.watch_triggers, args=(stop,))
        watcher.start()
        try:
            yield runs
        finally:
            stop.set()
            watcher.join()
