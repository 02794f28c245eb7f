"""The receiver of webhooks in a real Airflow: who may tell it something, and what that sets off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.apiframe.webhooks import MOST_BYTES
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.sandbox.http.webhooks import sign
from tests.system.conftest import API_KEY, PATIENCE_SECONDS, WRONG_KEY, Runs

pytestmark = pytest.mark.system

CONNECTION = "hailuo_announced"
PATH = f"/hailuo/webhooks/{CONNECTION}"


class Announced:
    """An account whose jobs are announced, and the runs that wait for them."""

    def __init__(self, runs: Runs, sandbox: Sandbox) -> None:
        self.runs, self.sandbox = runs, sandbox

    def post(self, body: bytes, signature: str | None = None, path: str = PATH) -> httpx.Response:
        """Send a webhook, signed as the API does or as `signature` says."""
        headers = {"X-Webhook-Signature": sign(body, API_KEY) if signature is None else signature}
        return httpx.post(
            f"{self.runs.airflow.url}{path}", content=body, headers=headers, trust_env=False, timeout=60
        )

    def waits(self, prompt: str, dag_id: str = "announced") -> tuple[str, str]:
        """Start a run, and return it with its job when it waits for that."""
        run_id = self.runs.airflow.trigger(dag_id, {"prompt": f"[[stall]] {prompt}"})
        self.runs.airflow.until(lambda: self.states(run_id).get("video") == "deferred")
        (job,) = (job for job in self.sandbox.jobs() if job["input"]["prompt"] == f"[[stall]] {prompt}")
        return run_id, job["id"]

    def states(self, run_id: str) -> dict[str, str]:
        return dict(self.runs.query("select task_id, state from task_instance where run_id = %s", run_id))

    def trigger_id(self, run_id: str) -> int | None:
        """Return which trigger the task `video` of a run waits for."""
        ((found,),) = self.runs.query(
            "select trigger_id from task_instance where run_id = %s and task_id = 'video'", run_id
        )
        return found

    def events(self, job_id: str) -> list[dict]:
        """Return what the events of the connection's asset tell of a job."""
        found = self.runs.query(
            "select e.extra from asset_event e join asset a on a.id = e.asset_id where a.uri = %s",
            f"hailuo://{CONNECTION}/jobs",
        )
        return [extra for (extra,) in found if extra["job"] == job_id]


@pytest.fixture(scope="module")
def announced(runs: Runs) -> Iterator[Announced]:
    runs.all_ended()
    with Sandbox(render_seconds=1, jitter=0, credits=100, api_key=API_KEY, seed=3) as sandbox:
        connection = {"connection_id": CONNECTION, "conn_type": "hailuo", "host": sandbox.base_url}
        runs.airflow.request("POST", "connections", json={**connection, "password": API_KEY})
        yield Announced(runs, sandbox)


def completed(job_id: str, event: str = "completed") -> bytes:
    return json.dumps({"event": event, "jobId": job_id, "status": "COMPLETED"}).encode()


BODY = completed("job_of_nobody")
LARGE = BODY + b" " * MOST_BYTES


@pytest.mark.parametrize(
    ("body", "signature", "path", "status"),
    [
        pytest.param(completed("job_of_nobody", "progress"), None, PATH, 204, id="signed"),
        pytest.param(BODY, None, PATH, 503, id="signed, a job that the API does not know"),
        pytest.param(BODY, "", PATH, 401, id="unsigned"),
        pytest.param(BODY, "sha256=" + "0" * 64, PATH, 401, id="wrong signature"),
        pytest.param(BODY, sign(BODY, WRONG_KEY), PATH, 401, id="signed with another key"),
        pytest.param(BODY, sign(BODY, ""), PATH, 401, id="signed with no key"),
        pytest.param(BODY, sign(b"", API_KEY), PATH, 401, id="signature of another body"),
        pytest.param(BODY, None, "/hailuo/webhooks/nobody", 401, id="unknown connection"),
        pytest.param(BODY, sign(BODY, ""), "/hailuo/webhooks/nobody", 401, id="unknown connection, no key"),
        pytest.param(BODY, None, "/hailuo/webhooks/hailuo_wrong_key", 401, id="another connection"),
        pytest.param(LARGE, None, PATH, 413, id="oversized"),
        pytest.param(LARGE, "", PATH, 413, id="oversized, unsigned"),
        pytest.param(b"no json", None, PATH, 400, id="signed, no webhook"),
        pytest.param(b"no json", "", PATH, 401, id="unsigned, no webhook"),
        pytest.param(BODY, None, "/hailuo/webhooks/", 401, id="no connection"),
        pytest.param(BODY, None, "/hailuo/webhooks/../webhooks.py", 404, id="traversal"),
        pytest.param(BODY, None, "/hailuo/webhooks/%2e%2e%2fwebhooks.py", 401, id="encoded traversal"),
    ],
)
def test_who_may_tell_what(announced: Announced, body: bytes, signature: str | None, path: str, status: int):
    assert announced.post(body, signature, path).status_code == status


