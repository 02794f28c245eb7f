"""`Client` and `AsyncClient`: send a call over httpx, retry what may be retried, raise. Nothing else."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx
import tenacity

from airflow_provider_hailuo import __version__
from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.calls import Call
from airflow_provider_hailuo.apiframe.environment import proxy_for, ssl_context
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    ConflictError,
    InvalidInputError,
    NetworkError,
    RequestTimeoutError,
    UnreadableAnswerError,
    excerpt,
)

T = TypeVar("T")

BASE_URL = "https://api.apiframe.ai"
USER_AGENT = f"airflow-provider-hailuo/{__version__}"
CONNECT_SECONDS = 10.0
POOL_SECONDS = 60.0
BODY_BYTES = 16 * 1024 * 1024
IN_PROGRESS_SECONDS = 60.0
"""How long a submission is sent again while the API says that the first one is still being worked on."""

_IN_PROGRESS = re.compile("in.progress|processing|pending|concurrent|still", re.IGNORECASE)
_BEFORE_SENDING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@dataclass(frozen=True)
class Settings:
    """How to reach the API.

    :param api_key: the key, `afk_...`. It is left out of every representation.
    :param base_url: where the API is (default `https://api.apiframe.ai`). Plain http is for loopback only.
    :param timeout: seconds that a server may stay silent, and a whole answer may take (default 30).
    :param retries: how often a call is sent again after a passing failure (default 4).
    :param namespace: goes into the idempotency keys that are derived for this account (at most 60 printable ASCII
        characters, default none), so that two deployments that hold the same DAG do not get each other's jobs.
    :raises InvalidInputError: one of them will not do. It says what to type, and never tells the key.
    """

    api_key: str = field(repr=False)
    base_url: str = BASE_URL
    timeout: float = 30.0
    retries: int = 4
    namespace: str = ""

    def __post_init__(self) -> None:
        if not (self.api_key and self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key):
            raise InvalidInputError("api_key: must be one word of ASCII characters, as Apiframe shows it (afk_...)")
        _check_base_url(self.base_url)
        if not 0 < self.timeout <= 3600:
            raise InvalidInputError.of(("timeout", self.timeout, "must be seconds above 0, at most 3600"))
        if not 0 <= self.retries <= 20:
            raise InvalidInputError.of(("retries", self.retries, "must be a number from 0 to 20"))
        if not (len(self.namespace) <= 60 and self.namespace.isascii() and self.namespace.isprintable()):
            raise InvalidInputError.of(("namespace", self.namespace, "must be at most 60 printable ASCII characters"))

    @property
    def is_local(self) -> bool:
        """Whether the API is on this machine, as a sandbox is: its files then are there as well."""
        return is_loopback(urlsplit(self.base_url).hostname or "")


def _check_base_url(base_url: str) -> None:
    def refuse(problem: str) -> NoReturn:
        shown = base_url.rpartition("@")[2]  # what stands before an @ may be a secret
        raise InvalidInputError.of(("base_url", shown, f"{problem}; type for example {BASE_URL}"))

    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
        httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        refuse("is no URL")
    if parts.scheme not in {"https", "http"} or not host:
        refuse("must begin with https:// and name a host")
    if parts.username is not None or parts.query or parts.fragment:
        refuse("must hold no user, query or fragment")
    if re.search(r"/v2(/(videos(/generate)?|jobs|me|uploads))?/*$", parts.path):
        refuse("must end before /v2, which is added to it: leave out /v2 and what follows")
    if parts.scheme == "http" and not is_loopback(host):
        refuse("would send the key unencrypted: http:// is for a loopback address only, elsewhere use https://")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine.

    :param host: a name or an address, without brackets or a port.
    :return: whether it is `localhost` or a loopback address; no name is looked up.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _http_options(settings: Settings, transport: T | None) -> dict[str, Any]:
    return {
        "base_url": settings.base_url,
        "headers": {"X-API-Key": settings.api_key, "Accept": "application/json", "User-Agent": USER_AGENT},
        "timeout": httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS, pool=POOL_SECONDS),
        "verify": ssl_context(),
        "transport": transport,
        # httpx itself would die of some values of the environment with errors that name no variable.
        "trust_env": False,
        "proxy": None if transport else proxy_for(settings.base_url),
        "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
        # A redirect would carry the key to another host.
        "follow_redirects": False,
    }


def _request_options(call: Call[Any]) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params) or None,
        "json": None if call.json is None else dict(call.json),
        "files": call.files,
        "headers": {"Idempotency-Key": call.idempotency_key} if call.idempotency_key else {},
    }


class _Body:
    """Collects the body of an answer within limits of size and time.

    The time begins with the answer: what is uploaded may take longer.
    """

    def __init__(self, call: Call[Any], seconds: float) -> None:
        self._call = call
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self.content = bytearray()

    def add(self, chunk: bytes) -> None:
        self.content += chunk
        call = self._call
        if len(self.content) > BODY_BYTES:
            problem = f"The answer to {call.method} {call.path} is larger than {BODY_BYTES} bytes"
            raise UnreadableAnswerError(problem, job_id=call.job_id, in_doubt=call.creates)
        if time.monotonic() > self._deadline:
            problem = f"{call.method} {call.path}: the answer was not complete after {self._seconds:g} s"
            raise RequestTimeoutError(problem, job_id=call.job_id, in_doubt=call.creates)


def _raise_network_error(call: Call[Any], error: httpx.HTTPError) -> NoReturn:
    what = f"{call.method} {call.path}: {type(error).__name__} {excerpt(str(error))}".rstrip(" .")
    kind: type[ApiframeError] = NetworkError
    if isinstance(error, httpx.TimeoutException):
        kind = RequestTimeoutError
    elif isinstance(error, httpx.DecodingError):
        kind = UnreadableAnswerError
    in_doubt = call.creates and not isinstance(error, _BEFORE_SENDING)
    raise kind(what, job_id=call.job_id, in_doubt=in_doubt) from error


class _Tries:
    """The tries of one call: whether it is sent again, and when. `again` and `seconds` are for tenacity."""

    def __init__(self, call: Call[Any], retries: int) -> None:
        self._call = call
        self._retries = retries
        self._failures = 0
        self._in_doubt = False
        self._in_progress_since: float | None = None

    def again(self, state: tenacity.RetryCallState) -> bool:
        error = _error_of(state)
        if not isinstance(error, ApiframeError):
            return False
        in_progress = self._is_in_progress(error)
        # Once in doubt, always in doubt: a later refusal does not undo what an earlier request may have done.
        error.in_doubt = self._in_doubt = self._in_doubt or error.in_doubt or in_progress
        if in_progress:
            if self._in_progress_since is None:
                self._in_progress_since = state.idle_for
            seconds = state.idle_for - self._in_progress_since
            if seconds >= IN_PROGRESS_SECONDS:
                error.message = f"The first request was still being worked on after {seconds:.0f} s: {error.message}"
            return seconds < IN_PROGRESS_SECONDS
        self._failures += 1
        pays_once = self._call.idempotency_key is not None or not error.in_doubt
        return error.transient and pays_once and self._failures <= self._retries

    def _is_in_progress(self, error: ApiframeError) -> bool:
        """Tell whether a 409 is about this very request, sent a moment ago, and not about another one."""
        return (
            isinstance(error, ConflictError)
            and error.from_api
            and self._call.idempotency_key is not None
            and (self._in_doubt or _IN_PROGRESS.search(error.message) is not None)
        )

    @staticmethod
    def seconds(state: tenacity.RetryCallState) -> float:
        return backoff(state.attempt_number, _error_of(state))


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class Client:
    """A synchronous client. One object serves one thread; close it, or use it as a context manager.

    :param settings: how to reach the API; an attribute as well.
    :param transport: replaces httpx's own (default: none), and with it the proxies of the environment.
    :param sleep: waits that many seconds between tries (default `time.sleep`).
    :param on_request: called with the call before each request of it (default: nobody is told).
    :raises InvalidInputError: an environment variable about proxies or certificates will not do.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_request: Callable[[Call[Any]], object] = lambda _: None,
    ) -> None:
        self.settings: Final = settings
        self._sleep = sleep
        self._on_request = on_request
        self._http = httpx.Client(**_http_options(settings, transport))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[T], *, retries: int | None = None) -> T:
        """Send a call.

        What may pass (429, 5xx, network errors, unreadable answers) is tried again, for a POST without an
        idempotency key only when it is certain that nothing was done. A 409 that says, or after a lost answer means,
        that the first request with this key is still being worked on is asked again for about a minute, whatever
        `retries` is.

        :param call: what to send.
        :param retries: overrides the number of the settings; 0 for a single try.
        :return: the value of the answer.
        :raises ApiframeError: the last one; it is in doubt when that of any try was.
        """
        tries = _Tries(call, self.settings.retries if retries is None else retries)
        retrying = tenacity.Retrying(retry=tries.again, wait=tries.seconds, sleep=self._sleep, reraise=True)
        value: T = retrying(self._send_once, call)
        return value

    def _send_once(self, call: Call[T]) -> T:
        self._on_request(call)
        try:
            with self._http.stream(**_request_options(call)) as response:
                body = _Body(call, self.settings.timeout)
                for chunk in response.iter_bytes():
                    body.add(chunk)
        except httpx.HTTPError as error:
            _raise_network_error(call, error)
        return call.parse(response.status_code, response.headers, bytes(body.content))


