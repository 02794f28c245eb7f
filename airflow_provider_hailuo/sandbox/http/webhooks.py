"""Webhooks on their way out: signed, sent, tried again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

import httpx

from airflow_provider_hailuo.sandbox.state.jobs import Event

_PAUSES: Final = (0.0, 0.25, 1.0)
_TIMEOUT_SECONDS: Final = 10.0


def webhook_client() -> httpx.AsyncClient:
    """Make the client that sends webhooks: it follows neither redirects nor proxies, and lets any number wait.

    :return: the client.
    """
    return httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(_TIMEOUT_SECONDS, pool=None))


async def deliver(client: httpx.AsyncClient, event: Event, payload: Mapping[str, Any], *, api_key: str) -> bool:
    """Send a webhook, in up to three attempts.

    :param client: sends it.
    :param event: says where to, and of what kind it is.
    :param payload: what it tells.
    :param api_key: signs it.
    :return: whether the receiver took it, by a status of 2xx.
    """
    body = json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Webhook-Event": event.kind.value,
        "X-Webhook-Signature": sign(body, api_key),
    }
    for pause in _PAUSES:
        await asyncio.sleep(pause)
        try:
            answer = await client.post(event.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            continue
        if answer.is_success:
            return True
    return False


def sign(body: bytes, api_key: str) -> str:
    """Sign a webhook (Apiframe reference, "Webhooks").

    The secret is the 32 raw bytes of the SHA-256 of the key, as in the vendor's own client.

    :param body: the body of the webhook.
    :param api_key: the key of the account.
    :return: the value of the header `X-Webhook-Signature`.
    """
    secret = hashlib.sha256(api_key.encode()).digest()
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
