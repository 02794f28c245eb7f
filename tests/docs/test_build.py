"""The documentation builds without a warning, and what it shows needs nobody else's server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_hailuo import __version__
from tests.docs.pages import PROJECT

pytest.importorskip("sphinx", reason="the documentation is built in the environment of Airflow 3.3")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("html")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--nitpicky", "--fail-on-warning", "docs", str(folder)]
    home = {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    done = subprocess.run(build, cwd=PROJECT, env=os.environ | home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_carry_the_version_of_the_package(html: Path):
    assert f"airflow-provider-hailuo {__version__}" in (html / "index.html").read_text("utf-8")


def test_the_reference_has_what_the_docstrings_say(html: Path):
    reference = (html / "api.html").read_text("utf-8")

    for name in "HailuoGenerateOperator", "HailuoGenerateBatchOperator", "HailuoHook", "Sandbox", "hailuo_task":
        assert re.search(rf'id="airflow_provider_hailuo\.[\w.]*{name}"', reference), name


def test_pages_load_nothing_from_elsewhere(html: Path):
    loaded = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
    imported = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//""")
    pages, styles = list(html.rglob("*.html")), list(html.rglob("*.css"))

    assert pages
    assert styles
    assert not [(page.name, found) for page in pages for found in loaded.findall(page.read_text("utf-8"))]
    assert not [style.name for style in styles if imported.search(style.read_text("utf-8"))]
