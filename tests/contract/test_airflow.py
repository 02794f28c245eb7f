"""What the installed Airflow makes of the provider: the connection form, and the quick start in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import airflow
import av
import pytest
from airflow.providers_manager import ProvidersManager

from airflow_provider_hailuo.compat import AIRFLOW
from airflow_provider_hailuo.sandbox import Sandbox

PROJECT = Path(__file__).parents[2]


def test_the_quick_start_makes_one_video_and_saves_it(tmp_path: Path):
    with Sandbox(render_seconds=1, jitter=0, seed=1) as sandbox:
        connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "example_dags"),
            "AIRFLOW_CONN_HAILUO_DEFAULT": json.dumps(connection),
            "HAILUO_VIDEOS": str(tmp_path),
        }

        def airflow(*arguments: str) -> None:
            command = [sys.executable, "-m", "airflow", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
            assert done.returncode == 0, done.stdout + done.stderr

        airflow("db", "migrate")
        airflow("dags", "test", "hailuo_quickstart", "2026-01-01")

        (saved,) = tmp_path.glob("*.mp4")
        with av.open(str(saved)) as video:
            assert (video.streams.video[0].width, video.streams.video[0].height) == (1366, 768)
        assert sandbox.stats()["jobs"]["COMPLETED"] == 1
        assert sandbox.stats()["creditsCharged"] == 5


@pytest.mark.filterwarnings("ignore")  # of the form's libraries in Airflow 2
def test_the_connection_form_asks_for_what_is_used():
    if airflow.__version__.startswith(("3.0.", "3.1.")):
        pytest.importorskip("flask_appbuilder", reason="the forms of Airflow 3.0 and 3.1 need the FAB provider")
    providers = ProvidersManager()

    form = providers.field_behaviours["hailuo"]
    assert form["relabeling"] == {"password": "Apiframe API key", "host": "Base URL"}
    assert set(form["hidden_fields"]) == {"schema", "login", "port", "extra"}
    assert form["placeholders"]["host"] == "https://api.apiframe.ai"
    extra = {name for name in providers.connection_form_widgets if name.startswith("extra__hailuo__")}
    assert extra == {f"extra__hailuo__{name}" for name in ("timeout", "retries", "namespace")}


@pytest.mark.parametrize(
    "directory",
    [
        "example_dags",
        pytest.param(
            "tests/system/dags", marks=pytest.mark.skipif(AIRFLOW < (3, 3), reason="written for Airflow 3.3")
        ),
    ],
)
def test_each_dag_can_be_imported_and_has_a_name_of_its_own(directory: str, monkeypatch: pytest.MonkeyPatch):
    bags = pytest.importorskip("airflow.dag_processing.dagbag", reason="written for Airflow 3")
    monkeypatch.setenv("HAILUO_SANDBOX", "http://127.0.0.1:9")

    bag = bags.DagBag(str(PROJECT / directory))

    assert bag.import_errors == {}
    assert bag.dags
