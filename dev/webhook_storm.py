"""Webhooks by the hundred, right ones and forged ones, for `dev/chaos.py`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import httpx

from airflow_provider_hailuo.apiframe.webhooks import MOST_BYTES
from airflow_provider_hailuo.sandbox.http.webhooks import sign

AT_ONCE = 50
ATTEMPTS = 3
NO_WEBHOOKS = (
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"[" * 20_000,
    b'"completed"',
    b'{"event": "completed"}',
    b'{"event": "completed", "jobId": ""}',
    b'{"event": "completed", "jobId": "a\\u0000b"}',
    b'{"event": "completed", "jobId": ["a"]}',
    b'{"event": null, "jobId": "a"}',
)
"""Bodies that are signed right and no webhooks."""


@dataclass(frozen=True)
class Webhook:
    """What somebody sends to a receiver, and with which `answer` he is to be told off, or not.

    :param kind: what is special about it.
    :param url: the receiver of a connection.
    :param body: the raw body.
    :param signature: the header of it, None without one.
    :param answer: the HTTP status that it is to get.
    """

    kind: str
    url: str
    body: bytes
    signature: str | None
    answer: int


class Storm:
    """Sends webhooks to all receivers of a deployment, many at a time, and counts their answers.

    :param receivers: where API servers take the webhooks of the connection.
    :param api_key: the key under which the jobs were submitted.

    Attributes: `answered`, how many were answered so far; `answers`, how often each kind got each HTTP status, 0 for
    none at all; `seconds`, how long each of them took; `wrong`, those that another one was right for.
    """

    def __init__(self, receivers: Sequence[str], api_key: str) -> None:
        self.answered = 0
        self.answers: Counter[tuple[str, int]] = Counter()
        self.seconds: list[float] = []
        self.wrong: Counter[str] = Counter()
        self._receivers = receivers
        self._api_key = api_key

    def right(self, job_id: str, event: str = "completed") -> Webhook:
        """Return a webhook that is signed right, in any form; whether it is true is another matter."""
        body = _body(job_id, event)
        secret = hashlib.sha256(self._api_key.encode()).hexdigest().encode()
        forms = sign(body, self._api_key), hmac.new(secret, body, "sha256").hexdigest()
        return self._webhook(event, body, random.choice(forms), 204)  # noqa: S311

    def forged(self, job_id: str) -> list[Webhook]:
        """Return one webhook of each kind that has to change nothing, though it is about a job of ours."""
        body, elsewhere = _body(job_id), random.choice(self._receivers).rpartition("/")[0]  # noqa: S311
        signature = sign(body, self._api_key)
        no_webhook = random.choice(NO_WEBHOOKS)  # noqa: S311
        long = body + b" " * MOST_BYTES
        return [
            self._webhook("unsigned", body, None, 401),
            self._webhook("wrong signature", body, signature[:-1] + ("1" if signature[-1] == "0" else "0"), 401),
            self._webhook("signed by another key", body, sign(body, f"{self._api_key}x"), 401),
            self._webhook("changed after signing", _body(job_id, "failed"), signature, 401),
            Webhook("unknown connection", f"{elsewhere}/nobody", body, signature, 401),
            self._webhook("oversized", long, sign(long, self._api_key), 413),
            self._webhook("of another shape", no_webhook, sign(no_webhook, self._api_key), 400),
            self.right(job_id, "progress"),
            self.right(job_id, "failed"),
            replace(self.right(str(uuid4())), kind="unknown job", answer=503),
        ]

    async def blow(self, webhooks: Sequence[Webhook]) -> None:
        """Send them in this order, and return when all are answered."""
        turn = iter(webhooks)
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:

            async def send() -> None:
                for webhook in turn:
                    begun = time.monotonic()
                    status = await _send(client, webhook)
                    self.answered += 1
                    self.seconds.append(time.monotonic() - begun)
                    self.answers[webhook.kind, status] += 1
                    if status != webhook.answer:
                        self.wrong[f"{webhook.kind}: {status} in place of {webhook.answer}"] += 1

            await asyncio.gather(*(send() for _ in range(AT_ONCE)))

    def _webhook(self, kind: str, body: bytes, signature: str | None, answer: int) -> Webhook:
        return Webhook(kind, random.choice(self._receivers), body, signature, answer)  # noqa: S311


def _body(job_id: str, event: str = "completed") -> bytes:
    """Return a body that tells lies, but for the job."""
    video = {"videoUrl": "http://127.0.0.1:9/forged.mp4"}
    told = {"event": event, "jobId": job_id, "status": event.upper(), "result": video, "creditCost": 10**6}
    return json.dumps(told).encode()


async def _send(client: httpx.AsyncClient, webhook: Webhook) -> int:
    """Send a webhook and return the HTTP status that it got, 0 for none; after 503 it is sent again."""
    headers = {} if webhook.signature is None else {"X-Webhook-Signature": webhook.signature}
    for _ in range(ATTEMPTS):
        try:
            status = (await client.post(webhook.url, content=webhook.body, headers=headers)).status_code
        except httpx.TransportError:
            return 0
        if status != 503 or webhook.answer == 503:
            break
    return status
