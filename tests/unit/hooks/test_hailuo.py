from __future__ import annotations

import asyncio
import json

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_hailuo.apiframe.client import AsyncClient, Client
from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.apiframe.models import Account
from airflow_provider_hailuo.hooks.hailuo import HailuoHook, _describe
from airflow_provider_hailuo.sandbox import Sandbox

KEY = "afk_secret_of_the_test"


@pytest.fixture(params=["sync", "async"])
def settings_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Return what a client is made of when the connection is such."""

    async def get_async():
        async with await HailuoHook("hailuo_test").get_async_conn() as client:
            assert isinstance(client, AsyncClient)
            return client.settings

    def get(**connection: object):
        monkeypatch.setenv("AIRFLOW_CONN_HAILUO_TEST", json.dumps({"conn_type": "hailuo", **connection}))
        if request.param == "async":
            return asyncio.run(get_async())
        with HailuoHook("hailuo_test").get_conn() as client:
            assert isinstance(client, Client)
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
    ("extra", "timeout", "retries"),
    [
        ({"timeout": 60, "retries": 0}, 60.0, 0),
        ({"timeout": "7.5", "retries": "2"}, 7.5, 2),
        ({"timeout": None, "retries": None}, 30.0, 4),
        ({"timeout": "", "other": [1]}, 30.0, 4),
        ({}, 30.0, 4),
    ],
)
def test_the_extra_fields(settings_of, extra: dict, timeout: float, retries: int):
    settings = settings_of(password=KEY, extra=extra)

    assert (settings.timeout, settings.retries) == (timeout, retries)


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
    ],
)
def test_a_connection_that_will_not_do_says_what_to_type(settings_of, connection: dict, told: str):
    with pytest.raises(InvalidInputError, match=f"Connection 'hailuo_test': .*{told}") as raised:
        settings_of(**connection)

    assert KEY not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_missing_connection_says_what_to_type():
    with pytest.raises(AirflowNotFoundException, match="airflow connections add no_such_conn --conn-type hailuo"):
        HailuoHook("no_such_conn").get_conn()
    with pytest.raises(AirflowNotFoundException, match="airflow connections add no_such_conn --conn-type hailuo"):
        asyncio.run(HailuoHook("no_such_conn").get_async_conn())


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

    assert {name: widget.kwargs["default"] for name, widget in widgets.items()} == {"timeout": 30, "retries": 4}
