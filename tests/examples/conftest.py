"""One running Airflow with the folder `example_dags` as it is, and what its DAGs talk to: a sandbox, S3, a database.

Each test module of this directory names its DAGs (`DAGS`) and starts its runs (`begin`): all of them run side by
side, and the tests look at what became of them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import pytest
from local_airflow import LocalAirflow

from airflow_provider_hailuo.sandbox import Sandbox
from tests.s3 import S3, serving

EXAMPLES = Path(__file__).parents[2] / "example_dags"

VIDEOS = "s3://videos/examples"
"""Where the DAGs store what they make."""

SIX_SECONDS = (1366, 768, 144)
"""Width, height and frames of a video of 768p and 6 seconds, as the sandbox renders it."""

PATIENCE_SECONDS = 900
"""For what takes half a minute on a quiet machine: enough for a much slower one."""


@dataclass(frozen=True)
class Stage:
    """A running Airflow with the example DAGs.

    :param airflow: the Airflow; its connections are `hailuo_default`, `aws_default` and `catalog`.
    :param sandbox: the Apiframe that `hailuo_default` leads to, with renders of two seconds.
    :param s3: the storage that `aws_default` leads to.
    :param catalog: the URL of the PostgreSQL database that `catalog` leads to, for `psycopg2.connect`.
    """

    airflow: LocalAirflow
    sandbox: Sandbox
    s3: S3
    catalog: str

    def start(
        self,
        dag_id: str,
        run_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        logical_date: str | None = None,
    ) -> None:
        """Start a run of a DAG, paused or not.

        :param dag_id: the DAG.
        :param run_id: how to call the run.
        :param conf: its parameters.
        :param logical_date: its logical date in ISO 8601; by default it has none (Airflow 2: now).
        """
        self.airflow.request("PATCH", f"dags/{dag_id}", json={"is_paused": False})
        body = {**self.airflow.generation.run, "dag_run_id": run_id, "conf": conf or {}}
        if logical_date:
            body["logical_date"] = logical_date
        self.airflow.request("POST", f"dags/{dag_id}/dagRuns", json=body)

    def ended(self, dag_id: str, run_id: str) -> str:
        """Wait for the end of a run and return its state."""
        return self.airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS)

    def prompts(self, words: str) -> list[str]:
        """Return the prompts of all videos that were asked for with `words` in them, in alphabetical order."""
        return sorted(prompt for job in self.sandbox.jobs() if words in (prompt := job["input"]["prompt"]))

    def video(self, uri: str) -> tuple[int, int, int]:
        """Return width, height and number of frames of the video that is stored at `uri`, which is decoded."""
        with av.open(io.BytesIO(self.s3.read(uri))) as file:
            (stream,) = file.streams
            frames = sum(1 for _ in file.decode(stream))
            assert frames == stream.frames
            return stream.width, stream.height, frames


@pytest.fixture(scope="package")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, deploy: Callable[..., LocalAirflow]
) -> Iterator[Stage]:
    """Return the stage, on which the runs of all modules that are to be tested are under way."""
    here = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    modules = list(dict.fromkeys(item.getparent(pytest.Module).obj for item in here))
    with ExitStack() as stack:
        s3 = stack.enter_context(serving())
        sandbox = stack.enter_context(Sandbox(render_seconds=2, jitter=0, credits=1000, seed=1))
        airflow = stack.enter_context(
            deploy(
                tmp_path_factory.mktemp("airflow"),
                EXAMPLES,
                wait_for=[dag_id for module in modules for dag_id in module.DAGS],
                connections={
                    "hailuo_default": {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key},
                    "aws_default": s3.connection(),
                },
                config={
                    "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
                    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
                    "HAILUO_VIDEOS": VIDEOS,
                    "HAILUO_VIDEOS_CONN_ID": "aws_default",
                },
                start_timeout=PATIENCE_SECONDS,
            )
        )
        catalog = airflow.postgres.create("catalog")
        at = urlsplit(catalog)
        connection = {"host": at.hostname, "port": at.port, "login": at.username, "password": at.password}
        body = {"connection_id": "catalog", "conn_type": "postgres", "schema": "catalog", **connection}
        airflow.request("POST", "connections", json=body)
        # What the tests ask is of no interest, and there is much of it.
        for name in "httpx", "werkzeug":
            logging.getLogger(name).setLevel(logging.WARNING)
        stage = Stage(airflow, sandbox, s3, catalog)
        for module in modules:
            module.begin(stage)
        yield stage
