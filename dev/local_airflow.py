"""A real Airflow 3 for tests, demos and benchmarks: on this machine, for this moment, seen by nobody else.

with LocalAirflow(home, dags, wait_for=["my_dag"], connections={"x": {"conn_type": "http"}}) as airflow:
    run_id = airflow.trigger("my_dag")
    assert airflow.wait("my_dag", run_id) == "success"
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast
from urllib.parse import quote
from urllib.request import getproxies

import httpx
import psutil  # type: ignore[import-untyped]

COMPONENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""The parts of an Airflow, each a process of its own, and how the command `airflow` starts them."""

_MARK = "LOCAL_AIRFLOW"
"""Environment variable by which all processes of one LocalAirflow know each other."""


class LocalAirflowError(RuntimeError):
    """The local Airflow did not start, went down, or refused a request."""


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


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log file under its path, or just the path when there is no such file."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"--- {log}", *text])


class LocalAirflow(AbstractContextManager["LocalAirflow"]):
    """A running Airflow: SQLite, LocalExecutor, one process for each of `COMPONENTS`, on a free loopback port.

    It is ready when `with` is entered: scheduler, DAG processor and triggerer are healthy, the connections are
    stored and the awaited DAGs are known. When `with` is left, all of its processes are gone, however it was left.

    Parameters:

    - `home`: a directory of its own; made if it is not there.
    - `dags`: the folder with the DAG files.
    - `wait_for`: ids of the DAGs that must be known before it counts as ready (default none).
    - `connections`: connection id -> fields of the REST API (`conn_type`, `host`, `password`, ...; `extra` as a
      dictionary). They are stored in the database, encrypted with the Fernet key of this Airflow.
    - `config`: more environment variables, such as `AIRFLOW__TRIGGERER__CAPACITY`; they override what is set here.
    - `start_timeout`: how many seconds it may take until it is ready (default 120).

    Attributes:

    - `home`: AIRFLOW_HOME. Each component logs to `<name>.log` in it.
    - `url`: base URL of the UI and the REST API, without a trailing slash. Everybody is admin there.
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
        config: Mapping[str, str] | None = None,
        start_timeout: float = 120,
    ) -> None:
        self.home = home.resolve()
        self.wait_for = frozenset(wait_for)
        self.connections = connections or {}
        self.start_timeout = start_timeout
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            # Without .pyc files every process takes twice as long to start.
            **{k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW") and k != "PYTHONDONTWRITEBYTECODE"},
            _MARK: secrets.token_hex(),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags.resolve()),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # What it asks itself goes through no proxy.
            "no_proxy": ",".join(filter(None, (getproxies().get("no"), "127.0.0.1"))),
            **(config or {}),
        }
        self._components: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        self._exit = ExitStack()

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.home / "airflow.db"

    def __enter__(self) -> LocalAirflow:
        """Migrate, start all components and wait until they are ready.

        Raises `LocalAirflowError` when a component ended, a DAG file cannot be imported, or `start_timeout` is
        over. The message ends with the last lines of the log that tells more.
        """
        with ExitStack() as stack:
            stack.enter_context(exit_on_signals())
            stack.callback(self._end_all)
            stack.callback(self._client.close)
            self.home.mkdir(parents=True, exist_ok=True)
            if self.database.exists():
                raise LocalAirflowError(f"{self.database} is there already: take another directory")
            # The API server needs the longest, and none of the tables to begin with: 3 of 16 s saved.
            api_server, *others = COMPONENTS
            self.start(api_server)
            self.run("db", "migrate")
            for component in others:
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

    def start(self, component: str, *, name: str | None = None) -> None:
        """Start a component, also once more after `kill`, or a second one of a kind.

        Parameters: `component`, one of `COMPONENTS`; `name`, what to call it here and its log file (default: like
        the component).
        """
        name = name or component
        with (self.home / f"{name}.log").open("ab") as log:
            self._components[name] = process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *COMPONENTS[component]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.add(process.pid)

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

    def check(self) -> None:
        """Raise `LocalAirflowError` with the end of its log if a component has ended by itself."""
        for name, process in self._components.items():
            if process.poll() is not None:
                log = tail(self.home / f"{name}.log")
                raise LocalAirflowError(f"Airflow's {name} ended with status {process.returncode}\n{log}")

    def _await_ready(self) -> None:
        """Return when Airflow is healthy and knows the awaited DAGs. Raises what `__enter__` raises."""
        deadline = time.monotonic() + self.start_timeout
        while missing := self._missing():
            self.check()
            if time.monotonic() > deadline:
                log = self.home / f"{missing if missing in COMPONENTS else 'dag-processor'}.log"
                raise LocalAirflowError(f"{missing} is not there after {self.start_timeout:g} s\n{tail(log)}")
            time.sleep(0.1)

    def _missing(self) -> str:
        """Return the first component or DAG that is not there yet, "" when all are."""
        try:
            health = self._client.get("/api/v2/monitor/health").json()
        except httpx.TransportError:
            return "api-server"
        for component in ("scheduler", "dag-processor", "triggerer"):
            if health[component.replace("-", "_")]["status"] != "healthy":
                return component
        if "Authorization" not in self._client.headers:
            token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
            self._client.headers["Authorization"] = f"Bearer {token}"
        missing = self.wait_for - {dag["dag_id"] for dag in self._pages("dags", "dags")}
        if missing and (errors := self._pages("importErrors", "import_errors")):
            raise LocalAirflowError("\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors))
        return min(missing, default="")

    # REST API

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Ask the REST API of Airflow.

        Parameters: `method` of HTTP; `path` below `/api/v2/`; `options` as httpx takes them (`params`, `json`, ...).

        Returns the JSON of the answer, None if it has no body. Raises `LocalAirflowError` if it is an error.
        """
        for _ in range(5):
            response = self._client.request(method, f"/api/v2/{path}", **options)
            # The API server writes its audit log in its event loop: while another request holds SQLite's lock, both
            # stand still until SQLite gives up after 5 s, and nothing of this request was done.
            if "Database error" not in response.text:
                break
        if response.is_error:
            raise LocalAirflowError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

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
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
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
            time.sleep(0.2)
        return state

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, mapped ones too, as the REST API shows them."""
        return self._pages(f"{_path(dag_id, run_id)}/taskInstances", "task_instances")

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return the value of an XCom."""
        path = f"{_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}"
        return self.request("GET", path, params={"map_index": map_index})["value"]

    def xcoms(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return all XComs of a task instance by key."""
        entries = self._pages(f"{_path(dag_id, run_id, task_id)}/xcomEntries", "xcom_entries", map_index=map_index)
        return {e["key"]: self.xcom(dag_id, run_id, task_id, e["key"], map_index) for e in entries}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task instance: time, level, message, and whatever else a line carries."""
        path = f"{_path(dag_id, run_id, task_id)}/logs/{try_number}"
        params = {"full_content": True, "map_index": map_index}
        lines = self.request("GET", path, params=params, headers={"Accept": "application/json"})["content"]
        return "\n".join(line if isinstance(line, str) else _log_line(**line) for line in lines)

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str] | None = None) -> None:
        """Clear tasks of a run, all of them if none is named, so that they run again."""
        body: dict[str, Any] = {"dag_run_id": run_id, "dry_run": False, "only_failed": False}
        if task_ids is not None:
            body["task_ids"] = list(task_ids)
        self.request("POST", f"dags/{dag_id}/clearTaskInstances", json=body)


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
