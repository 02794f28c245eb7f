"""One `AsyncClient` per event loop and name, opened by its first user and closed by its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from airflow_provider_hailuo.apiframe.client import AsyncClient

_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, SharedClient]] = WeakKeyDictionary()


class SharedClient:
    """A client that many tasks of one event loop use. Get it from `shared_client`."""

    def __init__(self, open_client: Callable[[], Awaitable[AsyncClient]]) -> None:
        self._open_client = open_client
        self._opening: asyncio.Future[AsyncClient] | None = None
        self.users = 0

    async def get(self) -> AsyncClient:
        """Return the open client; the first call opens it for all, and the cancellation of one disturbs no other.

        Raises what opening it raises; the next call tries anew.
        """
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception())):
            self._opening = opening = asyncio.ensure_future(self._open_client())
        return await asyncio.shield(opening)

    async def close(self) -> None:
        """Close the client if it was opened."""
        if self._opening is None:
            return
        self._opening.cancel()
        (opened,) = await asyncio.gather(self._opening, return_exceptions=True)
        if isinstance(opened, AsyncClient):
            await opened.close()


@asynccontextmanager
async def shared_client(name: str, open_client: Callable[[], Awaitable[AsyncClient]]) -> AsyncIterator[SharedClient]:
    """Share the client `name` of the running event loop for the length of the block.

    `open_client` opens it when nobody has yet. The last user's leaving closes it.
    """
    clients = _shared.setdefault(asyncio.get_running_loop(), {})
    shared = clients.setdefault(name, SharedClient(open_client))
    shared.users += 1
    try:
        yield shared
    finally:
        shared.users -= 1
        if shared.users == 0:
            del clients[name]
            await shared.close()
