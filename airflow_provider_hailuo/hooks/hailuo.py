"""`HailuoHook`: an Airflow connection becomes a client."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_hailuo import get_provider_info
from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import BASE_URL, AsyncClient, Client, Settings
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    CredentialsUnavailableError,
    InvalidInputError,
    excerpt,
)
from airflow_provider_hailuo.apiframe.models import Account, is_nothing
from airflow_provider_hailuo.compat import AirflowNotFoundException, BaseHook, Connection, get_async_connection

CONNECTION_TYPE = get_provider_info()["connection-types"][0]

_EXTRA_FIELDS: Mapping[str, Callable[[str], object]] = {"timeout": float, "retries": int, "namespace": str}


class HailuoConnectionNotFoundError(AirflowNotFoundException, CredentialsUnavailableError):
    """Airflow knows no such connection, or could not look it up. The message says what to do about either."""


class HailuoHook(BaseHook):
    """Turns the Airflow connection `hailuo_conn_id` (default `hailuo_default`) into a client of the Apiframe API.

    The connection (type `hailuo`): password = API key; host = base URL, the real API when empty; extra fields
    `timeout` (seconds of silence, default 30), `retries` (of one request, default 4) and `namespace` (text that goes
    into the idempotency keys, default none: another one in each deployment that holds the same DAG).
    """

    conn_name_attr = "hailuo_conn_id"
    default_conn_name = "hailuo_default"
    conn_type = CONNECTION_TYPE["connection-type"]
    hook_name = CONNECTION_TYPE["hook-name"]

    def __init__(self, hailuo_conn_id: str | None = default_conn_name) -> None:
        super().__init__()
        self.hailuo_conn_id = self.default_conn_name if is_nothing(hailuo_conn_id) else str(hailuo_conn_id)

    def get_conn(self) -> Client:
        """Open a client.

        :return: the client; the caller closes it.
        :raises InvalidInputError: also when an environment variable about proxies or certificates will not do;
            otherwise as `get_settings`.
        """
        return Client(self.get_settings())

    async def get_async_conn(self) -> AsyncClient:
        """Open an async client for the running event loop; as `get_conn`."""
        return AsyncClient(await self.get_async_settings())

    def get_settings(self) -> Settings:
        """Look the connection up.

        :return: what the connection says of how to reach the API.
        :raises HailuoConnectionNotFoundError: Airflow says that there is no such connection.
        :raises CredentialsUnavailableError: the look-up failed in another way. Both may pass.
        :raises InvalidInputError: its key, host or extra fields will not do; says what to type.
        """
        with self._looking_up():
            connection = self.get_connection(self.hailuo_conn_id)
        return self._settings(connection)

    async def get_async_settings(self) -> Settings:
        """Look the connection up without blocking the event loop; as `get_settings`."""
        with self._looking_up():
            connection = await get_async_connection(self.hailuo_conn_id)
        return self._settings(connection)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the API whose key this is; return whether that worked, and the team, plan and credits or the error."""
        try:
            with self.get_conn() as client:
                account = client.send(calls.get_account())
        except ApiframeError as error:
            return False, str(error)
        return True, _describe(account)

    @contextmanager
    def _looking_up(self) -> Iterator[None]:
        """Turn whatever a look-up raises into an error that says what to do."""
        try:
            yield
        except AirflowNotFoundException as error:
            raise HailuoConnectionNotFoundError(
                f"Airflow finds no connection {self.hailuo_conn_id!r}; it says so too while a secrets backend fails, "
                "and of one that it cannot parse. One that is set in the environment or in a secrets backend must be "
                "seen by workers and triggerers alike. If there is none, add it under Admin > Connections (type "
                f"{self.hook_name!r}), or with: airflow connections add {excerpt(self.hailuo_conn_id)} --conn-type "
                f"{self.conn_type} --conn-password afk_..."
            ) from error
        except Exception as error:  # noqa: BLE001
            # Each secrets backend has its own; and not as the cause, whose text may cite the key.
            raise CredentialsUnavailableError(
                f"The connection {self.hailuo_conn_id!r} could not be looked up: {type(error).__name__}: "
                f"{excerpt(_without_secrets(str(error)))}"
            ) from None

    def _settings(self, connection: Connection) -> Settings:
        try:
            if not connection.password:
                raise InvalidInputError("there is no API key: type it into 'Apiframe API key' (the password)")
            return Settings(
                api_key=connection.password.strip(), base_url=_base_url(connection), **_extra_fields(connection.extra)
            )
        except InvalidInputError as error:
            raise InvalidInputError(f"Connection {self.hailuo_conn_id!r}: {error}") from None

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the connection form looks; asked for by Airflow before 3.2."""
        behaviour = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the connection form; asked for by Airflow before 3.2."""
        # Only the web server of Airflow 2 and 3.0 to 3.1 with FAB has these.
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget  # noqa: PLC0415
        from wtforms import IntegerField, StringField  # noqa: PLC0415
        from wtforms.validators import Optional  # noqa: PLC0415

        return {
            name: (IntegerField if "integer" in field["schema"]["type"] else StringField)(
                field["label"],
                default=field["schema"].get("default"),
                validators=[Optional()],
                widget=BS3TextFieldWidget(),
            )
            for name, field in CONNECTION_TYPE["conn-fields"].items()
        }


def _without_secrets(text: str) -> str:
    """Return `text` without what may be a key: Airflow cites a connection that it cannot parse."""
    text = re.sub(r"(?<=://)\S*@", "***@", text)
    text = re.sub(r"(?i)(password\W{1,5})\w\S*", r"\1***", text)
    return re.sub(r"afk_\w*", "afk_***", text)


def _describe(account: Account) -> str:
    team = account.team
    if team is None:
        return f"Apiframe accepts the key of {excerpt(account.user.email or account.user.id)}, who has no team"
    return f"Team {excerpt(str(team.name))}, plan {excerpt(str(team.plan))}, {team.credits} credits"


def _base_url(connection: Connection) -> str:
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        return BASE_URL
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    # The "Test" button of Airflow 3.3.2 sends port 0 for none.
    return f"{url}:{connection.port}" if connection.port else url


def _extra_fields(extra: str | None) -> dict[str, Any]:
    """Return what `extra` (JSON) sets of the settings: the form saves an empty field as null."""
    # Not Connection.extra_dejson: it masks secrets with a blocking call, and there are none in here.
    try:
        given = json.loads(extra or "{}") or {}
        fields = {name: str(value).strip() for name, value in given.items() if value is not None}
        return {name: kind(fields[name]) for name, kind in _EXTRA_FIELDS.items() if fields.get(name)}
    except (ValueError, TypeError, AttributeError):
        raise InvalidInputError(
            f'extra: {excerpt(str(extra), 80)}: must be JSON like {{"timeout": 30, "retries": 4}}, with numbers'
        ) from None
