"""What is published, and what describes it, agree with the sources."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from airflow_provider_hailuo import __version__, get_provider_info

PROJECT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_hailuo"
RELEASE = f"{PACKAGE}-{__version__}"


def run(*command: str | Path) -> str:
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", directory)
    return directory


def files_of(folder: str = "") -> set[str]:
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", f"./{folder}").splitlines()
    return {name for name in names if (PROJECT / name).exists()}


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a checkout")
def test_the_sdist_has_what_git_has(dist: Path):
    with tarfile.open(dist / f"{RELEASE}.tar.gz") as sdist:
        assert {name.removeprefix(f"{RELEASE}/") for name in sdist.getnames()} == {*files_of(), "PKG-INFO"}


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a checkout")
def test_the_wheel_has_the_package_and_nothing_else(dist: Path):
    with zipfile.ZipFile(dist / f"{RELEASE}-py3-none-any.whl") as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(f"{RELEASE}.dist-info/")}

    assert names == files_of(PACKAGE)


def test_the_version_is_written_down_once(dist: Path):
    """Besides in the changelog, and where it says since when something is there."""
    where = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    with tarfile.open(dist / f"{RELEASE}.tar.gz") as sdist:
        texts = {
            member.name.removeprefix(f"{RELEASE}/"): sdist.extractfile(member).read().decode(errors="replace")
            for member in sdist
            if re.search(rf"^{RELEASE}/({PACKAGE}|deploy|docs|README|pyproject)", member.name)
        }

    assert [
        f"{name}: {line.strip()}"
        for name, text in texts.items()
        for line in text.splitlines()
        if where.search(line) and '"version_added"' not in line
    ] == [f'{PACKAGE}/__init__.py: __version__ = "{__version__}"']


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## (.*)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert re.fullmatch(rf"{re.escape(__version__)} - (unreleased|\d{{4}}-\d\d-\d\d)", first[1])


def test_the_registry_is_told_what_airflow_is_told():
    told = yaml.safe_load((PROJECT / ".airflow-registry.yaml").read_text())
    info = get_provider_info()

    def defined_in(module: str) -> set[str]:
        bases = ("BaseOperator", "BaseHook", "BaseTrigger")
        return {
            f"{module}.{name}"
            for name, value in vars(importlib.import_module(module)).items()
            if inspect.isclass(value) and value.__module__ == module and not name.startswith("_")
            if any(base.__name__ in bases for base in value.__mro__)
        }

    assert told.pop("package-name") == info["package-name"]
    assert told.pop("display-name") == info["name"]
    assert told.pop("description") == info["description"]
    assert {kind: {entry["module"] for entry in entries} for kind, entries in told.items()} == {
        **{
            kind: {name for entry in info[kind] for module in entry["python-modules"] for name in defined_in(module)}
            for kind in ("operators", "hooks", "sensors", "triggers")
        },
        "transfers": {name for entry in info["transfers"] for name in defined_in(entry["python-module"])},
        "task-decorators": {entry["class-name"] for entry in info["task-decorators"]},
    }


def test_the_hooks_of_a_commit_are_the_checks_of_make_lint():
    (repo,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    lint = [line.replace(" --check", "") for line in run("make", "--dry-run", "lint").splitlines()]

    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].replace(" --fix", "") in lint


def test_make_help_tells_of_each_target():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)

    assert {line.split()[1] for line in run("make", "--no-print-directory", "help").splitlines()} == set(
        phony.split()
    )
