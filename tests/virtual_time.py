"""An event loop in which waiting takes no time, and a way to tell that time to the code under test."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

EPOCH = 1_000_000.0
TURN_SECONDS = 1e-7


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """When nothing is to be done, the clock goes on to the next moment at which something is."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise RuntimeError("Everybody waits, and nothing will ever happen")
        self._now += seconds


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        # As in truth, each turn takes time: a timer may fire a hair too soon, and who then waits for the rest would
        # wait for ever.
        self._loop.pass_time(TURN_SECONDS)
        if events := super().select(0):
            return events
        if timeout is None or timeout > 0:
            self._loop.pass_time(timeout)
        return []


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run `scenario` in virtual time; nothing of it may be left behind."""
    loop = VirtualTimeLoop()
    try:
        result = loop.run_until_complete(asyncio.wait_for(scenario, timeout=10 * 24 * 3600))
        loop.run_until_complete(asyncio.sleep(0))
        left = asyncio.all_tasks(loop)
        assert not left, left
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def moment() -> float:
    """Return the seconds since the scenario began."""
    return asyncio.get_running_loop().time()


def now() -> float:
    """Return the seconds since the epoch in virtual time."""
    return EPOCH + moment()


def patch_clock(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Let `modules` read virtual time where they read the system's clock."""
    for module in modules:
        monkeypatch.setattr(module, "time", SimpleNamespace(time=now))
