from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_provider_hailuo.decorators.hailuo import _HailuoDecoratedOperator
from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.plugins import hailuo
from airflow_provider_hailuo.plugins.hailuo import HailuoPlugin
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor
from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator


def views(monkeypatch: pytest.MonkeyPatch, *, tab: bool = False, limits_tabs: bool = False) -> dict[str, dict]:
    monkeypatch.setenv("AIRFLOW__HAILUO__VIDEO_TAB", str(tab))
    monkeypatch.setattr(hailuo, "_LIMITS_TABS", limits_tabs)
    return {view["destination"]: view for view in HailuoPlugin().external_views}


def test_the_navigation_leads_to_the_gallery_and_nothing_else_is_shown(monkeypatch: pytest.MonkeyPatch):
    shown = views(monkeypatch)

    assert list(shown) == ["nav"]
    assert (shown["nav"]["href"], shown["nav"]["url_route"]) == ("hailuo/gallery", "hailuo")


def test_tabs_are_there_for_who_wants_them(monkeypatch: pytest.MonkeyPatch):
    shown = views(monkeypatch, tab=True)

    assert {destination: view["name"] for destination, view in shown.items()} == {
        "nav": "Hailuo",
        "task_instance": "Video",
        "dag": "Videos",
        "dag_run": "Videos",
    }
    assert "applies_to" not in shown["task_instance"]


def test_where_airflow_can_limit_a_tab_it_stands_on_our_tasks_alone(monkeypatch: pytest.MonkeyPatch):
    shown = views(monkeypatch, limits_tabs=True)

    assert list(shown) == ["nav", "task_instance"]
    ours = (
        HailuoGenerateOperator,
        HailuoGenerateBatchOperator,
        _HailuoDecoratedOperator,
        HailuoJobSensor,
        HailuoToObjectStorageOperator,
    )
    assert shown["task_instance"]["applies_to"] == {"operators": [operator.__name__ for operator in ours]}


def test_all_of_it_is_relative_so_that_airflow_may_lie_below_a_path(monkeypatch: pytest.MonkeyPatch):
    for view in views(monkeypatch, tab=True, limits_tabs=True).values():
        assert all(view[name].startswith("hailuo/") for name in ("href", "icon", "icon_dark_mode"))


def test_airflow_may_remove_a_view_of_it():
    plugin = HailuoPlugin()

    plugin.external_views.remove(plugin.external_views[0])

    assert plugin.external_views == []


def test_a_process_that_serves_no_pages_loads_no_fastapi():
    looks = (
        "import airflow.plugins_manager, sys; before = set(sys.modules);"
        "from airflow_provider_hailuo.plugins.hailuo import HailuoPlugin; HailuoPlugin().external_views;"
        "new = set(sys.modules) - before;"
        "print({name for name in new if not name.startswith('airflow_provider_hailuo')})"
    )

    done = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "set()"
