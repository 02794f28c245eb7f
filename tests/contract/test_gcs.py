"""Videos and pictures in Google Cloud Storage, through gcsfs as Airflow uses it, from a server on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.compat import AIRFLOW
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.storage import Destination, StorageError
from tests.unit.apiframe.test_pictures import WHOLE
from tests.unit.operators.fakes import connect
from tests.unit.operators.test_storing import Worker, task
from tests.unit.test_storage import Video

reason = "Google Cloud Storage is tested in the environments of Airflow 2.11 and 3.3"
emulator = pytest.importorskip("gcp_storage_emulator.server", reason=reason)
gcsfs = pytest.importorskip("gcsfs.core", reason=reason)

if AIRFLOW >= (3, 0):
    from airflow.sdk.io import attach
else:
    from airflow.io.store import attach


NOTHING = re.compile("$^")


class GCS:
    """A server of Google Cloud Storage with a bucket `videos`.

    `refused` matches the method and path of what it answers with `status`, such as 403 to those who lack the
    permission; at what `halt` matches, it sets `halted` and answers nothing more.
    """

    def __init__(self) -> None:
        self.refused = self.halt = NOTHING
        self.status = 403
        self.halted = threading.Event()
        gcs = self

        class Handler(emulator.RequestHandler):
            error_message_format = "%(code)d %(message)s"  # the page of each Python is another one

            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                asked = f"{self.command} {self.path}"
                if gcs.halt.search(asked):
                    self.rfile.read(1000)
                    gcs.halted.set()
                    while self.rfile.read(65536):  # until whoever sends it dies
                        pass
                    return False
                if gcs.refused.search(asked):
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    self.send_error(gcs.status)
                    return False
                return True

        self._server = HTTPServer(("127.0.0.1", 0), partial(Handler, emulator.Storage(use_memory_fs=True)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever).start()
        self._api = httpx.Client(base_url=self.url, trust_env=False, timeout=None)

    def close(self) -> None:
        self._api.close()
        self._server.shutdown()
        self._server.server_close()

    def empty(self) -> None:
        self.refused = self.halt = NOTHING
        self.status = 403
        self._api.get("/wipe").raise_for_status()
        self._api.post("/storage/v1/b", json={"name": "videos"}).raise_for_status()

    @property
    def names(self) -> list[str]:
        return sorted(found["name"] for found in self._api.get("/storage/v1/b/videos/o").json()["items"])

    def content_type(self, name: str) -> str:
        return self._object(name).json()["contentType"]

    def read(self, name: str) -> bytes:
        return self._object(name, alt="media").content

    def _object(self, name: str, **query: str) -> httpx.Response:
        return self._api.get(f"/storage/v1/b/videos/o/{quote(name, safe='')}", params=query).raise_for_status()


def file_system(url: str) -> Any:
    """Return what Airflow's provider makes of a connection, without the packages for all of Google Cloud."""
    return gcsfs.GCSFileSystem(project="project", token="anon", endpoint_url=url)


@pytest.fixture(scope="module")
def started() -> Iterator[GCS]:
    gcs = GCS()
    try:
        # One for all tests of a process: Airflow keeps one file system for each connection.
        attach("gs", conn_id="google", fs=file_system(gcs.url))
        yield gcs
    finally:
        gcs.close()


@pytest.fixture
def gcs(started: GCS, monkeypatch: pytest.MonkeyPatch) -> GCS:
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE", json.dumps({"conn_type": "google_cloud_platform"}))
    started.empty()
    return started


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.05, jitter=0, credits=100, seed=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def video(sandbox: Sandbox) -> Video:
    return Video(sandbox, "a boat")


def test_a_video_is_stored_with_what_belongs_to_it(gcs: GCS, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, sandbox)
    worker = Worker()

    uri = worker.run(task("gs://videos/2026/boat.mp4", destination_conn_id="google", metadata=True, poster=True))

    job = worker.xcoms["job"]
    assert uri == job["uri"] == "gs://videos/2026/boat.mp4"
    assert gcs.names == ["2026/boat.jpg", "2026/boat.json", "2026/boat.mp4"]
    assert [gcs.content_type(name) for name in gcs.names] == ["image/jpeg", "application/json", "video/mp4"]
    assert len(gcs.read("2026/boat.mp4")) == job["bytes"]
    assert json.loads(gcs.read("2026/boat.json"))["sha256"] == job["sha256"]


