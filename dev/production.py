"""An Airflow 3 as teams have it: Celery, two of each component, a load balancer; on this machine, for this moment.

PostgreSQL comes from the environment, Redis and HAProxy are looked for on PATH.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg2  # type: ignore[import-untyped]
from local_airflow import LocalAirflow, LocalAirflowError, free_port, spawn
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

OUTAGE_SECONDS = 300
"""How long what is asked of the database or the REST API is asked again while a server of theirs is away."""

SERVERS, SCHEDULERS, TRIGGERERS, WORKERS = (
    (name, f"{name}-2") for name in ("api-server", "scheduler", "triggerer", "worker")
)


def _is_away(error: BaseException) -> bool:
    """Tell whether an error says that a server is away."""
    status = error.status if isinstance(error, LocalAirflowError) else None
    return isinstance(error, httpx.TransportError | psycopg2.OperationalError) or (status or 0) >= 500


_patiently = retry(
    retry=retry_if_exception(_is_away), stop=stop_after_delay(OUTAGE_SECONDS), wait=wait_fixed(0.5), reraise=True
)


def missing_programs() -> str:
    """Return what to install before there can be such an Airflow, "" if nothing."""
    missing = [name for name in ("redis-server", "haproxy") if not _find(name)]
    return f"{' and '.join(missing)} not found on PATH: apt-get install {' '.join(missing)}" if missing else ""


def _find(program: str) -> str:
    # Where Debian has servers; the path of who is not root may lack it.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    return shutil.which(program, path=path) or ""


class Daemon(AbstractContextManager["Daemon"]):
    """A server from the operating system's packages, for the length of a block.

    :param program: its name.
    :param arguments: those of its command; `{home}` is a directory of its own.
    :param files: what lies there when it starts.
    """

    def __init__(self, program: str, *arguments: str, files: Mapping[str, str] | None = None) -> None:
        self._program = program
        self._arguments = arguments
        self._files = files or {}
        self._exit = ExitStack()

    def __enter__(self) -> Daemon:
        """Start it.

        :raises LocalAirflowError: a program is not installed; says which package to install.
        """
        if missing := missing_programs():
            raise LocalAirflowError(missing)
        with ExitStack() as stack:
            self._home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self._program}-")))
            for name, text in self._files.items():
                (self._home / name).write_text(text)
            self._command = [
                _find(self._program),
                *(argument.format(home=self._home) for argument in self._arguments),
            ]
            self._start()
            stack.callback(self._stop)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End it."""
        self._exit.close()

    def restart(self) -> None:
        """End it, which ends its connections, and start it again on what it has kept in its directory."""
        self._stop()
        self._start()

    def _start(self) -> None:
        self._process = spawn(self._command, self._home / "log", cwd=self._home)

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class ProductionAirflow(LocalAirflow):
    """A running Airflow with PostgreSQL, Redis and CeleryExecutor, and whoever starts again what has ended.

    Two API servers behind HAProxy, two schedulers, two triggerers, two Celery workers of four processes, one DAG
    processor. What is asked of it while one of them, or a server of theirs, is away, is asked again.

    :param home: as of `LocalAirflow`.
    :param dags: as of `LocalAirflow`.
    :param config: more environment variables.
    :param options: as of `LocalAirflow`.
    """

    def __init__(self, home: Path, dags: Path, *, config: Mapping[str, str] | None = None, **options: Any) -> None:
        broker, password = free_port(), secrets.token_hex()
        super().__init__(
            home,
            dags,
            database="postgres",
            config={
                "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
                "AIRFLOW__CORE__PARALLELISM": "32",
                "AIRFLOW__CELERY__BROKER_URL": f"redis://:{password}@127.0.0.1:{broker}/0",
                "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
                # What a worker had taken and not begun when it died is given to another one after this.
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
                **(config or {}),
            },
            **options,
        )
        database = self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        self.environment["AIRFLOW__CELERY__RESULT_BACKEND"] = database.replace("postgresql+psycopg2", "db+postgresql")
        self.redis = Daemon(
            "redis-server",
            *("--bind", "127.0.0.1", "--port", str(broker), "--requirepass", password),
            *("--dir", "{home}", "--appendonly", "yes"),
        )
        ports = {name: str(free_port()) for name in SERVERS}
        self.api_servers = [f"http://127.0.0.1:{port}" for port in ports.values()]
        front = httpx.URL(self.url).port
        self.balancer = Daemon(
            "haproxy", "-f", "{home}/haproxy.cfg", files={"haproxy.cfg": _balance(front, ports.values())}
        )
        self.servers += [self.redis, self.balancer]
        worker = ("celery", "worker", "--skip-serve-logs")
        self.plan = {
            **{name: ("api-server", "--port", port) for name, port in ports.items()},
            "dag-processor": self.plan["dag-processor"],
            **dict.fromkeys(SCHEDULERS, self.plan["scheduler"]),
            **dict.fromkeys(TRIGGERERS, self.plan["triggerer"]),
            **{name: (*worker, "--celery-hostname", f"{name}@%h") for name in WORKERS},
        }
        self.restarts: Counter[str] = Counter()

    def check(self) -> None:
        """Start again each component that has ended, as whoever supervises them does."""
        for name in self.plan.keys() & self._components:
            if self.ended(name):
                self.restarts[name] += 1
                self.start(name)

    @_patiently
    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows that a statement selects in the database; as of `LocalAirflow`."""
        return super().query(sql, *values)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        ask = super()._ask
        return (_patiently(ask) if method == "GET" else ask)(method, path, **options)


def _balance(front: int | None, ports: Iterable[str]) -> str:
    """Return how HAProxy spreads the requests to a port over others, by whether who listens there is well."""
    servers = "".join(f"  server at-{port} 127.0.0.1:{port} check inter 1s rise 1\n" for port in ports)
    return f"""
defaults
  mode http
  timeout connect 2s
  timeout client 5m
  timeout server 5m
  timeout check 10s
  retries 5
  option redispatch
  option httpchk GET /api/v2/version
frontend airflow
  bind 127.0.0.1:{front}
  default_backend api-servers
backend api-servers
  balance roundrobin
{servers}"""


DEPLOYMENTS: Mapping[str, Callable[..., LocalAirflow]] = {
    "sqlite": partial(LocalAirflow, database="sqlite"),
    "postgres": partial(LocalAirflow, database="postgres"),
    "production": ProductionAirflow,
}
"""What system tests run on, by the name that the option `--deployment` has for it."""
