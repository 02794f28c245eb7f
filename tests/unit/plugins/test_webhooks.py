"""What the receiver of webhooks tells to whom, and when. What it sets off: `tests/system/test_webhooks.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from airflow_provider_hailuo.compat import AIRFLOW

if AIRFLOW < (3, 1):
    pytest.skip("Airflow has apps of plugins from 3.1 on", allow_module_level=True)

import httpx
from fastapi import FastAPI

from airflow_provider_hailuo.apiframe.webhooks import MOST_BYTES
from airflow_provider_hailuo.plugins import webhooks
from airflow_provider_hailuo.plugins.webhooks import REFUSAL_SECONDS
from airflow_provider_hailuo.sandbox.http.webhooks import sign

KEY = "afk_1"
BODY = b'{"event": "completed", "jobId": "job_1"}'
PROGRESS = BODY.replace(b"completed", b"progress")


class Receiver:
    """The receiver, and the seconds for which it has kept its refusals back."""

    def __init__(self) -> None:
        self.look_up_seconds = 0.0
        self.paused: list[float] = []
        self.resumed: list[str] = []
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.paused.append(seconds)

    def post(self, body: bytes, signature: str, conn_id: str = "hailuo_default") -> httpx.Response:
        async def post() -> httpx.Response:
            app = FastAPI()
            app.include_router(webhooks.router)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
                headers = {"X-Webhook-Signature": signature}
                return await client.post(f"/webhooks/{conn_id}", content=body, headers=headers)

        return asyncio.run(post())


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    real = webhooks._settings.__wrapped__

    def slow(conn_id: str, tick: int) -> object:
        receiver.now += receiver.look_up_seconds
        return real(conn_id, tick)

    def resume(job_id: str) -> None:
        receiver.resumed.append(job_id)

    connection = {"conn_type": "hailuo", "password": KEY}
    monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_NO_KEY", json.dumps({"conn_type": "aws"}))
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", "{no json")
    monkeypatch.setattr(webhooks, "_settings", slow)
    monkeypatch.setattr(webhooks, "monotonic", lambda: receiver.now)
    monkeypatch.setattr(webhooks, "sleep", receiver.sleep)
    monkeypatch.setattr(webhooks.job_events, "resume_tasks", resume)
    monkeypatch.setattr(webhooks.job_events, "needs_asset_event", lambda *_: False)
    return receiver


def test_what_is_signed_is_believed_at_once(receiver: Receiver):
    receiver.look_up_seconds = 0.1

    assert receiver.post(BODY, sign(BODY, KEY)).status_code == 204
    assert receiver.paused == []
    assert receiver.resumed == ["job_1"]


def test_progress_resumes_nobody(receiver: Receiver):
    assert receiver.post(PROGRESS, sign(PROGRESS, KEY)).status_code == 204
    assert receiver.resumed == []


REFUSED = {
    "a wrong signature": ("0" * 64, "hailuo_default"),
    "no signature": ("", "hailuo_default"),
    "an unknown connection": (sign(BODY, KEY), "nobody"),
    "an unknown connection, signed with nothing": (sign(BODY, ""), "nobody"),
    "a connection without a key": (sign(BODY, ""), "no_key"),
    "a connection that cannot be read": (sign(BODY, ""), "broken"),
    "no connection": (sign(BODY, KEY), "None"),
}


@pytest.mark.parametrize("seconds", [0.001, 0.249, 0.26, 1.1])
@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_says_the_same_at_a_whole_multiple(receiver: Receiver, case: str, seconds: float):
    receiver.look_up_seconds = seconds

    answer = receiver.post(BODY, *REFUSED[case])

    assert (answer.status_code, answer.json()) == (401, {"detail": "Unauthorized"})
    (paused,) = receiver.paused
    assert (seconds + paused) / REFUSAL_SECONDS == pytest.approx(round((seconds + paused) / REFUSAL_SECONDS))
    assert 0 <= paused <= REFUSAL_SECONDS
    assert receiver.resumed == []


def test_what_is_too_long_is_read_no_further(receiver: Receiver):
    sent = 0

    async def stream():
        nonlocal sent
        while True:
            sent += 1024
            yield b" " * 1024

    assert receiver.post(stream(), "").status_code == 413
    assert sent <= MOST_BYTES + 2 * 1024


def test_what_is_signed_and_no_webhook_is_named(receiver: Receiver):
    answer = receiver.post(b"[]", sign(b"[]", KEY))

    assert answer.status_code == 400
    assert "'event' and 'jobId'" in answer.text
