from __future__ import annotations

import importlib
import json
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

import airflow_provider_hailuo


@pytest.fixture
def info() -> dict:
    (entry_point,) = [
        e for e in metadata.entry_points(group="apache_airflow_provider") if e.module == "airflow_provider_hailuo"
    ]
    return entry_point.load()()


def test_airflow_accepts_it(info: dict):
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())

    jsonschema.validate(info, schema)


def test_it_is_about_this_distribution(info: dict):
    distribution = metadata.distribution(info["package-name"])

    assert distribution.version == airflow_provider_hailuo.__version__ == info["versions"][0]


def test_what_is_tested_lies_beside_the_tests():
    assert Path(airflow_provider_hailuo.__file__).parents[1] == Path(__file__).parents[2]


def test_every_module_and_class_that_it_names_is_there(info: dict):
    of_modules = ("hooks", "operators", "sensors", "triggers")
    modules = {module for kind in of_modules for entry in info[kind] for module in entry["python-modules"]}
    modules |= {transfer["python-module"] for transfer in info["transfers"]}
    classes = [connection["hook-class-name"] for connection in info["connection-types"]]
    classes += [decorator["class-name"] for decorator in info["task-decorators"]] + info["extra-links"]

    for module in modules:
        importlib.import_module(module)
    for path in classes:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name).__name__ == name
