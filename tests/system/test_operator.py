"""The operator in a real Airflow: scheduler, DAG processor, API server, triggerer, worker processes."""

from __future__ import annotations

import io
import json
import time
from contextlib import suppress
from uuid import UUID

import av
import httpx
import psutil
import pytest

from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.xcoms import LINK
from tests.system.conftest import API_KEY, PATIENCE_SECONDS, SCENARIOS, WRONG_KEY, Runs

pytestmark = pytest.mark.system


def jobs_about(sandbox: Sandbox, words: str) -> list[dict]:
    """Return the jobs on the account whose prompt holds `words`."""
    return [job for job in sandbox.jobs() if words in job["input"]["prompt"]]


def processes_about(words: str) -> list[str]:
    """Return the command lines of all processes of this machine that hold `words`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return [line for line in found if words in line]


def test_success_hands_url_and_job_to_the_next_task(runs: Runs, sandbox: Sandbox):
    assert runs.ended("success") == "success"
    assert runs.tries("success") == runs.tries("success", "look") == [("success", 1)]

    (job,) = jobs_about(sandbox, runs.ids["success"])
    xcoms = runs.xcoms("success")
    url = f"{sandbox.base_url}/videos/{job['id']}.mp4"
    assert job["input"]["hailuoParams"] == {"duration": 10, "prompt_optimizer": False}
    assert (xcoms["return_value"], xcoms["job_id"], xcoms["credit_cost"]) == (url, job["id"], 8)
    assert xcoms["job"] == {
        "id": job["id"],
        "status": "COMPLETED",
        "url": url,
        "prompt": f"[[slow: 20]] a sunrise on {runs.ids['success']}",
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": 10,
        "credits": 8,
        "created": xcoms["job"]["created"],
        "completed": xcoms["job"]["completed"],
    }
    seen = runs.airflow.xcom("success", runs.ids["success"], "look")
    assert seen == {"url": url, "job": xcoms["job"]}


def test_the_file_behind_the_url_is_the_video(runs: Runs):
    runs.ended("success")
    content = httpx.get(runs.xcoms("success")["return_value"], timeout=120).content

    with av.open(io.BytesIO(content)) as file:
        (stream,) = file.streams.video
        frames = sum(1 for _ in file.decode(stream))
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 1366, 768)
        assert frames / stream.average_rate == 10


def test_the_log_tells_submission_and_end_and_no_progress(runs: Runs):
    runs.ended("success")
    job_id = runs.xcoms("success")["job_id"]

    log = runs.log("success")

    lines = [line for line in log.splitlines() if f"Job {job_id}" in line]
    assert "submitted, QUEUED; idempotency key airflow/success/video/" in lines[0]
    # A line of each of a thousand triggers is more than Airflow takes at a time.
    assert len(lines) == 2
    assert "video is ready, 8 credits" in lines[-1]


def test_without_deferring_the_result_is_the_same(runs: Runs):
    assert runs.ended("on_the_worker") == "success"
    xcoms = runs.xcoms("on_the_worker")
    assert xcoms["return_value"] == xcoms["job"]["url"]
    assert xcoms["job"].keys() == runs.xcoms("success")["job"].keys()
    assert not any("on_the_worker" in line for line in runs.trigger_rows)


def test_a_failed_render_fails_the_task_and_is_refunded(runs: Runs, sandbox: Sandbox):
    assert runs.ended("job_failure") == "failed"
    (job,) = jobs_about(sandbox, "content policy")
    xcoms = runs.xcoms("job_failure")

    assert job["creditCost"] == 0
    assert (xcoms["job_id"], xcoms["job"]["status"], xcoms["job"]["url"]) == (job["id"], "FAILED", None)
    assert "return_value" not in xcoms
    assert f"The render ended as FAILED: content policy. Its credits were refunded (job {job['id']})" in runs.log(
        "job_failure"
    )


def test_a_retry_after_a_timeout_takes_the_job_up_again(runs: Runs, sandbox: Sandbox):
    assert runs.ended("timeout_retried") == "success"
    ((state, tries),) = runs.tries("timeout_retried")

    assert (state, tries > 1) == ("success", True)
    assert len(jobs_about(sandbox, "a late sunrise")) == 1


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("bad_input", "resolution: '4k': Input should be '768p' or '1080p'. Nothing was paid"),
        ("mapped_bad_input", "resolution: '4k': Input should be '768p' or '1080p'"),
        ("wrong_key", "Check the API key in the connection 'hailuo_wrong_key'"),
    ],
)
def test_what_no_retry_can_mend_fails_at_once_and_pays_nothing(runs: Runs, scenario: str, told: str):
    assert runs.ended(scenario) == "failed"
    map_index = 0 if scenario.startswith("mapped") else -1

    assert runs.tries(scenario) == [("failed", 1)]
    assert told in runs.log(scenario, map_index=map_index)
    # Airflow itself writes that there is no link.
    assert runs.xcoms(scenario, map_index) == {LINK: ""}


def test_a_connection_that_cannot_be_looked_up_is_looked_up_again_by_each_try(runs: Runs):
    assert runs.ended("missing_connection") == "failed"

    assert runs.tries("missing_connection") == [("failed", 3)]
    assert "Nothing was paid. A retry submits it" in runs.log("missing_connection")
    assert "Nothing was paid. Clearing the task submits it" in runs.log("missing_connection", 3)


def test_each_video_is_paid_once(runs: Runs, sandbox: Sandbox):
    runs.all_ended()
    jobs = jobs_about(sandbox, "")

    # success, on_the_worker, 2 nested, 1 failed, 1 late, and those of functions: text, fields, 2 mapped and 1 beside
    # them, 1 late
    assert len(jobs) == 6 + 6
    paid = (8 + 3 * 5 + 0 + 5) + (5 + 8 + 2 * 5 + 10 + 5)
    assert sandbox.stats()["creditsCharged"] == sum(job["creditCost"] for job in jobs) == paid


def test_inside_another_task_it_waits_right_there(runs: Runs, sandbox: Sandbox):
    assert runs.ended("nested") == "success"
    assert runs.tries("nested", "videos") == [("success", 1)]
    urls = runs.airflow.xcom("nested", runs.ids["nested"], "videos")

    assert sorted(urls) == sorted(
        f"{sandbox.base_url}/videos/{job['id']}.mp4" for job in jobs_about(sandbox, "a nested")
    )
    assert len(set(urls)) == 2


@pytest.mark.parametrize(("prompt", "state"), [("once [[fail: no capacity]]", "failed"), ("once more", "success")])
def test_a_run_that_is_deleted_and_made_again_starts_afresh(runs: Runs, sandbox: Sandbox, prompt: str, state: str):
    conf = {"prompt": prompt, "connection": "hailuo_default", "key": ""}
    run_id = f"again-{state}"
    for made in 1, 2:
        runs.airflow.trigger("one_video", conf, run_id=run_id)
        assert runs.airflow.wait("one_video", run_id, timeout=PATIENCE_SECONDS) == state
        assert len(jobs_about(sandbox, prompt)) == made
        # The executor tells of both visits, the second time perhaps late: Airflow would take it for the next run's.
        runs.await_line("scheduler", rf"Received executor event .* run_id='{run_id}'", times=2 * made)
        runs.airflow.request("DELETE", f"dags/one_video/dagRuns/{run_id}")


# `dags test` of what visits workers twice: tests/examples/test_etl_catalog.py.
@pytest.mark.parametrize(
    ("visits", "command"),
    [
        (0, ("dags", "test", "plain_0")),
        (0, ("tasks", "test", "plain_0", "video")),
        (2, ("tasks", "test", "plain_2", "video")),
    ],
)
def test_what_tries_a_dag_makes_a_video(runs: Runs, sandbox: Sandbox, command: tuple[str, ...], visits: int):
    before = {job["id"] for job in jobs_about(sandbox, f"plain, {visits}")}

    # The scheduler would take up the run that the command makes.
    runs.airflow.request("PATCH", f"dags/plain_{visits}", json={"is_paused": True})
    said = runs.airflow.run(*command)
    runs.airflow.request("PATCH", f"dags/plain_{visits}", json={"is_paused": False})

    (job,) = [job for job in jobs_about(sandbox, f"plain, {visits}") if job["id"] not in before]
    assert job["status"] == "COMPLETED"
    assert f"Job {job['id']}: video is ready" in said


def test_trying_a_task_of_a_run_that_a_trigger_has_ended_takes_the_video_that_is_there(runs: Runs, sandbox: Sandbox):
    run_id = runs.airflow.trigger("plain_0", run_id="ended")
    assert runs.airflow.wait("plain_0", run_id, timeout=PATIENCE_SECONDS) == "success"
    before = jobs_about(sandbox, "plain, 0")

    said = runs.airflow.run("tasks", "test", "plain_0", "video", run_id)

    assert "video is ready" in said
    assert jobs_about(sandbox, "plain, 0") == before


def test_while_the_job_renders_the_task_is_deferred_and_no_worker_process_of_it_lives(runs: Runs, sandbox: Sandbox):
    # A run of its own: those of the fixture may have ended by now.
    conf = {"prompt": "[[slow: 20]] a sunset", "connection": "hailuo_default", "key": "sunset"}
    run_id = runs.airflow.trigger("one_video", conf=conf)
    task = "from task_instance where dag_id = 'one_video' and run_id = %s"
    ((ti_id,),) = runs.query(f"select id {task}", run_id)
    seen = []
    while not seen or seen[-1][0] not in {"success", "failed"}:
        ((state,),) = runs.query(f"select state {task}", run_id)
        rendering = any(job["status"] == "PROCESSING" for job in jobs_about(sandbox, "a sunset"))
        seen.append((state, rendering, len(processes_about(str(UUID(str(ti_id)))))))
        time.sleep(0.1)
        assert len(seen) < 1200, seen[-1]

    # LocalExecutor's processes carry the id of their task instance in their title: two while it runs.
    assert max(processes for _, _, processes in seen) >= 1
    waiting = [processes for state, rendering, processes in seen if state == "deferred" and rendering]
    assert len(waiting) > 10
    assert set(waiting[len(waiting) // 2 :]) == {0}


def test_testing_the_connection_tells_the_credits(runs: Runs, sandbox: Sandbox):
    assert "Connection success!" in runs.airflow.run("connections", "test", "hailuo_default")

    # What the "Test" button of the form sends.
    form = {"connection_id": "tried", "conn_type": "hailuo", "host": sandbox.base_url, "port": 0}
    good = runs.airflow.request("POST", "connections/test", json={**form, "password": API_KEY})
    bad = runs.airflow.request("POST", "connections/test", json={**form, "password": WRONG_KEY})
    assert good == {"status": True, "message": f"Team Sandbox, plan sandbox, {sandbox.stats()['credits']} credits"}
    assert not bad["status"]
    assert "Invalid API key" in bad["message"]


def test_the_key_appears_nowhere(runs: Runs):
    runs.all_ended()
    home = runs.airflow.home
    logs = {str(path): path.read_bytes() for path in home.rglob("*.log")}
    tables = runs.query("select table_name from information_schema.tables where table_schema = 'public'")
    dump = "\n".join(str(runs.query(f'select * from "{table}"')) for (table,) in tables)
    xcoms = json.dumps(
        [runs.query("select * from xcom"), runs.query("select * from rendered_task_instance_fields")], default=str
    )

    # What is looked through is what is meant.
    assert sum("task_id=video" in path for path in logs) >= len(SCENARIOS)
    assert {"scheduler.log", "triggerer.log", "api-server.log", "dag-processor.log"} <= {
        path.rpartition("/")[2] for path in logs
    }
    assert "hailuo_wrong_key" in dump
    assert runs.xcoms("success")["job_id"] in xcoms
    assert any(runs.xcoms("success")["job_id"] in row for row in runs.trigger_rows)
    for key in (API_KEY, WRONG_KEY):
        assert [path for path, log in logs.items() if key.encode() in log] == []
        assert key not in dump
        assert key not in xcoms
        assert not any(key in row for row in runs.trigger_rows)


def test_no_trigger_row_or_event_is_large_or_holds_a_url(runs: Runs, sandbox: Sandbox):
    runs.all_ended()

    assert max(map(len, runs.trigger_rows)) < 1024
    assert not any(sandbox.base_url in row for row in runs.trigger_rows)
    assert "/videos/" not in (runs.airflow.home / "triggerer.log").read_text()
