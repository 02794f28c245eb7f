from __future__ import annotations

import asyncio
import hashlib
import json
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    AuthenticationError,
    CredentialsUnavailableError,
    InvalidInputError,
    JobError,
    JobFailedError,
    JobTimeoutError,
    NetworkError,
    NotFoundError,
)
from airflow_provider_hailuo.apiframe.models import Account
from airflow_provider_hailuo.apiframe.polling import REFUSED_SECONDS
from airflow_provider_hailuo.compat import AirflowException, AirflowNotFoundException
from airflow_provider_hailuo.hooks import hailuo
from airflow_provider_hailuo.hooks.hailuo import HailuoConnectionNotFoundError, HailuoHook, _describe, _extra_fields
from airflow_provider_hailuo.sandbox import Sandbox
from tests.unit.apiframe.test_pictures import JPEG
from tests.unit.operators.fakes import EPOCH, World, connect, refuse, url

KEY = "afk_secret_of_the_test"


LOOK_UPS = {
    "get_conn": lambda hook: hook.get_conn(),
    "get_settings": lambda hook: hook.get_settings(),
    "get_async_settings": lambda hook: asyncio.run(hook.get_async_settings()),
}


@pytest.fixture(params=LOOK_UPS)
def look_up(request: pytest.FixtureRequest):
    return LOOK_UPS[request.param]


@pytest.fixture
def settings_of(look_up, monkeypatch: pytest.MonkeyPatch):
    """Return what a client is made of when the connection is such."""

    def get(**connection: object) -> Settings:
        monkeypatch.setenv("AIRFLOW_CONN_HAILUO_TEST", json.dumps({"conn_type": "hailuo", **connection}))
        found = look_up(HailuoHook("hailuo_test"))
        return getattr(found, "settings", found)

    return get


def test_blanks_around_a_pasted_key_do_no_harm(settings_of):
    assert settings_of(password=f" {KEY}\n").api_key == KEY


@pytest.mark.parametrize(
    ("connection", "base_url"),
    [
        ({}, "https://api.apiframe.ai"),
        ({"host": "https://gateway.example/apiframe/"}, "https://gateway.example/apiframe"),
        ({"host": "gateway.example"}, "https://gateway.example"),
        ({"host": "gateway.example", "port": 8443}, "https://gateway.example:8443"),
        ({"host": "http://127.0.0.1:8787"}, "http://127.0.0.1:8787"),
        ({"host": "127.0.0.1", "port": 8787, "schema": "http"}, "http://127.0.0.1:8787"),
        ({"host": "https://api.apiframe.ai", "port": 0}, "https://api.apiframe.ai"),
        ({"host": "  "}, "https://api.apiframe.ai"),
    ],
)
def test_the_host_may_be_written_in_each_usual_way(settings_of, connection: dict, base_url: str):
    assert settings_of(password=KEY, **connection).base_url == base_url


@pytest.mark.parametrize(
    ("extra", "timeout", "retries", "namespace"),
    [
        ({"timeout": 60, "retries": 0, "namespace": "prod"}, 60.0, 0, "prod"),
        ({"timeout": "7.5", "retries": " 2 ", "namespace": " prod 1\n"}, 7.5, 2, "prod 1"),
        ({"timeout": None, "retries": None, "namespace": None}, 30.0, 4, ""),
        ({"timeout": "", "other": [1], "retries": " ", "namespace": ""}, 30.0, 4, ""),
        ({"namespace": 7}, 30.0, 4, "7"),
        ({}, 30.0, 4, ""),
    ],
)
def test_the_extra_fields(settings_of, extra: dict, timeout: float, retries: int, namespace: str):
    settings = settings_of(password=KEY, extra=extra)

    assert (settings.timeout, settings.retries, settings.namespace) == (timeout, retries, namespace)


@pytest.mark.parametrize("extra", [None, "", "null", "{}"])
def test_an_extra_may_hold_nothing(extra: str | None):
    assert _extra_fields(extra) == {}


@pytest.mark.parametrize("extra", ["[1]", "7", "{", '"timeout"'])
def test_an_extra_that_is_no_object_says_what_to_type(extra: str):
    with pytest.raises(InvalidInputError, match="must be JSON like"):
        _extra_fields(extra)


