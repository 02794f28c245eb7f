from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from airflow_provider_hailuo.sandbox import files as files_module
from airflow_provider_hailuo.sandbox.files import Files
from airflow_provider_hailuo.sandbox.studio import Job, Order, Studio


class Renderer:
    """Stands in for the real one, which takes seconds."""

    def __init__(self) -> None:
        self.rendered: list[str] = []
        self.fails = False
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, path: Path, job: Job) -> None:
        self.rendered.append(job.id)
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
    order = Order(
        prompt="a wave",
        model="hailuo-02",
        resolution="768p",
        duration=6,
        webhook_url=None,
        webhook_events=frozenset(),
        body={},
    )
    return Studio(rng=Random(1)).submit(order)


def test_a_video_is_rendered_once_for_all_who_ask(files: Files, renderer: Renderer, job: Job) -> None:
    async def ask() -> list[Path]:
        renderer.may_end.clear()
        askers = [asyncio.create_task(files.video(job)) for _ in range(5)]
        await asyncio.sleep(0)
        askers[0].cancel()
        renderer.may_end.set()
        paths = [path for path in await asyncio.gather(*askers, return_exceptions=True) if isinstance(path, Path)]
        return [*paths, await files.video(job)]

    paths = asyncio.run(ask())
    assert renderer.rendered == [job.id]
    assert [path.read_bytes() for path in paths] == [b"video"] * 5


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
    with Files() as files:
        directory = asyncio.run(files.video(job)).parent
        assert directory.is_dir()
    assert not directory.exists()
    assert not [thread for thread in threading.enumerate() if "hailuo-sandbox" in thread.name]
