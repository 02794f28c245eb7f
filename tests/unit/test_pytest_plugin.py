from __future__ import annotations

import subprocess
import sys

import pytest

# What tests inside of tests import is forgotten after them, but for what is there before: models must not come twice.
import airflow_provider_hailuo.sandbox.server
import airflow_provider_hailuo.triggers.batch  # noqa: F401

pytest_plugins = ["pytester"]

# By its name alone the plugin would come from what is installed, before coverage looks.
PLUGIN = ("-p", "no:hailuo", "-p", "airflow_provider_hailuo.pytest_plugin")


def test_the_connection_leads_to_a_running_sandbox_until_the_test_ends(pytester: pytest.Pytester):
    pytester.makepyfile("""
        import json
        import os

        from airflow_provider_hailuo.apiframe import calls
        from airflow_provider_hailuo.apiframe.client import Client, Settings
        from airflow_provider_hailuo.triggers import batch, hailuo

        def test_with_it(hailuo_sandbox):
            connection = json.loads(os.environ["AIRFLOW_CONN_HAILUO_DEFAULT"])
            assert connection["conn_type"] == "hailuo"
            with Client(Settings(api_key=connection["password"], base_url=connection["host"])) as client:
                submission = client.send(calls.generate_video({"prompt": "A wave", "model": "hailuo-02"}))
                assert client.send(calls.get_job(submission.job_id)).status == "COMPLETED"
            assert hailuo_sandbox.stats()["jobsCreated"] == 1
            assert batch.MIN_DEFERRED_SECONDS == hailuo.MIN_DEFERRED_SECONDS == 0

        def test_without_it():
            assert "AIRFLOW_CONN_HAILUO_DEFAULT" not in os.environ
            assert batch.MIN_DEFERRED_SECONDS == hailuo.MIN_DEFERRED_SECONDS > 0
    """)
    pytester.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=2)


def test_the_marker_of_a_test_or_its_module_gives_the_settings(pytester: pytest.Pytester):
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.hailuo_sandbox(credits=3, faults=[{"fault": "reset"}])

        def test_of_the_module(hailuo_sandbox):
            assert hailuo_sandbox.stats()["credits"] == 3

        @pytest.mark.hailuo_sandbox(render_seconds=60)
        def test_of_the_test(hailuo_sandbox):
            assert hailuo_sandbox.stats()["credits"] == 1000
    """)
    pytester.runpytest_inprocess(*PLUGIN, "--strict-markers").assert_outcomes(passed=2)


def test_without_the_extra_the_fixture_says_what_to_install(pytester: pytest.Pytester):
    pytester.makeconftest("import sys; sys.modules['av'] = None")
    pytester.makepyfile("def test_that_needs_it(hailuo_sandbox): ...")
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['The sandbox needs av: pip install "airflow-provider-hailuo[[]sandbox[]]"'])
    result.stdout.no_fnmatch_line("*During handling*")


def test_a_pytest_that_starts_imports_nothing_else():
    code = (
        "import json, sys, pytest; known = set(sys.modules); import airflow_provider_hailuo.pytest_plugin; "
        "print(*sorted(set(sys.modules) - known))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["airflow_provider_hailuo", "airflow_provider_hailuo.pytest_plugin"]
