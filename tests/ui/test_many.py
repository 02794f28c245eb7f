"""500 videos: the gallery stays quick, because it reads a little at a time and holds few videos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import SCREENSHOTS, Look, Site, Videos, settle

pytestmark = pytest.mark.system

MANY = 500 - 1
HELD = 40
"""How many videos the page may hold at a time, wherever it is scrolled to: those of some screens."""


def copy(cursor: Any, table: str, where: str, changes: Mapping[str, str]) -> None:
    """Copy one row of a table often.

    :param changes: the columns that differ, as SQL in which `n` is the number; None for one that has a default.
    """
    cursor.execute("select column_name from information_schema.columns where table_name = %s", [table])
    columns = {f'"{name}"': changes.get(name, f'"{name}"') for (name,) in cursor.fetchall()}
    columns = {name: value for name, value in columns.items() if value}
    cursor.execute(
        f"insert into {table} ({', '.join(columns)})"
        f" select {', '.join(columns.values())} from {table}, generate_series(1, {MANY}) n where {where}"
    )


@pytest.fixture(scope="module")
def many(videos: Videos) -> Iterator[Videos]:
    """Write runs with a video each straight into Airflow's database: copies of one, each an hour older."""
    videos.all_ended()
    moved = {name: f"{name} - n * interval '1 hour'" for name in ("start_date", "end_date", "queued_dttm")}
    run = {"run_id": "'many__' || n"}
    where = f"dag_id = 'ready' and run_id = '{videos.runs['ready']}'"
    whose = f"(select id from dag_run where dag_id = 'ready' and run_id = {run['run_id']})"
    text = "replace(value::text, 'A red paper boat', 'Video number ' || n)::jsonb"
    with videos.database() as cursor:
        copy(cursor, "dag_run", where, {**run, **moved, "id": "", "logical_date": "null"})
        copy(cursor, "task_instance", f"{where} and task_id = 'video'", {**run, **moved, "id": "gen_random_uuid()"})
        copy(cursor, "xcom", f"{where} and task_id = 'video'", {**run, "dag_run_id": whose, "value": text})
    yield videos
    with videos.database() as cursor:
        for table in "xcom", "task_instance", "dag_run":
            cursor.execute(f"delete from {table} where dag_id = 'ready' and run_id like 'many%'")


def held(page: Page) -> int:
    """Return how many videos the page holds."""
    return page.locator("video").count()


def test_500_videos_are_read_a_little_at_a_time(many: Videos, site: Site, look: Look):
    page = look("about:blank")
    look.requests.clear()
    page.goto(site.page("gallery", dag="ready"))
    page.locator("#cards .card video").first.wait_for()
    first_card = page.evaluate("performance.now()")
    first = len(look.requests)
    settle(page)
    all_read = page.evaluate("performance.now()")
    expect(page.locator("#count")).to_have_text("500 entries")
    expect(page.locator("#total-videos .value")).to_have_text("500")
    assert page.locator("#cards .card").count() <= 100
    assert held(page) <= HELD
    most = held(page)
    for _ in range(30):
        page.mouse.wheel(0, 2500)
        page.wait_for_timeout(100)
        most = max(most, held(page))
    assert most <= HELD
    settle(page)

    kinds = Counter(kind(url) for url in look.requests)
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    heap = page.evaluate("performance.memory.usedJSHeapSize")
    report = {
        "videos": MANY + 1,
        "first card with a picture, ms": round(first_card),
        "requests until then": first,
        "all read, ms": round(all_read),
        "requests in all": dict(kinds),
        "JS heap, MB": round(heap / 1e6, 1),
        "most videos held at a time": most,
    }
    SCREENSHOTS.mkdir(exist_ok=True)
    (SCREENSHOTS / "many.json").write_text(json.dumps(report, indent=2))
    # A page of task instances for each hundred, one XCom for each task, and a little for what failed or goes on.
    assert kinds["taskInstances"] <= 10
    assert kinds["xcomEntries"] <= MANY + 20


def kind(url: str) -> str:
    """Return what a request is about."""
    path = urlsplit(url).path
    return next((name for name in ("xcomEntries", "taskInstances", "static", ".mp4") if name in path), path)
