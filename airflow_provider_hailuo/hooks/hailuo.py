"""`HailuoHook`: an Airflow connection becomes a client, and each call of the API a method."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from airflow_provider_hailuo import get_provider_info, metrics
from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.calls import Call
from airflow_provider_hailuo.apiframe.client import BASE_URL, AsyncClient, Client, Settings
from airflow_provider_hailuo.apiframe.download import Downloaded, download
from airflow_provider_hailuo.apiframe.errors import (
    ApiframeError,
    AuthenticationError,
    CredentialsUnavailableError,
    InvalidInputError,
    JobError,
    PermissionDeniedError,
    excerpt,
)
from airflow_provider_hailuo.apiframe.models import (
    HAILUO_02,
    Account,
    Job,
    JobPage,
    Submission,
    Upload,
    VideoRequest,
    is_nothing,
)
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, video_url
from airflow_provider_hailuo.compat import AirflowNotFoundException, BaseHook, Connection, get_async_connection

T = TypeVar("T")

CONNECTION_TYPE = get_provider_info()["connection-types"][0]

_EXTRA_FIELDS: Mapping[str, Callable[[str], object]] = {"timeout": float, "retries": int, "namespace": str}


class HailuoConnectionNotFoundError(AirflowNotFoundException, CredentialsUnavailableError):
    """Airflow knows no such connection, or could not look it up. The message says what to do about either."""


class HailuoHook(BaseHook):
    """Calls the Apiframe API as an Airflow connection says.

    Each call opens a client and closes it; `get_conn` keeps one open for many. What goes wrong is an `ApiframeError`.

    The connection (type `hailuo`): password = API key; host = base URL, the real API when empty; extra fields
    `timeout` (seconds of silence, default 30), `retries` (of one request, default 4) and `namespace` (text that goes
    into the idempotency keys, default none: another one in each deployment that holds the same DAG).

    :param hailuo_conn_id: the id of the connection; None, "" and "None" are the default, `hailuo_default`.
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
        :raises CredentialsUnavailableError: as `get_settings`.
        :raises InvalidInputError: as `get_settings`, or an environment variable about proxies or certificates will
            not do.
        """
        return Client(self.get_settings(), on_request=self._count)

    def connect(self, settings: Settings, *, in_triggerer: bool = True) -> AsyncClient:
        """Open an async client with what the connection was found to hold.

        :param settings: what it holds.
        :param in_triggerer: whether this runs in the triggerer (default) or on a worker: each has its own metrics.
        :return: the client; the caller closes it.
        :raises InvalidInputError: an environment variable about proxies or certificates will not do.
        """
        return AsyncClient(settings, on_request=partial(self._count, in_triggerer=in_triggerer))

    def get_settings(self) -> Settings:
        """Look the connection up.

        :return: what the connection says of how to reach the API.
        :raises HailuoConnectionNotFoundError: Airflow says that there is no such connection, which it also says
            while a secrets backend fails; it is a `CredentialsUnavailableError`, too.
        :raises CredentialsUnavailableError: the look-up failed in another way.
        :raises InvalidInputError: its key, host or extra fields will not do; says what to type.
        """
        with self._looking_up():
            connection = self.get_connection(self.hailuo_conn_id)
        return self._settings(connection)

    async def get_async_settings(self) -> Settings:
        """Look the connection up without blocking the event loop.

        :return: as `get_settings`.
        :raises CredentialsUnavailableError: as `get_settings`.
        :raises InvalidInputError: as `get_settings`.
        """
        with self._looking_up():
            connection = await get_async_connection(self.hailuo_conn_id)
        return self._settings(connection)

    def generate_video(
        self,
        prompt: str,
        *,
        model: str = HAILUO_02,
        image: str | None = None,
        end_image: str | None = None,
        resolution: str | None = None,
        duration: int | None = None,
        prompt_optimizer: bool | None = None,
        webhook_url: str | None = None,
        webhook_events: Collection[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Submission:
        """Submit a video, which costs credits, and do not wait for it.

        :param prompt: what to show, 1 to 2000 characters (Apiframe reference, Hailuo 02); an emoji counts as two.
        :param model: `hailuo-02` (default), `hailuo-2.3`, `hailuo-2.3-fast` or `hailuo-03`.
        :param image: URL of the first frame; None (default) for none.
        :param end_image: URL of the last frame, with `hailuo-02` only; None (default) for none.
        :param resolution: `768p` or `1080p`; None (default): as the API does, `768p`.
        :param duration: 6 or 10 seconds, of which 1080p does 6 only; None (default): as the API does, 6.
        :param prompt_optimizer: whether the model may rewrite the prompt; None (default): as the API does, yes.
        :param webhook_url: where the API announces events of the job; None (default): nowhere.
        :param webhook_events: which of `progress`, `completed` and `failed`; None (default): the API chooses.
        :param idempotency_key: within 24 hours the API answers the same key with the same job, and charges nothing
            again. With None (default) an answer that got lost leaves it in doubt whether there is a job.
        :return: the job's id, and its status at that moment.
        :raises InvalidInputError: the input will not do; nothing was sent.
        :raises ApiframeError: the API refuses it or could not be reached; with `in_doubt` the job may be there.
        """
        request = VideoRequest(
            prompt=prompt,
            model=model,
            image=image,
            end_image=end_image,
            resolution=resolution,
            duration=duration,
            prompt_optimizer=prompt_optimizer,
            webhook_url=webhook_url,
            webhook_events=webhook_events,
        )
        return self._send(calls.generate_video(request, idempotency_key))

    def get_job(self, job_id: str) -> Job:
        """Ask for a job.

        :param job_id: the job.
        :return: the job as it is now.
        :raises ApiframeError: `NotFoundError` if the account has no such job.
        """
        return self._send(calls.get_job(job_id))

    def list_jobs(self, *, limit: int = 100, cursor: str | None = None) -> JobPage:
        """Return one page of the account's jobs, newest first.

        :param limit: how many jobs, 1 to 100 (default 100).
        :param cursor: `next_cursor` of the page before; None (default) for the first page.
        :return: the jobs, and the cursor of the next page.
        :raises ApiframeError: the API refuses it or could not be reached.
        """
        return self._send(calls.list_jobs(limit=limit, cursor=cursor))

    def wait_for_job(self, job_id: str, *, timeout: float = 1800.0, poll_interval: float = 5.0) -> Job:
        """Wait until a job is final.

        :param job_id: the job.
        :param timeout: seconds to wait (default 1800).
        :param poll_interval: seconds between two looks (default 5; the Apiframe reference recommends 5 to 10).
        :return: the job, whatever it ended as (see `polling.video_url`).
        :raises InvalidInputError: the input will not do, or the connection has not for a minute.
        :raises JobTimeoutError: the time is over; the job may still complete, and is paid then.
        :raises ApiframeError: the API has refused to tell of the job for a minute.
        """
        for name, seconds in {"timeout": timeout, "poll_interval": poll_interval}.items():
            if not seconds > 0:
                raise InvalidInputError.of((name, seconds, "must be seconds above 0"))
        return self.wait_with(JobPoll(job_id, time.time() + timeout, poll_interval))

    def wait_with(self, poll: JobPoll, log: Callable[[int, str], object] | None = None) -> Job:
        """Wait until a job is final.

        The connection is looked up when the wait begins, and again while that fails or its key is refused.

        :param poll: tells the job, and decides after each look.
        :param log: gets what is worth a line, as `Logger.log` does; None (default): the log of the hook.
        :return: the job, whatever it ended as.
        :raises ApiframeError: what `poll` gave up with.
        """
        look = calls.get_job(poll.job_id)
        client: Client | None = None
        try:
            while True:
                try:
                    client = client or self.get_conn()
                    decision = poll.on_job(client.send(look, retries=0), time.time())
                except ApiframeError as error:
                    decision = poll.on_error(error, time.time())
                    if client is not None and isinstance(error, AuthenticationError | PermissionDeniedError):
                        client.close()
                        client = None  # the key may have been replaced
                if isinstance(decision, Finished):
                    return decision.job
                if isinstance(decision, GaveUp):
                    raise decision.error
                if decision.news:
                    (log or self.log.log)(decision.level, decision.news)
                time.sleep(decision.seconds)
        finally:
            if client is not None:
                client.close()

    def upload(self, file: str | os.PathLike[str] | bytes, *, filename: str | None = None) -> Upload:
        """Store a picture (at most 25 MB) or a video (50 MB) for 1 to 2 hours (Apiframe reference, "Uploads").

        :param file: the path of a file, which is sent without loading it, or what it holds.
        :param filename: what to call it; None (default): the file's own name, `file` for bytes.
        :return: the upload, whose `url` serves as `image` or `end_image`.
        :raises InvalidInputError: the file cannot be read.
        :raises ApiframeError: the API refuses it or could not be reached.
        """
        if isinstance(file, bytes):
            return self._send(calls.upload(filename or "", file))
        path = Path(file)
        try:
            content = path.open("rb")
        except OSError as error:
            raise InvalidInputError.of(("file", str(path), f"cannot be read: {error.strerror}")) from error
        with content:
            return self._send(calls.upload(filename or path.name, content))

    def get_account(self) -> Account:
        """Ask whose key this is.

        :return: the user, and the team with its credits.
        :raises ApiframeError: the API refuses it or could not be reached.
        """
        return self._send(calls.get_account())

    def download_video(self, job_id: str, path: str | os.PathLike[str]) -> Downloaded:
        """Store the video of a final job; half a file is never seen there.

        :param job_id: the job; `wait_for_job` waits for it.
        :param path: the local file, which is replaced if it is there.
        :return: size in bytes, and SHA-256.
        :raises JobError: there is no video, or not yet.
        :raises DownloadError: the file could not be fetched.
        :raises InvalidInputError: the file cannot be written there.
        :raises ApiframeError: the API refuses it or could not be reached.
        """
        target = Path(path)
        part = target.parent / f".{target.name}.{uuid4().hex}.part"
        try:
            with part.open("w+b") as file:
                with self.get_conn() as client:
                    job = client.send(calls.get_job(job_id))
                    allow_local = client.settings.is_local
                if not job.is_final:
                    raise JobError(f"The job is {excerpt(job.status, 40)}: there is no video yet", job_id=job_id)
                downloaded = download(video_url(job), file, job_id=job_id, allow_local=allow_local, log=self.log.info)
            part.replace(target)
        except OSError as error:
            raise InvalidInputError.of(
                ("path", str(target), f"cannot be written: {error.strerror or error}")
            ) from error
        finally:
            with suppress(OSError):
                part.unlink()
        return downloaded

    def _count(self, call: Call[Any], *, in_triggerer: bool = False) -> None:
        if call.method == "GET" and call.path.startswith("/v2/jobs"):
            metrics.count(metrics.STATUS_REQUESTS, {"conn_id": self.hailuo_conn_id}, in_triggerer=in_triggerer)

    def _send(self, call: Call[T]) -> T:
        with self.get_conn() as client:
            return client.send(call)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the API whose key this is; the "Test" button of the connection form does.

        :return: whether that worked, and the team, plan and credits or the error.
        """
        try:
            return True, _describe(self.get_account())
        except ApiframeError as error:
            return False, str(error)

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
        """Return how the connection form looks; asked for by Airflow before 3.2.

        :return: the fields to hide, their labels and placeholders.
        """
        behaviour = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the connection form; asked for by Airflow before 3.2.

        :return: WTForms fields by name.
        """
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
