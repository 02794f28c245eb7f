from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import httpx
import pytest
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Message

from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.sandbox.faults.middleware import Connection, FaultMiddleware
from airflow_provider_hailuo.sandbox.faults.rules import Faults, parse_rules
from airflow_provider_hailuo.sandbox.state import files

Api = Any
SetFaults = Callable[..., None]

BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
GENERATE = "POST /v2/videos/generate"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(92)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Uvicorn complains about answers that are not complete, and about tasks that do not end by themselves."""
    yield
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []


@contextmanager
def raw(sandbox: Sandbox, path: str = "/v2/me") -> Iterator[socket.socket]:
    """A connection by which a GET request has been sent."""
    url = httpx.URL(sandbox.base_url)
    with socket.create_connection((url.host, url.port), timeout=5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {sandbox.api_key}\r\n\r\n".encode())
        yield client


def receive(client: socket.socket, end: bytes) -> bytes:
    """Return what comes until `end`, after which nothing may come."""
    received = b""
    while not received.endswith(end):
        part = client.recv(65536)
        assert part, f"{received!r} is all"
        received += part
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    return received


@pytest.mark.parametrize("fault", [{"fault": "reset"}, {"fault": "error", "status": 502}], ids=["reset", "error"])
@pytest.mark.parametrize("after", [False, True])
def test_a_request_is_carried_out_before_the_fault_or_not_at_all(
    start: Callable[..., Api], fault: dict[str, Any], after: bool
) -> None:
    api = start(faults=[{**fault, "after": after, "times": 1}])
    with suppress(*BROKEN):
        assert api.generate(key="key").status_code == 502
    assert api.sandbox.stats()["creditsCharged"] == 5 * after
    again = api.generate(key="key")
    (job,) = api.get("/v2/jobs").json()["jobs"]
    assert (again.status_code, again.json()["jobId"]) == (202, job["id"])
    stats = api.sandbox.stats()
    assert (stats["creditsCharged"], stats["idempotentReplays"], stats["requests"][GENERATE]) == (5, after, 2)


class TestReset:
    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("path", ["/v2/me", "/v2/jobs"])
    def test_is_one_for_the_kernel(self, api: Api, set_faults: SetFaults, after: bool, path: str) -> None:
        set_faults({"fault": "reset", "after": after})
        with raw(api.sandbox, path) as client, pytest.raises(ConnectionResetError):
            client.recv(1)

    def test_in_the_middle_of_an_upload(self, api: Api, set_faults: SetFaults) -> None:
        set_faults({"fault": "reset"})
        with pytest.raises(BROKEN):
            api.post("/v2/uploads", files={"file": PNG + bytes(20 * 1024 * 1024)})
        set_faults()
        assert api.post("/v2/uploads", files={"file": PNG}).status_code == 201

    def test_comes_too_late_for_who_has_left(
        self, api: Api, set_faults: SetFaults, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started, left = threading.Event(), threading.Event()

        def write_video(path: Path, **_: Any) -> None:
            started.set()
            left.wait(5)
            path.write_bytes(b"video")

        monkeypatch.setattr(files, "write_video", write_video)
        url = api.job(api.submit())["result"]["videoUrl"]
        set_faults({"fault": "reset", "after": True, "times": 1, "route": "GET /videos/{id}.mp4"})
        with raw(api.sandbox, httpx.URL(url).path):
            started.wait(5)
        api.get("/v2/me")
        left.set()
        assert api.get(url).content == b"video"


class TestDelay:
    def test_of_the_first_byte(self, api: Api, set_faults: SetFaults) -> None:
        set_faults({"fault": "slow", "delay": 0.1})
        for path in ("/v2/me", "/v2/jobs"):
            asked = time.monotonic()
            with api.stream("GET", path) as answer:
                assert time.monotonic() - asked >= 0.1
                assert answer.status_code == 200

    def test_comes_after_the_request_was_carried_out(self, start: Callable[..., Api]) -> None:
        api = start(faults=[{"fault": "slow", "delay": 60}])
        api.timeout = 0.1
        with pytest.raises(httpx.ReadTimeout):
            api.generate()
        assert api.sandbox.stats()["creditsCharged"] == 5

    def test_of_each_byte(self, start: Callable[..., Api]) -> None:
        api = start(faults=[{"fault": "drip", "delay": 0.004}])
        asked = time.monotonic()
        with api.stream("GET", "/v2/jobs") as answer:
            assert int(answer.headers["content-length"]) == 45
            parts = list(answer.iter_raw())
        assert time.monotonic() - asked >= 45 * 0.004
        assert b"".join(parts) == b'{"jobs":[],"nextCursor":null,"hasMore":false}'
        assert len(parts) > 10
        assert api.get("/v2/jobs").json()["jobs"] == []


class TestStall:
    def test_leaves_half_of_the_body(self, api: Api, set_faults: SetFaults) -> None:
        honest = api.get("/v2/me")
        set_faults({"fault": "stalled"})
        half = honest.content[: len(honest.content) // 2]
        with raw(api.sandbox) as client:
            head = receive(client, b"\r\n\r\n" + half)
        assert head.startswith(b"HTTP/1.1 200")
        assert f"content-length: {len(honest.content)}".encode() in head

    def test_of_a_file_that_is_named(self, api: Api, set_faults: SetFaults) -> None:
        url = api.post("/v2/uploads", files={"file": PNG}).json()["url"]
        set_faults({"fault": "stalled", "route": "GET /uploads/{id}"})
        with raw(api.sandbox, httpx.URL(url).path) as client:
            assert b"content-length: 100\r\n" in receive(client, b"\r\n\r\n" + PNG[:50])


HANGING = [{"fault": "slow", "delay": 600}, {"fault": "drip", "delay": 600}, {"fault": "stalled"}]


def test_nothing_is_left_of_requests_whose_clients_left(start: Callable[..., Api], eventually: Any) -> None:
    api = start()
    for path in ("/v2/me", "/v2/jobs"):
        for rule in HANGING:
            api.sandbox.set_faults([rule])
            before = sum(api.sandbox.stats()["faults"].values())
            with raw(api.sandbox, path):
                eventually(lambda before=before: sum(api.sandbox.stats()["faults"].values()) > before)


def sent_to_nobody(app: ASGIApp, rule: dict[str, Any]) -> list[Message]:
    """Return what is sent to a client that has left, when `rule` strikes its request to `app`."""
    faults = Faults(rng=Random(1))
    faults.set(parse_rules([rule]))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    state = {"route": "GET /v2/me", "connection": Connection(cast("asyncio.Transport", None))}
    scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.3"}, "state": state}
    asyncio.run(FaultMiddleware(app, faults)(scope, receive, send))
    return sent


def test_no_more_is_sent_than_the_client_waits_for() -> None:
    assert [len(sent_to_nobody(Response("a long story"), rule)) for rule in HANGING] == [0, 1, 2]


def test_a_request_is_carried_out_whole_even_when_the_client_has_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    _, part = sent_to_nobody(FileResponse(file), {"fault": "stalled"})
    assert len(part["body"]) == 500


def test_the_end_waits_for_requests_that_no_fault_strikes(monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()

    def write_video(path: Path, **_: Any) -> None:
        started.set()
        time.sleep(0.2)
        path.write_bytes(b"video")

    monkeypatch.setattr(files, "write_video", write_video)
    rule = {"fault": "error", "status": 503, "times": 1, "route": "GET /v2/me"}
    with ExitStack() as clients:
        with Sandbox(render_seconds=0, faults=[rule]) as sandbox:
            client = clients.enter_context(httpx.Client(headers={"X-API-Key": sandbox.api_key}, trust_env=False))
            body = {"prompt": "a wave", "model": "hailuo-02"}
            job_id = client.post(f"{sandbox.base_url}/v2/videos/generate", json=body).json()["jobId"]
            assert client.get(f"{sandbox.base_url}/v2/jobs/{job_id}").json()["status"] == "COMPLETED"
            assert client.get(f"{sandbox.base_url}/v2/me").status_code == 503
            threads = clients.enter_context(ThreadPoolExecutor())
            answer = threads.submit(client.get, f"{sandbox.base_url}/videos/{job_id}.mp4")
            started.wait(5)
        assert answer.result().content == b"video"


def test_the_end_does_not_wait_for_clients_that_hang(eventually: Any) -> None:
    rules = [{**rule, "times": 1} for rule in HANGING]
    with ExitStack() as clients:
        with Sandbox(faults=rules) as sandbox:
            hanging = [clients.enter_context(raw(sandbox)) for _ in rules]
            eventually(lambda: sum(sandbox.stats()["faults"].values()) == 3)
        for client in hanging:
            with pytest.raises(ConnectionResetError):
                receive(client, b"the end")


def test_an_outage_strikes_the_whole_api_while_renders_go_on(start: Callable[..., Api], eventually: Any) -> None:
    api = start(render_seconds=0.1, jitter=0)
    job_id = api.submit()
    url = api.post("/v2/uploads", files={"file": PNG}).json()["url"]
    api.sandbox.set_faults([{"fault": "error", "status": 503}])
    looks = [api.get(path) for path in (f"/v2/jobs/{job_id}", "/v2/jobs", "/v2/me")]
    answers = [*looks, api.generate(), api.post("/v2/uploads", files={"file": PNG})]
    assert [answer.status_code for answer in answers] == [503] * 5
    assert api.get(url).content == PNG
    eventually(lambda: api.sandbox.stats()["jobs"]["COMPLETED"] == 1)
    assert api.sandbox.stats()["jobsCreated"] == 1


def test_requests_that_are_struck_are_counted_and_looking_at_jobs_is_counted_once(start: Callable[..., Api]) -> None:
    api = start(faults=[{"fault": "error", "status": 502, "after": True}])
    api.get("/v2/jobs")
    api.get("/v2/me")
    api.head("/v2/me")
    requests = api.sandbox.stats()["requests"]
    assert (requests["GET /v2/jobs"], requests["GET /v2/me"], requests["HEAD /v2/me"]) == (1, 1, 1)
    assert api.sandbox.stats()["faults"] == {"error": 2}