def test_what_lies_there_is_not_fetched_again(gcs: GCS, video: Video, monkeypatch: pytest.MonkeyPatch):
    first = video.store("gs://videos/", conn_id="google")
    monkeypatch.setattr("airflow_provider_hailuo.storage.download", None)

    assert video.store("gs://videos/", conn_id="google") == first


def test_another_file_is_replaced_or_left(gcs: GCS, video: Video):
    url = "gs://videos/boat.mp4"
    Destination(url, "google").write("mine", "text/plain")

    with pytest.raises(InvalidInputError, match="if_exists is 'fail'"):
        Destination(url, "google", if_exists="fail").check()
    with pytest.raises(StorageError, match=r"lies at gs://videos/boat.mp4, and if_exists is 'fail'"):
        video.store(url, conn_id="google", if_exists="fail")
    assert (gcs.read("boat.mp4"), gcs.content_type("boat.mp4")) == (b"mine", "text/plain")

    video.store(url, conn_id="google")
    assert gcs.read("boat.mp4") == video.content


def test_a_bucket_that_is_not_there_is_found_before_it_is_paid_for(gcs: GCS):
    with pytest.raises(InvalidInputError, match="there is no bucket 'nowhere'"):
        Destination("gs://nowhere/boat.mp4", "google").check()


@pytest.mark.parametrize(
    ("forbidden", "if_exists"),
    [("GET /storage/v1/b/videos$", "skip"), ("^GET ", "overwrite")],
    ids=["Storage Object User", "Storage Object Creator"],
)
def test_who_may_not_look_at_the_bucket_stores_in_it(gcs: GCS, video: Video, forbidden: str, if_exists: Any):
    url = "gs://videos/boat.mp4"
    gcs.refused = re.compile(forbidden)

    Destination(url, "google", if_exists=if_exists).check()
    video.store(url, conn_id="google", if_exists=if_exists)

    gcs.refused = NOTHING
    assert gcs.names == ["boat.mp4"]


@pytest.mark.parametrize(
    ("status", "if_exists", "told"),
    [(403, "skip", "OSError: Forbidden"), (401, "overwrite", "HttpError: .*Unauthorized")],
    ids=["permission", "credentials"],
)
def test_who_may_do_nothing_is_told_so_before_it_is_paid_for(gcs: GCS, status: int, if_exists: Any, told: str):
    gcs.refused, gcs.status = re.compile(""), status

    with pytest.raises(StorageError, match=f"gs://videos/boat.mp4: {told}"):
        Destination("gs://videos/boat.mp4", "google", if_exists=if_exists).check()


def test_a_picture_comes_from_there(gcs: GCS, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, sandbox)
    file_system(gcs.url).pipe_file("videos/first.png", WHOLE["png"][2])

    Worker().run(task(None, image="gs://videos/first.png", image_conn_id="google"))

    asked = sandbox.jobs()[0]["input"]["hailuoParams"]["image"]
    assert asked.startswith(f"{sandbox.base_url}/uploads/")


WRITE = """
import sys
from tests.contract.test_gcs import Destination, attach, file_system
attach("gs", conn_id="google", fs=file_system(sys.argv[1]))
Destination("gs://videos/list.json", "google").write("x" * 6_000_000, "application/json")
"""


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # aiohttp, of what gcsfs does
def test_a_process_that_is_killed_in_the_middle_leaves_what_was_there(gcs: GCS):
    destination = Destination("gs://videos/list.json", "google")
    destination.write("{}", "application/json")
    gcs.halt = re.compile("upload_id=")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    writing = subprocess.Popen([sys.executable, "-c", WRITE, gcs.url], env=environment)
    try:
        assert gcs.halted.wait(300)
        writing.send_signal(signal.SIGKILL)
    finally:
        writing.kill()
        writing.wait()
    gcs.halt = NOTHING

    assert (gcs.names, gcs.read("list.json")) == (["list.json"], b"{}")
    destination.write("x" * 6_000_000, "application/json")
    assert len(gcs.read("list.json")) == 6_000_000
