"""A video in Airflows that are set up in other ways than the default.

XComs in files, metrics sent to StatsD, a connection that only workers see, letters of other alphabets; listeners, of
which one is OpenLineage's own.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from local_airflow import LocalAirflow

from airflow_provider_hailuo.sandbox import Sandbox
from tests.system.conftest import API_KEY, PATIENCE_SECONDS

pytestmark = pytest.mark.system

HERE = Path(__file__).parent / "surroundings"
MODES = (0, 1, 2)
OBSERVED = ("stored", "apart", "several", "failing")
WORKERS_ONLY = "AIRFLOW_CONN_HAILUO_WORKERS_ONLY"


def local_api() -> Sandbox:
    """Return a local Apiframe, not started yet."""
    return Sandbox(render_seconds=2, jitter=0, credits=1000, api_key=API_KEY, seed=1)


@pytest.fixture(scope="module")
def api() -> Iterator[Sandbox]:
    """Return the local Apiframe of `elsewhere`."""
    with local_api() as sandbox:
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


class Statsd:
    """A StatsD server on loopback, which keeps what Airflow's processes tell it, in the order in which it comes."""

    def __init__(self, server: socket.socket) -> None:
        self._socket = server
        self._read = threading.Condition()
        self._marks = 0
        self._lines: list[str] = []
        self.port: int = server.getsockname()[1]

    def read(self) -> None:
        """Read until there is an empty datagram."""
        while datagram := self._socket.recv(65536):
            with self._read:
                if datagram == b"mark":
                    self._marks += 1
                    self._read.notify_all()
                else:
                    self._lines += datagram.decode().splitlines()

    def send(self, datagram: bytes) -> None:
        """Send something to the server."""
        self._socket.sendto(datagram, self._socket.getsockname())

    def told(self, **tags: str) -> Counter[str]:
        """Return what all that was sent before says of something that has these tags.

        By name, other tags and kind, as in `failed,cause=JobFailedError|c`, the sum of the values.
        """
        with self._read:
            wanted = self._marks + 1
            self.send(b"mark")
            assert self._read.wait_for(lambda: self._marks >= wanted, PATIENCE_SECONDS)
            lines = list(self._lines)
        told: Counter[str] = Counter()
        for line in lines:
            metric, _, rest = line.removeprefix("airflow.hailuo.").partition(":")
            value, kind = rest.split("|")
            name, *found = metric.split(",")
            asked = {f"{tag}={text}" for tag, text in tags.items()}
            if asked.issubset(found):
                others = [tag for tag in found if tag not in asked]
                told["|".join([",".join([name, *others]), kind])] += float(value)
        return told


