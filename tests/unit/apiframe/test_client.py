from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.server
import json
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO
from urllib.parse import quote

import httpx
import pytest
import trustme

from airflow_provider_hailuo.apiframe import calls, client, errors
from airflow_provider_hailuo.apiframe.client import AsyncClient, Client, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
KEY = "afk_secret_of_the_test"
ME = {"user": {"id": "u"}, "team": None}
UPLOADED = {"id": "u", "url": "https://cdn.example/u.png"}
REQUEST = VideoRequest(prompt="a sunrise")
Answering = Callable[[httpx.Request], httpx.Response]


class Api:
    """What is sent by either client, to a handler or over the network, and how long the client waited in between."""

    def __init__(self, flavour: str, handler: Answering | None, **settings) -> None:
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self._is_async = flavour == "async"
        self._settings = Settings(api_key=KEY, **settings)

        def record(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return handler(request)

        self._transport = handler and httpx.MockTransport(record)

    def send(self, call: calls.Call, **options):
        if self._is_async:
            return asyncio.run(self._send_async(call, **options))
        with Client(self._settings, transport=self._transport, sleep=self.waits.append) as api:
            return api.send(call, **options)

    async def _send_async(self, call: calls.Call, **options):
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        async with AsyncClient(self._settings, transport=self._transport, sleep=sleep) as api:
            return await api.send(call, **options)


@pytest.fixture(params=["sync", "async"])
def api(request: pytest.FixtureRequest) -> Callable[..., Api]:
    return partial(Api, request.param)


def script(*steps: httpx.Response | Exception) -> Answering:
    """Answer with one step after the other, the last one for ever."""
    left = list(steps)

    def handler(_: httpx.Request) -> httpx.Response:
        step = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step.status_code, headers=step.headers, content=step.content)

    return handler


@pytest.mark.parametrize("base_url", ["https://api.apiframe.ai", "https://gateway.example/apiframe"])
def test_a_request_carries_the_key_and_who_asks(api, base_url: str):
    server = api(script(httpx.Response(200, json=ME)), base_url=base_url)

    server.send(calls.get_account())

    (request,) = server.requests
    assert str(request.url) == f"{base_url}/v2/me"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["user-agent"].startswith("airflow-provider-hailuo/")
    assert "idempotency-key" not in request.headers


NOTHING_WAS_DONE = [
    httpx.Response(429, json={"error": "slow down"}),
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.PoolTimeout("busy"),
    httpx.ProxyError("407"),
    httpx.UnsupportedProtocol("gopher"),
]
MAY_HAVE_ARRIVED = [
    httpx.ReadTimeout("slow"),
    httpx.WriteTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("server disconnected"),
    httpx.DecodingError("bad gzip"),
    httpx.Response(503, json={"error": "no capacity"}),
    httpx.Response(202, text="{"),
]


@pytest.mark.parametrize("passing", [*NOTHING_WAS_DONE, *MAY_HAVE_ARRIVED], ids=repr)
@pytest.mark.parametrize("call", [calls.get_account(), calls.generate_video(REQUEST, "key-1")], ids=["get", "keyed"])
def test_a_passing_failure_is_tried_again_when_that_is_harmless(api, passing, call):
    good = httpx.Response(200, json=ME | {"jobId": JOB_ID, "status": "QUEUED"})
    server = api(script(passing, passing, good))

    server.send(call)

    assert len(server.requests) == 3
    assert len({request.headers.get("idempotency-key") for request in server.requests}) == 1
    assert len(server.waits) == 2
    assert 0 < server.waits[0] < server.waits[1]


@pytest.mark.parametrize("failure", NOTHING_WAS_DONE, ids=repr)
def test_when_nothing_was_done_even_a_post_without_a_key_is_repeated(api, failure):
    server = api(script(failure), retries=1)

    with pytest.raises(errors.ApiframeError) as raised:
        server.send(calls.generate_video(REQUEST))

    assert (len(server.requests), raised.value.in_doubt) == (2, False)


@pytest.mark.parametrize("failure", MAY_HAVE_ARRIVED, ids=repr)
def test_once_it_may_have_arrived_a_post_without_a_key_is_in_doubt_and_not_repeated(api, failure):
    server = api(script(failure))

    with pytest.raises(errors.ApiframeError) as raised:
        server.send(calls.generate_video(REQUEST))

    assert (len(server.requests), raised.value.in_doubt) == (1, True)
    with pytest.raises(errors.ApiframeError) as raised:
        server.send(calls.get_account())
    assert not raised.value.in_doubt


