"""An API in memory, for tests in virtual time: an account of any number of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx

from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from tests.virtual_time import moment


def refusal(status: int) -> httpx.Response:
    """Return a refusal by the API itself."""
    return httpx.Response(status, json={"error": "no"})


def page_of_a_proxy(status: int) -> httpx.Response:
    return httpx.Response(status, text="<html>")


def job_id(n: int) -> str:
    return str(UUID(int=n))


class Api:
    """An account of jobs, newest first, which end at set moments, and a record of what is asked of it and was told.

    Job n is created as the n-th. `ends` maps a job to the virtual second at which it is COMPLETED (at first all to
    `end`); its URL is there `url_delay` seconds later, and never in a list that has only `summaries`. `keys` are
    those that the API accepts, any other one meets a `refusal`; `connection_key` is the one that a look-up finds.
    `breaks` answers in place of the API, `looking_up` and `connecting` may fail. Lists leave out what is `unlisted`;
    `foreign` jobs are of others.
    """

    def __init__(self, jobs: int = 0, end: float = float("inf")) -> None:
        self.jobs = jobs
        self.ends: dict[int, float] = dict.fromkeys(range(1, jobs + 1), end)
        self.unlisted: set[int] = set()
        self.foreign: set[int] = set()
        self.told: dict[int, float] = {}
        self.asked: list[tuple[float, str]] = []
        self.keys = {"afk_1"}
        self.refusal = 401
        self.connection_key = "afk_1"
        self.clients: list[AsyncClient] = []
        self.breaks: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.url_delay = 0.0
        self.summaries = False
        self.look_ups: list[float] = []
        self.looking_up: Callable[[], Awaitable[None]] | None = None
        self.connecting: Callable[[], None] = lambda: None

    async def look_up(self) -> Settings:
        self.look_ups.append(moment())
        if self.looking_up is not None:
            await self.looking_up()
        return Settings(api_key=self.connection_key, retries=0)

    def connect(self, settings: Settings) -> AsyncClient:
        self.connecting()
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
        self.asked.append((moment(), request.url.path))
        await asyncio.sleep(0.001)
        if request.headers["x-api-key"] not in self.keys:
            return refusal(self.refusal)
        if broken := self.breaks(request):
            return broken
        if request.method == "POST":
            return httpx.Response(202, json={"jobId": job_id(self.jobs), "status": "QUEUED"})
        if request.url.path.endswith("/jobs"):
            cursor, page = int(request.url.params.get("cursor", self.jobs)), []
            while cursor and len(page) < int(request.url.params["limit"]):
                if cursor not in self.unlisted:
                    job = self.job(cursor)
                    page.append({name: job[name] for name in ("id", "status")} if self.summaries else job)
                cursor -= 1
            return httpx.Response(
                200, json={"jobs": page, "nextCursor": str(cursor) if cursor else None, "hasMore": cursor > 0}
            )
        n = UUID(request.url.path.rpartition("/")[2]).int
        known = 0 < n <= self.jobs and n not in self.foreign
        return httpx.Response(200, json=self.job(n)) if known else refusal(404)

    def job(self, n: int) -> dict:
        self.told[n] = moment()
        seconds = self.told[n] - self.ends.get(n, float("inf"))
        result = {"videoUrl": f"https://cdn.example/{n}.mp4"} if seconds >= self.url_delay else None
        return {"id": job_id(n), "status": "COMPLETED" if seconds >= 0 else "PROCESSING", "result": result}


def account(numbers: range, end: float) -> Api:
    """Return an account that holds jobs of these numbers, which end then, and no other."""
    api = Api(numbers[-1], end)
    api.foreign = api.unlisted = set(range(1, numbers[0]))
    return api


class Accounts:
    """Accounts by their keys, and a connection that leads to one of them: first to the first."""

    def __init__(self, **accounts: Api) -> None:
        self.accounts = accounts
        for key, api in accounts.items():
            api.keys = {key}
        self.now = next(iter(accounts))
        self.namespace = ""
        self.looking_up: Callable[[], Awaitable[None]] | None = None

    async def look_up(self) -> Settings:
        if self.looking_up is not None:
            await self.looking_up()
        return Settings(api_key=self.now, retries=0, namespace=self.namespace)

    def connect(self, settings: Settings) -> AsyncClient:
        return self.accounts[settings.api_key].connect(settings)

    @property
    def open_clients(self) -> dict[str, int]:
        return {key: api.open_clients for key, api in self.accounts.items()}
