"""A video in Airflows that are set up in other ways than the default: XCom backend, listener, letters, connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_airflow import LocalAirflow

from airflow_provider_hailuo.sandbox import Sandbox
from tests.system.conftest import API_KEY, PATIENCE_SECONDS

pytestmark = pytest.mark.system

HERE = Path(__file__).parent / "surroundings"
MODES = (0, 1, 2)
WORKERS_ONLY = "AIRFLOW_CONN_HAILUO_WORKERS_ONLY"


@pytest.fixture(scope="module")
def api() -> Iterator[Sandbox]:
    """Return a local Apiframe."""
    with Sandbox(render_seconds=2, jitter=0, credits=1000, api_key=API_KEY, seed=1) as sandbox:
        yield sandbox


def connection(api: Sandbox) -> dict[str, str]:
    """Return the connection that leads to it."""
    return {"conn_type": "hailuo", "host": api.base_url, "password": API_KEY}


def ended(airflow: LocalAirflow, dag_id: str, run_id: str) -> str:
    """Wait for the end of a run and return its state."""
    return airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS)


def jobs(api: Sandbox, dag_id: str) -> list[dict]:
    """Return the jobs that the API has made for a DAG."""
    return [job for job in api.jobs() if job["input"]["prompt"].startswith(f"{dag_id} ")]


def visits(airflow: LocalAirflow, dag_id: str, task_id: str) -> int:
    """Return how often a task began to run on a worker."""
    params = {"dag_id": dag_id, "task_id": task_id, "event": "running"}
    return int(airflow.request("GET", "eventLogs", params=params)["total_entries"])


class Elsewhere:
    """An Airflow with XComs in files and a connection that only workers see, and a run of each of its DAGs."""

    def __init__(self, airflow: LocalAirflow, files: Path) -> None:
        self.airflow = airflow
        self.files = files
        self.ids = {
            f"{name}_{visits}": airflow.trigger(f"{name}_{visits}")
            for name in ("workers_only", "plain", "letters")
            for visits in MODES
        }

    def ended(self, dag_id: str) -> str:
        """Wait for the end of the run of a DAG and return its state."""
        return ended(self.airflow, dag_id, self.ids[dag_id])


@pytest.fixture(scope="module")
def elsewhere(api: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """Return an Airflow that keeps XComs in files, and whose workers see a connection that the triggerer does not."""
    home = tmp_path_factory.mktemp("elsewhere")
    with LocalAirflow(
        home / "airflow",
        HERE / "dags",
        wait_for=[f"{name}_{visits}" for name in ("plain", "letters", "workers_only") for visits in MODES],
        connections={"hailuo_default": connection(api)},
        database="postgres",
        config={
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__CORE__XCOM_BACKEND": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{home}/xcoms",
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
        },
    ) as airflow:
        # Workers are children of the scheduler.
        airflow.kill("scheduler")
        airflow.environment[WORKERS_ONLY] = json.dumps(connection(api))
        airflow.start("scheduler")
        yield Elsewhere(airflow, home / "xcoms")


@pytest.mark.parametrize("visits_wanted", MODES)
def test_with_xcoms_in_object_storage_the_button_leads_to_the_video(
    elsewhere: Elsewhere, api: Sandbox, visits_wanted: int
):
    dag_id = f"plain_{visits_wanted}"

    assert elsewhere.ended(dag_id) == "success"

    (job,) = jobs(api, dag_id)
    url = f"{api.base_url}/videos/{job['id']}.mp4"
    run_id = elsewhere.ids[dag_id]
    seen = json.loads(next(elsewhere.files.glob(f"{dag_id}/{run_id}/look/*")).read_text())
    assert (seen["url"], seen["job"]["id"]) == (url, job["id"])
    assert elsewhere.airflow.links(dag_id, run_id, "video") == {"Watch video": url}
    assert visits(elsewhere.airflow, dag_id, "video") == visits_wanted


@pytest.mark.parametrize("visits_wanted", MODES)
def test_a_task_id_in_any_letters_makes_one_video(elsewhere: Elsewhere, api: Sandbox, visits_wanted: int):
    dag_id = f"letters_{visits_wanted}"

    assert elsewhere.ended(dag_id) == "success"

    (job,) = jobs(api, dag_id)
    assert job["status"] == "COMPLETED"
    assert elsewhere.airflow.state(dag_id, elsewhere.ids[dag_id]) == "success"


@pytest.mark.parametrize("visits_wanted", MODES)
def test_where_only_workers_see_the_connection_a_worker_takes_the_video(
    elsewhere: Elsewhere, api: Sandbox, visits_wanted: int
):
    dag_id = f"workers_only_{visits_wanted}"

    assert elsewhere.ended(dag_id) == "success"

    assert len(jobs(api, dag_id)) == 1
    log = elsewhere.airflow.log(dag_id, elsewhere.ids[dag_id], "video", 1)
    assert "must be seen by workers and triggerers alike" in log
    assert "A retry takes it up again and does not pay twice" in log


def test_listeners_hear_of_each_video_whatever_the_mode(api: Sandbox, tmp_path: Path):
    notes = tmp_path / "notes"
    notes.touch()
    names = [f"plain_{visits}" for visits in MODES]
    with LocalAirflow(
        tmp_path / "airflow",
        HERE / "dags",
        wait_for=names,
        connections={"hailuo_default": connection(api)},
        database="postgres",
        config={
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
            "HAILUO_NOTES": str(notes),
        },
    ) as airflow:
        ids = {name: airflow.trigger(name) for name in names}
        assert {name: ended(airflow, name, run_id) for name, run_id in ids.items()} == dict.fromkeys(names, "success")
        logs = [airflow.log(name, ids[name], "video") for name in names]

    heard = notes.read_text().splitlines()
    for name in names:
        assert heard.count(f"running {name} video") == 2
        assert heard.count(f"success {name} video") == 1
    assert "worker_visits=0 cannot be had with the listener lineage: it is 2" in logs[0]
    assert "worker_visits=1 cannot be had with the listener lineage: it is 2" in logs[1]
