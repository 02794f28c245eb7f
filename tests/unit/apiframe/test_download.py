from __future__ import annotations

import hashlib
import http.server
import random
import re
import socket
import ssl
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
import trustme

from airflow_provider_hailuo.apiframe import download as module
from airflow_provider_hailuo.apiframe.download import Downloaded, download, is_same_video
from airflow_provider_hailuo.apiframe.errors import DownloadError, InvalidInputError

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
PUBLIC = "93.184.215.14"
CHUNK = 64 * 1024


def video(length: int, seed: int = 1) -> bytes:
    """Return a whole MP4, in which no two places look the same."""
    ftyp = b"\0\0\0\x14ftypisom\0\0\2\0isom"
    moov = b"\0\0\0\x10moovmoovmoov"
    mdat = length - len(ftyp + moov)
    return ftyp + moov + mdat.to_bytes(4, "big") + b"mdat" + random.Random(seed).randbytes(mdat - 8)


VIDEO = video(300_000)


@dataclass
class Answer:
    """How the server answers one request: as RFC 9110 says, but for what is set here.

    `cut` closes the connection after so many bytes of the body; with `hangs` it falls silent there instead, and with
    `until` it waits there for that event, then goes on; with `drips` it goes on byte by byte.
    """

    video: bytes = VIDEO
    etag: str | None = '"1"'
    modified: str | None = None
    cut: int | None = None
    hangs: bool = False
    until: threading.Event | None = None
    drips: bool = False
    ranges: bool = True
    chunked: bool = False
    status: int | None = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        cdn = self.server
        cdn.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answer = cdn.script.pop(0) if cdn.script else cdn.always
        with suppress(ConnectionError):
            self._give(answer)

    def _give(self, answer: Answer) -> None:
        body, status = answer.video if answer.body is None else answer.body, answer.status or 200
        start, end = 0, len(body)
        headers = {"ETag": answer.etag, "Last-Modified": answer.modified}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", answer.etag) in {answer.etag, answer.modified}
        if asked and answer.ranges and same and answer.body is None:
            start, end = int(asked[1]), min(int(asked[2] or end) + 1, end)
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(end - start)
        self.send_response(status)
        for name, value in (headers | answer.headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        cut = min(start + (answer.cut or 0), end)
        for stop in sorted({cut, end}):
            while start < stop:
                size = 1 if answer.drips and start >= cut else min(CHUNK, stop - start)
                chunk = body[start : start + size]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk) if answer.chunked else chunk)
                start += size
            if answer.until is not None:
                answer.until.wait(60)
            elif answer.cut is not None and not answer.drips:
                self.server.closing.wait(60 if answer.hangs else 0)
                self.close_connection = True
                return
        if answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def do_CONNECT(self) -> None:
        """Be a proxy, and the host behind it as well."""
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(200)
        self.end_headers()
        self.connection = self.request = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


