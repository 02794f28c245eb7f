from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_hailuo.sandbox.state import files as files_module
from airflow_provider_hailuo.sandbox.state.files import Files
from airflow_provider_hailuo.sandbox.state.jobs import GenerateRequest, Job


class Renderer:
    """Stands in for the real one, which takes seconds."""

    def __init__(self) -> None:
        self.rendered: list[str] = []
        self.fails = False
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, path: Path, *, seed: str, **_: Any) -> None:
        self.rendered.append(seed)
        self.may_end.wait(10)
        if self.fails:
            raise RuntimeError("no encoder")
        path.write_bytes(b"video")


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Renderer:
    renderer = Renderer()
    monkeypatch.setattr(files_module, "write_video", renderer)
    return renderer


@pytest.fixture
def files(renderer: Renderer) -> Iterator[Files]:
    with Files() as files:
        yield files


@pytest.fixture
def job() -> Job:
    request = GenerateRequest(
        prompt="a wave",
        model="hailuo-02",
        resolution="768p",
        duration=6,
        webhook_url=None,
        webhook_events=frozenset(),
        body={},
    )
    job_id = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
    return Job(id=job_id, request=request, created_at=0, starts_at=0, ends_at=0, credit_cost=5)


def test_a_video_is_rendered_once_for_all_who_ask(files: Files, renderer: Renderer, job: Job) -> None:
    async def ask() -> list[Path]:
        return [*await asyncio.gather(*(files.video(job) for _ in range(5))), await files.video(job)]

    paths = asyncio.run(ask())
    assert renderer.rendered == [job.id]
    assert [path.read_bytes() for path in paths] == [b"video"] * 6


def test_who_goes_away_does_not_take_the_video_from_others(files: Files, renderer: Renderer, job: Job) -> None:
    async def ask() -> Path:
        renderer.may_end.clear()
        busy = [asyncio.create_task(files.video(replace(job, id=f"busy-{n}"))) for n in range(os.cpu_count() or 1)]
        goes, stays = (asyncio.create_task(files.video(job)) for _ in range(2))
        await asyncio.sleep(0)
        goes.cancel()
        await asyncio.sleep(0)
        renderer.may_end.set()
        await asyncio.gather(*busy)
        return await stays

    assert asyncio.run(ask()).read_bytes() == b"video"


def test_a_failed_rendering_is_tried_again(files: Files, renderer: Renderer, job: Job) -> None:
    renderer.fails = True
    with pytest.raises(RuntimeError, match="no encoder"):
        asyncio.run(files.video(job))
    renderer.fails = False
    assert asyncio.run(files.video(job)).is_file()


def test_a_discarded_video_is_gone(files: Files, job: Job) -> None:
    path = asyncio.run(files.video(job))
    files.discard_video(job.id)
    files.discard_video(job.id)
    assert not path.exists()


def test_uploads_are_stored_and_discarded(files: Files) -> None:
    asyncio.run(files.store_upload("id", b"content"))
    path = files.upload_path("id")
    assert path.read_bytes() == b"content"
    files.discard_upload("id")
    assert not path.exists()


def test_nothing_is_left_at_the_end(renderer: Renderer, job: Job) -> None:
    threads = set(threading.enumerate())
    with Files() as files:
        directory = asyncio.run(files.video(job)).parent
        assert directory.is_dir()
    assert not directory.exists()
    assert set(threading.enumerate()) <= threads
