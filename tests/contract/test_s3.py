"""Videos and pictures in S3, through Airflow's own provider of it, from a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.storage import Destination, StorageError
from tests.s3 import S3, serving
from tests.unit.apiframe.test_pictures import WHOLE
from tests.unit.operators.fakes import connect
from tests.unit.operators.test_storing import Worker, task
from tests.unit.test_storage import Video


@pytest.fixture(scope="module")
def started() -> Iterator[S3]:
    with serving() as s3:
        yield s3


@pytest.fixture
def s3(started: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    monkeypatch.setenv("AIRFLOW_CONN_STORE", started.connection_json())
    for key in started.keys:
        started.client.delete_object(Bucket="videos", Key=key)
    return started


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.05, jitter=0, credits=100, seed=1) as sandbox:
        connect(monkeypatch, sandbox)
        yield sandbox


def test_a_video_is_stored_with_what_belongs_to_it(s3: S3, sandbox: Sandbox):
    worker = Worker()

    uri = worker.run(task("s3://videos/2026/boat.mp4", destination_conn_id="store", metadata=True, poster=True))

    job = worker.xcoms["job"]
    assert uri == job["uri"] == "s3://videos/2026/boat.mp4"
    assert s3.keys == ["2026/boat.jpg", "2026/boat.json", "2026/boat.mp4"]
    found = s3.client.get_object(Bucket="videos", Key="2026/boat.mp4")
    assert (found["ContentType"], len(found["Body"].read())) == ("video/mp4", job["bytes"])
    told = s3.client.get_object(Bucket="videos", Key="2026/boat.json")
    assert told["ContentType"] == "application/json"
    assert json.loads(told["Body"].read())["sha256"] == job["sha256"]
    assert s3.client.head_object(Bucket="videos", Key="2026/boat.jpg")["ContentType"] == "image/jpeg"


def test_what_lies_there_is_not_fetched_again(s3: S3, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    video = Video(sandbox, "a boat")
    first = video.store("s3://videos/", conn_id="store")
    monkeypatch.setattr("airflow_provider_hailuo.storage.download", None)

    assert video.store("s3://videos/", conn_id="store") == first


@pytest.mark.parametrize(
    ("place", "kind", "told"),
    [
        (("s3://nowhere/boat.mp4", "store"), InvalidInputError, "there is no bucket 'nowhere'"),
        (("s3://videos/boat.mp4", "no_such_conn"), StorageError, "no_such_conn"),
        (("s3://videos/boat.mp4", "gone"), StorageError, "s3://videos/boat.mp4"),
    ],
    ids=["bucket", "connection", "server"],
)
def test_what_could_not_be_stored_is_found_before_it_is_paid_for(
    s3: S3, monkeypatch: pytest.MonkeyPatch, place: tuple[str, str], kind: type[Exception], told: str
):
    monkeypatch.setenv("AIRFLOW_CONN_GONE", s3.connection_json("http://127.0.0.1:9"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    with pytest.raises(kind, match=told):
        Destination(*place).check()


def test_a_picture_comes_from_there(s3: S3, sandbox: Sandbox):
    s3.client.put_object(Bucket="videos", Key="first.png", Body=WHOLE["png"][2])

    Worker().run(task(None, image="s3://videos/first.png", image_conn_id="store"))

    asked = sandbox.jobs()[0]["input"]["hailuoParams"]["image"]
    assert asked.startswith(f"{sandbox.base_url}/uploads/")


STORE = """
import json, sys
from airflow_provider_hailuo.storage import Destination
Destination("s3://videos/boat.mp4", "store").store(json.loads(sys.argv[1]), {}, allow_local=True)
"""


class Gate:
    """An S3 without anything in it that never takes all of what is put, so that somebody can die in the middle."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # which answers "Expect: 100-continue"

            def do_PUT(self) -> None:
                self.rfile.read(1000)
                gate.reached.set()
                # Until whoever sends it dies.
                while self.rfile.read(65536):
                    threading.Event().wait(0.05)

            def do_HEAD(self) -> None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD  # noqa: N815 - as the library wants it

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_process_that_is_killed_in_the_middle_leaves_nothing_under_the_name(s3: S3, sandbox: Sandbox):
    video = Video(sandbox, "a boat")
    gate = Gate()
    environment = {**os.environ, "AIRFLOW_CONN_STORE": s3.connection_json(gate.url), "PYTHONPATH": str(Path.cwd())}
    storing = subprocess.Popen([sys.executable, "-c", STORE, json.dumps(video.facts)], env=environment)
    try:
        assert gate.reached.wait(300)
        storing.send_signal(signal.SIGKILL)
        storing.wait()
        assert s3.keys == []
    finally:
        storing.kill()
        storing.wait()
        gate.close()

    video.store("s3://videos/boat.mp4", conn_id="store")

    assert s3.keys == ["boat.mp4"]
    assert sandbox.stats()["creditsCharged"] == 5
