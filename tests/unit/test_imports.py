"""Imports inside the package point one way."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import airflow_provider_hailuo

ROOT = Path(airflow_provider_hailuo.__file__).parent
SELF = airflow_provider_hailuo.__name__


def imports() -> dict[str, set[str]]:
    """Return what each package, or module beside them, imports of the others."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == SELF:
                _, *inner = node.module.split(".")
                found[name] |= set(inner[:1] or [alias.name for alias in node.names]) - {name}
    return found


def test_no_package_imports_itself_through_another_one():
    TopologicalSorter(imports()).prepare()  # raises CycleError


def test_the_client_of_the_api_knows_no_airflow_and_nothing_of_the_rest():
    assert imports()["apiframe"] == {"__version__"}
    assert not any("airflow." in path.read_text("utf-8") for path in ROOT.glob("apiframe/*.py"))


def test_who_imports_whom_is_as_the_design_says():
    found = imports()
    layers = [{"plugins", "operators", "sensors", "transfers", "decorators"}, {"triggers"}, {"hooks"}]
    for n, layer in enumerate(layers):
        above = set().union(*layers[:n])
        assert all(found[name].isdisjoint(above) for name in layer)
    assert {name for name, others in found.items() if "sandbox" in others} == {"pytest_plugin"}


def test_the_sandbox_has_its_own_idea_of_the_api():
    modules = "".join(path.read_text("utf-8") for path in (ROOT / "sandbox").rglob("*.py"))
    foreign = {line for line in modules.splitlines() if f"from {SELF}" in line and f"from {SELF}.sandbox" not in line}
    assert foreign == {
        f"from {SELF}.apiframe.models import JobStatus",
        f"from {SELF}.apiframe.models import FINAL_STATUSES",
        f"from {SELF} import sandbox",
    }
