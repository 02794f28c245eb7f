"""Triggers that `triggerer.py` puts into a triggerer beside the provider's own."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import httpx
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_hailuo.compat import get_async_connection

SAMPLES_PER_WRITE = 50
# The time that httpx takes over requests which wait for a connection is quadratic: many pollers would come to a halt.
REQUESTS_AT_ONCE = asyncio.Semaphore(20)
FINAL = ("COMPLETED", "FAILED", "CANCELLED")


class _Trigger(BaseTrigger):
    """A trigger that is made of the arguments it was given."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.arguments = arguments

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self.arguments


class IdleTrigger(_Trigger):
    """Waits for nothing, for ever: what any trigger costs at least."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait."""
        await asyncio.Event().wait()
        yield TriggerEvent(None)


class PollingTrigger(_Trigger):
    """Polls its own job until it is final, as the triggers of other providers do, but all through one client.

    Parameters: `job_id`; `conn_id` of the connection; `interval` in seconds between two polls.
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll, and yield the final status."""
        client = await _client(self.arguments["conn_id"])
        while True:
            async with REQUESTS_AT_ONCE:
                answer = await client.get(f"/v2/jobs/{self.arguments['job_id']}")
            job = answer.raise_for_status().json()
            if job["status"] in FINAL:
                break
            await asyncio.sleep(self.arguments["interval"])
        yield TriggerEvent(job["status"])


@cache
def _client(conn_id: str) -> asyncio.Task[httpx.AsyncClient]:
    return asyncio.create_task(_open_client(conn_id))


async def _open_client(conn_id: str) -> httpx.AsyncClient:
    connection = await get_async_connection(conn_id)
    headers = {"X-API-Key": connection.password or ""}
    return httpx.AsyncClient(base_url=connection.host or "", headers=headers, timeout=60)


class ProbeTrigger(_Trigger):
    """Looks up a connection once, then measures from within how late the event loop is.

    It sleeps for `period` seconds again and again and notes how much longer that took.

    Parameters: `conn_id` of the connection; `path` of the file that gets pairs of doubles: a moment of the monotonic
    clock and the seconds by which the sleep before it was too long. The file appears when the trigger starts; the
    look-up begins `pause` seconds later.
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Measure for ever."""
        with open(self.arguments["path"], "wb", buffering=0) as file:  # noqa: ASYNC230, PTH123 - as short as can be
            await asyncio.sleep(self.arguments["pause"])
            await get_async_connection(self.arguments["conn_id"])
            period = self.arguments["period"]
            samples = array("d")
            before = time.monotonic()
            while True:
                await asyncio.sleep(period)
                now = time.monotonic()
                samples.extend((now, now - before - period))
                if len(samples) >= 2 * SAMPLES_PER_WRITE:
                    file.write(samples)
                    del samples[:]
                before = time.monotonic()
        yield TriggerEvent(None)
