from __future__ import annotations

import asyncio
import json
import re
import traceback

import pytest

from airflow_provider_hailuo.apiframe.client import AsyncClient, Client
from airflow_provider_hailuo.apiframe.errors import CredentialsUnavailableError, InvalidInputError
from airflow_provider_hailuo.apiframe.models import Account
from airflow_provider_hailuo.compat import AirflowException, AirflowNotFoundException
from airflow_provider_hailuo.hooks import hailuo
from airflow_provider_hailuo.hooks.hailuo import HailuoConnectionNotFoundError, HailuoHook, _describe, _extra_fields
from airflow_provider_hailuo.sandbox import Sandbox

KEY = "afk_secret_of_the_test"


@pytest.fixture(params=["sync", "async"])
def settings_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Return what a client is made of when the connection is such."""

    async def get_async():
        async with await HailuoHook("hailuo_test").get_async_conn() as client:
            assert isinstance(client, AsyncClient)
            assert client.settings == await HailuoHook("hailuo_test").get_async_settings()
            return client.settings

    def get(**connection: object):
        monkeypatch.setenv("AIRFLOW_CONN_HAILUO_TEST", json.dumps({"conn_type": "hailuo", **connection}))
        if request.param == "async":
            return asyncio.run(get_async())
        with HailuoHook("hailuo_test").get_conn() as client:
            assert isinstance(client, Client)
            assert client.settings == HailuoHook("hailuo_test").get_settings()
            return client.settings

    return get


def test_the_key_alone_is_enough(settings_of):
    settings = settings_of(password=KEY)

    assert (settings.api_key, settings.base_url) == (KEY, "https://api.apiframe.ai")
    assert (settings.timeout, settings.retries) == (30.0, 4)


def test_blanks_around_a_pasted_key_do_no_harm(settings_of):
    assert settings_of(password=f" {KEY}\n").api_key == KEY


@pytest.mark.parametrize(
    ("connection", "base_url"),
    [
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


LOOK_UPS = {
    "get_conn": lambda hook: hook.get_conn(),
    "get_async_conn": lambda hook: asyncio.run(hook.get_async_conn()),
    "get_settings": lambda hook: hook.get_settings(),
    "get_async_settings": lambda hook: asyncio.run(hook.get_async_settings()),
}


@pytest.fixture(params=LOOK_UPS)
def look_up(request: pytest.FixtureRequest):
    return LOOK_UPS[request.param]


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
    assert not isinstance(raised.value, InvalidInputError)
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
    for printed in (str(raised.value), "".join(traceback.format_exception(raised.value))):
        assert "hunter2" not in printed
        assert "ter2@" not in printed
        assert KEY not in printed


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_stops_the_task_is_no_failed_look_up(look_up, fail_with, error: BaseException):
    fail_with(error)

    with pytest.raises(type(error)):
        look_up(HailuoHook("hailuo_test"))


def test_testing_a_connection_that_cannot_be_looked_up_says_why(fail_with):
    fail_with(ThrottlingError("slow down"))

    assert HailuoHook("x").test_connection() == (
        False,
        "The connection 'x' could not be looked up: ThrottlingError: slow down",
    )


@pytest.mark.parametrize("look", ["get_conn", "get_async_conn"])
def test_an_environment_that_will_not_do_names_the_variable(monkeypatch: pytest.MonkeyPatch, look: str):
    monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps({"conn_type": "hailuo", "password": KEY}))
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:9")

    with pytest.raises(InvalidInputError, match="environment variable ALL_PROXY"):
        LOOK_UPS[look](HailuoHook())


def test_testing_the_connection_tells_team_plan_and_credits(monkeypatch: pytest.MonkeyPatch):
    with Sandbox(credits=1234) as sandbox:
        connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
        monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps(connection))
        works, told = HailuoHook().test_connection()
        assert works, told
        assert "1234 credits" in told
        assert "plan" in told

        monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps({**connection, "password": "afk_wrong"}))
        works, told = HailuoHook().test_connection()
        assert not works
        assert "HTTP 401" in told
        assert "afk_wrong" not in told


def test_a_key_without_a_team_is_accepted_too():
    account = Account.model_validate({"user": {"id": "u", "email": "a@b.c"}, "team": None})

    assert _describe(account) == "Apiframe accepts the key of a@b.c, who has no team"


@pytest.mark.parametrize(
    ("connection", "told"),
    [
        ({"password": KEY, "host": "http://127.0.0.1:9", "extra": {"retries": 0}}, "refused"),
        ({}, "there is no API key"),
    ],
)
def test_testing_a_connection_that_will_not_do_says_why(monkeypatch: pytest.MonkeyPatch, connection: dict, told: str):
    monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps({"conn_type": "hailuo", **connection}))

    works, message = HailuoHook().test_connection()

    assert not works
    assert told in message


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
