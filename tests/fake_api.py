"""An API in memory, for tests in virtual time: an account of any number of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx

from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings


def job_id(n: int) -> str:
    return str(UUID(int=n))


class Api:
    """An account of jobs, newest first, which end at set moments, and a count of what is asked of it.

    Job n is created as the n-th. `ends` maps a job to the virtual second at which it is COMPLETED.
    """

    def __init__(self, jobs: int = 0) -> None:
        self.jobs = jobs
        self.ends: dict[int, float] = {}
        self.unlisted: set[int] = set()
        self.asked: list[tuple[float, str]] = []
        self.key = "afk_1"
        self.connection_key = "afk_1"
        self.clients: list[AsyncClient] = []
        self.breaks: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.opening: Callable[[], Awaitable[None]] | None = None

    async def open(self) -> AsyncClient:
        if self.opening is not None:
            await self.opening()
        settings = Settings(api_key=self.connection_key, retries=0)
        self.clients.append(AsyncClient(settings, transport=httpx.MockTransport(self.answer)))
        return self.clients[-1]

    @property
    def open_clients(self) -> int:
        return sum(not client._http.is_closed for client in self.clients)

    @property
    def singles(self) -> list[str]:
        return [path.rpartition("/")[2] for _, path in self.asked if not path.endswith("/jobs")]

    @property
    def pages(self) -> int:
        return sum(path.endswith("/jobs") for _, path in self.asked)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((asyncio.get_running_loop().time(), request.url.path))
        await asyncio.sleep(0.001)
        if request.headers["x-api-key"] != self.key:
            return httpx.Response(401, json={"error": "Invalid or missing API key"})
        if broken := self.breaks(request):
            return broken
        if request.url.path.endswith("/jobs"):
            cursor, page = int(request.url.params.get("cursor", self.jobs)), []
            while cursor and len(page) < int(request.url.params["limit"]):
                if cursor not in self.unlisted:
                    page.append(self.job(cursor))
                cursor -= 1
            return httpx.Response(
                200, json={"jobs": page, "nextCursor": str(cursor) if cursor else None, "hasMore": cursor > 0}
            )
        return httpx.Response(200, json=self.job(UUID(request.url.path.rpartition("/")[2]).int))

    def job(self, n: int) -> dict:
        ended = asyncio.get_running_loop().time() >= self.ends.get(n, float("inf"))
        return {"id": job_id(n), "status": "COMPLETED" if ended else "PROCESSING"}
