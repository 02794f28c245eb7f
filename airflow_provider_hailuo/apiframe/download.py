"""The file of a finished video, from its URL into a local file: whole, or not at all."""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import IO, Any, Final, NoReturn

import httpx

from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.calls import retry_after_seconds
from airflow_provider_hailuo.apiframe.client import CONNECT_SECONDS, USER_AGENT
from airflow_provider_hailuo.apiframe.environment import proxy_for, ssl_context
from airflow_provider_hailuo.apiframe.errors import DownloadError, InvalidInputError, excerpt
from airflow_provider_hailuo.apiframe.models import is_http_url
from airflow_provider_hailuo.apiframe.mp4 import check_mp4

FRUITLESS_TRIES = 5
"""How many tries in a row may bring nothing new."""
TRIES = 1000
"""How many tries there are at most, also if each brings a little."""
REDIRECTS = 5
SILENT_SECONDS = 30.0
PACE_SECONDS = 60.0
PACE_BYTES_PER_SECOND = 1024
"""A file that comes more slowly than that, over `PACE_SECONDS`, is a drip that would not end."""
LARGEST_BYTES = 4 * 1024**3
"""Where an answer without an end is cut off: far above any video of some seconds."""
PROGRESS_SECONDS = 10.0
EDGE_BYTES = 64 * 1024

_PART: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_GLOBAL_UNICAST: Final = ip_network("2000::/3")
_NAT64: Final = ip_network("64:ff9b::/96")
_IPV4: Final = 0xFFFFFFFF

Resolve = Callable[..., Iterable[tuple[Any, ...]]]
"""Finds the addresses of a host, as `socket.getaddrinfo` does."""


@dataclass(frozen=True)
class Downloaded:
    """What was downloaded.

    :param bytes: its size.
    :param sha256: its hash, in hexadecimal digits.
    """

    bytes: int
    sha256: str


class _RefusedError(DownloadError):
    """The URL leads to where nothing is fetched from."""

    transient = False


class _TooSlowError(DownloadError):
    """The file drips. What such a try brings does not count."""


def download(
    url: str,
    file: IO[bytes],
    *,
    job_id: str | None = None,
    allow_local: bool = False,
    log: Callable[[str], object],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    resolve: Resolve = socket.getaddrinfo,
) -> Downloaded:
    """Write the video behind `url` into `file`, however often the way to it breaks.

    After a failure it goes on where it stopped, or starts over if the server has another file by then. It takes no
    more memory for a large file than for a small one. No key, cookie or password is sent.

    :param url: an absolute http(s) URL. At most 5 redirects are followed, none from https to http.
    :param file: a local file, opened with `w+b`; what it holds is lost. It is at its beginning afterwards.
    :param job_id: names the job in errors and in the log; None (default): it is not named.
    :param allow_local: whether the URL may lead to addresses that are not public, and from https to http, as that of
        a sandbox does (default no).
    :param log: gets a line for each failure, and one every 10 s that tells how much is there.
    :param sleep: waits that many seconds between tries (default `time.sleep`).
    :param clock: tells the time in seconds (default `time.monotonic`).
    :param resolve: finds the addresses of a host (default `socket.getaddrinfo`).
    :return: size and hash of the file, which has the length that the server says, and is a whole MP4.
    :raises DownloadError: 5 tries in a row brought nothing new, or 1000 tries were too few; it is not transient if
        the URL leads to where nothing is fetched from, which is tried once.
    :raises InvalidInputError: the URL is none, or an environment variable about proxies or certificates will not do.
    :raises OSError: `file` cannot be written.
    """
    source = _Source(url, job_id, allow_local, clock, resolve)
    copy = _Copy(file)
    subject = "Video" if job_id is None else f"Job {job_id}"
    furthest = fruitless = 0
    for tries in itertools.count(1):
        try:
            if copy.bytes != copy.told.length:  # else it is the end of the answer alone that was lost
                _fetch(source, copy, lambda progress: log(f"{subject}: {progress}"), clock)
            return copy.finish()
        except _RefusedError:
            raise
        except DownloadError as error:
            last = error
        fruitful = copy.bytes > furthest and not isinstance(last, _TooSlowError)
        furthest = max(furthest, copy.bytes)
        fruitless = 0 if fruitful else fruitless + 1
        if fruitless == FRUITLESS_TRIES or tries == TRIES:
            break
        # Two steps at a time: the few tries are to outlast a CDN that is away for half a minute.
        seconds = backoff(max(1, 2 * fruitless), last)
        log(f"{subject}: {last}; {copy.state}, going on in {seconds:.1f} s")
        sleep(seconds)
    message = f"The video could not be downloaded in {tries} tries, {copy.state}; at last: {last.message}"
    raise DownloadError(message, status=last.status, job_id=job_id) from last


