from __future__ import annotations

import asyncio

import pytest

from airflow_provider_hailuo import xcoms
from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.apiframe.polling import JobPoll
from airflow_provider_hailuo.triggers.progress import PAUSE_SECONDS, report_progress
from tests.virtual_time import run as in_virtual_time


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, object]]:
    """What was told, and of which task instance."""
    told: list[tuple[object, object]] = []

    async def tell(ti: object, progress: dict[str, object]) -> None:
        told.append((ti, progress["progress"]))

    monkeypatch.setattr(xcoms, "TRIGGERS_PUSH_XCOMS", True)
    monkeypatch.setattr(xcoms, "push_progress", tell)
    return told


def seen(percent: float) -> JobPoll:
    poll = JobPoll("1", deadline=1e9, interval=5)
    poll.seen = Job(id="1", status="PROCESSING", progress=percent)
    return poll


async def render(ti: object, poll: JobPoll, seconds: float) -> None:
    with report_progress(ti, poll):
        await asyncio.sleep(seconds)


def test_a_thousand_renders_are_told_of_as_seldom_as_one_and_each_in_its_turn(told: list):
    async def all_of_them() -> None:
        await asyncio.gather(*(render(n, seen(n), 20.5 * PAUSE_SECONDS) for n in range(1000)))

    in_virtual_time(all_of_them())

    assert told == [(n, n) for n in range(20)]


def test_one_that_goes_on_is_told_of_again_and_one_that_does_not_is_not(told: list):
    async def both() -> None:
        still, moves = seen(10), seen(10)
        renders = [
            asyncio.create_task(render(name, poll, 100)) for name, poll in (("still", still), ("moves", moves))
        ]
        await asyncio.sleep(5 * PAUSE_SECONDS)
        moves.seen = Job(id="1", status="PROCESSING", progress=60)
        await asyncio.gather(*renders)

    in_virtual_time(both())

    assert told == [("still", 10), ("moves", 10), ("moves", 60)]


def test_nothing_is_told_before_a_look_or_after_the_end_or_without_a_task(told: list):
    async def scenario() -> None:
        tasks = asyncio.all_tasks()
        await render("unseen", JobPoll("1", deadline=1e9, interval=5), 10)
        await render("short", seen(10), PAUSE_SECONDS / 2)
        await render(None, seen(10), 10)
        await asyncio.sleep(10)
        assert asyncio.all_tasks() == tasks

    in_virtual_time(scenario())

    assert told == []
