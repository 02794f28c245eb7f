"""The sandbox as a server in a thread of this process."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from random import Random
from threading import Thread
from types import TracebackType
from typing import Any, Final, TypedDict, cast

import httpx
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_provider_hailuo.sandbox.errors import SettingError
from airflow_provider_hailuo.sandbox.faults.middleware import Connection
from airflow_provider_hailuo.sandbox.faults.rules import Faults, parse_rules
from airflow_provider_hailuo.sandbox.http.app import create_app
from airflow_provider_hailuo.sandbox.http.routes import Api
from airflow_provider_hailuo.sandbox.state.account import Account
from airflow_provider_hailuo.sandbox.state.files import Files
from airflow_provider_hailuo.sandbox.state.uploads import Uploads

_GRACE_SECONDS: Final = 1
_KEEP_ALIVE_SECONDS: Final = 75


class Stats(TypedDict):
    """What the sandbox has counted.

    :param requests: how often each endpoint was called, such as `{"POST /v2/videos/generate": 1}`.
    :param faults: how often each kind of fault has struck, such as `{"reset": 1}`.
    :param jobs: how many jobs have each status.
    :param jobsCreated: how many jobs there are.
    :param idempotentReplays: how many submissions created none, because their idempotency key was known.
    :param credits: the balance.
    :param creditsCharged: all credits charged, less those refunded.
    """

    requests: dict[str, int]
    faults: dict[str, int]
    jobs: dict[str, int]
    jobsCreated: int
    idempotentReplays: int
    credits: int
    creditsCharged: int


class Sandbox:
    """A local Apiframe, which runs as long as its `with` block.

    ::

        with Sandbox(render_seconds=0.5) as sandbox:
            client = Client(Settings(api_key=sandbox.api_key, base_url=sandbox.base_url))

    It has the endpoints, checks, prices and webhooks of the real one and makes real MP4 files, but needs no
    account and costs nothing. A prompt may ask for trouble: `[[fail: some reason]]` ends the job as FAILED with
    that reason, `[[stall]]` leaves it PROCESSING until `release`, `[[slow: 30]]` makes it take 30 seconds. One thing
    is assumed: that hailuo-2.3-fast and hailuo-03 cost what hailuo-2.3 costs.

    A sandbox can be entered once. Inside the block `base_url` tells where it listens, such as
    `http://127.0.0.1:43211`.

    :param host: address or name to listen on (default loopback; on any other one others may reach it).
    :param port: port to listen on, 0 (default) for any free one.
    :param api_key: the one key that is accepted (default `afk_sandbox`).
    :param credits: the balance at the start (default 1,000).
    :param render_seconds: seconds from submission to the end of a job (default 10), 0: as soon as somebody looks.
    :param jitter: by which fraction of it, up or down, a render time may differ, 0 to 1 (default 0.2).
    :param retention_seconds: seconds from completion until the video is gone (default 24 hours, as in the Apiframe
        reference, "Get a job").
    :param seed: makes ids, render times and chance faults the same in every run; with None (default) they differ.
    :param faults: rules of what goes wrong on purpose, as in JSON (default none); "The sandbox" in the documentation
        lists them.
    :raises SettingError: when a setting is out of its range; it is a `ValueError`.
    :raises OSError: on entering the block, when the address cannot be listened on.
    """

    base_url: str

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "afk_sandbox",
        credits: int = 1000,  # noqa: A002 - the name in the API
        render_seconds: float = 10.0,
        jitter: float = 0.2,
        retention_seconds: float = 86400.0,
        seed: int | None = None,
        faults: Sequence[dict[str, Any]] = (),
    ) -> None:
        if not 0 <= port <= 65535:
            raise SettingError("port", f"must be from 0 to 65535, not {port}")
        if not re.fullmatch("[!-~]+", api_key):
            raise SettingError("api_key", "must consist of printable ASCII characters other than the blank")
        self.api_key = api_key
        self._host = host
        self._port = port
        self._account = Account(
            credits=credits,
            render_seconds=render_seconds,
            jitter=jitter,
            retention_seconds=retention_seconds,
            rng=_random("jobs", seed),
        )
        self._uploads = Uploads(rng=_random("uploads", seed))
        self._faults = Faults(rng=_random("faults", seed))
        self.set_faults(faults)
        self._closing = ExitStack()

    def __enter__(self) -> Sandbox:
        with ExitStack() as stack:
            listener = stack.enter_context(_listen(self._host, self._port))
            self.base_url = _base_url(listener)
            files = stack.enter_context(Files())
            api = Api(
                account=self._account,
                uploads=self._uploads,
                files=files,
                faults=self._faults,
                api_key=self.api_key,
                base_url=self.base_url,
            )
            stack.callback(_serve(create_app(api, self._faults), listener))
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def set_faults(self, faults: Sequence[dict[str, Any]]) -> None:
        """Put `faults` in force, in place of all others. Any thread may call this, at any time.

        :param faults: the new rules, none for no faults.
        :raises SettingError: when a rule is wrong.
        """
        self._faults.set(parse_rules(faults))

    def stats(self) -> Stats:
        """Tell what has been counted so far.

        :return: the counts; asking for them is not counted.
        """
        return cast("Stats", self._ask("stats"))

    def jobs(self) -> list[dict[str, Any]]:
        """List all jobs, whatever faults are in force.

        :return: what `GET /v2/jobs/{id}` tells of each, newest first; asking for them is not counted.
        """
        return cast("list[dict[str, Any]]", self._ask("jobs"))

    def release(self, words: str = "") -> list[str]:
        """Let every job that `[[stall]]` holds back end now, whatever faults are in force; later ones stall again.

        :param words: only jobs whose prompt contains this (default all).
        :return: the ids of these jobs, oldest first; to release them is not counted as a request.
        """
        return cast("list[str]", self._ask("release", "POST", words=words))

    def _ask(self, what: str, method: str = "GET", **query: str) -> Any:
        # An empty TLS context, because loading certificates takes longer than the request, which needs none.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        url = f"{self.base_url}/sandbox/{what}"
        return httpx.request(method, url, params=query, trust_env=False, verify=tls).raise_for_status().json()


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's own, which also puts the connection into the state of its requests, and does not wait for faults."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._connection = Connection(transport)
        self.app_state = {**self.app_state, "connection": self._connection}

    def shutdown(self) -> None:
        super().shutdown()
        if self._connection.struck:
            self._connection.reset()


def _serve(app: ASGIApp, listener: socket.socket) -> Callable[[], None]:
    """Serve `app` on `listener` in a thread, and return what stops it."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        lifespan="on",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="hailuo-sandbox", daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join()

    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("The server did not start")
        time.sleep(0.005)
    return stop


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # Not `socket.create_server`: it leaves out the protocol, then asyncio does not see TCP and leaves Nagle's
    # algorithm on, which makes each answer 40 ms late.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if address.is_unspecified:  # all addresses: where to listen, not where to connect
        address = ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def _random(purpose: str, seed: int | None) -> Random:
    """Return a generator of its own for each purpose, so that uploads do not change the ids of jobs."""
    return Random(None if seed is None else f"{purpose} {seed}")  # noqa: S311 - for tests, not for secrets