@pytest.mark.parametrize(
    ("connection", "told"),
    [
        ({}, "there is no API key: type it into 'Apiframe API key'"),
        ({"password": "afk two words"}, "api_key: must be one word"),
        ({"password": KEY, "host": "http://api.apiframe.ai"}, "unencrypted.*https://"),
        ({"password": KEY, "host": "http://u:hunter2@x.example"}, "type for example https://api.apiframe.ai"),
        ({"password": KEY, "extra": {"timeout": "long"}}, r'extra: .*must be JSON like \{"timeout": 30'),
        ({"password": KEY, "extra": {"timeout": [30]}}, "must be JSON like"),
        ({"password": KEY, "extra": {"timeout": -1}}, "timeout: -1.0: must be seconds above 0"),
        ({"password": KEY, "extra": {"retries": "many"}}, "must be JSON like"),
        ({"password": KEY, "extra": {"retries": True}}, "must be JSON like"),
        ({"password": KEY, "extra": {"namespace": "ключ"}}, "namespace: .*printable ASCII"),
        ({"password": KEY, "host": "https://api.apiframe.ai/v2"}, "base_url: .*leave out /v2"),
    ],
)
def test_a_connection_that_will_not_do_says_what_to_type(settings_of, connection: dict, told: str):
    with pytest.raises(InvalidInputError, match=f"Connection 'hailuo_test': .*{told}") as raised:
        settings_of(**connection)

    assert KEY not in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch):
    """Let each look-up of a connection raise what is given."""

    def fail(error: BaseException) -> None:
        def get(*_: object, **__: object):
            raise error

        async def get_async(*_: object, **__: object):
            raise error

        monkeypatch.setattr(HailuoHook, "get_connection", get)
        monkeypatch.setattr(hailuo, "get_async_connection", get_async)

    return fail


def test_a_connection_that_is_not_found_may_be_missing_or_its_backend_ill(look_up):
    with pytest.raises(HailuoConnectionNotFoundError) as raised:
        look_up(HailuoHook("no_such_conn"))

    assert isinstance(raised.value, AirflowNotFoundException)
    assert isinstance(raised.value, CredentialsUnavailableError)
    assert "airflow connections add no_such_conn --conn-type hailuo" in str(raised.value)
    assert "while a secrets backend fails" in str(raised.value)
    assert "clear" not in str(raised.value)


def test_a_connection_id_forges_no_line_of_a_log(look_up):
    with pytest.raises(HailuoConnectionNotFoundError) as raised:
        look_up(HailuoHook("no\nsuch"))

    assert "\n" not in str(raised.value)


class ThrottlingError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ThrottlingError("Rate\nexceeded"), r"ThrottlingError: Rate\\nexceeded"),
        (TimeoutError(), "TimeoutError"),
        (AirflowException("API_SERVER_ERROR: 503"), "AirflowException: API_SERVER_ERROR: 503"),
        (ValueError("x" * 10_000), "ValueError: xxx"),
        (AirflowException("Invalid connection string: hailuo://:hun/ter2@a.b/c."), r"string: hailuo://\*\*\*@a.b/c"),
        (ValueError(f"cannot parse {{'password': 'hunter2', 'x': '{KEY}'}}"), "cannot parse .*password': '\\*\\*\\*"),
        (ValueError(f"no JSON: {KEY}"), r"no JSON: afk_\*\*\*"),
    ],
)
def test_a_look_up_that_fails_may_pass_and_tells_no_secret(look_up, fail_with, error: Exception, told: str):
    fail_with(error)

    with pytest.raises(CredentialsUnavailableError) as raised:
        look_up(HailuoHook("hailuo_test"))

    assert re.search(f"^The connection 'hailuo_test' could not be looked up: .*{told}", str(raised.value))
    assert not isinstance(raised.value, AirflowNotFoundException)
    assert len(str(raised.value)) < 500
    printed = "".join(traceback.format_exception(raised.value))
    assert not any(secret in printed for secret in ("hunter2", "ter2@", KEY))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_stops_the_task_is_no_failed_look_up(look_up, fail_with, error: BaseException):
    fail_with(error)

    with pytest.raises(type(error)):
        look_up(HailuoHook("hailuo_test"))


@pytest.mark.parametrize(
    "open_client", [HailuoHook.get_conn, lambda hook: hook.connect(hook.get_settings())], ids=["sync", "async"]
)
def test_an_environment_that_will_not_do_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, open_client: Callable[[HailuoHook], object]
):
    monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps({"conn_type": "hailuo", "password": KEY}))
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:9")

    with pytest.raises(InvalidInputError, match="environment variable ALL_PROXY"):
        open_client(HailuoHook())