def is_same_video(
    url: str,
    length: int,
    read: Callable[[int, int], bytes],
    *,
    job_id: str | None = None,
    allow_local: bool = False,
    clock: Callable[[], float] = time.monotonic,
    resolve: Resolve = socket.getaddrinfo,
) -> bool:
    """Tell by its length and its ends (64 KiB each) whether a stored file is the video behind `url`.

    Of a server that does not give parts of a file only the beginning is looked at.

    :param url: as for `download`.
    :param length: the size of the stored file in bytes.
    :param read: `read(offset, size)` returns so many bytes of the stored file.
    :param job_id: as for `download`.
    :param allow_local: as for `download`.
    :param clock: as for `download`.
    :param resolve: as for `download`.
    :return: whether it is the same; False also if that could not be found out, for whatever reason.
    :raises DownloadError: the URL leads to where nothing is fetched from.
    """
    size = min(length, EDGE_BYTES)
    try:
        source = _Source(url, job_id, allow_local, clock, resolve)
        for start in sorted({0, length - size}):
            with source.open({"Range": f"bytes={start}-{start + size - 1}"}) as response:
                told = _told(response)
                if (told.start, told.length) != (start, length):
                    return False
                if _first(source.chunks(response), size)[:size] != read(start, size):
                    return False
                if response.status_code == HTTPStatus.OK:
                    break
    except _RefusedError:
        raise
    except Exception:  # noqa: BLE001 - each storage has errors of its own
        return False
    return True


@dataclass(frozen=True)
class _Told:
    """What an answer tells of the file: where in it the body begins, its length in bytes, and which version it is."""

    start: int | None = None
    length: int | None = None
    etag: str | None = None
    modified: str | None = None

    def differs(self, other: _Told) -> bool:
        """Whether the two are about different files, as far as both tell."""
        version = (self.etag, other.etag)
        if None in version:
            version = (self.modified, other.modified)
        return any(None not in pair and pair[0] != pair[1] for pair in ((self.length, other.length), version))

    @property
    def condition(self) -> Mapping[str, str]:
        """The header by which a part is sent only if the file is still this one (RFC 9110, 13.1.5)."""
        strong = None if self.etag is None or self.etag.startswith("W/") else self.etag
        mark = strong or self.modified
        return {"If-Range": mark} if mark else {}


def _told(response: httpx.Response) -> _Told:
    headers, status = response.headers, response.status_code
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        phrase = excerpt(response.reason_phrase) or "an answer without a file"
        asked = retry_after_seconds(headers, datetime.now(timezone.utc))
        raise DownloadError(phrase, status=status, retry_after=asked)
    start: int | None = 0
    length = headers.get("content-length", "")
    if status == HTTPStatus.PARTIAL_CONTENT:
        part = _PART.fullmatch(headers.get("content-range", ""))
        start, length = (int(part[1]), part[2]) if part else (None, "")
    size = int(length) if length.isdecimal() else None
    return _Told(start, size, headers.get("etag"), headers.get("last-modified"))


class _Copy:
    """What is there of the video: the first `bytes` of it, and what the server told of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.start_over(_Told())

    def start_over(self, told: _Told) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.bytes = 0
        self.told = told

    def add(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self.bytes += len(chunk)
        if max(self.bytes, self.told.length or 0) > LARGEST_BYTES:
            self.start_over(_Told())
            raise DownloadError(f"the file is larger than {LARGEST_BYTES} bytes")

    def finish(self) -> Downloaded:
        length = self.told.length
        if length is not None and self.bytes < length:
            raise DownloadError("the answer held less than it was to")
        try:
            if length is not None and self.bytes > length:
                raise ValueError("it is longer than the server says")
            check_mp4(self._file)
        except ValueError as error:
            self.start_over(_Told())
            raise DownloadError(f"the file that the server gives is not whole: {error}") from error
        self._file.seek(0)
        return Downloaded(self.bytes, self._hash.hexdigest())

    @property
    def state(self) -> str:
        of = "" if self.told.length is None else f" of {self.told.length}"
        return f"{self.bytes}{of} bytes are there"


def _fetch(source: _Source, copy: _Copy, log: Callable[[str], object], clock: Callable[[], float]) -> None:
    """Send one request for what is missing, and add what comes."""
    headers = {"Range": f"bytes={copy.bytes}-", **copy.told.condition} if copy.bytes else {}
    with source.open(headers) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            copy.start_over(_Told())
        told = _told(response)
        chunks = source.chunks(response)
        if told.start == 0:
            # Before what is there is given up: the page of a proxy must not cost it.
            first = _first(chunks, 8)
            if first[4:8] != b"ftyp":
                raise DownloadError(f"the answer is no MP4, it begins with {excerpt(first, 60)!r}")
            copy.start_over(told)
            chunks = itertools.chain([first], chunks)
        elif told.start != copy.bytes or told.differs(copy.told):
            copy.start_over(_Told())
            raise DownloadError("the server has another file by now, or gave another part of it than asked for")
        else:
            copy.told = replace(copy.told, length=copy.told.length or told.length)
        reported = clock()
        for chunk in chunks:
            copy.add(chunk)
            if (now := clock()) - reported >= PROGRESS_SECONDS:
                of = "" if copy.told.length is None else f"of {copy.told.length / 1e6:.0f} "
                log(f"{copy.bytes / 1e6:.0f} {of}MB downloaded")
                reported = now


def _first(chunks: Iterator[bytes], size: int) -> bytes:
    """Return at least the next `size` bytes; fewer only where the body ends."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= size:
            break
    return first


