"""A video in storage of your own: fetched whole, checked, and put where nobody ever sees half of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.download import download, is_same_video
from airflow_provider_hailuo.apiframe.models import is_nothing
from airflow_provider_hailuo.apiframe.mp4 import check_mp4
from airflow_provider_hailuo.compat import AirflowNotFoundException, object_storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

IfExists = Literal["skip", "overwrite", "fail"]

CHUNK_BYTES: Final = 1024 * 1024

_LOCAL: Final = frozenset({"", "file", "local"})

_AZURE: Final = ("abfs", "abfss", "adl")
_GOOGLE: Final = ("gs", "gcs")


def _azure_options(content_type: str) -> dict[str, Any]:
    settings = import_module("azure.storage.blob").ContentSettings  # adlfs takes a dict for it only since 2026.8
    return {"overwrite": True, "content_settings": settings(content_type=content_type)}


# An object of these is there when all of it is; elsewhere a name appears with its first byte.
_OBJECT_STORES: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    **dict.fromkeys(("s3", "s3a", "s3n"), lambda kind: {"ContentType": kind}),
    **dict.fromkeys(_GOOGLE, lambda kind: {"content_type": kind}),
    **dict.fromkeys(_AZURE, _azure_options),
}


class StorageError(errors.FileError):
    """The storage could not be reached, or does not do what was asked of it."""


@dataclass(frozen=True)
class Stored:
    """A video that lies in the storage.

    :param uri: where, without the id of a connection.
    :param bytes: how large it is.
    :param sha256: of the file, in hexadecimal digits.
    """

    uri: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Destination:
    """Where a video is to lie, and what beside it.

    :param url: any URL that Airflow's `ObjectStoragePath` takes, or an absolute local path; if it ends with `/`, the
        name of the file is `<job id>.mp4`.
    :param conn_id: the Airflow connection of the storage; None (default) for what the environment says.
    :param if_exists: `skip` (default) fetches nothing if the same video lies there, and replaces any other file;
        `overwrite` replaces it in any case; `fail` refuses to replace another file.
    :param metadata: whether `<name>.json` is to lie beside it, which tells prompt, job, credits and the like.
    :param poster: whether `<name>.jpg` is, its first frame.
    :raises InvalidInputError: one of them will not do.
    """

    url: str
    conn_id: str | None = None
    if_exists: IfExists = "skip"
    metadata: bool = False
    poster: bool = False

    def __post_init__(self) -> None:
        problems: list[tuple[str, object, str]] = []
        if not isinstance(self.url, str) or not (self.url.startswith("/") or urlsplit(self.url).scheme):
            problem = "must be a URL such as s3://bucket/videos/ or an absolute path"
            problems.append(("destination", self.url, problem))
        elif (parts := urlsplit(self.url)).scheme in _AZURE and parts.netloc.endswith(".core.windows.net"):
            problem = "names the account, which is the connection's: write abfs://container/videos/"
            problems.append(("destination", self.url, problem))
        if self.conn_id is not None and not isinstance(self.conn_id, str):
            problems.append(("destination_conn_id", self.conn_id, "must be the id of a connection, a text"))
        if self.if_exists not in get_args(IfExists):
            problems.append(("if_exists", self.if_exists, f"must be one of {', '.join(get_args(IfExists))}"))
        problems += [
            (name, getattr(self, name), "must be True or False")
            for name in ("metadata", "poster")
            if not isinstance(getattr(self, name), bool)
        ]
        if problems:
            raise errors.InvalidInputError.of(*problems)

    @classmethod
    def of(cls, task: Any, url: Any) -> Destination:
        """Return what the parameters of a task say: `destination_conn_id`, `if_exists` and so on.

        :param task: the task.
        :param url: its `destination`.
        :return: the destination.
        :raises InvalidInputError: one of them will not do.
        """
        conn_id = None if is_nothing(task.destination_conn_id) else task.destination_conn_id
        return cls(url, conn_id, task.if_exists, metadata=task.metadata, poster=task.poster)

    def check(self) -> None:
        """Find out whether a video could be put there, before it is rendered and paid for.

        :raises InvalidInputError: no provider that is installed has a file system for the URL's scheme, a local
            directory cannot be written, or something lies there already with `if_exists="fail"`.
        :raises StorageError: connection or storage cannot be reached just now.
        """
        if self.poster and not (find_spec("av") and find_spec("PIL")):
            problem = "needs PyAV and Pillow: pip install 'airflow-provider-hailuo[poster]'"
            raise errors.InvalidInputError.of(("poster", True, problem))
        with self._storage_errors(None):
            path = self._path("job")
            if path.protocol in _LOCAL:
                _check_directory(self.url, Path(path.path).parent)
            elif path.protocol in _OBJECT_STORES:
                _check_bucket(self.url, path)
            # Who may write and not look can do with `overwrite` alone.
            there = self.if_exists != "overwrite" and path.fs.exists(path.path)
        if there and self.if_exists == "fail" and not self.url.endswith("/"):
            problem = "lies there already, and if_exists is 'fail': take another name, or move it"
            raise errors.InvalidInputError.of(("destination", self.url, problem))

    def store(self, facts: Mapping[str, Any], more: Mapping[str, Any], *, allow_local: bool) -> Stored:
        """Put the video of a job there, unless it lies there already.

        What lies beside it is put there first: when the video is there, all is.

        A process that is killed meanwhile leaves nothing under these names. What it has fetched stays where Python's
        `tempfile` puts it, in a directory `hailuo-*`; in a local directory, or one of a server, there may be
        `.<name>.<job id>.part`, which the next try replaces.

        :param facts: the XCom `job` of the job (`xcoms.job_facts`): its `url` is fetched.
        :param more: what the JSON file tells besides, as the task.
        :param allow_local: whether the URL may lead to this machine or a private network, as that of a sandbox does.
        :return: the stored video.
        :raises FileError: it could not be fetched, is not whole, or could not be put there; then no part of it is.
        """
        log, job_id = logging.getLogger(__name__), str(facts["id"])
        with self._storage_errors(job_id):
            path = self._path(job_id)
            found = None if self.if_exists == "overwrite" else self._existing(path, facts, allow_local=allow_local)
            if found is not None:
                log.info("Job %s: its video lies at %s already", job_id, found.uri)
                return found
            if self.if_exists == "fail" and path.fs.exists(path.path):
                problem = f"Another file than this job's video lies at {self._uri(job_id)}, and if_exists is 'fail'"
                raise StorageError(problem, job_id=job_id)
            with tempfile.TemporaryDirectory(prefix="hailuo-") as directory:
                local = Path(directory, "video.mp4")
                with local.open("w+b") as file:
                    fetched = download(str(facts["url"]), file, job_id=job_id, allow_local=allow_local, log=log.info)
                stored = Stored(self._uri(job_id), fetched.bytes, fetched.sha256)
                for suffix, write in self._sidecars().items():
                    beside = Path(directory, f"beside{suffix}")
                    write(local, beside, {**_metadata(facts), **vars(stored), **more})
                    _put(_sibling(path, suffix), beside, _CONTENT_TYPES[suffix], job_id)
                _put(path, local, _CONTENT_TYPES[".mp4"], job_id)
            log.info("Job %s: stored at %s, %d bytes", job_id, stored.uri, stored.bytes)
            return stored

    def write(self, text: str, content_type: str) -> str:
        """Put a text file at the URL, which ends with its name; what lies there is replaced.

        :param text: what the file holds; it is encoded as UTF-8.
        :param content_type: its media type, as an object store is told it.
        :return: its URI.
        :raises FileError: it could not be put there; then no part of it is.
        """
        with self._storage_errors(None), tempfile.TemporaryDirectory(prefix="hailuo-") as directory:
            path = self._path("")
            local = Path(directory, "text")
            local.write_text(text, encoding="utf-8")
            _put(path, local, content_type, "text")
        return self._uri("")

    def _url(self, job_id: str) -> str:
        url = f"{self.url}{job_id}.mp4" if self.url.endswith("/") else self.url
        return f"file://{url}" if url.startswith("/") else url

    def _uri(self, job_id: str) -> str:
        """Return the URL without the id of a connection, which may stand before an `@` in it."""
        parts = urlsplit(self._url(job_id))
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _path(self, job_id: str) -> ObjectStoragePath:
        """Return where the video of a job is to lie, once its file system is known to be there."""
        try:
            path = object_storage_path(self._url(job_id), self.conn_id)
            _ = path.fs
        except (ValueError, ImportError) as error:
            problem = (
                f"cannot be used ({errors.excerpt(str(error))}): take the URL of a storage whose provider is "
                "installed, as s3://bucket/videos/ with apache-airflow-providers-amazon[s3fs]"
            )
            raise errors.InvalidInputError.of(("destination", self.url, problem)) from error
        return path

    def _existing(self, path: ObjectStoragePath, facts: Mapping[str, Any], *, allow_local: bool) -> Stored | None:
        """Return the video of the job if it lies there whole, and beside it what is wanted."""
        fs, remote = path.fs, path.path
        if not all(fs.exists(_sibling(path, suffix).path) for suffix in self._sidecars()):
            return None
        try:
            size = int(fs.size(remote))
        except FileNotFoundError:
            return None

        def read(offset: int, length: int) -> bytes:
            return bytes(fs.cat_file(remote, start=offset, end=offset + length))

        if not is_same_video(str(facts["url"]), size, read, job_id=str(facts["id"]), allow_local=allow_local):
            return None
        digest = hashlib.sha256()
        with fs.open(remote, "rb") as file:
            try:
                check_mp4(file)
            except ValueError:
                return None
            file.seek(0)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return Stored(self._uri(str(facts["id"])), size, digest.hexdigest())

    def _sidecars(self) -> dict[str, Callable[[Path, Path, Mapping[str, Any]], None]]:
        """Return what makes each file that is wanted beside the video, by its suffix."""
        wanted = {".json": (self.metadata, _write_metadata), ".jpg": (self.poster, _write_poster)}
        return {suffix: write for suffix, (is_wanted, write) in wanted.items() if is_wanted}

    @contextmanager
    def _storage_errors(self, job_id: str | None) -> Iterator[None]:
        """Turn whatever a storage raises into an error that says what to do."""
        try:
            yield
        except errors.ApiframeError:
            raise
        except AirflowNotFoundException as error:
            where = "destination_conn_id" if self.conn_id else "the destination"
            conn_id = errors.excerpt(self.conn_id or urlsplit(self.url).netloc.rpartition("@")[0])
            problem = f"Airflow finds no connection {conn_id!r}, which {where} names"
            raise StorageError(problem, job_id=job_id) from error
        except Exception as error:
            raise StorageError(
                f"{errors.excerpt(self.url)}: {type(error).__name__}: {errors.excerpt(str(error))}", job_id=job_id
            ) from error


_CONTENT_TYPES: Final = {".mp4": "video/mp4", ".json": "application/json", ".jpg": "image/jpeg"}


def _check_directory(url: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(directory, os.W_OK | os.X_OK) else "may not be written by this user"
    except OSError as error:
        problem = f"cannot be made: {error.strerror}"
    if problem:
        raise errors.InvalidInputError.of(("destination", url, f"the directory {directory} {problem}"))


def _check_bucket(url: str, path: ObjectStoragePath) -> None:
    bucket = path.path.lstrip("/").partition("/")[0]
    try:
        if path.protocol in _GOOGLE:
            # Its `info` lists a bucket that may not be looked at, keeps the list, and takes an empty one for none.
            path.fs.call("GET", "b/{}", bucket)
        else:
            path.fs.info(bucket)
    except FileNotFoundError:
        raise errors.InvalidInputError.of(("destination", url, f"there is no bucket {bucket!r}: make it")) from None
    except Exception as error:
        if not _is_forbidden(error):
            raise
        # It may be there all the same.


def _is_forbidden(error: Exception) -> bool:
    """Tell whether a storage knows who asks and does not let them: s3fs, gcsfs and adlfs each say so in their way."""
    azure = getattr(error, "error_code", None)  # for a wrong key it is AuthenticationFailed
    return (
        isinstance(error, PermissionError)
        or str(error).startswith("Forbidden")
        or (isinstance(azure, str) and azure.startswith("Authorization"))
    )


def _sibling(path: ObjectStoragePath, suffix: str) -> ObjectStoragePath:
    return path.with_name(f"{path.name.removesuffix('.mp4')}{suffix}")


def _put(path: ObjectStoragePath, local: Path, content_type: str, job_id: str) -> None:
    """Put a local file where nobody sees it before it is whole, nor anything of it if that fails."""
    fs, remote = path.fs, path.path
    if path.protocol in _OBJECT_STORES:
        fs.put_file(str(local), remote, **_OBJECT_STORES[path.protocol](content_type))
        return
    if path.protocol in _LOCAL:
        Path(remote).parent.mkdir(parents=True, exist_ok=True)
    # The same name at each try: a retry clears away what a killed one has left.
    part = path.with_name(f".{path.name}.{job_id}.part").path
    try:
        fs.put_file(str(local), part)
        fs.mv(part, remote)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(part)
        raise


def _metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the JSON file tells of a job: what its XCom does, but for the URL, which dies within a day."""
    told = {name: value for name, value in facts.items() if name not in {"id", "status", "url"}}
    times = [datetime.fromisoformat(facts[name]) if facts.get(name) else None for name in ("created", "completed")]
    seconds = (times[1] - times[0]).total_seconds() if times[0] and times[1] else None
    return {"job": facts["id"], **told, "seconds": seconds}


def _write_metadata(video: Path, target: Path, told: Mapping[str, Any]) -> None:  # noqa: ARG001
    target.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_poster(video: Path, target: Path, told: Mapping[str, Any]) -> None:  # noqa: ARG001
    import av  # noqa: PLC0415 - of the extra `poster`

    with av.open(str(video)) as container:
        next(container.decode(video=0)).to_image().save(target, "JPEG", quality=90)