class AsyncClient:
    """An asynchronous client for one event loop. Close it, or use it as an async context manager.

    :param settings: as for `Client`.
    :param transport: as for `Client`.
    :param sleep: as for `Client`, but awaited (default `asyncio.sleep`).
    :param on_request: as for `Client`.
    :raises InvalidInputError: as `Client`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_request: Callable[[Call[Any]], object] = lambda _: None,
    ) -> None:
        self.settings: Final = settings
        self._sleep = sleep
        self._on_request = on_request
        self._http = httpx.AsyncClient(**_http_options(settings, transport))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call[T], *, retries: int | None = None) -> T:
        """Send a call, with the tries of `Client.send`.

        :param call: as for `Client.send`.
        :param retries: as for `Client.send`.
        :return: the value of the answer.
        :raises ApiframeError: as `Client.send`.
        """
        tries = _Tries(call, self.settings.retries if retries is None else retries)
        retrying = tenacity.AsyncRetrying(retry=tries.again, wait=tries.seconds, sleep=self._sleep, reraise=True)
        return await retrying(self._send_once, call)

    async def _send_once(self, call: Call[T]) -> T:
        self._on_request(call)
        try:
            async with self._http.stream(**_request_options(call)) as response:
                body = _Body(call, self.settings.timeout)
                async for chunk in response.aiter_bytes():
                    body.add(chunk)
        except httpx.HTTPError as error:
            _raise_network_error(call, error)
        return call.parse(response.status_code, response.headers, bytes(body.content))
