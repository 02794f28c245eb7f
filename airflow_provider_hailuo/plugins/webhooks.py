"""The receiver of the API's webhooks: `POST <base>/hailuo/webhooks/<conn_id>`.

Who cannot sign learns nothing from it. Who can is believed one thing: that it is time to look at a job.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import TypeVar

from anyio import CapacityLimiter, sleep, to_thread
from fastapi import APIRouter, HTTPException, Request, Response, status

from airflow_provider_hailuo.apiframe import calls, webhooks
from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.apiframe.errors import ApiframeError, UnreadableAnswerError
from airflow_provider_hailuo.apiframe.models import JobStatus, is_nothing
from airflow_provider_hailuo.apiframe.watcher import known, shared_watcher
from airflow_provider_hailuo.hooks.hailuo import HailuoConnectionNotFoundError, HailuoHook
from airflow_provider_hailuo.plugins import job_events

REFUSAL_SECONDS = 0.25
"""Refusals are told at whole multiples of this: how long a look-up took is not to be seen."""

LOOK_UP_SECONDS = 10
"""How long what a connection holds serves, so that a thousand webhooks do not ask a secrets backend each."""

DATABASE_LIMITER = CapacityLimiter(4)
"""How many threads, and so connections to the database, webhooks take at a time: a thousand leave the UI its own."""

ASSET_EVENT_LIMITER = CapacityLimiter(1)
"""The thread that announces videos: one after the other, and no task waits behind them."""

T = TypeVar("T")

log = logging.getLogger(__name__)
router = APIRouter()
_later: set[asyncio.Task[None]] = set()


@router.post("/webhooks/{conn_id:path}", status_code=status.HTTP_204_NO_CONTENT, response_class=Response)
async def receive(conn_id: str, request: Request) -> None:
    """Take a webhook of a connection: resume the task that waits for its job, and announce its video.

    :param conn_id: the Airflow connection.
    :param request: the raw body and its signature.
    :raises HTTPException: 401, alike for a wrong signature and for a connection that is not there or cannot be looked
        up; 413 for more than 64 kB; 400 for what is signed and no webhook; 503 if the job cannot be looked at.
    """
    arrived = monotonic()
    body = await _body(request)
    settings = await _in_thread(_settings, conn_id, int(arrived / LOOK_UP_SECONDS))
    key = settings.api_key if settings else ""
    signed = webhooks.is_signed(body, request.headers.get("x-webhook-signature", ""), key)
    if settings is None or not signed:
        passed = monotonic() - arrived
        await sleep(math.ceil(passed / REFUSAL_SECONDS) * REFUSAL_SECONDS - passed)
        raise HTTPException(status.HTTP_401_UNAUTHORIZED)
    try:
        webhook = webhooks.read(body)
    except UnreadableAnswerError as error:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, error.message) from None
    if not webhook.is_final:
        return
    seconds = await _in_thread(job_events.resume_tasks, webhook.job_id)
    if seconds is not None:
        task = asyncio.create_task(_resume_later(webhook.job_id, seconds))
        _later.add(task)
        task.add_done_callback(_later.discard)
    try:
        await _create_asset_event(conn_id, settings, webhook.job_id)
    except ApiframeError as error:
        log.warning("A webhook of %r could not be followed: %s", conn_id, error)
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE) from None


async def _in_thread(
    function: Callable[..., T], *arguments: object, limiter: CapacityLimiter = DATABASE_LIMITER
) -> T:
    return await to_thread.run_sync(function, *arguments, limiter=limiter)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > webhooks.MOST_BYTES:
            raise HTTPException(status.HTTP_413_CONTENT_TOO_LARGE)
    return body


@lru_cache(maxsize=256)
def _settings(conn_id: str, tick: int) -> Settings | None:  # noqa: ARG001 - a look-up is good for one tick
    """Return what a connection holds; None if there is none, or none to be had."""
    if is_nothing(conn_id):
        return None
    try:
        return HailuoHook(conn_id).get_settings()
    except HailuoConnectionNotFoundError:
        return None
    except ApiframeError as error:
        log.warning("A webhook could not be verified: %s", error)
        return None


async def _resume_later(job_id: str, seconds: float | None) -> None:
    while seconds is not None:
        await sleep(seconds)
        seconds = await _in_thread(job_events.resume_tasks, job_id)


async def _create_asset_event(conn_id: str, settings: Settings, job_id: str) -> None:
    """Give the asset of the connection an event for the video of a job, as the API tells of it."""
    if not await _in_thread(job_events.needs_asset_event, conn_id, job_id):
        return
    hook = HailuoHook(conn_id)
    async with shared_watcher(conn_id, known(settings), hook.connect) as (_, watcher):
        job = await watcher.send(calls.get_job(job_id), retries=0)
    if job.status == JobStatus.COMPLETED:
        await _in_thread(job_events.create_asset_event, conn_id, job, limiter=ASSET_EVENT_LIMITER)
