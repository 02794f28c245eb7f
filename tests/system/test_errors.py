"""Each row of the table of errors in docs/what-happens-when.md, through the log of a real task."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import pytest

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.sandbox import Sandbox
from tests.system.conftest import API_KEY, PATIENCE_SECONDS, Runs

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[2] / "docs" / "what-happens-when.md"
GENERATE, LOOK, FILE = "POST /v2/videos/generate", "GET /v2/jobs/{id}", "GET /videos/{id}.mp4"


class Row(NamedTuple):
    """How to bring a row about: what the API does, and how the run differs."""

    faults: list[dict[str, Any]]
    prompt: str = "a sunrise"
    credits: int = 100
    password: str = API_KEY
    dag_id: str = "one_video"
    image: str | None = None
    destination: str | None = None


ROWS = {
    "the API refuses the input": Row([{"fault": "error", "status": 400, "route": GENERATE}]),
    "the key is wrong": Row([], password="afk_wrong"),
    "the key is revoked while the job renders": Row([{"fault": "error", "status": 401, "route": LOOK}]),
    "too few credits": Row([], credits=3),
    "the key has no right to this": Row([{"fault": "error", "status": 403, "route": GENERATE}]),
    "the base URL is wrong": Row([{"fault": "error", "status": 404, "route": GENERATE}]),
    "the job is unknown to the account": Row([{"fault": "vanished", "route": LOOK}]),
    "the key of the video was used for another request": Row([]),
    "too many requests": Row([{"fault": "error", "status": 429, "route": GENERATE}]),
    "the API is out of order": Row([{"fault": "error", "status": 503, "route": GENERATE}]),
    "a proxy answers in the API's place": Row([{"fault": "error", "status": 403, "html": True, "route": GENERATE}]),
    "the connection breaks off": Row([{"fault": "reset", "route": GENERATE}]),
    "the answer cannot be read": Row([{"fault": "truncated", "route": GENERATE}]),
    "the render failed": Row([], prompt="[[fail: content policy]]"),
    "the video is not there in time": Row([], prompt="[[stall]]", dag_id="one_late_video"),
    "completed, but there is no URL": Row([{"fault": "no-url"}]),
    "the destination cannot be used": Row([], destination="nosuch://bucket/videos/"),
    "the video costs more than it may": Row([], dag_id="one_dear_video"),
    "the picture is none": Row([], image=__file__),
    "the file cannot be fetched": Row(
        [{"fault": "error", "status": 503, "route": FILE}], destination=f"{gettempdir()}/hailuo-tests/"
    ),
    "completed, but the file is gone": Row([{"fault": "expired"}]),
}
# These two need no API at all; test_operator.py runs them.
ELSEWHERE = {
    "bad input, found before sending": ("bad_input", 1),
    "the connection cannot be looked up": ("missing_connection", 3),
}
"""The DAGs that bring these about, and how many tries they make."""


def table() -> dict[str, list[str]]:
    """Return the cells of the table of errors by what happened."""
    section = PAGE.read_text().partition("\n## Errors as the log tells them")[2].partition("\n## ")[0]
    lines = section.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return {row[0].strip("| "): [row[1].strip("`"), row[2], row[3].strip("| ")] for row in cells[1:]}


class Ran(NamedTuple):
    """What became of a row's run."""

    log: str
    charged: int


@pytest.fixture(scope="module")
def ran(runs: Runs) -> Iterator[dict[str, Ran]]:
    """Run all rows at once, each against a sandbox of its own, and return the logs."""
    runs.all_ended()
    with ExitStack() as stack:
        started = {}
        for number, (what, row) in enumerate(ROWS.items()):
            sandbox = stack.enter_context(
                Sandbox(render_seconds=1, jitter=0, credits=row.credits, api_key=API_KEY, faults=row.faults)
            )
            connection, key = f"hailuo_row_{number}", f"row-{number}"
            runs.airflow.request(
                "POST",
                "connections",
                json={
                    "connection_id": connection,
                    "conn_type": "hailuo",
                    "host": sandbox.base_url,
                    "password": row.password,
                    "extra": '{"retries": 0}',
                },
            )
            if "another request" in what:
                with Client(Settings(api_key=API_KEY, base_url=sandbox.base_url)) as client:
                    client.send(calls.generate_video(VideoRequest(prompt="another"), key))
            conf = {"prompt": row.prompt, "connection": connection, "key": key}
            conf |= {"image": row.image, "destination": row.destination}
            started[what] = (sandbox, row.dag_id, runs.airflow.trigger(row.dag_id, conf))
        logs = {}
        for what, (sandbox, dag_id, run_id) in started.items():
            assert runs.airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS) == "failed"
            charged = sandbox.stats()["creditsCharged"]
            logs[what] = Ran(runs.airflow.log(dag_id, run_id, "video"), charged)
        yield logs


def test_the_table_is_the_one_that_is_tested():
    assert table().keys() == ROWS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("what", ROWS)
def test_the_log_says_what_the_table_says(ran: dict[str, Ran], what: str):
    says, retried, paid = table()[what]
    log, charged = ran[what]

    assert _says(log, says), log
    assert ("HailuoFailException" in log) is (retried == "no")
    # The other request of a 409 was paid. What can still complete was charged at its submission.
    expected = {"no": {0}, "yes": {5}, "if it completes": {5}, "once": {0, 5}}[paid]
    assert charged in (expected if "another request" not in what else {5})


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_needs_no_api_says_what_the_table_says(runs: Runs, what: str):
    scenario, tries = ELSEWHERE[what]
    runs.ended(scenario)

    assert _says(runs.log(scenario, tries), table()[what][0].replace("nowhere", "no_such_conn"))


def _says(log: str, text: str) -> bool:
    return re.search(".*".join(map(re.escape, text.split("…"))), log) is not None
