from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_hailuo.operators import task_state
from airflow_provider_hailuo.operators.task_state import VariableStore, state_store
from tests.unit.operators.fakes import TaskInstance, Variables


def test_each_task_instance_has_a_variable_that_a_later_version_finds(monkeypatch: pytest.MonkeyPatch):
    variables = Variables()
    monkeypatch.setattr(task_state, "Variable", variables)
    store = VariableStore(TaskInstance())

    store.set("key", {"a": 1})

    # The SHA-256 of '["dag", "run", "video", -1]'.
    assert variables == {"key_f85b802c9c9cfcca818f2b17ffddd430291bc32bb0cc8a865a86453bdc39da92": '{"a": 1}'}
    assert VariableStore(TaskInstance(map_index=None)).get("key") == {"a": 1}
    assert VariableStore(TaskInstance(map_index=7)).get("key") is None
    store.delete("key")
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
    store = state_store({"ti": TaskInstance(), **context}, nested=nested, needed=lambda: needed)

    assert found in (store, type(store).__name__)