class Cdn(http.server.ThreadingHTTPServer):
    """Gives one answer of its script after the other, then `always` the same."""

    daemon_threads = False

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.script: list[Answer] = []
        self.always = Answer()
        self.closing = threading.Event()
        self.tls = tls

    def handle_error(self, *_: object) -> None:
        assert isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError)  # whoever asked is gone

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/videos/v.mp4"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def cdn(authority: trustme.CA) -> Iterator[Cdn]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("video.example", "other.example", "127.0.0.1").configure_cert(tls)
    server = Cdn(tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxied(cdn: Cdn, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cdn:
    """The server as a proxy that leads to all hosts, so that hosts may be public."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{cdn.server_port}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{cdn.server_port}")
    return cdn


def resolve_to(*addresses: str) -> Callable[..., list[tuple[Any, ...]]]:
    def resolve(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


def unresolved(*_: object, **__: object) -> list[tuple[Any, ...]]:
    raise socket.gaierror(-2, "Name or service not known")


class Clock:
    """Lets so many seconds pass with each look at it. `seen` is set by the second look."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step
        self.seen = threading.Event()

    def __call__(self) -> float:
        self.now += self.step
        if self.now > self.step:
            self.seen.set()
        return self.now


class Fetching:
    """Downloads, returns what is in the file then, and keeps what was logged and how long it waited between tries."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.log: list[str] = []
        self.waits: list[float] = []

    def __call__(self, url: str, **options: Any) -> bytes:
        options = {"job_id": JOB_ID, "allow_local": True, **options}
        found = download(url, self.file, log=self.log.append, sleep=self.waits.append, **options)
        assert self.file.tell() == 0
        content = self.content
        assert found == Downloaded(len(content), hashlib.sha256(content).hexdigest())
        return content

    @property
    def content(self) -> bytes:
        self.file.seek(0)
        return self.file.read()


@pytest.fixture
def fetch() -> Iterator[Fetching]:
    with tempfile.TemporaryFile("w+b") as file:
        yield Fetching(file)


def test_a_video_is_downloaded_in_place_of_what_the_file_held(cdn, fetch):
    fetch.file.write(bytes(2 * len(VIDEO)))

    assert fetch(cdn.url) == VIDEO

    assert (fetch.log, fetch.waits) == ([], [])


@pytest.mark.parametrize("of_url", ["", "user:hunter2@"])
def test_nothing_that_tells_who_asks_is_sent(cdn, fetch, monkeypatch, tmp_path, of_url: str):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    cookie = {"Set-Cookie": "a=b"}
    cdn.script = [
        Answer(status=302, body=b"", headers=cookie | {"Location": "/elsewhere"}),
        Answer(cut=100_000, headers=cookie),
    ]

    fetch(cdn.url.replace("://", f"://{of_url}"))

    assert [path for path, _ in cdn.requests] == ["/videos/v.mp4", "/elsewhere", "/videos/v.mp4"]
    for _, headers in cdn.requests:
        assert headers.pop("user-agent").startswith("airflow-provider-hailuo/")
        assert headers.pop("accept-encoding") == "identity"
        assert set(headers) <= {"host", "accept", "connection", "range", "if-range"}


@pytest.mark.parametrize(
    ("version", "condition"),
    [
        ({"etag": '"1"', "modified": "Thu, 26 Nov 2026 09:00:00 GMT"}, '"1"'),
        ({"etag": 'W/"1"', "modified": "Thu, 26 Nov 2026 09:00:00 GMT"}, "Thu, 26 Nov 2026 09:00:00 GMT"),
        ({"etag": None, "modified": "Thu, 26 Nov 2026 09:00:00 GMT"}, "Thu, 26 Nov 2026 09:00:00 GMT"),
        ({"etag": 'W/"1"'}, None),
        ({"etag": None}, None),
    ],
)
def test_after_a_cut_it_goes_on_where_it_stopped(cdn, fetch, version: dict[str, str | None], condition: str | None):
    cdn.script = [Answer(cut=100_000, **version), Answer(cut=50_000, **version)]
    cdn.always = Answer(**version)

    assert fetch(cdn.url) == VIDEO

    assert cdn.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert [headers.get("if-range") for _, headers in cdn.requests] == [None, condition, condition]
    assert len(fetch.waits) == 2
    assert all(0 < seconds <= 0.5 for seconds in fetch.waits)
    failed = rf"Job {JOB_ID}: RemoteProtocolError .*\(from 127\.0\.0\.1\)"
    assert re.fullmatch(rf"{failed}; 100000 of 300000 bytes are there, going on in 0\.\d s", fetch.log[0])


def test_a_server_that_falls_silent_is_not_waited_for(cdn, fetch, monkeypatch):
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.2)
    cdn.script = [Answer(cut=100_000, hangs=True), Answer(cut=0, hangs=True)]

    assert fetch(cdn.url) == VIDEO

    assert cdn.ranges == [None, "bytes=100000-", "bytes=100000-"]
    assert "ReadTimeout" in fetch.log[0]


def test_a_file_that_drips_is_given_up_though_each_try_brings_a_little(cdn, fetch, monkeypatch):
    monkeypatch.setattr(module, "PACE_BYTES_PER_SECOND", 10_000)

    with pytest.raises(
        DownloadError, match=r"in 5 tries, \d{5,} of 300000 bytes are there; at last: only \d+ bytes c"
    ):
        fetch(cdn.url, clock=Clock(60.0))

    assert len(cdn.requests) == 5


def test_a_file_that_drips_after_a_while_is_asked_for_again(cdn, fetch):
    cdn.script = [Answer(chunked=True, cut=290_000, drips=True)]

    assert fetch(cdn.url, clock=Clock(1.0)) == VIDEO

    assert len(cdn.requests) == 2
    assert re.search(r": only \d\d bytes came in 6\d s; 290\d\d\d bytes are there", fetch.log[-1])


def test_a_slow_file_is_not_given_up_as_long_as_it_comes(cdn, fetch):
    assert fetch(cdn.url, clock=Clock(10.0)) == VIDEO


@pytest.mark.parametrize("answer", [Answer(status=503, body=b""), Answer(status=500, body=b""), Answer(cut=0)])
def test_an_outage_costs_nothing_of_what_is_there(cdn, fetch, answer: Answer):
    cdn.script = [Answer(cut=100_000), answer, answer, answer, answer]

    assert fetch(cdn.url) == VIDEO

    assert cdn.ranges == [None, *5 * ["bytes=100000-"]]
    assert fetch.waits[1] <= 1
    assert fetch.waits[-1] > 10


def test_it_waits_as_long_as_the_server_asks_for(cdn, fetch):
    cdn.script = [Answer(cut=100_000), Answer(status=429, body=b"", headers={"Retry-After": "77"})]

    assert fetch(cdn.url) == VIDEO

    assert 77 < fetch.waits[1] < 79
    assert cdn.ranges[-1] == "bytes=100000-"


LESS = Answer(status=206, body=VIDEO[100_000:150_000], headers={"Content-Range": "bytes 100000-149999/300000"})


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        pytest.param([Answer(cut=100_000), LESS], "100000 of 300000", id="less than asked for"),
        pytest.param(
            [Answer(cut=100_000), Answer(cut=50_000, headers={"Content-Range": "bytes 100000-299999/*"})],
            "100000 of 300000",
            id="of an untold whole",
        ),
        pytest.param(
            [Answer(chunked=True, cut=100_000), Answer(cut=50_000)], "100000", id="at first of untold length"
        ),
    ],
)
def test_parts_are_put_together_however_they_are_told(cdn, fetch, parts: list[Answer], told: str):
    cdn.script = parts[:]

    assert fetch(cdn.url) == VIDEO

    assert cdn.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert f"; {told} bytes are there, going on" in fetch.log[0]
    assert "; 150000 of 300000 bytes are there, going on" in fetch.log[1]


def test_tries_that_bring_something_do_not_count(cdn, fetch):
    cdn.always = Answer(cut=10_000)

    assert fetch(cdn.url) == VIDEO

    assert len(cdn.requests) == 30


def test_a_file_of_untold_length_is_whole_when_its_boxes_are(cdn, fetch):
    cdn.always = Answer(chunked=True)

    assert fetch(cdn.url) == VIDEO


def test_what_is_all_there_is_not_asked_for_again(cdn, fetch):
    cdn.script = [
        Answer(cut=100_000),
        Answer(chunked=True, cut=200_000),  # all of it, but not the end of the answer
    ]

    assert fetch(cdn.url) == VIDEO

    assert len(cdn.requests) == 2


OTHER = video(300_000, seed=2)
LONGER = video(400_000, seed=3)


@pytest.mark.parametrize(
    ("odd", "whole", "requests"),
    [
        pytest.param(Answer(ranges=False), VIDEO, 2, id="200 to a Range"),
        pytest.param(Answer(OTHER, etag='"2"'), OTHER, 2, id="changed, told by If-Range"),
        pytest.param(Answer(OTHER, headers={"ETag": '"2"'}), OTHER, 3, id="changed, told by ETag"),
        pytest.param(Answer(LONGER), LONGER, 3, id="changed, told by length"),
        pytest.param(Answer(status=416, body=b""), VIDEO, 3, id="416"),
        pytest.param(Answer(headers={"Content-Range": "bytes 99999-299999/300000"}), VIDEO, 3, id="other part"),
        pytest.param(Answer(headers={"Content-Range": "bytes */300000"}), VIDEO, 3, id="no part"),
        pytest.param(Answer(headers={"Content-Range": ""}), VIDEO, 3, id="no Content-Range"),
        pytest.param(Answer(headers={"Content-Range": f"bytes 100000-299999/{'9' * 5000}"}), VIDEO, 3, id="flood"),
    ],
)
def test_it_starts_over_when_what_comes_does_not_fit(cdn, fetch, odd: Answer, whole: bytes, requests: int):
    cdn.script = [Answer(cut=100_000), odd]
    cdn.always = Answer(whole, etag=odd.headers.get("ETag", odd.etag))

    assert fetch(cdn.url) == whole

    assert cdn.ranges == [None, "bytes=100000-", None][:requests]
    assert all(re.search("(another file|Not Satisfiable).*; 0 bytes are there", line) for line in fetch.log[1:])


def test_a_changed_file_is_known_by_its_date_when_it_has_no_etag(cdn, fetch):
    cdn.script = [
        Answer(etag=None, cut=100_000, modified="Thu, 26 Nov 2026 09:00:00 GMT"),
        Answer(OTHER, etag=None, modified=None, headers={"Last-Modified": "Thu, 26 Nov 2026 09:00:01 GMT"}),
    ]
    cdn.script[1].modified = cdn.script[0].modified
    cdn.always = Answer(OTHER)

    assert fetch(cdn.url) == OTHER


@pytest.mark.parametrize(
    ("cuts", "tries"),
    [(100 * [100_000], 6), (50 * [50_000, 100_000], 7), ([1000 * min(n, 50) for n in range(100)], 56)],
    ids=["the same", "in turns", "ever later"],
)
def test_a_server_that_starts_over_for_ever_comes_to_an_end(cdn, fetch, cuts: list[int], tries: int):
    cdn.script = [Answer(etag=f'"{n}"', cut=cut) for n, cut in enumerate(cuts)]

    with pytest.raises(DownloadError, match=rf"in {tries} tries, \d+ of 300000 bytes are there"):
        fetch(cdn.url)

    assert len(cdn.requests) == tries


def test_a_server_that_gives_a_little_for_ever_comes_to_an_end(cdn, fetch, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 20)
    cdn.always = Answer(cut=10)

    with pytest.raises(
        DownloadError, match=r"in 20 tries, 200 of 300000 bytes are there; at last: RemoteProtocolErr"
    ):
        fetch(cdn.url)


@pytest.mark.parametrize("endless", [Answer(chunked=True), Answer(cut=100_000)], ids=["untold", "told"])
def test_an_answer_without_an_end_is_cut_off(cdn, fetch, monkeypatch, endless: Answer):
    monkeypatch.setattr(module, "LARGEST_BYTES", 200_000)
    cdn.always = endless

    with pytest.raises(DownloadError, match="0 bytes are there; at last: the file is larger than 200000 bytes"):
        fetch(cdn.url)

    assert fetch.content == b""


PAGE = Answer(body=b"<!DOCTYPE html>\n<html>please log in</html>", headers={"Content-Type": "text/html"})


def test_a_page_is_no_video(cdn, fetch):
    cdn.always = PAGE

    with pytest.raises(
        DownloadError, match=r"in 5 tries, 0 bytes are there; at last: the answer is no MP4"
    ) as caught:
        fetch(cdn.url)

    assert r"<!DOCTYPE html>\\n<html>" in str(caught.value)
    assert len(cdn.requests) == 5


def test_a_page_in_between_costs_nothing_of_what_is_there(cdn, fetch):
    cdn.script = [PAGE, Answer(cut=100_000), PAGE, PAGE]

    assert fetch(cdn.url) == VIDEO

    assert cdn.ranges == [None, None, *3 * ["bytes=100000-"]]


def test_a_video_that_the_server_has_only_a_part_of_is_not_whole(cdn, fetch):
    cdn.script = 2 * [Answer(body=VIDEO[:-1])]

    assert fetch(cdn.url) == VIDEO
    assert cdn.ranges == [None, None, None]

    cdn.always = Answer(body=VIDEO[:-1])
    with pytest.raises(DownloadError, match=r"in 5 tries, 0 bytes are there; at last: .* not whole: it is cut off"):
        fetch(cdn.url)


def test_more_than_the_server_said_is_not_whole(cdn, fetch):
    part = {"Content-Range": "bytes 100000-199999/200000"}
    cdn.script = [
        Answer(chunked=True, cut=100_000, headers={"Content-Length": "200000"}),
        Answer(status=206, chunked=True, body=VIDEO[100_000:], headers=part),
    ]

    assert fetch(cdn.url) == VIDEO

    assert "longer than the server says" in fetch.log[1]
    assert cdn.ranges == [None, "bytes=100000-", None]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 204, 304, 300, 500, 503])
def test_no_status_ends_it_at_once_and_the_last_one_is_told(cdn, fetch, status: int):
    odd = Answer(status=status, body=b"")
    cdn.script = 4 * [odd]
    assert fetch(cdn.url) == VIDEO

    cdn.requests.clear()
    cdn.always = odd
    with pytest.raises(DownloadError) as caught:
        fetch(cdn.url)

    assert len(cdn.requests) == 5
    assert (caught.value.status, caught.value.job_id, caught.value.transient) == (status, JOB_ID, True)
    assert f"(HTTP {status}, job {JOB_ID})" in str(caught.value)
    assert 20 < sum(fetch.waits[-4:]) < 60


def test_no_server(fetch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(DownloadError, match=r"in 5 tries, 0 bytes are there; at last: ConnectError .*127\.0\.0\.1"):
        fetch(f"http://127.0.0.1:{port}/v.mp4")


def test_a_name_that_is_not_found(fetch):
    with pytest.raises(DownloadError, match=r"in 5 tries.*video\.example is not found: .*Name or service not known"):
        fetch("https://video.example/v.mp4", allow_local=False, resolve=unresolved)


@pytest.mark.parametrize("allow_local", [False, True])
def test_a_name_that_is_none(fetch, allow_local: bool):
    with pytest.raises(DownloadError, match="in 5 tries, 0 bytes are there"):
        fetch(f"https://{'a' * 64}.example/v.mp4", allow_local=allow_local)


@pytest.mark.parametrize(
    "url", ["", "v.mp4", "ftp://video.example/v.mp4", "https://", "https://[::1", "https://a:99999/"]
)
def test_what_is_no_url(fetch, url: str):
    with pytest.raises(InvalidInputError, match=r"url: .*must be an absolute http\(s\) URL"):
        fetch(url)


def test_certificates_that_are_not_there_are_told_at_once(cdn, fetch, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")

    with pytest.raises(InvalidInputError, match="SSL_CERT_FILE"):
        fetch(cdn.url)

    assert (fetch.waits, cdn.requests) == ([], [])


def test_a_file_that_cannot_be_written_is_no_failure_of_the_download(cdn, tmp_path):
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError, match=r"truncate|write|writ"):
        Fetching(file)(cdn.url)


# Redirects and addresses


def moved(location: str, status: int = 302) -> Answer:
    return Answer(status=status, body=b"", headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_at_each_try(cdn, fetch, status: int):
    cdn.script = [moved("/a", status), Answer(cut=100_000), moved("/b", status)]

    assert fetch(cdn.url) == VIDEO

    assert [path for path, _ in cdn.requests] == ["/videos/v.mp4", "/a", "/videos/v.mp4", "/b"]
    assert cdn.ranges == [None, None, "bytes=100000-", "bytes=100000-"]


def test_five_redirects_are_followed_and_no_more(cdn, fetch):
    cdn.script = 5 * [moved("/a")]
    assert fetch(cdn.url) == VIDEO

    cdn.requests.clear()
    cdn.always = moved("/a")
    with pytest.raises(DownloadError, match="in 5 tries, 0 bytes are there; at last: more than 5 redirects"):
        fetch(cdn.url)
    assert len(cdn.requests) == 5 * 6


PRIVATE = """
    127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 240.0.0.1 255.255.255.255
    :: ::1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1::1 fd00::1 fe80::1 fe80::1%lo fec0::1
    ff02::1 ff0e::1 2001:db8::1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_a_name_with_an_address_that_is_not_public_is_not_asked(fetch, address: str):
    with pytest.raises(DownloadError, match=r"leads to the address .*, which is not public") as caught:
        fetch("https://video.example/v.mp4", allow_local=False, resolve=resolve_to(PUBLIC, address))

    assert address in str(caught.value)
    assert JOB_ID in str(caught.value)
    assert not caught.value.transient
    assert (fetch.log, fetch.waits) == ([], [])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/v.mp4",
        "http://[::1]:{port}/v.mp4",
        "http://[::ffff:127.0.0.1]:{port}/v.mp4",
        "http://localhost:{port}/v.mp4",
        "http://0x7f.1:{port}/v.mp4",
        "http://2130706433:{port}/v.mp4",
    ],
)
@pytest.mark.parametrize("by_proxy", [False, True])
def test_a_url_of_this_machine_is_not_asked(cdn, fetch, monkeypatch, url: str, by_proxy: bool):
    if by_proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{cdn.server_port}")

    with pytest.raises(DownloadError, match=r"leads to the address .*, which is not public"):
        fetch(url.format(port=cdn.server_port), allow_local=False)

    assert cdn.requests == []


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_fetched_from(proxied, fetch, address: str):
    url = "http://video.example/v.mp4"

    assert fetch(url, allow_local=False, resolve=resolve_to(address)) == VIDEO

    assert [path for path, _ in proxied.requests] == [url]


