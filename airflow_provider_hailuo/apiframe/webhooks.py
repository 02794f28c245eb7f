"""The API's webhooks on their way in: whose they are, and which job they are about."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import dataclass

from airflow_provider_hailuo.apiframe.errors import UnreadableAnswerError
from airflow_provider_hailuo.apiframe.models import check_job_id

MOST_BYTES = 64 * 1024
"""How long a webhook may be: the longest documented one has less than a kilobyte beside its prompt."""


@dataclass(frozen=True)
class Webhook:
    """A hint to look at a job: deliveries come late, twice and in any order, so nothing else of a body is believed.

    :param event: `progress`, `completed` or `failed`, or what a later API says.
    :param job_id: the job.
    """

    event: str
    job_id: str

    @property
    def is_final(self) -> bool:
        """Whether it says that the job has ended."""
        return self.event in {"completed", "failed"}


def is_signed(body: bytes, signature: str, api_key: str) -> bool:
    """Tell whether a webhook comes from the API, in a time that says nothing of the key.

    The secret is the SHA-256 of the API key: its 32 bytes (the vendor's client) or its 64 hexadecimal characters
    (code in the wild).

    :param body: the raw body.
    :param signature: the header `X-Webhook-Signature`, with or without `sha256=` before it.
    :param api_key: the key under which the job was submitted.
    :return: whether the signature is that of the body.
    """
    given = signature.strip().removeprefix("sha256=").lower().encode()
    digest = hashlib.sha256(api_key.encode())
    secrets = (digest.digest(), digest.hexdigest().encode())
    right = [hmac.new(secret, body, "sha256").hexdigest().encode() for secret in secrets]
    # Both are compared, whatever the first says.
    return sum(hmac.compare_digest(one, given) for one in right) > 0


def read(body: bytes) -> Webhook:
    """Return what the body of a webhook says.

    :param body: the raw body.
    :return: the event, and the job that it is about.
    :raises UnreadableAnswerError: it is no webhook.
    """
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        told = json.loads(body)
        event, job_id = told["event"], check_job_id(told["jobId"])
        if isinstance(event, str):
            return Webhook(event, job_id)
    raise UnreadableAnswerError("The body is no webhook of the API: it needs the texts 'event' and 'jobId'")