ACCEPTED = httpx.Response(202, json={"jobId": JOB_ID, "status": "QUEUED"})
IN_PROGRESS = httpx.Response(409, json={"error": "A request with this key is already in progress"})
CONFLICT = httpx.Response(409, json={"error": "Idempotency-Key was used for another request"})


@pytest.mark.parametrize(
    "last", [httpx.ConnectError("refused"), httpx.Response(402, json={"error": "Insufficient credits"})]
)
@pytest.mark.parametrize("first", [httpx.ReadTimeout("slow"), IN_PROGRESS], ids=["lost", "in progress"])
def test_what_was_in_doubt_once_stays_in_doubt(api, first, last):
    server = api(script(first, last))

    with pytest.raises(errors.ApiframeError) as raised:
        server.send(calls.generate_video(REQUEST, "key-1"))

    assert raised.value.in_doubt


@pytest.mark.parametrize("first", [[], [httpx.Response(504, text="<html>")]])
def test_a_submission_that_is_still_worked_on_is_asked_again_with_its_key(api, first):
    server = api(script(*first, IN_PROGRESS, IN_PROGRESS, ACCEPTED), retries=len(first))

    assert server.send(calls.generate_video(REQUEST, "key-1")).job_id == JOB_ID
    assert [request.headers["idempotency-key"] for request in server.requests] == ["key-1"] * (3 + len(first))


def test_after_a_lost_answer_any_409_may_be_about_the_first_request(api):
    server = api(script(httpx.ReadTimeout("slow"), CONFLICT, httpx.Response(503), ACCEPTED))

    assert server.send(calls.generate_video(REQUEST, "key-1")).job_id == JOB_ID


@pytest.mark.parametrize(
    "first", [[], [httpx.ReadTimeout("slow"), httpx.Response(503, headers={"retry-after": "90"})]]
)
def test_after_a_minute_of_that_it_is_a_conflict_in_doubt(api, first):
    server = api(script(*first, IN_PROGRESS), retries=len(first))

    with pytest.raises(
        errors.ConflictError, match=r"first request .* worked on after [6-9]\d s: .*progress"
    ) as raised:
        server.send(calls.generate_video(REQUEST, "key-1"))

    assert raised.value.in_doubt
    assert 60 <= sum(server.waits[len(first) :]) < 90


@pytest.mark.parametrize(
    ("conflict", "key"),
    [(CONFLICT, "key-1"), (IN_PROGRESS, None), (httpx.Response(409, text="<html>still in progress"), "key-1")],
)
def test_any_other_conflict_is_told_at_once(api, conflict, key: str | None):
    server = api(script(conflict))

    with pytest.raises(errors.ConflictError):
        server.send(calls.generate_video(REQUEST, key))

    assert server.waits == []


@pytest.mark.parametrize("job_id", ["job_01HZX00000001", "a/b?c#d e", "%2e%2e"])
def test_a_job_id_of_any_form_arrives_as_it_is(api, job_id: str):
    server = api(script(httpx.Response(200, json={"id": job_id, "status": "QUEUED"})))

    server.send(calls.get_job(job_id))

    assert server.requests[0].url.raw_path.decode() == f"/v2/jobs/{quote(job_id, safe='')}"


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 409, 418])
def test_a_refusal_is_not_repeated(api, status: int):
    server = api(script(httpx.Response(status, json={"error": "no"})))

    with pytest.raises(errors.ApiframeError) as raised:
        server.send(calls.get_account())

    assert (len(server.requests), raised.value.status) == (1, status)


def test_the_api_says_how_long_to_wait(api):
    server = api(script(httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200, json=ME)))

    server.send(calls.get_account())

    assert 7 < server.waits[0] < 8


