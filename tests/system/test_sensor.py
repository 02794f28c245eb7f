"""The sensor in a real Airflow, in each of its modes, for jobs that no task has submitted."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.sandbox import Sandbox
from tests.system.conftest import API_KEY, PATIENCE_SECONDS, Runs

pytestmark = pytest.mark.system

CONNECTION = "hailuo_sensors"
WAITING = ("deferred", "poked", "rescheduled")


class Account:
    """An account of its own, and the runs that wait for its jobs."""

    def __init__(self, sandbox: Sandbox, runs: Runs) -> None:
        self.sandbox, self.runs = sandbox, runs
        self.client = Client(Settings(api_key=API_KEY, base_url=sandbox.base_url))

    def wait_for(self, prompt: str, dag_id: str = "sensors") -> tuple[str, str]:
        """Submit a job and start a run that waits for it; return the ids of both."""
        job_id = self.client.send(calls.generate_video(VideoRequest(prompt=prompt, resolution="1080p"))).job_id
        return job_id, self.watch(job_id, dag_id)

    def watch(self, job_id: str, dag_id: str = "sensors") -> str:
        return self.runs.airflow.trigger(dag_id, {"job": job_id, "connection": CONNECTION})

    def ended(self, run_id: str, dag_id: str = "sensors") -> dict[str, tuple[str, int]]:
        """Wait for the end of a run and return state and number of tries of each task."""
        self.runs.airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS)
        return {
            ti["task_id"]: (ti["state"], ti["try_number"]) for ti in self.runs.airflow.task_instances(dag_id, run_id)
        }


@pytest.fixture(scope="module")
def account(runs: Runs) -> Iterator[Account]:
    runs.all_ended()
    with Sandbox(render_seconds=1, jitter=0, credits=100, api_key=API_KEY, seed=2) as sandbox:
        account = Account(sandbox, runs)
        connection = {"connection_id": CONNECTION, "conn_type": "hailuo", "host": sandbox.base_url}
        runs.airflow.request("POST", "connections", json={**connection, "password": API_KEY})
        with account.client:
            yield account


def test_each_mode_waits_and_tells_all_of_the_video(runs: Runs, account: Account):
    job_id, run_id = account.wait_for("[[stall]] a late boat")
    seen: set[tuple[str, str]] = set()
    wanted = {("deferred", "deferred"), ("rescheduled", "up_for_reschedule"), ("poked", "running")}

    def all_seen() -> bool:
        seen.update(
            runs.query("select task_id, state from task_instance where dag_id = 'sensors' and run_id = %s", run_id)
        )
        return wanted <= seen

    runs.airflow.until(all_seen)

    account.sandbox.release()

    assert account.ended(run_id) == dict.fromkeys((*WAITING, "soft"), ("success", 1))
    url = f"{account.sandbox.base_url}/videos/{job_id}.mp4"
    for task_id in WAITING:
        xcoms = runs.airflow.xcoms("sensors", run_id, task_id)
        assert (xcoms["return_value"], xcoms["credit_cost"]) == (url, 10)
        assert xcoms["job"] == {
            "id": job_id,
            "status": "COMPLETED",
            "url": url,
            "prompt": "[[stall]] a late boat",
            "model": "hailuo-02",
            "resolution": "1080p",
            "duration": 6,
            "credits": 10,
            "created": xcoms["job"]["created"],
            "completed": xcoms["job"]["completed"],
        }
        query = urlencode({"dag_id": "sensors", "run_id": run_id, "task_id": task_id, "map_index": -1})
        assert runs.airflow.links("sensors", run_id, task_id) == {"Watch video": f"hailuo/video?{query}"}
    assert "as DEFERRED" in runs.airflow.log("sensors", run_id, "deferred")


def test_what_is_final_already_is_not_deferred(runs: Runs, account: Account):
    job_id, run_id = account.wait_for("a boat")
    account.ended(run_id)

    run_id = account.watch(job_id)

    assert set(account.ended(run_id).values()) == {("success", 1)}
    assert "as DEFERRED" not in runs.airflow.log("sensors", run_id, "deferred")


def test_a_failed_job_fails_each_sensor_for_good(runs: Runs, account: Account):
    job_id, run_id = account.wait_for("[[fail: content policy]]")

    assert account.ended(run_id) == {**dict.fromkeys(WAITING, ("failed", 1)), "soft": ("skipped", 1)}
    for task_id in WAITING:
        said = f"content policy. Its credits were refunded (job {job_id}). This task only waits for it"
        assert said in runs.airflow.log("sensors", run_id, task_id)
        assert runs.airflow.xcoms("sensors", run_id, task_id)["job"]["status"] == "FAILED"


def test_a_timeout_ends_each_sensor_for_good_and_costs_nothing_more(runs: Runs, account: Account):
    charged = account.sandbox.stats()["creditsCharged"]
    job_id, run_id = account.wait_for("[[stall]]", "hasty_sensors")

    ended = account.ended(run_id, "hasty_sensors")

    assert ended == {**dict.fromkeys(WAITING, ("failed", 1)), "soft": ("skipped", 1)}
    for task_id in WAITING:
        log = runs.airflow.log("hasty_sensors", run_id, task_id)
        assert "AirflowSensorTimeout" in log
        assert f"Job {job_id}: " in log
    assert account.sandbox.stats()["creditsCharged"] == charged + 10


def test_a_job_id_that_is_none_fails_at_once(runs: Runs, account: Account):
    run_id = account.watch("None")

    assert account.ended(run_id) == {**dict.fromkeys(WAITING, ("failed", 1)), "soft": ("skipped", 1)}
    assert "job_id: 'None': must be the id of a job" in runs.airflow.log("sensors", run_id, "poked")
