"""What a running Airflow does with our tasks, the same for each version that the README names.

`make matrix` runs it with each of them. Where a version of Airflow itself does otherwise it says so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from urllib.request import url2pathname

import pytest

from tests.versions.conftest import AIRFLOW, Situations

pytestmark = pytest.mark.system

REMEMBERS = AIRFLOW >= (3, 3)
"""Whether this Airflow keeps a record of what a task began (its task state store)."""


def test_a_retry_after_a_timeout_takes_the_job_up(situations: Situations):
    name = "timeout_retried"
    situations.airflow.until(lambda: situations.tries(name)[0][1] >= 2)
    situations.sandboxes[name].set_faults([])
    # More tries may give up before that.
    assert situations.ended(name) == "success"
    (job,) = situations.jobs(name)
    assert job in situations.xcoms(name)["return_value"]
    assert "HailuoJobTimeoutException" in situations.log(name, 1)


def test_success(situations: Situations):
    assert situations.ended("success") == "success"
    assert situations.tries("success") == [("success", 1)]
    (job,) = situations.jobs("success")
    xcoms = situations.xcoms("success")
    assert xcoms["job_id"] == job
    assert xcoms["return_value"] == f"{situations.sandboxes['success'].base_url}/videos/{job}.mp4"
    assert xcoms["credit_cost"] == xcoms["job"]["credits"] == 5
    assert situations.xcoms("success", task_id="look")["return_value"] == {
        "url": xcoms["return_value"],
        "job": xcoms["job"],
    }


def test_the_link_leads_to_the_page_of_the_video_or_to_the_file(situations: Situations):
    assert situations.ended("success") == "success"
    run_id = situations.runs["success"]
    link = situations.xcoms("success")["return_value"]
    if AIRFLOW >= (3, 1):
        query = urlencode({"dag_id": "success", "run_id": run_id, "task_id": "video", "map_index": -1})
        link = f"hailuo/video?{query}"
    assert situations.airflow.links("success", run_id, "video") == {"Watch video": link}


def test_mapped_tasks_have_a_video_each(situations: Situations):
    assert situations.ended("mapped") == "success"
    urls = [situations.xcoms("mapped", n)["return_value"] for n in range(3)]
    assert sorted(url.rpartition("/")[2] for url in urls) == sorted(f"{job}.mp4" for job in situations.jobs("mapped"))


def test_a_retry_after_a_failed_render_renders_anew(situations: Situations):
    name = "render_failed_once"
    assert situations.ended(name) == "success"
    assert situations.tries(name) == [("success", 2)]
    failed, rendered = situations.jobs(name)
    assert failed in situations.log(name, 1)
    assert rendered in situations.xcoms(name)["return_value"]


def test_a_render_that_fails_at_each_try_fails_the_task(situations: Situations):
    name = "render_failed_twice"
    assert situations.ended(name) == "failed"
    assert situations.tries(name) == [("failed", 2)]
    jobs = situations.jobs(name)
    assert len(jobs) == 2
    for number, job in enumerate(jobs, start=1):
        log = situations.log(name, number)
        assert job in log
        assert "HailuoJobFailedException" in log
    assert "return_value" not in situations.xcoms(name)


def test_the_execution_timeout_ends_the_wait_and_names_the_job(situations: Situations):
    name = "execution_timeout"
    assert situations.ended(name) == "failed"
    (job,) = situations.jobs(name)
    log = situations.log(name)
    _, found, message = log.rpartition("HailuoJobTimeoutException")
    assert found, log
    assert job in message


@pytest.mark.xfail(
    (3, 0) <= AIRFLOW < (3, 1, 2),
    reason="Airflow 3.0 to 3.1.1 does not try a killed task again",
    strict=True,
)
def test_a_task_that_is_killed_after_the_submission_is_retried_and_paid_once(situations: Situations):
    assert situations.ended("killed") == "success"
    (job,) = situations.jobs("killed")
    assert situations.tries("killed") == [("success", 2)]
    assert job in situations.xcoms("killed")["return_value"]


def test_a_cleared_task_that_had_delivered_asks_for_a_new_video(situations: Situations):
    name = "delivered_cleared"
    assert situations.ended(name) == "success"
    (first,) = situations.jobs(name)
    assert first in situations.xcoms(name)["return_value"]
    situations.clear(name)
    situations.airflow.until(lambda: situations.tries(name) == [("success", 2)])
    assert situations.ended(name) == "success"
    _, second = situations.jobs(name)
    assert second in situations.xcoms(name)["return_value"]


def test_a_cleared_task_that_had_timed_out_takes_the_job_up_where_airflow_remembers(situations: Situations):
    name = "timeout_cleared"
    assert situations.ended(name) == "failed"
    (first,) = situations.jobs(name)
    situations.sandboxes[name].set_faults([])
    situations.clear(name)
    situations.airflow.until(lambda: situations.tries(name) == [("success", 2)])
    jobs = situations.jobs(name)
    # Before 3.3 nothing tells a worker what the task began before it was cleared.
    assert len(jobs) == (1 if REMEMBERS else 2)
    assert jobs[-1] in situations.xcoms(name)["return_value"]
    assert jobs[0] == first


@pytest.mark.parametrize("visits", [0, 1])
def test_fewer_visits_to_a_worker_are_taken_where_they_can_be_had(situations: Situations, visits: int):
    name = f"visits_{visits}"
    assert situations.ended(name) == "success"
    assert situations.tries(name) == [("success", 1)]
    (job,) = situations.jobs(name)
    assert job in situations.xcoms(name)["return_value"]
    fell_back = f"worker_visits={visits} cannot be had with an Airflow older than 3.3" in situations.log(name)
    assert fell_back is not REMEMBERS


def test_another_triggerer_takes_over(situations: Situations):
    for name in situations.runs:
        situations.ended(name)
    name = "triggerer_killed"
    situations.begin(name)
    sandbox = situations.sandboxes[name]
    situations.airflow.until(lambda: sandbox.stats()["requests"]["GET /v2/jobs/{id}"])
    situations.airflow.kill("triggerer")
    looked = sum(sandbox.stats()["requests"].values())
    situations.airflow.start("triggerer")
    situations.airflow.until(lambda: sum(sandbox.stats()["requests"].values()) > looked)
    sandbox.set_faults([])
    assert situations.ended(name) == "success"
    assert situations.tries(name) == [("success", 1)]
    (job,) = situations.jobs(name)
    assert job in situations.xcoms(name)["return_value"]


def test_a_video_is_stored_with_what_belongs_to_it(situations: Situations):
    assert situations.ended("stored") == "success"
    (job,) = situations.jobs("stored")
    file = situations.directory / "stored" / f"{job}.mp4"
    xcoms = situations.xcoms("stored")
    assert xcoms["return_value"] == file.as_uri()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == xcoms["job"]["sha256"]
    assert json.loads(file.with_suffix(".json").read_text())["prompt"] == "x"


def test_a_job_that_was_submitted_is_waited_for_and_stored_by_other_tasks(situations: Situations):
    assert situations.ended("chain") == "success"
    (job,) = situations.jobs("chain")
    assert situations.xcoms("chain")["return_value"] == job
    file = situations.directory / "chain" / f"{job}.mp4"
    assert situations.xcoms("chain", task_id="store")["return_value"] == file.as_uri()
    assert file.stat().st_size == situations.xcoms("chain", task_id="store")["job"]["bytes"]


def test_a_function_writes_the_prompt(situations: Situations):
    assert situations.ended("decorated") == "success"
    facts = [situations.xcoms("decorated", n)["job"] for n in range(2)]
    assert [fact["prompt"] for fact in facts] == ["a teapot on a table", "a lamp on a table"]
    assert [fact["credits"] for fact in facts] == [8, 8]


@pytest.mark.skipif(AIRFLOW < (3, 1), reason="webhooks are received from Airflow 3.1 on")
def test_a_webhook_resumes_the_task_that_waits(situations: Situations):
    assert situations.ended("announced") == "success"
    assert situations.tries("announced") == [("success", 1)]
    (job,) = situations.jobs("announced")
    assert situations.xcoms("announced")["job"]["id"] == job


def test_a_batch_makes_what_is_missing_at_a_retry(situations: Situations):
    assert situations.ended("batch") == "success"
    assert situations.tries("batch") == [("success", 2)]
    prompts = Counter(job["input"]["prompt"] for job in situations.sandboxes["batch"].jobs())
    assert prompts == {"a": 1, "b": 1, "[[fail: no capacity]]": 1, "c": 1}
    (manifest,) = (situations.directory / "batch").glob("*.jsonl")
    assert situations.xcoms("batch")["return_value"] == manifest.as_uri()
    for line in manifest.read_text().splitlines():
        assert Path(url2pathname(urlsplit(json.loads(line)["uri"]).path)).stat().st_size == json.loads(line)["bytes"]