class _Source:
    """Where the video is fetched from."""

    def __init__(
        self, url: str, job_id: str | None, allow_local: bool, clock: Callable[[], float], resolve: Resolve
    ) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL:
            self._url = httpx.URL()
        if not is_http_url(str(self._url)):
            raise InvalidInputError.of(("url", url, "must be an absolute http(s) URL"))
        self._job_id = job_id
        self._allow_local = allow_local
        self._clock = clock
        self._resolve = resolve

    @contextmanager
    def open(self, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Send a GET along its redirects; what the answer holds is read with `chunks`."""
        url = self._url
        try:
            for _ in range(1 + REDIRECTS):
                # A client of its own for each request: the proxy depends on the host, and no cookie is kept.
                proxy = proxy_for(str(url))
                self._check_host(url, by_proxy=proxy is not None)
                with (
                    httpx.Client(
                        headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT},
                        timeout=httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
                        verify=ssl_context(),
                        trust_env=False,
                        proxy=proxy,
                    ) as http,
                    # `Auth()` sends nothing; without it a user in the URL would become a header.
                    http.stream("GET", url, headers=headers, auth=httpx.Auth(), follow_redirects=False) as response,
                ):
                    if proxy is None:
                        self._check_connection(response)
                    if response.next_request is None:
                        yield response
                        return
                    url = self._redirected(url, response.next_request.url)
        except (httpx.HTTPError, UnicodeError) as error:  # a name with too long a part is a UnicodeError
            what = f"{type(error).__name__} {excerpt(str(error))}".rstrip(" .")
            raise DownloadError(f"{what} (from {excerpt(url.host)})") from error
        raise DownloadError(f"more than {REDIRECTS} redirects")

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        """Return the body as it comes, in chunks of far less than 1 MB."""
        since, received = self._clock(), 0
        for chunk in response.iter_raw():
            yield chunk
            received += len(chunk)
            seconds = self._clock() - since
            if seconds >= PACE_SECONDS:
                if received < seconds * PACE_BYTES_PER_SECOND:
                    raise _TooSlowError(f"only {received} bytes came in {seconds:.0f} s")
                since, received = self._clock(), 0

    def _redirected(self, url: httpx.URL, target: httpx.URL) -> httpx.URL:
        if not is_http_url(str(target)):
            origin = excerpt(f"{target.scheme}://{target.netloc.decode('ascii')}")
            self._refuse(f"{origin!r}, which is no http(s) URL")
        if (url.scheme, target.scheme) == ("https", "http") and not self._allow_local:
            self._refuse("an unencrypted http:// URL, from an https:// one")
        return target

    def _check_host(self, url: httpx.URL, *, by_proxy: bool) -> None:
        if self._allow_local:
            return
        host, port = url.raw_host.decode("ascii"), url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            if by_proxy:  # names of the world may be known to the proxy alone
                return
            raise DownloadError(f"{excerpt(host)} is not found: {excerpt(str(error))}") from error
        for *_, address in found:
            self._check_address(address[0])

    def _check_connection(self, response: httpx.Response) -> None:
        """Check where the connection leads: the name may have had another address when it was looked up."""
        if self._allow_local:
            return
        try:
            address = response.extensions["network_stream"].get_extra_info("server_addr")
        except OSError as error:
            raise DownloadError(f"the connection was lost: {excerpt(str(error))}") from error
        self._check_address(address[0])

    def _check_address(self, address: str) -> None:
        if not _is_public(ip_address(address)):
            self._refuse(f"the address {address}, which is not public: nothing is fetched from a private network")

    def _refuse(self, where: str) -> NoReturn:
        raise _RefusedError(f"The URL of the video leads to {where}", job_id=self._job_id)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        within = IPv4Address(int(address) & _IPV4) if address in _NAT64 else address.ipv4_mapped or address.sixtofour
        if within is not None:
            address = within
        elif address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast
