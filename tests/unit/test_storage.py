from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_hailuo import storage
from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.download import download
from airflow_provider_hailuo.apiframe.errors import DownloadError, FileError, InvalidInputError
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.compat import AIRFLOW, BaseHook
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.storage import Destination, StorageError, Stored
from airflow_provider_hailuo.xcoms import job_facts, request_facts
from tests.unit.operators.fakes import KilledError

if AIRFLOW >= (3, 1):
    import airflow.sdk.io.fs as airflow_io
else:
    import airflow.io as airflow_io
if AIRFLOW >= (3, 0):
    import airflow.sdk.io.store as airflow_store
else:
    import airflow.io.store as airflow_store

TASK = {"dag_id": "dag", "run_id": "run", "task_id": "video", "map_index": -1}


class Video:
    """A finished job: its XCom `job`, its file, and what was fetched of it."""

    def __init__(self, sandbox: Sandbox, prompt: str) -> None:
        self.sandbox = sandbox
        request = VideoRequest(prompt=prompt)
        with Client(Settings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
            submission = client.send(calls.generate_video(request))
            while not (job := client.send(calls.get_job(submission.job_id))).is_final:
                pass
        self.facts = job_facts(job, request_facts(request.to_wire()))
        self.content = httpx.get(self.facts["url"], trust_env=False, timeout=None).content
        self.stored_as = {"bytes": len(self.content), "sha256": hashlib.sha256(self.content).hexdigest()}

    def store(self, url: str, **arguments: Any) -> Stored:
        return Destination(url, **arguments).store(self.facts, TASK, allow_local=True)

    @property
    def fetched(self) -> int:
        return self.sandbox.stats()["requests"]["GET /videos/{id}.mp4"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.05, jitter=0, credits=100) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def video(sandbox: Sandbox) -> Video:
    return Video(sandbox, "a boat")


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """Return a storage in which a name appears with its first byte, as a disk and an FTP server are."""
    fs = MemoryFileSystem()
    yield fs
    fs.store.clear()


def register(monkeypatch: pytest.MonkeyPatch, scheme: str, get_fs: Callable[[str | None], MemoryFileSystem]) -> None:
    """Let Airflow know a scheme, as a provider would."""
    known = {**airflow_io._register_filesystems(), scheme: get_fs}
    monkeypatch.setattr(airflow_io, "_register_filesystems", lambda: known)


@pytest.fixture(autouse=True)
def memory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_fs(conn_id: str | None) -> MemoryFileSystem:
        if conn_id is not None:
            BaseHook.get_connection(conn_id)
        return MemoryFileSystem()

    register(monkeypatch, "memory", get_fs)


PLACES = ["{path}/boat.mp4", "file://{path}/deep/er/boat.mp4", "memory://videos/boat.mp4"]


@pytest.mark.parametrize("place", PLACES)
def test_the_file_is_there_whole_under_its_name_alone(
    video: Video, tmp_path: Path, memory: MemoryFileSystem, place: str
):
    url = place.format(path=tmp_path)

    stored = video.store(url)

    expected = url if "://" in url else f"file://{url}"
    assert vars(stored) == {"uri": expected, **video.stored_as}
    fs, path = (memory, "/videos/boat.mp4") if "memory" in url else (storage.object_storage_path(url, None).fs, url)
    assert fs.cat_file(path) == video.content
    assert len(fs.ls(path.rpartition("/")[0])) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_in_the_middle_leaves_nothing(
    video: Video, tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, place: str
):
    url = place.format(path=tmp_path)
    kind = type(storage.object_storage_path(url if "://" in url else f"file://{url}", None).fs)

    def half(self: Any, local: str, remote: str, **_: Any) -> None:
        self.pipe_file(remote, Path(local).read_bytes()[:1000])
        seen.extend(str(found) for found in self.find(str(Path(remote).parent)))
        raise OSError("the disk is full")

    seen: list[str] = []
    monkeypatch.setattr(kind, "put_file", half)

    with pytest.raises(StorageError, match="the disk is full") as raised:
        video.store(url)

    assert raised.value.job_id == video.facts["id"]
    assert len(seen) == 1
    assert not seen[0].endswith("boat.mp4")
    assert memory.store == {}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_try_has_left_is_cleared_away(video: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fs = type(storage.object_storage_path(f"file://{tmp_path}", None).fs)

    def die(self: Any, *_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(fs, "mv", die)
        patch.setattr(fs, "rm_file", die)
        with pytest.raises(KilledError):
            video.store(f"{tmp_path}/boat.mp4")
    assert [path.name for path in tmp_path.iterdir()] == [f".boat.mp4.{video.facts['id']}.part"]

    video.store(f"{tmp_path}/boat.mp4")

    assert [path.name for path in tmp_path.iterdir()] == ["boat.mp4"]


# What lies there already


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_the_same_video_is_not_fetched_again(
    video: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, if_exists: Any
):
    url = place.format(path=tmp_path)
    first = video.store(url)
    monkeypatch.setattr(storage, "download", None)

    assert video.store(url, if_exists=if_exists) == first


def test_overwriting_fetches_it_again(video: Video, tmp_path: Path):
    video.store(f"{tmp_path}/boat.mp4")
    before = video.fetched

    video.store(f"{tmp_path}/boat.mp4", if_exists="overwrite")

    assert video.fetched > before
    assert (tmp_path / "boat.mp4").read_bytes() == video.content


OTHER_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0" * 8,
    "another": lambda content: bytes(len(content)),
    "another end": lambda content: content[:-1] + b"!",
}


@pytest.mark.parametrize("other", OTHER_FILES)
def test_any_other_file_is_replaced(video: Video, tmp_path: Path, other: str):
    target = tmp_path / "boat.mp4"
    target.write_bytes(OTHER_FILES[other](video.content))

    assert vars(video.store(str(target))) == {"uri": f"file://{target}", **video.stored_as}
    assert target.read_bytes() == video.content


def test_another_file_is_not_replaced_when_that_is_to_fail(video: Video, tmp_path: Path):
    target = tmp_path / "boat.mp4"
    target.write_text("another file")

    with pytest.raises(StorageError, match="Another file than this job's video lies at"):
        video.store(str(target), if_exists="fail")
    with pytest.raises(InvalidInputError, match="lies there already, and if_exists is 'fail'"):
        Destination(str(target), if_exists="fail").check()
    assert target.read_text() == "another file"


def test_what_is_missing_beside_it_is_made(video: Video, tmp_path: Path):
    video.store(f"{tmp_path}/boat.mp4")

    stored = video.store(f"{tmp_path}/boat.mp4", metadata=True, poster=True)

    told = json.loads((tmp_path / "boat.json").read_text())
    assert (told["job"], told["sha256"], told["uri"]) == (video.facts["id"], stored.sha256, stored.uri)
    assert told["task_id"] == "video"
    assert (tmp_path / "boat.jpg").stat().st_size > 1000


# What is refused, and what cannot be reached


def test_a_file_that_is_no_video_is_not_kept(
    sandbox: Sandbox, video: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage, "download", partial(download, sleep=lambda _: None))
    facts = {**video.facts, "url": f"{sandbox.base_url}/"}

    with pytest.raises(FileError, match=video.facts["id"]):
        Destination(f"{tmp_path}/boat.mp4").store(facts, TASK, allow_local=True)

    assert list(tmp_path.iterdir()) == []


def test_a_url_of_this_machine_is_refused_unless_the_api_is_here(video: Video, tmp_path: Path):
    with pytest.raises(DownloadError, match="not public"):
        Destination(f"{tmp_path}/boat.mp4").store(video.facts, TASK, allow_local=False)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "conn_id", "where"),
    [
        ("memory://videos/", "nowhere", "destination_conn_id"),
        ("memory://nowhere@videos/", None, "the destination"),
    ],
)
def test_a_connection_that_is_not_there_may_come(url: str, conn_id: str | None, where: str):
    with pytest.raises(StorageError, match=f"no connection 'nowhere', which {where} names") as raised:
        Destination(url, conn_id=conn_id).check()

    assert raised.value.transient


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(("place", "conn_id"), [("", "store"), ("store@", None), ("x@", "store")])
def test_the_connection_stands_in_the_url_or_beside_it_and_not_in_the_uri(
    video: Video, monkeypatch: pytest.MonkeyPatch, place: str, conn_id: str | None
):
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps({"conn_type": "generic"}))

    assert video.store(f"memory://{place}videos/boat.mp4", conn_id=conn_id).uri == "memory://videos/boat.mp4"


@pytest.mark.parametrize("url", ["abfss://videos@account.dfs.core.windows.net/a/", "abfs://c.blob.core.windows.net/"])
def test_the_account_of_azure_belongs_to_the_connection(url: str):
    with pytest.raises(InvalidInputError, match=r"the connection's: write abfs://container/videos/"):
        Destination(url, conn_id="store")


class Azure(MemoryFileSystem):
    """What of adlfs there is to a video: an emulator of Azure's storage needs more than Python."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.content_types: dict[str, str] = {}
        self.error_code = ""

    def info(self, *_: Any) -> dict[str, Any]:
        error = RuntimeError("This request is not authorized to perform this operation")
        error.error_code = self.error_code
        raise error

    def put_file(self, lpath: str, rpath: str, *, overwrite: bool, content_settings: SimpleNamespace) -> None:
        assert overwrite
        super().put_file(lpath, rpath)
        self.content_types[rpath.strip("/")] = content_settings.content_type


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    fs = Azure()
    register(monkeypatch, "abfs", lambda _: fs)
    monkeypatch.setattr(airflow_store, "_STORE_CACHE", {})
    monkeypatch.setitem(sys.modules, "azure.storage.blob", SimpleNamespace(ContentSettings=SimpleNamespace))
    yield fs
    fs.store.clear()


def test_azure_is_told_the_content_type(azure: Azure):
    Destination("abfs://videos/list.json").write("{}", "application/json")

    assert azure.content_types == {"videos/list.json": "application/json"}


def test_a_container_of_azure_that_may_not_be_looked_at_is_no_obstacle_and_a_wrong_key_is(azure: Azure):
    destination = Destination("abfs://videos/boat.mp4", if_exists="overwrite")

    azure.error_code = "AuthorizationFailure"  # as for a shared access signature of the container
    destination.check()

    azure.error_code = "AuthenticationFailed"
    with pytest.raises(StorageError, match="not authorized"):
        destination.check()
