"""Pictures that are at no URL that the API could fetch: read from where they lie, checked, uploaded when needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.client import Client
from airflow_provider_hailuo.apiframe.models import IMAGE_FIELDS, is_nothing
from airflow_provider_hailuo.apiframe.pictures import LARGEST_BYTES, check_picture
from airflow_provider_hailuo.compat import object_storage_path
from airflow_provider_hailuo.storage import CHUNK_BYTES, StorageError

CONTENT_URL_PREFIX = "https://sha256.invalid/"
"""What the URL of a picture begins with that is named by its content: no host has such a name (RFC 6761)."""


def to_upload(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the pictures of a request that have to be uploaded. Of what is no picture, the request tells.

    :param fields: fields of a `VideoRequest`.
    :return: where each lies, by field.
    """
    return {
        name: url
        for name in IMAGE_FIELDS
        if isinstance(url := fields.get(name), str)
        and not url.lower().startswith(("http://", "https://"))
        and (url.startswith("/") or "://" in url)
    }


def content_url(field: str, url: Any, conn_id: str | None) -> str:
    """Return a URL that stands for the content of a picture, the same wherever it lies and whenever it is uploaded.

    :param field: `image` or `end_image`, for errors.
    :param url: a URL that Airflow's ObjectStoragePath takes, or an absolute path.
    :param conn_id: the Airflow connection of that storage; None, or "", for what the environment says.
    :return: the URL, at which nothing is.
    :raises InvalidInputError: it is no picture that the API takes, or there is none.
    :raises StorageError: the storage cannot be reached.
    """
    with _copy(field, url, conn_id) as file:
        return f"{CONTENT_URL_PREFIX}{check_picture(file, field, str(url)).sha256}"


def upload(client: Client, field: str, url: Any, conn_id: str | None) -> tuple[str, str]:
    """Upload a picture, which lives for 1 to 2 hours then.

    :param client: a client of the API.
    :param field: `image` or `end_image`, for errors.
    :param url: a URL that Airflow's ObjectStoragePath takes, or an absolute path.
    :param conn_id: the Airflow connection of that storage; None, or "", for what the environment says.
    :return: what `content_url` says of it, and the URL that the API gave.
    :raises ApiframeError: as `content_url`, or the API refuses it.
    """
    with _copy(field, url, conn_id) as file:
        picture = check_picture(file, field, str(url))
        uploaded = client.send(calls.upload(f"picture.{picture.extension}", file))
        return f"{CONTENT_URL_PREFIX}{picture.sha256}", uploaded.url


@contextmanager
def _copy(field: str, url: Any, conn_id: str | None) -> Iterator[BinaryIO]:
    """Open a local copy of a picture: what is checked is what is sent."""

    def refuse(problem: str) -> errors.InvalidInputError:
        return errors.InvalidInputError.of((field, url, problem))

    conn_id = None if is_nothing(conn_id) else conn_id
    with tempfile.TemporaryFile() as copy:
        try:
            path = object_storage_path(f"file://{url}" if url.startswith("/") else url, conn_id)
            with path.fs.open(path.path, "rb") as file:
                left = LARGEST_BYTES + 1  # one byte more, so that what is too large is seen as that
                while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                    copy.write(chunk)
                    left -= len(chunk)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise refuse("there is no such file") from error
        except (ValueError, ImportError) as error:
            raise refuse(f"cannot be used: {errors.excerpt(str(error))}") from error
        except Exception as error:
            problem = f"{field}: {errors.excerpt(url)}: {type(error).__name__}: {errors.excerpt(str(error))}"
            raise StorageError(problem) from error
        copy.seek(0)
        yield copy
