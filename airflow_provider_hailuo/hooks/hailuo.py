"""`HailuoHook`: an Airflow connection becomes a client."""

from __future__ import annotations

import json
from typing import Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, Connection

from airflow_provider_hailuo import get_provider_info
from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import BASE_URL, AsyncClient, Client, Settings
from airflow_provider_hailuo.apiframe.errors import ApiframeError, InvalidInputError, excerpt
from airflow_provider_hailuo.apiframe.models import Account

CONNECTION_TYPE = get_provider_info()["connection-types"][0]


class HailuoConnectionNotFoundError(AirflowNotFoundException, InvalidInputError):
    """There is no such Airflow connection. The message says how to add it."""


class HailuoHook(BaseHook):
    """Turns the Airflow connection `hailuo_conn_id` (default `hailuo_default`) into a client of the Apiframe API.

    The connection (type `hailuo`): password = API key; host = base URL, the real API when empty; extra fields
    `timeout` (seconds of silence, default 30) and `retries` (of one request, default 4).
    """

    conn_name_attr = "hailuo_conn_id"
    default_conn_name = "hailuo_default"
    conn_type = CONNECTION_TYPE["connection-type"]
    hook_name = CONNECTION_TYPE["hook-name"]

    def __init__(self, hailuo_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.hailuo_conn_id = hailuo_conn_id

    def get_conn(self) -> Client:
        """Return a client; the caller closes it.

        Raises `HailuoConnectionNotFoundError` when there is no such connection, `InvalidInputError` when its key,
        host or extra fields will not do; both say what to type.
        """
        try:
            connection = self.get_connection(self.hailuo_conn_id)
        except AirflowNotFoundException as error:
            raise self._missing() from error
        return Client(self._settings(connection))

    async def get_async_conn(self) -> AsyncClient:
        """Return an async client for the running event loop; the caller closes it. Raises as `get_conn`."""
        try:
            connection = await get_async_connection(self.hailuo_conn_id)
        except AirflowNotFoundException as error:
            raise self._missing() from error
        return AsyncClient(self._settings(connection))

    def test_connection(self) -> tuple[bool, str]:
        """Ask the API whose key this is; return whether that worked, and the team, plan and credits or the error."""
        try:
            with self.get_conn() as client:
                account = client.send(calls.get_account())
        except ApiframeError as error:
            return False, str(error)
        return True, _describe(account)

    def _missing(self) -> HailuoConnectionNotFoundError:
        return HailuoConnectionNotFoundError(
            f"There is no connection {self.hailuo_conn_id!r}. Add it under Admin > Connections (type "
            f"{self.hook_name!r}), or with: airflow connections add {self.hailuo_conn_id} --conn-type "
            f"{self.conn_type} --conn-password afk_..."
        )

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
        from wtforms import IntegerField  # noqa: PLC0415
        from wtforms.validators import Optional  # noqa: PLC0415

        return {
            name: IntegerField(
                field["label"],
                default=field["schema"]["default"],
                validators=[Optional()],
                widget=BS3TextFieldWidget(),
            )
            for name, field in CONNECTION_TYPE["conn-fields"].items()
        }


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
    """Return `timeout` and `retries` as far as `extra` (JSON) sets them: the form saves an empty field as null."""
    # Not Connection.extra_dejson: it masks secrets with a blocking call, and there are none in here.
    try:
        fields = json.loads(extra or "{}")
        known = {"timeout": float, "retries": int}
        return {name: kind(fields[name]) for name, kind in known.items() if fields.get(name) not in {None, ""}}
    except (ValueError, TypeError, AttributeError):
        raise InvalidInputError(
            f'extra: {excerpt(str(extra), 80)}: must be JSON like {{"timeout": 30, "retries": 4}}, with numbers'
        ) from None
