"""The pages name all that they have to: what is added to the code has to be told."""

from __future__ import annotations

import inspect
import re

import pytest

from airflow_provider_hailuo import get_provider_info, metrics
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sandbox.faults import rules
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor
from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator
from tests.docs.pages import PROJECT, pieces


def parameters(of: type) -> set[str]:
    return {name for name, one in inspect.signature(of.__init__).parameters.items() if one.kind is one.KEYWORD_ONLY}


def faults() -> set[str]:
    schema = rules._RULES.json_schema()
    fields = {field for rule in schema["$defs"].values() for field in rule["properties"]}
    return fields - {"fault"} | set(schema["items"]["discriminator"]["mapping"])


NAMED = {
    "connection.md": set(get_provider_info()["connection-types"][0]["conn-fields"]),
    "generate.md": parameters(HailuoGenerateOperator),
    "metrics.md": {value for constant, value in vars(metrics).items() if constant.isupper()},
    "sandbox.md": faults(),
    "submitted-elsewhere.md": parameters(HailuoJobSensor) | parameters(HailuoToObjectStorageOperator),
}
"""What stands between backticks on which page."""


@pytest.mark.parametrize("page", NAMED)
def test_a_page_names_all(page: str):
    told = {word for piece in pieces(PROJECT / "docs" / page) for word in re.findall(r"[\w.-]+", piece)}

    assert NAMED[page]
    assert not NAMED[page] - told
