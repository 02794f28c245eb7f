"""`@task.hailuo` in a real Airflow."""

from __future__ import annotations

import pytest

from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.xcoms import LINK
from tests.system.conftest import Runs
from tests.system.test_operator import jobs_about

pytestmark = pytest.mark.system


def test_a_function_is_given_the_context_and_returns_a_template(runs: Runs, sandbox: Sandbox):
    assert runs.ended("decorated_text") == "success"
    prompt = f"a decorated sunrise on {runs.ids['decorated_text']} of decorated_text, try 1"

    (job,) = jobs_about(sandbox, prompt)
    xcoms = runs.xcoms("decorated_text")
    assert (xcoms["return_value"], xcoms["job_id"]) == (f"{sandbox.base_url}/videos/{job['id']}.mp4", job["id"])
    assert xcoms["job"]["prompt"] == xcoms["request"]["prompt"] == prompt
    (shown,) = runs.airflow.task_instances("decorated_text", runs.ids["decorated_text"])
    assert shown["operator_name"] == "@task.hailuo"
    assert shown["rendered_fields"]["prompt"] == prompt


def test_a_dictionary_goes_before_the_arguments_and_the_next_task_gets_url_and_job(runs: Runs, sandbox: Sandbox):
    assert runs.ended("decorated_fields") == "success"

    (job,) = jobs_about(sandbox, "a decorated boat")
    xcoms = runs.xcoms("decorated_fields")
    assert job["input"]["hailuoParams"] == {"duration": 10, "resolution": "768p"}
    assert (xcoms["job"]["duration"], xcoms["credit_cost"]) == (10, 8)
    seen = runs.airflow.xcom("decorated_fields", runs.ids["decorated_fields"], "look")
    assert seen == {"url": xcoms["return_value"], "job": xcoms["job"]}


def test_it_is_mapped_and_overridden_and_a_trigger_ends_it(runs: Runs, sandbox: Sandbox):
    assert runs.ended("decorated_mapped") == "success"
    jobs = {job["input"]["prompt"]: job["id"] for job in jobs_about(sandbox, "a table")}

    another = runs.airflow.xcoms("decorated_mapped", runs.ids["decorated_mapped"], "another")
    assert jobs == {
        "a decorated teapot on a table": runs.xcoms("decorated_mapped", 0)["job_id"],
        "a decorated lamp on a table": runs.xcoms("decorated_mapped", 1)["job_id"],
        "a decorated box under a table": another["job_id"],
    }
    assert (another["job"]["resolution"], another["return_value"]) == ("1080p", another["job"]["url"])
    log = runs.log("decorated_mapped", map_index=0)
    assert "worker_visits=0 cannot be had" in log
    assert ": it is 1" in log


def test_another_prompt_at_each_try_is_paid_once(runs: Runs, sandbox: Sandbox):
    assert runs.ended("decorated_retried") == "success"
    ((state, tries),) = runs.tries("decorated_retried")

    assert (state, tries > 1) == ("success", True)
    (job,) = jobs_about(sandbox, "a decorated late sunrise")
    assert runs.xcoms("decorated_retried")["job"]["prompt"] == job["input"]["prompt"]


def test_a_function_that_returns_nothing_fails_at_once_and_pays_nothing(runs: Runs):
    assert runs.ended("decorated_nothing") == "failed"

    assert runs.tries("decorated_nothing") == [("failed", 1)]
    assert "write_nothing(): None: must return a prompt" in runs.log("decorated_nothing")
    assert runs.xcoms("decorated_nothing") == {LINK: ""}