def test_it_gives_up_after_the_retries_of_the_settings_or_of_the_call(api):
    server = api(script(httpx.Response(503, headers={"x-request-id": "req_9"})), retries=2)

    with pytest.raises(errors.ServerError, match="HTTP 503, request req_9"):
        server.send(calls.get_account())
    assert len(server.requests) == 3
    with pytest.raises(errors.ServerError):
        server.send(calls.get_account(), retries=0)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ConnectError("[Errno 111] Connection refused"), errors.NetworkError),
        (httpx.PoolTimeout("busy"), errors.RequestTimeoutError),
        (httpx.DecodingError("bad gzip"), errors.UnreadableAnswerError),
        (httpx.TooManyRedirects("loop"), errors.NetworkError),
    ],
)
def test_an_error_of_the_transport_names_the_call_and_the_job(api, failure, kind):
    with pytest.raises(kind, match=rf"GET /v2/jobs/{JOB_ID}: .*{type(failure).__name__}") as raised:
        api(script(failure), retries=0).send(calls.get_job(JOB_ID))

    assert raised.value.job_id == JOB_ID
    assert KEY not in str(raised.value)


def test_a_flood_is_cut_off(api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "BODY_BYTES", 1000)
    bomb = gzip.compress(b" " * 1_000_000)
    server = api(lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, content=bomb), retries=0)

    with pytest.raises(errors.UnreadableAnswerError, match="larger than 1000 bytes"):
        server.send(calls.get_account())


def test_a_drip_is_cut_off(api, monkeypatch: pytest.MonkeyPatch):
    seconds = iter(range(0, 10_000, 20))
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: next(seconds)))

    class Drip(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from (b" " for _ in range(100))

        async def __aiter__(self):
            for _ in range(100):
                yield b" "

    server = api(lambda _: httpx.Response(200, stream=Drip()), retries=0, timeout=30)
    with pytest.raises(errors.RequestTimeoutError, match="not complete after 30 s"):
        server.send(calls.get_account())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"api_key": ""}, "api_key"),
        ({"api_key": "afk\r\nX-Evil: 1"}, "api_key"),
        ({"api_key": "afk two"}, "api_key"),
        ({"api_key": "afk_é"}, "api_key"),
        ({"base_url": "http://api.apiframe.ai"}, "unencrypted"),
        ({"base_url": "http://10.0.0.1"}, "unencrypted"),
        ({"base_url": "http://127.0.0.1.evil.example"}, "unencrypted"),
        ({"base_url": "api.apiframe.ai"}, "https://"),
        ({"base_url": "ftp://api.apiframe.ai"}, "https://"),
        ({"base_url": "https://"}, "host"),
        ({"base_url": "https://[::1"}, "is no URL"),
        ({"base_url": "https://a:b"}, "is no URL"),
        ({"base_url": "https://user:hunter2@api.apiframe.ai"}, "no user"),
        ({"base_url": "https://api.apiframe.ai?a=b"}, "query"),
        ({"base_url": "https://api.apiframe.ai/v2"}, "leave out /v2 .*type for example https://api.apiframe.ai$"),
        ({"base_url": "https://gateway.example/apiframe/v2/"}, "leave out /v2"),
        ({"base_url": "https://api.apiframe.ai/v2/videos/generate"}, "leave out /v2"),
        ({"base_url": "https://api.apiframe.ai/v2/jobs"}, "leave out /v2"),
        ({"namespace": "x" * 61}, "namespace: .*at most 60"),
        ({"namespace": "prod\n"}, "namespace: .*printable"),
        ({"namespace": "ключ"}, "namespace: .*ASCII"),
        ({"timeout": 0}, "timeout: 0"),
        ({"timeout": float("nan")}, "timeout: nan"),
        ({"timeout": 1e9}, "timeout"),
        ({"retries": -1}, "retries: -1"),
        ({"retries": 1000}, "retries"),
    ],
)
def test_settings_that_will_not_do_say_what_to_type(settings: dict, told: str):
    with pytest.raises(errors.InvalidInputError, match=told) as raised:
        Settings(**{"api_key": KEY, **settings})

    assert "hunter2" not in str(raised.value)
    assert settings.get("api_key", KEY) not in str(raised.value) or settings["api_key"] == ""


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:8787", "http://localhost", "http://[::1]:80", "https://gateway.example/v2/apiframe"],
)
def test_plain_http_is_for_loopback(base_url: str):
    assert Settings(api_key=KEY, base_url=base_url).base_url == base_url


def test_the_key_is_in_no_representation():
    assert KEY not in repr(Settings(api_key=KEY))


