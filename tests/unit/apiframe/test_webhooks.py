from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from airflow_provider_hailuo.apiframe.errors import UnreadableAnswerError
from airflow_provider_hailuo.apiframe.webhooks import Webhook, is_signed, read
from airflow_provider_hailuo.sandbox.http import webhooks as sandbox

KEY = "afk_1"
BODY = b'{"event": "completed", "jobId": "job_1"}'
RAW = hashlib.sha256(KEY.encode()).digest()


def mac(secret: bytes, body: bytes = BODY) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("secret", [RAW, RAW.hex().encode()], ids=["the digest", "its hexadecimal characters"])
@pytest.mark.parametrize("form", ["sha256={}", "{}", " sha256={} "])
def test_both_secrets_sign_with_and_without_a_prefix(secret: bytes, form: str):
    assert is_signed(BODY, form.format(mac(secret)), KEY)
    assert is_signed(BODY, form.format(mac(secret)).upper().replace("SHA256", "sha256"), KEY)


def test_what_the_sandbox_signs_is_signed():
    assert is_signed(BODY, sandbox.sign(BODY, KEY), KEY)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        mac(RAW)[:-1],
        mac(RAW) + "0",
        "sha1=" + mac(RAW),
        mac(RAW, b"another body"),
        mac(KEY.encode()),
        mac(RAW.hex().upper().encode()),
        mac(hashlib.sha256(b"afk_2").digest()),
        "\u00e9" * 64,
    ],
)
def test_nothing_else_does(signature: str):
    assert not is_signed(BODY, signature, KEY)


@pytest.mark.parametrize(
    ("event", "is_final"), [("completed", True), ("failed", True), ("progress", False), ("new", False)]
)
def test_a_webhook_tells_which_job_to_look_at(event: str, is_final: bool):
    webhook = read(json.dumps({"event": event, "jobId": "job_1", "status": "ANY", "from": "the future"}).encode())

    assert webhook == Webhook(event, "job_1")
    assert webhook.is_final is is_final


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        b"[]",
        b'"completed"',
        b"null",
        b"{}",
        b'{"event": "completed"}',
        b'{"event": 1, "jobId": "job_1"}',
        b'{"event": "completed", "jobId": 1}',
        b'{"event": "completed", "jobId": ""}',
        b'{"event": "completed", "jobId": "' + b"j" * 256 + b'"}',
        b'{"event": "completed", "jobId": "a\\u0000b"}',  # which no database takes
        b'{"event": "completed", "jobId": ".."}',
        b'{"event": "completed", "jobId": ["job_1"]}',
        b"[" * 60_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_anything_else_is_no_webhook(body: bytes):
    with pytest.raises(UnreadableAnswerError, match="'event' and 'jobId'"):
        read(body)