def test_testing_the_connection_tells_team_plan_and_credits_or_what_is_wrong(monkeypatch: pytest.MonkeyPatch):
    with Sandbox(credits=1234) as sandbox:
        connect(monkeypatch, sandbox)
        works, told = HailuoHook().test_connection()
        assert works, told
        assert re.fullmatch("Team .+, plan .+, 1234 credits", told)

        connect(monkeypatch, sandbox, password="afk_wrong")
        works, told = HailuoHook().test_connection()
        assert not works
        assert "HTTP 401" in told
        assert "afk_wrong" not in told


def test_a_key_without_a_team_is_accepted_too():
    account = Account.model_validate({"user": {"id": "u", "email": "a@b.c"}, "team": None})

    assert _describe(account) == "Apiframe accepts the key of a@b.c, who has no team"


def test_the_form_hides_what_is_not_used_and_says_what_the_password_is():
    behaviour = HailuoHook.get_ui_field_behaviour()

    assert behaviour["relabeling"]["password"] == "Apiframe API key"
    assert set(behaviour["hidden_fields"]) == {"schema", "login", "port", "extra"}
    assert behaviour["placeholders"]["host"] == "https://api.apiframe.ai"


def test_the_form_of_airflow_2_has_the_extra_fields():
    pytest.importorskip("flask_appbuilder", reason="only Airflow 2 asks for form widgets")

    widgets = HailuoHook.get_connection_form_widgets()

    assert {name: (widget.field_class.__name__, widget.kwargs["default"]) for name, widget in widgets.items()} == {
        "timeout": ("IntegerField", 30),
        "retries": ("IntegerField", 4),
        "namespace": ("StringField", None),
    }


# Each call of the API is a method


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """The clients that are opened in a test; all of them have to be closed at its end."""
    opened: list[Client] = []

    def open_client(*arguments: object, **more: object) -> Client:
        opened.append(Client(*arguments, **more))
        return opened[-1]

    monkeypatch.setattr(hailuo, "Client", open_client)
    return opened


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, clients: list[Client]) -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.1, jitter=0, credits=100, seed=1) as sandbox:
        connect(monkeypatch, sandbox)
        yield sandbox
        assert clients
        assert all(client._http.is_closed for client in clients)


def rendered(prompt: str = "a boat") -> str:
    """Submit a video, and wait for its end; return the id of its job."""
    job_id = HailuoHook().generate_video(prompt).job_id
    return HailuoHook().wait_for_job(job_id, timeout=60, poll_interval=0.05).id