def test_a_name_that_only_the_proxy_knows_is_fetched_from(proxied, fetch):
    proxied.script = [Answer(cut=100_000)]

    assert fetch("https://video.example/v.mp4", allow_local=False, resolve=unresolved) == VIDEO

    assert [path for path, _ in proxied.requests] == 2 * ["video.example:443", "/v.mp4"]


def test_a_name_that_has_another_address_when_it_is_connected_to_does_not_get_through(cdn, fetch):
    url = cdn.url.replace("127.0.0.1", "localhost")

    with pytest.raises(
        DownloadError, match=r"leads to the address (127\.0\.0\.1|::1), which is not public"
    ) as caught:
        fetch(url, allow_local=False, resolve=resolve_to(PUBLIC))

    assert not caught.value.transient
    assert len(cdn.requests) == 1
    assert fetch.content == b""


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://10.0.0.1/v.mp4", r"the address 10\.0\.0\.1, which is not public"),
        ("//127.0.0.1/v.mp4", r"the address 127\.0\.0\.1, which is not public"),
        ("https://[::1]/v.mp4", "the address ::1, which is not public"),
        ("http://video.example/v.mp4", "an unencrypted http:// URL"),
        ("file:///etc/passwd", "'file://.*', which is no http"),
        ("https://user:hunter2@video.example:99999/v.mp4", "'https://video.example:99999', which is no http"),
    ],
)
@pytest.mark.parametrize("shorter", [False, True])
def test_a_redirect_to_where_nothing_is_fetched_from(proxied, fetch, location: str, told: str, shorter: bool):
    proxied.script = [moved("https://other.example/v.mp4"), moved(location)][shorter:]

    def resolve(host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        return socket.getaddrinfo(host if host[0] in "1:" else PUBLIC, port, **options)

    with pytest.raises(DownloadError, match=told) as caught:
        fetch("https://video.example/v.mp4", allow_local=False, resolve=resolve)

    assert not caught.value.transient
    assert fetch.waits == []
    assert len(proxied.requests) == (2 if shorter else 4)


def test_a_sandbox_may_be_anywhere_and_a_redirect_to_a_host_that_needs_no_proxy_takes_none(
    proxied, fetch, monkeypatch
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    proxied.script = [moved(proxied.url)]

    assert fetch("https://video.example/v.mp4", allow_local=True) == VIDEO

    # A proxy would be asked for the whole URL.
    assert [path for path, _ in proxied.requests] == ["video.example:443", "/v.mp4", "/videos/v.mp4"]


# Progress and memory


def test_progress_is_told_every_10_seconds(cdn, fetch):
    cdn.always = Answer(video(2_000_000))
    clock = Clock(1.0)

    fetch(cdn.url, clock=clock)

    assert len(fetch.log) == pytest.approx(clock.now / 10, rel=0.3)
    assert all(re.fullmatch(rf"Job {JOB_ID}: [012] of 2 MB downloaded", line) for line in fetch.log)


def test_progress_of_an_unknown_whole_and_an_unknown_job_is_told_too(cdn, fetch):
    cdn.always = Answer(video(2_000_000), chunked=True)

    fetch(cdn.url, clock=Clock(5.0), job_id=None)

    assert fetch.log[-1] == "Video: 2 MB downloaded"


def test_a_large_file_takes_no_more_memory_than_a_small_one(cdn, fetch):
    large = video(20_000_000)
    cdn.script = [Answer(large, cut=cut) for cut in (3_000_000, 10_000_000, 6_999_000)]
    cdn.always = Answer(large)
    tracemalloc.start()
    try:
        download(cdn.url, fetch.file, allow_local=True, log=fetch.log.append, sleep=fetch.waits.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert fetch.content == large
    assert cdn.ranges == [None, "bytes=3000000-", "bytes=13000000-", "bytes=19999000-"]
    assert peak < 4_000_000


# Is it the same?


def same(cdn: Cdn, stored: bytes = VIDEO, url: str | None = None, **options: Any) -> bool:
    def read(offset: int, size: int) -> bytes:
        return stored[offset : offset + size]

    return is_same_video(url or cdn.url, len(stored), read, **{"allow_local": True, **options})


def test_the_same_video_is_known_by_its_ends(cdn):
    assert same(cdn)

    assert cdn.ranges == ["bytes=0-65535", "bytes=234464-299999"]


@pytest.mark.parametrize("length", [60, 65_535, 65_536, 65_537])
def test_a_small_video_is_known_too(cdn, length: int):
    cdn.always = Answer(video(length))

    assert same(cdn, video(length))
    assert len(cdn.requests) == (1 if length <= 65_536 else 2)
    assert not same(cdn, video(length)[:-1] + b"x")
    assert not same(cdn, b"x" + video(length)[1:])


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"x",
        VIDEO[:-1],
        VIDEO + b"x",
        b"x" + VIDEO[1:],
        VIDEO[:65_535] + b"x" + VIDEO[65_536:],
        VIDEO[:-1] + b"x",
    ],
)
def test_another_file_is_not_the_same(cdn, stored: bytes):
    assert not same(cdn, stored)


def test_of_a_server_that_gives_no_parts_length_and_beginning_count(cdn):
    cdn.always = Answer(ranges=False)

    assert same(cdn)
    assert not same(cdn, VIDEO[:-1])
    assert not same(cdn, b"x" + VIDEO[1:])
    assert cdn.ranges == 3 * ["bytes=0-65535"]


@pytest.mark.parametrize(
    "odd",
    [
        Answer(status=404, body=b""),
        Answer(status=503, body=b""),
        Answer(cut=10),
        Answer(chunked=True, ranges=False),
        Answer(headers={"Content-Range": "bytes 0-65535/*"}),
        Answer(headers={"Content-Range": "bytes 1-65536/300000"}),
        Answer(headers={"Content-Range": "nonsense"}),
        moved("//[/v.mp4"),
    ],
)
@pytest.mark.parametrize("before", [[], [Answer()]])
def test_what_cannot_be_found_out_is_not_the_same(cdn, odd: Answer, before: list[Answer]):
    cdn.script = [*before, odd]

    assert not same(cdn)


def test_a_drip_is_not_the_same(cdn):
    clock = Clock(60.0)
    cdn.always = Answer(cut=1000, until=clock.seen)

    assert not same(cdn, clock=clock)


def test_a_stored_file_that_cannot_be_read_is_not_the_same(cdn):
    def read(offset: int, size: int) -> bytes:
        raise RuntimeError("the storage is out of order")

    assert not is_same_video(cdn.url, len(VIDEO), read, allow_local=True)


def test_what_is_no_url_is_not_the_same(cdn):
    assert not same(cdn, url="v.mp4")


def test_whether_it_is_the_same_is_not_asked_of_an_address_that_is_not_public(cdn):
    with pytest.raises(DownloadError, match=r"leads to the address 127\.0\.0\.1.*\(job j\)"):
        same(cdn, allow_local=False, job_id="j")

    assert cdn.requests == []
