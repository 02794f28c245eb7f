"""Videos in a directory of this machine: a process that is killed while it stores one, and the try after it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from airflow_provider_hailuo import storage
from airflow_provider_hailuo.sandbox import Sandbox
from tests.unit.operators.fakes import connect
from tests.unit.operators.test_storing import Worker, task

CHUNK_BYTES = 65536
TRY = f"import sys; from {__name__} import first_try; first_try(*sys.argv[1:])"


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.05, jitter=0, credits=100, seed=1) as sandbox:
        connect(monkeypatch, sandbox)
        yield sandbox


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """A file that kills whoever writes to it a second time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._written = False

    def write(self, chunk: bytes) -> None:
        if self._written:
            die()
        self._file.write(chunk)
        self._file.flush()
        self._written = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def die_while_it_downloads() -> None:
    download = storage.download
    storage.download = lambda url, file, **more: download(url, Mortal(file), **more)


def die_while_it_writes() -> None:
    send = os.sendfile  # which copies a file to another one

    def sendfile(target: int, source: int, offset: int, _: int) -> int:
        if offset:
            die()
        return send(target, source, offset, CHUNK_BYTES)

    os.sendfile = sendfile


DEATHS = {"downloads": die_while_it_downloads, "writes": die_while_it_writes}


def first_try(home: str, moment: str) -> None:
    """Make the first try of a task, which dies at a moment; what it has written down outlives it."""
    directory = Path(home)
    tempfile.tempdir = str(directory / "temporary")
    worker = Worker()

    def keep() -> None:
        (directory / "store").write_text(json.dumps(worker.store.kept))

    worker.store.after_set = keep
    DEATHS[moment]()
    worker.run(task(f"{home}/videos/boat.mp4"))


@pytest.mark.parametrize("moment", DEATHS)
def test_a_process_that_is_killed_leaves_nothing_under_the_name_and_a_retry_pays_nothing(
    sandbox: Sandbox, tmp_path: Path, moment: str
):
    videos, temporary = tmp_path / "videos", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", TRY, str(tmp_path), moment]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, check=False)

    assert killed.returncode == -signal.SIGKILL
    (job,) = sandbox.jobs()
    whole = httpx.get(f"{sandbox.base_url}/videos/{job['id']}.mp4", trust_env=False, timeout=None).content
    (fetched,) = temporary.glob("hailuo-*/video.mp4")
    fetched_bytes = fetched.stat().st_size
    if moment == "downloads":
        assert 0 < fetched_bytes < len(whole)
        assert list(videos.iterdir()) == []
    else:
        assert fetched_bytes == len(whole)
        (part,) = videos.iterdir()
        assert (part.name, part.stat().st_size) == (f".boat.mp4.{job['id']}.part", CHUNK_BYTES)

    worker = Worker()
    worker.store.kept, worker.try_number = json.loads((tmp_path / "store").read_text()), 1
    worker.run(task(f"{videos}/boat.mp4"))

    assert [file.name for file in videos.iterdir()] == ["boat.mp4"]
    digest = hashlib.sha256((videos / "boat.mp4").read_bytes()).hexdigest()
    assert digest == hashlib.sha256(whole).hexdigest() == worker.xcoms["job"]["sha256"]
    assert (sandbox.stats()["creditsCharged"], len(sandbox.jobs())) == (5, 1)