def test_an_unknown_connection_answers_as_a_wrong_signature_does(announced: Announced):
    answers = [announced.post(BODY, "", path) for path in (PATH, "/hailuo/webhooks/nobody")]

    told = [
        (
            answer.status_code,
            answer.content,
            {name: value for name, value in answer.headers.items() if name != "date"},
        )
        for answer in answers
    ]
    assert told[0] == told[1]


def test_it_is_not_to_be_read(announced: Announced):
    assert httpx.get(f"{announced.runs.airflow.url}{PATH}", trust_env=False, timeout=60).status_code == 405


@pytest.mark.parametrize("dag_id", ["announced", "announced_sensor"])
def test_a_finished_video_resumes_the_task_that_waits_for_it(announced: Announced, dag_id: str):
    run_id, job_id = announced.waits(f"a boat for {dag_id}", dag_id)

    announced.sandbox.release()

    assert announced.runs.airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS) == "success"
    job = announced.runs.airflow.xcom(dag_id, run_id, "video", "job")
    assert (job["id"], job["status"], job["credits"]) == (job_id, "COMPLETED", 5)
    announced.runs.airflow.until(lambda: announced.events(job_id))
    (event,) = announced.events(job_id)
    assert event == {**{k: v for k, v in job.items() if k != "id"}, "job": job_id}


def test_one_that_says_what_is_not_so_changes_nothing(announced: Announced):
    run_id, job_id = announced.waits("a patient boat")
    first = announced.trigger_id(run_id)

    assert announced.post(completed(job_id)).status_code == 204

    announced.runs.airflow.until(lambda: announced.trigger_id(run_id) not in {None, first})
    announced.runs.airflow.until(lambda: announced.states(run_id)["video"] == "deferred")
    assert announced.events(job_id) == []
    rows = [row for row in announced.runs.trigger_rows if job_id in row]
    assert len({re.search(r'"deadline": ([0-9.]+)', row)[1] for row in rows}) == 1
    announced.sandbox.release()
    assert announced.runs.airflow.wait("announced", run_id, timeout=PATIENCE_SECONDS) == "success"


def test_a_job_gets_one_event_and_its_task_one_end_however_often_it_is_announced(announced: Announced):
    run_id, job_id = announced.waits("a boat of many announcements")
    charged = announced.sandbox.stats()["creditsCharged"]
    announced.sandbox.release()
    announced.runs.airflow.until(lambda: announced.events(job_id))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: announced.post(completed(job_id)), range(16)))

    assert {answer.status_code for answer in answers} == {204}
    assert announced.runs.airflow.wait("announced", run_id, timeout=PATIENCE_SECONDS) == "success"
    ended = announced.runs.airflow.task_instances("announced", run_id)
    assert announced.post(completed(job_id)).status_code == 204
    assert len(announced.events(job_id)) == 1
    assert announced.runs.airflow.task_instances("announced", run_id) == ended
    assert announced.sandbox.stats()["creditsCharged"] == charged


def test_a_dag_is_started_for_finished_videos_also_for_those_that_end_together(announced: Announced):
    url = f"{announced.runs.airflow.url}{PATH}"
    with Client(Settings(api_key=API_KEY, base_url=announced.sandbox.base_url)) as client:
        requests = [VideoRequest(prompt=f"[[stall]] {n} of a fleet", webhook_url=url) for n in range(10)]
        jobs = {client.send(calls.generate_video(request)).job_id for request in requests}
    announced.runs.airflow.until(
        lambda: all(job["status"] == "PROCESSING" for job in announced.sandbox.jobs() if job["id"] in jobs)
    )

    announced.sandbox.release()

    def told() -> list[str]:
        of_task = "dag_id = 'told_of_videos' and key = 'return_value'"
        values = announced.runs.query(f"select value from xcom where {of_task}")
        return [extra["job"] for (extras,) in values for extra in extras if extra["job"] in jobs]

    announced.runs.airflow.until(lambda: set(told()) == jobs)
    assert len(told()) == len(jobs)