@contextmanager
def listening() -> Iterator[Statsd]:
    """Run a StatsD server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        statsd = Statsd(server)
        reader = threading.Thread(target=statsd.read)
        reader.start()
        try:
            yield statsd
        finally:
            statsd.send(b"")
            reader.join()


class Elsewhere:
    """An Airflow with XComs in files and a connection that only workers see, and a run of each of its DAGs.

    `directory` is where they store videos, `files` where their XComs lie.
    """

    def __init__(self, airflow: LocalAirflow, files: Path, statsd: Statsd, directory: Path) -> None:
        self.airflow = airflow
        self.files = files
        self.statsd = statsd
        self.directory = directory
        conf = {"directory": str(directory)}
        names = [f"{name}_{visits}" for name in ("workers_only", "plain", "letters") for visits in MODES]
        self.ids = {name: airflow.trigger(name, conf) for name in [*names, *OBSERVED]}

    def ended(self, dag_id: str) -> str:
        """Wait for the end of the run of a DAG and return its state."""
        return ended(self.airflow, dag_id, self.ids[dag_id])


@pytest.fixture(scope="module")
def elsewhere(api: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """Return an Airflow that keeps XComs in files, and whose workers see a connection that the triggerer does not."""
    home = tmp_path_factory.mktemp("elsewhere")
    names = [f"{name}_{visits}" for name in ("plain", "letters", "workers_only") for visits in MODES]
    with (
        listening() as statsd,
        LocalAirflow(
            home / "airflow",
            HERE / "dags",
            wait_for=[*names, *OBSERVED],
            connections={"hailuo_default": connection(api), "hailuo_observed": connection(api)},
            database="postgres",
            config={
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
                "AIRFLOW__CORE__XCOM_BACKEND": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
                "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{home}/xcoms",
                "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
                # Of all that Airflow counts the socket would lose some on a slow machine.
                "AIRFLOW__METRICS__METRICS_ALLOW_LIST": "^hailuo",
                "AIRFLOW__METRICS__STATSD_ON": "True",
                "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
                "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
                "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            },
        ) as airflow,
    ):
        # Workers are children of the scheduler.
        airflow.kill("scheduler")
        airflow.environment[WORKERS_ONLY] = json.dumps(connection(api))
        airflow.start("scheduler")
        yield Elsewhere(airflow, home / "xcoms", statsd, home / "videos")


@pytest.mark.parametrize("visits_wanted", MODES)
def test_with_xcoms_in_object_storage_the_button_leads_to_the_page_of_the_video(
    elsewhere: Elsewhere, api: Sandbox, visits_wanted: int
):
    dag_id = f"plain_{visits_wanted}"

    assert elsewhere.ended(dag_id) == "success"

    (job,) = jobs(api, dag_id)
    url = f"{api.base_url}/videos/{job['id']}.mp4"
    run_id = elsewhere.ids[dag_id]
    seen = json.loads(next(elsewhere.files.glob(f"{dag_id}/{run_id}/look/*")).read_text())
    assert (seen["url"], seen["job"]["id"]) == (url, job["id"])
    query = urlencode({"dag_id": dag_id, "run_id": run_id, "task_id": "video", "map_index": -1})
    assert elsewhere.airflow.links(dag_id, run_id, "video") == {"Watch video": f"hailuo/video?{query}"}
    assert visits(elsewhere.airflow, dag_id, "video") == visits_wanted


@pytest.mark.parametrize("visits_wanted", MODES)
def test_a_task_id_in_any_letters_makes_one_video(elsewhere: Elsewhere, api: Sandbox, visits_wanted: int):
    dag_id = f"letters_{visits_wanted}"

    assert elsewhere.ended(dag_id) == "success"

    (job,) = jobs(api, dag_id)
    assert job["status"] == "COMPLETED"


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


RENDERED = {"submitted|c": 1, "completed|c": 1, "credits|c": 5, "render_duration|ms": 2000}


@pytest.mark.parametrize("visits_wanted", MODES)
def test_a_video_is_counted_wherever_it_is_submitted_and_waited_for(elsewhere: Elsewhere, visits_wanted: int):
    dag_id = f"plain_{visits_wanted}"

    assert elsewhere.ended(dag_id) == "success"

    assert elsewhere.statsd.told(dag_id=dag_id, conn_id="hailuo_default", model="hailuo-02") == RENDERED


def test_what_is_stored_is_counted_in_bytes(elsewhere: Elsewhere):
    assert elsewhere.ended("stored") == "success"

    made, copied = (elsewhere.directory / name for name in ("made.mp4", "copied.mp4"))
    assert made.read_bytes() == copied.read_bytes()
    stored = {"bytes_stored|c": made.stat().st_size + copied.stat().st_size}
    assert elsewhere.statsd.told(dag_id="stored", conn_id="hailuo_observed", model="hailuo-02") == RENDERED | stored


def test_a_video_that_a_sensor_waits_for_is_counted_once(elsewhere: Elsewhere):
    assert elsewhere.ended("apart") == "success"

    assert elsewhere.statsd.told(dag_id="apart", conn_id="hailuo_observed", model="hailuo-02") == RENDERED


def test_of_a_batch_each_video_is_counted(elsewhere: Elsewhere):
    assert elsewhere.ended("several") == "success"

    assert elsewhere.statsd.told(dag_id="several", conn_id="hailuo_observed", model="hailuo-02") == {
        "submitted|c": 3,
        "completed|c": 2,
        "credits|c": 5 + 8,
        "render_duration|ms": 2 * 2000,
        "failed,cause=JobFailedError|c": 1,
        "bytes_stored|c": sum(file.stat().st_size for file in elsewhere.directory.glob("several/*.mp4")),
    }


def test_a_failure_is_counted_by_its_cause(elsewhere: Elsewhere):
    assert elsewhere.ended("failing") == "failed"
    assert elsewhere.ended("workers_only_2") == "success"

    statsd = elsewhere.statsd
    assert statsd.told(dag_id="failing", conn_id="hailuo_observed", model="hailuo-02") == {
        "submitted|c": 1,
        "failed,cause=JobFailedError|c": 1,
    }
    causes = statsd.told(dag_id="workers_only_2", conn_id="hailuo_workers_only", model="hailuo-02")
    assert causes["failed,cause=CredentialsUnavailableError|c"] == 1


def test_each_status_request_is_counted(elsewhere: Elsewhere, api: Sandbox):
    for dag_id in elsewhere.ids:
        elsewhere.ended(dag_id)

    asked = api.stats()["requests"]
    counted = elsewhere.statsd.told()
    connections = ("hailuo_default", "hailuo_observed", "hailuo_workers_only")
    assert sum(counted[f"status_requests,conn_id={conn_id}|c"] for conn_id in connections) == (
        asked["GET /v2/jobs"] + asked["GET /v2/jobs/{id}"]
    )


class Heard:
    """An Airflow with two listeners, OpenLineage's own and one that writes `notes`, and a run of each of its DAGs."""

    def __init__(self, airflow: LocalAirflow, api: Sandbox, home: Path) -> None:
        self.airflow = airflow
        self.api = api
        self.notes = home / "notes"
        self.events = home / "events"
        self.directory = home / "videos"
        names = [*(f"plain_{visits}" for visits in MODES), "stored"]
        self.ids = {name: airflow.trigger(name, {"directory": str(self.directory)}) for name in names}

    def ended(self, dag_id: str) -> str:
        """Wait for the end of the run of a DAG and return its state."""
        return ended(self.airflow, dag_id, self.ids[dag_id])

    def noted(self, event: str) -> int:
        """Return how often a listener has noted an event."""
        return self.notes.read_text().splitlines().count(event)

    def completed(self, job: str) -> dict[str, Any] | None:
        """Return OpenLineage's event of a task that has succeeded, None before it is there."""
        # The last line may be half of one.
        events = [json.loads(line) for line in self.events.read_text().split("\n")[:-1]]
        return next((e for e in events if e["eventType"] == "COMPLETE" and e["job"]["name"] == job), None)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    """Return an Airflow with listeners, and with a local Apiframe of its own."""
    home = tmp_path_factory.mktemp("heard")
    for name in "notes", "events":
        (home / name).touch()
    transport = {"type": "file", "log_file_path": str(home / "events"), "append": True}
    with (
        local_api() as api,
        LocalAirflow(
            home / "airflow",
            HERE / "dags",
            wait_for=[*(f"plain_{visits}" for visits in MODES), "stored"],
            connections={"hailuo_default": connection(api), "hailuo_observed": connection(api)},
            database="postgres",
            config={
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
                "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
                "HAILUO_NOTES": str(home / "notes"),
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
                # How long Airflow lets listeners work, which is short for a slow machine.
                "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": str(PATIENCE_SECONDS),
                "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": str(PATIENCE_SECONDS),
            },
        ) as airflow,
    ):
        yield Heard(airflow, api, home)


