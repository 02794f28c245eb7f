from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_hailuo import sandbox

KNOWS = {"video": set(), "faults": set(), "state": {"video"}, "http": {"state", "faults"}}
"""Which of the others each package of the sandbox may import."""


@pytest.mark.parametrize("package", KNOWS)
def test_imports_point_one_way(package: str) -> None:
    modules = "".join(path.read_text("utf-8") for path in Path(sandbox.__file__).with_name(package).glob("*.py"))
    imported = set(re.findall(r"from airflow_provider_hailuo\.sandbox\.(\w+)", modules))
    assert package in imported
    assert imported - {"errors", package} <= KNOWS[package]
