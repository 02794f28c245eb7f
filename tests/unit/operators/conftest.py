from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from airflow_provider_hailuo.operators import worker_visits
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.sandbox.state import files
from airflow_provider_hailuo.triggers import hailuo as triggers
from tests.unit.operators.fakes import Airflow, Store, World, connect, install, let_delete


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """An API in memory, in place of the real one."""
    return install(monkeypatch)


@pytest.fixture
def airflow(world: World, monkeypatch: pytest.MonkeyPatch) -> Airflow:
    """The tries of one task instance, with a task state store."""
    return let_delete(monkeypatch, Airflow(world, Store()))


@pytest.fixture
def storeless(world: World, monkeypatch: pytest.MonkeyPatch) -> Airflow:
    """The same where there is no store: before Airflow 3.3."""
    return let_delete(monkeypatch, Airflow(world, None))


@pytest.fixture
def airflow_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a trigger do all that it may, as Airflow 3.3 does, and nobody listen."""
    monkeypatch.setattr(worker_visits, "TRIGGERS_PUSH_XCOMS", True)
    monkeypatch.setattr(worker_visits, "_listeners", lambda: iter(()))


@pytest.fixture
def small_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sandbox make videos of one frame: to render a real one takes a second."""

    def write(path: Path, **_: Any) -> None:
        with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(stream.encode())

    monkeypatch.setattr(files, "write_video", write)


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, small_videos: None) -> Iterator[Sandbox]:
    """An account with 1,000 credits, if no other number is given; what fails is not tried again by the client."""
    monkeypatch.setattr(triggers, "MIN_DEFERRED_SECONDS", 0)
    with Sandbox(render_seconds=0.1, jitter=0, credits=getattr(request, "param", 1000), seed=1) as sandbox:
        connect(monkeypatch, sandbox, extra=json.dumps({"retries": 0}))
        yield sandbox


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was logged so far: Airflow 3 has loggers of its own."""
    caplog.set_level(logging.INFO)
    told = []

    def log() -> str:
        told.append(capsys.readouterr().out)
        return caplog.text + "".join(told)

    return log
