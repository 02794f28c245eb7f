"""S3 on loopback, for tests: moto's server, which the real clients talk to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

KEYS = {"login": "key", "password": "secret"}


class S3:
    """A server of S3 with a bucket `videos`, and a client that looks into it."""

    def __init__(self, url: str) -> None:
        import boto3  # noqa: PLC0415 - not in each environment

        self.url = url
        keys = {"aws_access_key_id": KEYS["login"], "aws_secret_access_key": KEYS["password"]}
        self.client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        self.client.create_bucket(Bucket="videos")

    @property
    def keys(self) -> list[str]:
        """The names of all objects in the bucket."""
        return [found["Key"] for found in self.client.list_objects_v2(Bucket="videos").get("Contents", ())]

    def read(self, uri: str) -> bytes:
        """Return the object at `uri`, such as s3://videos/boat.mp4."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def connection(self, url: str | None = None) -> dict[str, Any]:
        """Return the fields of an Airflow connection that leads to this server, or to another one at `url`."""
        return {"conn_type": "aws", **KEYS, "extra": {"endpoint_url": url or self.url, "region_name": "us-east-1"}}

    def connection_json(self, url: str | None = None) -> str:
        """Return the same for an environment variable."""
        return json.dumps(self.connection(url))


@contextmanager
def serving() -> Iterator[S3]:
    """Provide a server of S3, or skip the test: not each environment has one.

    One for all tests of a process: Airflow keeps one file system for each connection.
    """
    moto = pytest.importorskip("moto.server", reason="S3 is tested in the environments of Airflow 2.11 and 3.3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3(f"http://{host}:{port}")
    finally:
        server.stop()
