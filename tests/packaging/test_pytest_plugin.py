"""A project of a user tests its DAG with the plugin, as the wheel brings it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.docs.pages import blocks

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "example_project"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment with the wheel, and all that the one of the tests has but its sources."""
    environment = tmp_path / "venv"
    venv.create(environment)
    site_packages = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "airflow_provider_hailuo" not in package.name:
            (site_packages / package.name).symlink_to(package)
    python = environment / "bin" / "python"
    uv = (sys.executable, "-m", "uv")
    run(*uv, "build", "--wheel", "--no-build-isolation", f"--python={sys.executable}", f"--out-dir={tmp_path}")
    run(*uv, "pip", "install", "--offline", "--no-deps", f"--python={python}", *tmp_path.glob("*.whl"))
    return python


def test_the_example_project_tests_its_dag_with_the_wheel(python: Path, tmp_path: Path):
    project = shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns(".*"))
    where = run(python, "-c", "import airflow_provider_hailuo as package; print(package.__file__)", cwd=project)
    assert Path(where).is_relative_to(tmp_path)
    run(python, "-m", "pytest", cwd=project)


def test_the_documentation_shows_the_files_of_the_example_project():
    shown = {block.text for block in blocks(ROOT / "docs/testing.md") if block.language == "python"}
    assert shown == {path.read_text("utf-8") for path in PROJECT.glob("*/*.py")}