def test_an_upload_may_take_longer_than_an_answer(api, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow_line(_: httpx.Request) -> httpx.Response:
        now[0] += 100
        return httpx.Response(201, json=UPLOADED)

    assert api(slow_line, retries=0, timeout=30).send(calls.upload("first.png", b"\x89PNG")).id == "u"


# From here on real servers on loopback: redirects, proxies, TLS, uploads.


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each GET alike. Takes uploads, a piece at a time, but breaks off the first ones as the server says."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        self._answer(*self.server.answer)

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        if self.server.broken:
            self.server.broken -= 1
            self.rfile.read(left // 2)
            return
        ending = len(f"\r\n--{self.headers.get_boundary()}--\r\n")
        while (line := self.rfile.readline()) != b"\r\n":
            left -= len(line)
        left -= len(b"\r\n") + ending
        size, digest = left, hashlib.sha256()
        while left:
            piece = self.rfile.read(min(left, 65_536))
            digest.update(piece)
            left -= len(piece)
        self.rfile.read(ending)
        self.server.seen.append((size, digest.hexdigest(), dict(self.headers)))
        self._answer(201, {})

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        body = json.dumps(ME | UPLOADED).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(answer: tuple[int, dict[str, str]] = (200, {}), tls: ssl.SSLContext | None = None, broken: int = 0):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.broken, server.seen = answer, broken, []
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_redirect_never_gets_the_key(api):
    with serve() as thief, serve((302, {"Location": thief.url})) as server:
        with pytest.raises(errors.UnexpectedStatusError, match="redirect"):
            api(None, base_url=server.url).send(calls.get_account())

        assert len(server.seen) == 1
        assert thief.seen == []


def test_a_proxy_of_the_environment_is_used(api, monkeypatch: pytest.MonkeyPatch):
    with serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        api(None, base_url="http://127.0.0.1:9").send(calls.get_account())

        assert [path for path, _ in proxy.seen] == ["http://127.0.0.1:9/v2/me"]
        assert KEY in proxy.seen[0][1].values()


def test_a_network_of_no_proxy_is_reached_directly(api, monkeypatch: pytest.MonkeyPatch):
    with serve() as server:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "[::1],127.0.0.0/8")

        assert api(None, base_url=server.url, retries=0).send(calls.get_account()).user.id == "u"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_ca_bundle_of_the_environment_is_trusted_and_no_other(
    api, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with serve(tls=tls) as server:
        client = api(None, base_url=server.url, retries=0)
        with pytest.raises(errors.NetworkError, match="CERTIFICATE_VERIFY_FAILED"):
            client.send(calls.get_account())

        monkeypatch.setenv(variable, str(bundle))
        assert client.send(calls.get_account()).user.id == "u"


@pytest.fixture
def large(tmp_path: Path) -> Iterator[IO[bytes]]:
    """Return a file of 25 MB, each of its pieces another one, which was read up to somewhere."""
    with (tmp_path / "large.png").open("w+b") as file:
        for n in range(25 * 16):
            file.write(n.to_bytes(4, "big") * 16_384)
        file.seek(12_345)
        yield file


def test_a_large_file_is_uploaded_whole_and_never_held_in_memory(large: IO[bytes]):
    with serve() as server, Client(Settings(api_key=KEY, base_url=server.url)) as api:
        tracemalloc.start()
        try:
            assert api.send(calls.upload("large.png", large)).url == UPLOADED["url"]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    ((size, digest, headers),) = server.seen
    assert (size, digest) == (25 * 1024 * 1024, hash_of(large))
    assert "Transfer-Encoding" not in headers
    assert peak < 2_000_000


@pytest.mark.parametrize("kept", ["file", "bytes"])
def test_an_upload_that_breaks_off_is_sent_again_from_the_beginning(large: IO[bytes], kept: str):
    content = large if kept == "file" else Path(large.name).read_bytes()

    with serve(broken=1) as server, Client(Settings(api_key=KEY, base_url=server.url), sleep=lambda _: None) as api:
        api.send(calls.upload("large.png", content))

    assert server.broken == 0
    assert [seen[:2] for seen in server.seen] == [(25 * 1024 * 1024, hash_of(large))]


def hash_of(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.sha256(file.read()).hexdigest()
