"""The XCom `progress`: how far a job is, for the eyes of people, so no more often than costs little."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_hailuo import xcoms
from airflow_provider_hailuo.apiframe.polling import JobPoll

PAUSE_SECONDS = 2.0
"""How long a triggerer pauses between the XComs of two jobs, so that thousands cost no more than a few."""

_reporters: WeakKeyDictionary[asyncio.AbstractEventLoop, _Reporter] = WeakKeyDictionary()


@contextmanager
def report_progress(ti: Any, poll: JobPoll) -> Iterator[None]:
    """Push how far a job is while the block waits for it, in turn with all other jobs of the event loop.

    :param ti: the task instance that gets the XCom; with None, or before Airflow 3.3, nothing is pushed.
    :param poll: what looks at the job.
    :return: the context manager of the block.
    """
    if ti is None or not xcoms.TRIGGERS_PUSH_XCOMS:
        yield
        return
    reporter = _reporters.setdefault(asyncio.get_running_loop(), _Reporter())
    reporter.add(ti, poll)
    try:
        yield
    finally:
        reporter.remove(poll)


class _Reporter:
    """Pushes the progress of one job of an event loop after the other."""

    def __init__(self) -> None:
        # In turn: what was pushed comes last.
        self._reported: dict[JobPoll, tuple[Any, object]] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, ti: Any, poll: JobPoll) -> None:
        self._reported[poll] = (ti, None)
        if self._task is None:
            self._task = asyncio.create_task(self._report())

    def remove(self, poll: JobPoll) -> None:
        del self._reported[poll]
        if self._task is not None and not self._reported:
            self._task.cancel()
            self._task = None

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            for poll, (ti, pushed) in self._reported.items():
                seen = poll.seen and {"status": poll.seen.status, "progress": poll.seen.progress}
                if seen and seen != pushed:
                    del self._reported[poll]
                    self._reported[poll] = (ti, seen)
                    with suppress(Exception):  # of Airflow's API server or an XCom backend
                        await xcoms.push_progress(ti, seen)
                    break