def test_a_video_is_submitted_waited_for_and_downloaded(sandbox: Sandbox, tmp_path: Path):
    hook, target = HailuoHook(), tmp_path / "boat.mp4"
    target.write_bytes(b"an older file")

    submission = hook.generate_video("a boat", resolution="768p", duration=10)
    job = hook.wait_for_job(submission.job_id, timeout=60, poll_interval=0.05)
    with target.open("rb") as reader:
        downloaded = hook.download_video(job.id, target)
        assert reader.read() == b"an older file"

    assert submission.status == "QUEUED"
    assert (job.status, job.credit_cost) == ("COMPLETED", 8)
    assert job.input == {"prompt": "a boat", "hailuoParams": {"resolution": "768p", "duration": 10}}
    content = target.read_bytes()
    assert content == httpx.get(str(job.video_url), trust_env=False).content
    assert (downloaded.bytes, downloaded.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert list(tmp_path.iterdir()) == [target]


def test_each_field_of_a_request_is_sent(world: World):
    pictures = {"image": "https://x.example/1.png", "end_image": "https://x.example/2.png"}

    HailuoHook().generate_video(
        "a boat",
        model="hailuo-02",
        **pictures,
        resolution="1080p",
        duration=6,
        prompt_optimizer=False,
        webhook_url="https://x.example/hook",
        webhook_events={"failed", "completed"},
        idempotency_key="boat",
    )

    body = {
        "prompt": "a boat",
        "model": "hailuo-02",
        "hailuoParams": {**pictures, "resolution": "1080p", "duration": 6, "prompt_optimizer": False},
        "webhookUrl": "https://x.example/hook",
        "webhookEvents": ["completed", "failed"],
    }
    assert world.posts == [("boat", body)]


def test_the_same_key_is_the_same_job(sandbox: Sandbox):
    hook = HailuoHook()

    first, second = (hook.generate_video("a boat", idempotency_key="boat") for _ in range(2))
    other = hook.generate_video("a boat")

    assert first.job_id == second.job_id != other.job_id
    assert [job.id for job in hook.list_jobs().jobs] == [other.job_id, first.job_id]


def test_a_request_that_will_not_do_is_not_sent(sandbox: Sandbox):
    with pytest.raises(InvalidInputError, match="resolution: '4k'"):
        HailuoHook().generate_video("a boat", resolution="4k")
    assert HailuoHook().list_jobs().jobs == []


def test_jobs_are_listed_page_by_page(sandbox: Sandbox):
    hook = HailuoHook()
    ids = [hook.generate_video(f"boat {n}").job_id for n in range(3)]

    page = hook.list_jobs(limit=2)
    rest = hook.list_jobs(limit=2, cursor=page.next_cursor)

    assert [job.id for job in (*page.jobs, *rest.jobs)] == ids[::-1]
    assert (page.has_more, rest.has_more) == (True, False)


def test_a_job_tells_its_status_and_the_account_the_credits(sandbox: Sandbox):
    job_id = HailuoHook().generate_video("[[stall]]").job_id

    assert not HailuoHook().get_job(job_id).is_final
    assert HailuoHook().get_account().team.credits == 95
    with pytest.raises(NotFoundError):
        HailuoHook().get_job("b2c3d4e5-f6a7-8901-bcde-f23456789012")


def test_a_picture_is_uploaded_from_a_path_or_from_bytes(sandbox: Sandbox, tmp_path: Path):
    path = tmp_path / "first.jpg"
    path.write_bytes(JPEG)

    for given in (path, str(path), JPEG):
        upload = HailuoHook().upload(given, filename="first.jpg")
        assert (upload.kind, upload.byte_size) == ("image", len(JPEG))
        assert httpx.get(upload.url, trust_env=False).content == JPEG


@pytest.mark.parametrize(
    ("filename", "sent"), [(None, b'filename="first.jpg"'), ("other.jpg", b'filename="other.jpg"')]
)
def test_an_upload_has_the_name_of_its_file_or_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filename: str | None, sent: bytes
):
    path = tmp_path / "first.jpg"
    path.write_bytes(JPEG)

    def answer(request: httpx.Request) -> httpx.Response:
        assert sent in request.read()
        return httpx.Response(201, json={"id": "u", "url": "https://x.example/u.png"})

    client = Client(Settings(api_key=KEY), transport=httpx.MockTransport(answer))
    monkeypatch.setattr(HailuoHook, "get_conn", lambda _: client)

    assert HailuoHook().upload(path, filename=filename).id == "u"


