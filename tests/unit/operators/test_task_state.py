from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_hailuo.operators import task_state
from airflow_provider_hailuo.operators.task_state import VariableStore, state_store


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    kept: dict[str, str] = {}
    stand_in = SimpleNamespace(get=kept.get, set=kept.__setitem__, delete=kept.__delitem__)
    monkeypatch.setattr(task_state, "Variable", stand_in)
    return kept


def task_instance(map_index: int | None = -1) -> SimpleNamespace:
    return SimpleNamespace(dag_id="dag", run_id="run", task_id="video", map_index=map_index)


def test_each_task_instance_has_a_variable_that_a_later_version_finds(variables: dict[str, str]):
    VariableStore(task_instance()).set("key", {"a": 1})

    # The SHA-256 of '["dag", "run", "video", -1]'.
    assert variables == {"key_f85b802c9c9cfcca818f2b17ffddd430291bc32bb0cc8a865a86453bdc39da92": '{"a": 1}'}
    assert VariableStore(task_instance(None)).get("key") == {"a": 1}
    assert VariableStore(task_instance(7)).get("key") is None
    VariableStore(task_instance()).delete("key")
    assert variables == {}


@pytest.mark.parametrize(
    ("context", "nested", "needed", "found"),
    [
        ({"task_state_store": "store"}, False, False, "store"),
        ({"task_state_store": "store"}, True, True, "NoneType"),
        ({}, False, True, "VariableStore"),
        ({}, False, False, "NoneType"),
        ({}, True, True, "NoneType"),
    ],
)
def test_a_variable_takes_the_place_of_the_store_where_it_is_needed(
    context: dict[str, Any], nested: bool, needed: bool, found: str
):
    store = state_store({"ti": task_instance(), **context}, nested=nested, needed=lambda: needed)

    assert found in (store, type(store).__name__)
