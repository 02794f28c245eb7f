from __future__ import annotations

import asyncio

import pytest

from airflow_provider_hailuo.apiframe import shared
from airflow_provider_hailuo.apiframe.client import AsyncClient, Settings
from airflow_provider_hailuo.apiframe.shared import shared_client


class Opener:
    """Opens real clients and remembers them."""

    def __init__(self, *failures: Exception) -> None:
        self.clients: list[AsyncClient] = []
        self.failures = list(failures)
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> AsyncClient:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.clients.append(AsyncClient(Settings(api_key="afk_test")))
        return self.clients[-1]

    @property
    def open(self) -> int:
        return sum(not client._http.is_closed for client in self.clients)


def test_all_users_share_one_client_and_the_last_one_closes_it():
    async def scenario() -> None:
        opener, leave = Opener(), asyncio.Event()

        async def use() -> AsyncClient:
            async with shared_client("a", opener) as client:
                opened = await client.get()
                await leave.wait()
                return opened

        users = [asyncio.create_task(use()) for _ in range(100)]
        await asyncio.sleep(0)
        users[0].cancel()
        await asyncio.wait([users[0]])
        assert opener.open == 1
        leave.set()
        assert len(set(map(id, await asyncio.gather(*users[1:])))) == 1
        assert (len(opener.clients), opener.open) == (1, 0)

    asyncio.run(scenario())


def test_names_and_event_loops_have_clients_of_their_own():
    async def scenario(name: str) -> AsyncClient:
        async with shared_client("a", Opener()) as first, shared_client(name, Opener()) as second:
            assert (await first.get() is await second.get()) is (name == "a")
            return await first.get()

    assert asyncio.run(scenario("a")) is not asyncio.run(scenario("b"))
    assert not any(shared._shared.values())


def test_a_new_user_after_the_last_one_gets_a_new_client():
    async def scenario() -> None:
        opener = Opener()
        for _ in range(2):
            async with shared_client("a", opener) as client:
                await client.get()
        assert (len(opener.clients), opener.open) == (2, 0)

    asyncio.run(scenario())


def test_opening_that_failed_is_tried_anew():
    async def scenario() -> None:
        opener = Opener(RuntimeError("no connection now"))
        async with shared_client("a", opener) as client:
            with pytest.raises(RuntimeError, match="no connection now"):
                await client.get()
            assert isinstance(await client.get(), AsyncClient)
        assert opener.open == 0

    asyncio.run(scenario())


def test_leaving_without_use_opens_nothing():
    async def scenario() -> None:
        opener = Opener()
        async with shared_client("a", opener):
            pass
        assert opener.clients == []

    asyncio.run(scenario())


def test_cancelling_the_one_who_opens_does_not_disturb_the_others():
    async def scenario() -> None:
        opener = Opener()
        opener.gate.clear()

        async def use() -> AsyncClient:
            async with shared_client("a", opener) as client:
                return await client.get()

        first, second = asyncio.create_task(use()), asyncio.create_task(use())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        opener.gate.set()
        assert isinstance(await second, AsyncClient)
        assert (len(opener.clients), opener.open) == (1, 0)

    asyncio.run(scenario())


def test_leaving_while_it_opens_leaves_nothing_behind():
    async def scenario() -> None:
        opener = Opener()
        opener.gate.clear()

        async def use() -> None:
            async with shared_client("a", opener) as client:
                await client.get()

        only = asyncio.create_task(use())
        await asyncio.sleep(0)
        only.cancel()
        await asyncio.wait([only])
        opener.gate.set()
        await asyncio.sleep(0)
        assert (opener.open, len(asyncio.all_tasks())) == (0, 1)

    asyncio.run(scenario())