@pytest.mark.parametrize(("path", "told"), [("no such.png", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_clear_error(path: str, told: str):
    with pytest.raises(InvalidInputError, match=f"file: '{path}': cannot be read: {told}"):
        HailuoHook().upload(path)


def test_without_a_video_nothing_is_downloaded(sandbox: Sandbox, tmp_path: Path):
    target = tmp_path / "boat.mp4"
    target.write_bytes(b"an older file")

    with pytest.raises(JobFailedError, match=r"content policy. Its credits were refunded \(job .*\)"):
        HailuoHook().download_video(rendered("[[fail: content policy]]"), target)
    with pytest.raises(JobError, match=r"The job is .*: there is no video yet \(job .*\)") as raised:
        HailuoHook().download_video(HailuoHook().generate_video("[[stall]]").job_id, target)

    assert type(raised.value) is JobError
    assert target.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [target]


def test_half_a_video_is_never_seen(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job_id, target, seen = rendered(), tmp_path / "boat.mp4", []
    target.write_bytes(b"an older file")

    def break_off(url: str, file: IO[bytes], **_: object) -> None:
        file.write(b"half a ")
        file.flush()
        seen.append(target.read_bytes())
        raise NetworkError("broken off")

    monkeypatch.setattr(hailuo, "download", break_off)

    with pytest.raises(NetworkError):
        HailuoHook().download_video(job_id, target)
    assert [*seen, target.read_bytes()] == [b"an older file"] * 2
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written_is_one_clear_error(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_bytes(b"")
    job_id = rendered()

    for path in ("no/such/directory/boat.mp4", "a file/boat.mp4", "", "."):
        with pytest.raises(InvalidInputError, match=r"path: .*: cannot be written: "):
            HailuoHook().download_video(job_id, path)

    assert [found.name for found in tmp_path.iterdir()] == ["a file"]


# Waiting


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An API in memory, whose jobs take 20 s, and time that is a number."""
    world, opened = World(), []

    def get_conn(hook: HailuoHook) -> Client:
        opened.append(world.conn(hook))
        return opened[-1]

    monkeypatch.setattr(HailuoHook, "get_conn", get_conn)
    monkeypatch.setattr(hailuo, "time", world)
    yield world
    assert all(client._http.is_closed for client in opened)


def submit(world: World, **outcome: object) -> str:
    world.outcomes = [{"status": "COMPLETED", **outcome}]
    return HailuoHook().generate_video("a sunrise", idempotency_key="sunrise").job_id


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
def test_waiting_returns_the_final_job_whatever_it_ended_as(world: World, status: str):
    job = HailuoHook().wait_for_job(submit(world, status=status))

    assert (job.status, job.video_url) == (status, url("job_1") if status == "COMPLETED" else None)
    assert 20 <= world.now - EPOCH <= 26
    assert len(world.looks) in {5, 6}


def test_waiting_ends_at_the_timeout_and_names_the_job(world: World):
    with pytest.raises(JobTimeoutError, match=r"its status was PROCESSING.*job_1"):
        HailuoHook().wait_for_job(submit(world), timeout=7, poll_interval=2)

    assert world.now == EPOCH + 7


def test_waiting_survives_an_outage_and_a_connection_that_is_away(world: World):
    job_id = submit(world)
    world.found_from = EPOCH + 30
    world.on_look = lambda: refuse(503)() if world.now < EPOCH + 300 else None

    assert HailuoHook().wait_for_job(job_id).video_url == url(job_id)
    assert world.now > EPOCH + 300


@pytest.mark.parametrize("status", [401, 403])
def test_waiting_looks_the_key_up_again_when_it_is_refused(world: World, status: int):
    job_id = submit(world)

    def revoke() -> httpx.Response | None:
        if world.now > EPOCH + 10 and world.looks[-1][0] == "afk_1":
            world.connections["hailuo_default"] = "afk_new"
            world.jobs[job_id]["account"] = "afk_new"
            return refuse(status)()

    world.on_look = revoke

    assert HailuoHook().wait_for_job(job_id).video_url == url(job_id)
    keys = [key for key, _ in world.looks]
    assert keys == sorted(keys)
    assert set(keys) == {"afk_1", "afk_new"}


def test_a_refusal_is_believed_when_it_lasts_for_a_minute(world: World):
    job_id = submit(world)
    world.on_look = refuse(401)

    with pytest.raises(AuthenticationError, match=r"so it has been for .* s \(HTTP 401, job job_1\)"):
        HailuoHook().wait_for_job(job_id)
    assert REFUSED_SECONDS <= world.now - EPOCH < REFUSED_SECONDS + 40


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"job_id": ""}, "job_id: '': must be the id of a job"),
        ({"job_id": "job_1", "timeout": 0}, "timeout: 0: must be seconds above 0"),
        ({"job_id": "job_1", "poll_interval": -1}, "poll_interval: -1: must be seconds above 0"),
    ],
)
def test_what_cannot_be_waited_for_is_one_clear_error_at_once(world: World, arguments: dict, told: str):
    with pytest.raises(InvalidInputError, match=told):
        HailuoHook().wait_for_job(**arguments)
    assert (world.now, world.looks) == (EPOCH, [])


def test_what_is_worth_a_line_goes_into_the_log_that_is_given(world: World):
    poll = hailuo.JobPoll(submit(world), EPOCH + 60, 5.0)
    lines: list[tuple[int, str]] = []
    # The client asks again by itself, elsewhere: here each look counts.
    transport = httpx.MockTransport(world.answer)
    world.conn = lambda _: Client(Settings(api_key="afk_1", retries=4), transport=transport, sleep=world.sleep)
    world.on_look = lambda: refuse(503)() if len(world.looks) == 1 else None

    HailuoHook().wait_with(poll, lambda level, line: lines.append((level, line)))

    assert [line for _, line in lines] == [
        "Job job_1: cannot see it, looking on: Apiframe is out of order: so it is (HTTP 503)",
        "Job job_1: PROCESSING (after 1 failed looks)",
    ]


def test_whatever_goes_wrong_is_an_error_of_the_api(monkeypatch: pytest.MonkeyPatch):
    connection = {"conn_type": "hailuo", "password": KEY, "host": "http://127.0.0.1:9", "extra": {"retries": 0}}
    monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps(connection))
    hook = HailuoHook()

    for call in (
        hook.get_account,
        hook.list_jobs,
        lambda: hook.get_job("x"),
        lambda: hook.upload(b"x", filename="x"),
        lambda: hook.generate_video("a boat"),
    ):
        with pytest.raises(ApiframeError, match="ConnectError"):
            call()