@pytest.mark.parametrize("visits_wanted", MODES)
def test_listeners_hear_of_each_video_whatever_the_mode(heard: Heard, visits_wanted: int):
    dag_id = f"plain_{visits_wanted}"

    assert heard.ended(dag_id) == "success"

    assert heard.airflow.until(lambda: heard.noted(f"success {dag_id} video")) == 1
    assert heard.noted(f"running {dag_id} video") == 2
    assert heard.airflow.until(lambda: heard.completed(f"{dag_id}.video"))["outputs"] == []
    log = heard.airflow.log(dag_id, heard.ids[dag_id], "video")
    told = f"worker_visits={visits_wanted} cannot be had with the listener lineage: it is 2"
    assert (told in log) == (visits_wanted < 2)
    assert "non-valid metadata" not in log


def test_openlineage_is_told_of_the_job_and_of_both_files(heard: Heard):
    assert heard.ended("stored") == "success"

    (job,) = jobs(heard.api, "stored")
    for task_id, name in ("make", "made.mp4"), ("copy", "copied.mp4"):
        event = heard.airflow.until(lambda task_id=task_id: heard.completed(f"stored.{task_id}"))
        (source,), (target,) = event["inputs"], event["outputs"]
        assert (source["namespace"], source["name"]) == (heard.api.base_url, f"videos/{job['id']}.mp4")
        file = heard.directory / name
        assert (target["namespace"], target["name"]) == ("file", str(file))
        statistics = target["outputFacets"]["outputStatistics"]
        assert (statistics["size"], statistics["fileCount"]) == (file.stat().st_size, 1)
        query = event["run"]["facets"]["externalQuery"]
        assert (query["externalQueryId"], query["source"]) == (job["id"], heard.api.base_url)
    assert API_KEY not in heard.events.read_text()
