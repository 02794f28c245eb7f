"""`webhook_url="auto"`: the deployment's own receiver of webhooks (see `plugins/webhooks.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from airflow_provider_hailuo.apiframe.client import Settings, is_loopback
from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.compat import AIRFLOW, conf

AUTO = "auto"

RECEIVER = "https://airflow.invalid/hailuo/webhooks"
"""What stands for the receiver in a request, wherever it is just now: so that a retry asks for the same video when
`[api] base_url` was changed meanwhile. No host has such a name (RFC 6761)."""

FALLBACK_POLL_SECONDS = 60.0
"""Seconds between two looks at a job that the API is going to announce: for what gets lost."""

_EVENTS = ("completed", "failed")


def is_auto(fields: Mapping[str, Any]) -> bool:
    """Tell whether a request wants the deployment's own receiver.

    :param fields: fields of a `VideoRequest`.
    :return: whether its `webhook_url` is `auto`.
    """
    return fields.get("webhook_url") == AUTO


def with_receiver(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request in which `RECEIVER` stands for `auto`.

    :param fields: fields of a `VideoRequest`.
    :return: the fields to send.
    :raises InvalidInputError: this Airflow, older than 3.1, has no receiver.
    """
    if not is_auto(fields):
        return dict(fields)
    if AIRFLOW < (3, 1):
        raise InvalidInputError.of(("webhook_url", AUTO, "needs Airflow 3.1.1; name a URL, or leave it out"))
    return {**fields, "webhook_url": RECEIVER, "webhook_events": fields.get("webhook_events") or _EVENTS}


def receiver_url(conn_id: str, settings: Settings) -> str:
    """Return the URL of the deployment's receiver, as `[api] base_url` says now.

    :param conn_id: the Airflow connection through which jobs are submitted.
    :param settings: what it holds.
    :return: the URL.
    :raises InvalidInputError: the API could not reach it.
    """
    base = str(conf.get("api", "base_url", fallback="")).rstrip("/")
    if not base.startswith(("http://", "https://")):
        problem = "needs the URL under which the API reaches Airflow in its configuration: [api] base_url"
        raise InvalidInputError.of(("webhook_url", AUTO, f"{problem}, which is {base!r}"))
    if is_loopback(urlsplit(base).hostname or "") and not settings.is_local:
        problem = f"the API cannot reach [api] base_url, which is {base!r}: set it, or leave webhook_url out"
        raise InvalidInputError.of(("webhook_url", AUTO, problem))
    return f"{base}/hailuo/webhooks/{quote(conn_id, safe='')}"


def jobs_asset_uri(conn_id: str) -> str:
    """Return the URI of the asset that gets an event for each finished video of a connection.

    :param conn_id: the Airflow connection.
    :return: the URI.
    """
    return f"hailuo://{conn_id}/jobs"
