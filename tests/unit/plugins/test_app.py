from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")  # not there on Airflow 2

from fastapi import FastAPI
from fastapi.testclient import TestClient

from airflow_provider_hailuo.plugins.app import STATIC
from airflow_provider_hailuo.plugins.hailuo import HailuoPlugin

PAGES = ("gallery", "video")
FILES = sorted(path.name for path in STATIC.iterdir())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Return a client of an app in which ours is mounted as Airflow mounts it."""
    (ours,) = HailuoPlugin().fastapi_apps
    airflow = FastAPI()
    airflow.mount(ours["url_prefix"], ours["app"])
    with TestClient(airflow, base_url="http://airflow.example") as client:
        yield client


@pytest.mark.parametrize("path", [*PAGES, *(f"static/{name}" for name in FILES)])
def test_what_there_is_is_served(client: TestClient, path: str):
    name = path.removeprefix("static/") if "/" in path else f"{path}.html"

    answer = client.get(f"/hailuo/{path}")

    assert (answer.status_code, answer.text) == (200, (STATIC / name).read_text())
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[Path(name).suffix])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((path, 200) for path in ("gallery", "video?dag_id=d", "static/gallery.js", "static/icon.svg")),
        ("", 404),
        ("nothing", 404),
        ("static/", 404),
        ("static/nothing.js", 404),
        ("static/..%2fapp.py", 404),
        ("static/%2e%2e/app.py", 404),
        ("static/..%5capp.py", 404),
        ("docs", 404),
        ("openapi.json", 404),
    ],
)
def test_every_answer_has_the_headers_that_keep_strangers_out(client: TestClient, path: str, status: int):
    answer = client.get(f"/hailuo/{path}")

    assert answer.status_code == status
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    ours = dict.fromkeys(("script-src", "style-src", "connect-src", "frame-ancestors"), "'self'")
    assert policy == {**policy, "default-src": "'none'", **ours}
    assert "unsafe" not in str(policy)
    names = ("x-content-type-options", "referrer-policy", "cache-control")
    assert [answer.headers[name] for name in names] == ["nosniff", "no-referrer", "no-cache"]


@pytest.mark.parametrize("name", FILES)
def test_all_that_a_file_asks_for_is_there_and_relative(name: str):
    text = (STATIC / name).read_text()

    asked = re.findall(r'(?:src|href)="([^"]*)"', text) if name.endswith(".html") else []
    asked += [f"static/{module[2:]}" for module in re.findall(r'(?:from|import) "([^"]*)"', text)]

    assert all((STATIC.parent / path).is_file() for path in asked)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def test_both_languages_have_the_same_texts_with_the_same_blanks():
    source = (STATIC / "texts.js").read_text()
    english, korean = (
        {
            name: set(re.findall(r"\{(\w+)\}", text))
            for name, text in re.findall(
                r"^  (\w+): (.+),$", source.partition(f"const {code} = {{")[2].partition("\n};")[0], re.MULTILINE
            )
        }
        for code in ("EN", "KO")
    )

    assert len(english) > 50
    assert english == korean


def test_every_text_that_a_page_shows_exists():
    known = set(re.findall(r"^  (\w+): ", (STATIC / "texts.js").read_text(), re.MULTILINE))
    pages = "".join((STATIC / name).read_text() for name in FILES if name.endswith(".js") and name != "texts.js")

    assert set(re.findall(r'\bt\("(\w+)"', pages)) <= known
    for kind in re.findall(r'notice\("(\w+)"', pages):
        assert {f"{kind}_title", f"{kind}_text"} <= known
