from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "afk_sandbox"

Api = Any
Eventually = Callable[[Callable[[], Any]], Any]


class Receiver(ThreadingHTTPServer):
    """A receiver of webhooks: answers with the statuses it is given, then with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.statuses: list[int] = []
        self.received: list[tuple[str, dict[str, str], bytes]] = []

    def events(self, path: str = "/hook") -> list[dict[str, Any]]:
        return [json.loads(body) for at, _, body in self.received if at == path]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


def settled(api: Api, job_id: str) -> Callable[[], str | None]:
    """Return a look at how the webhook went, which is false as long as that is open."""
    return lambda: status if (status := api.job(job_id)["webhookStatus"]) != "pending" else None


def test_completion_is_told_and_signed(start: Callable[..., Api], receiver: Receiver, eventually: Eventually) -> None:
    api = start(render_seconds=0.2, jitter=0)
    job_id = api.submit(webhookUrl=f"{receiver.url}/hook")
    assert api.job(job_id)["webhookStatus"] == "pending"
    assert eventually(settled(api, job_id)) == "delivered"

    ((_, headers, body),) = receiver.received
    job = api.job(job_id)
    assert json.loads(body) == {
        "event": "completed",
        "jobId": job_id,
        "status": "COMPLETED",
        "progress": 100,
        "result": job["result"],
        "model": "hailuo-02",
        "creditCost": 5,
        "completedAt": job["completedAt"],
    }
    secret = hashlib.sha256(KEY.encode()).digest()
    assert headers["x-webhook-signature"] == "sha256=" + hmac.new(secret, body, "sha256").hexdigest()
    assert headers["x-webhook-event"] == "completed"
    assert headers["content-type"] == "application/json"
    assert "x-api-key" not in headers


def test_failure_and_progress_are_told_when_asked_for(
    start: Callable[..., Api], receiver: Receiver, eventually: Eventually
) -> None:
    api = start(render_seconds=0.2)
    job_id = api.submit("[[fail: no luck]]", webhookUrl=f"{receiver.url}/hook", webhookEvents=["progress", "failed"])
    assert eventually(settled(api, job_id)) == "delivered"
    eventually(lambda: len(receiver.events()) == 4)
    told = {"jobId": job_id, "model": "hailuo-02"}
    failed = {**told, "event": "failed", "status": "FAILED", "error": "no luck"}
    assert failed in receiver.events()
    for event in receiver.events():
        if event != failed:
            assert event.pop("progress") >= 25
            assert event == {**told, "event": "progress", "status": "PROCESSING"}


def test_delivery_is_tried_again(start: Callable[..., Api], receiver: Receiver, eventually: Eventually) -> None:
    api = start(render_seconds=0)
    receiver.statuses = [500]
    job_id = api.submit(webhookUrl=f"{receiver.url}/hook")
    assert eventually(settled(api, job_id)) == "delivered"
    assert [event["jobId"] for event in receiver.events()] == [job_id, job_id]
    assert len({body for _, _, body in receiver.received}) == 1


def test_delivery_is_given_up_without_following_a_redirect(
    start: Callable[..., Api], receiver: Receiver, eventually: Eventually
) -> None:
    api = start(render_seconds=0)
    receiver.statuses = [302, 307, 404]
    redirected = api.submit(webhookUrl=f"{receiver.url}/hook")
    nowhere = api.submit(webhookUrl="http://127.0.0.1:9/hook")
    unspeakable = api.submit(webhookUrl=f"http://127.0.0.1:9/{'x' * 70_000}")
    assert api.get("/v2/me").elapsed.total_seconds() < 0.5
    for job_id in (redirected, nowhere, unspeakable):
        assert eventually(settled(api, job_id)) == "failed"
    assert [path for path, _, _ in receiver.received] == ["/hook"] * 3


def test_proxies_of_the_environment_are_not_used(
    start: Callable[..., Api], receiver: Receiver, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    api = start(render_seconds=0)
    assert eventually(settled(api, api.submit(webhookUrl=f"{receiver.url}/hook"))) == "delivered"
