"""A real browser in front of a real Airflow: one of each for all tests, and a context of the browser for each test.

Two API servers serve the same Airflow: at one everybody is admin, below no path; at the other one users have roles
(FAB), and all lies below `/airflow`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import psycopg2
import pytest
from axe_playwright_python.sync_playwright import Axe
from local_airflow import LocalAirflow
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Frame,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from airflow_provider_hailuo.sandbox import Sandbox

HERE = Path(__file__).parent
SCREENSHOTS = HERE.parents[1] / ".screenshots"
PATIENCE_SECONDS = 600
"""How long a run may take on a machine that is many times slower."""

GLANCE_SECONDS = 180
"""How long a page may take there until it shows something."""

GONE = {"fault": "error", "status": 404, "route": "GET /videos/{id}.mp4"}
"""What happens to the links of one account: they have expired."""

EXPIRED = r"status of 404 .*/videos/[^/]*\.mp4$"
"""What Chromium itself says of such a link, sooner or later: no fault of the page."""

PASSWORD = "of everybody here"
USERS = {"ann": "Admin", "vic": "Viewer", "gus": "Guest"}
"""Who may sign in where users have roles, and the role; a guest may read all but one DAG."""

CONFIDENTIAL = "confidential"
"""The DAG that a guest may not read."""

expect.set_options(timeout=GLANCE_SECONDS * 1000)

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A container's own may be too small for a browser.
    "--disable-dev-shm-usage",
    # Else it asks for the proxy of loopback addresses too.
    "--no-proxy-server",
)

DAGS = (
    "ready",
    "markup",
    "rendering",
    "failed",
    "paid",
    "expired",
    "stored",
    "mapped",
    "batch",
    "decorated",
    CONFIDENTIAL,
)


NO_BROWSER = "no browser is there: apt-get install chromium, or playwright install chromium"


def find_browser(playwright: Playwright) -> str | None:
    """Return the path of a browser: Playwright's own, or one that is installed."""
    own = playwright.chromium.executable_path
    names = ("chromium", "chromium-browser", "google-chrome")
    return own if Path(own).exists() else next(filter(None, map(shutil.which, names)), None)


@dataclass(frozen=True)
class Site:
    """Where Airflow is served.

    :param url: the base URL, without a slash at its end.
    """

    url: str

    def page(self, path: str, **query: object) -> str:
        """Return the URL of one of our pages, such as `gallery`."""
        return f"{self.url}/hailuo/{path}{'?' if query else ''}{urlencode(query, quote_via=quote)}"


class SiteWithRoles(Site):
    """Where users sign in."""

    @cache  # noqa: B019 - there is one such place
    def token(self, user: str) -> str:
        """Return the token of a user's session."""
        body = {"username": user, "password": PASSWORD}
        answer = httpx.post(f"{self.url}/auth/token", json=body, timeout=PATIENCE_SECONDS, trust_env=False)
        return answer.raise_for_status().json()["access_token"]

    def cookies(self, user: str) -> list[dict[str, str]]:
        """Return what a browser has in which a user is signed in."""
        return [{"name": "_token", "value": self.token(user), "url": f"{self.url}/"}]


class Videos:
    """A run of each DAG, in a real Airflow."""

    def __init__(self, airflow: LocalAirflow, sandbox: Sandbox, expired: Sandbox, directory: Path) -> None:
        self.airflow = airflow
        self.sandbox = sandbox
        self.expired = expired
        conf = {"directory": str(directory), "words": "a long journey"}
        self.runs = {dag_id: airflow.trigger(dag_id, conf) for dag_id in DAGS}

    @cache  # noqa: B019 - there is one such Airflow
    def ended(self, dag_id: str) -> str:
        """Wait for the end of the run of a DAG, and return its state."""
        run_id = self.runs[dag_id]
        while True:
            state = self.airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS)
            tasks = self.airflow.task_instances(dag_id, run_id)
            # On a machine that is too busy the executor fails tasks before they begin.
            if not any(task["state"] == "failed" and task["start_date"] is None for task in tasks):
                return state
            self.airflow.clear(dag_id, run_id)

    def place(self, dag_id: str, task_id: str = "video", map_index: int = -1) -> dict[str, object]:
        """Return which task instance it is, as the pages are told, when the run has ended."""
        if dag_id != "rendering":
            self.ended(dag_id)
        return {"dag_id": dag_id, "run_id": self.runs[dag_id], "task_id": task_id, "map_index": map_index}

    def xcom(self, dag_id: str, key: str = "job", map_index: int = -1) -> Any:
        return self.airflow.xcom(dag_id, self.runs[dag_id], "video", key, map_index)

    @cache  # noqa: B019 - there is one such Airflow
    def all_ended(self) -> None:
        """Wait for the end of all runs but the one that goes on rendering."""
        for dag_id in DAGS:
            self.place(dag_id)
        self.airflow.until(lambda: self._state("rendering") == "deferred")

    def _state(self, dag_id: str) -> str | None:
        return self.airflow.tries(dag_id, self.runs[dag_id], "video")[0][0]

    @contextmanager
    def render(self, words: str) -> Iterator[str]:
        """Let one more render begin for a while, with these words in its prompt; yield the id of its run."""
        run_id = self.airflow.trigger("rendering", {"words": words})
        try:
            yield run_id
        finally:
            self.airflow.request("DELETE", f"dags/rendering/dagRuns/{quote(run_id, safe='')}")

    def release(self, words: str, run_id: str) -> None:
        """Let the renders with these words end, and wait for the end of their run."""

        def has_ended() -> bool:
            self.sandbox.release(words)
            return self.airflow.state("rendering", run_id) in {"success", "failed"}

        self.airflow.until(has_ended)

    @contextmanager
    def with_job(self, dag_id: str, job: object) -> Iterator[None]:
        """Let the XCom `job` of the task `video` have another value for a while."""
        path = f"dags/{dag_id}/dagRuns/{quote(self.runs[dag_id], safe='')}/taskInstances/video/xcomEntries/job"
        before = self.xcom(dag_id)
        self.airflow.request("PATCH", path, json={"value": job})
        try:
            yield
        finally:
            self.airflow.request("PATCH", path, json={"value": before})

    @contextmanager
    def database(self) -> Iterator[Any]:
        """Yield a cursor in Airflow's database; what was done is committed at the end."""
        assert self.airflow.postgres
        url = self.airflow.postgres.url.replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as database, database, database.cursor() as cursor:
            yield cursor


def settle(page: Page | Frame) -> None:
    """Wait until all that a page reads is there, and each video on the screen shows its first picture."""
    script = """() => document.querySelector('h1')
        && (document.querySelector('.notice') || document.querySelector('#count, #status')?.textContent)
        && !document.querySelector('[aria-busy=true]')
        && [...document.querySelectorAll('video')].every((video) => video.readyState >= 2)"""
    deadline = time.monotonic() + GLANCE_SECONDS
    while not page.evaluate(script):
        assert time.monotonic() < deadline, page.url
        page.wait_for_timeout(100)


class Look:
    """What the browser shows to one person: contexts, whose consoles are read when the test ends.

    :param browser: the browser.
    :param name: that of the test, for the screenshots.
    """

    def __init__(self, browser: Browser, name: str) -> None:
        self._browser = browser
        self._name = name
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __call__(self, url: str, **options: Any) -> Page:
        """Return a page of its own that shows `url`, of a browser with `options`, such as `locale` and `cookies`."""
        cookies = options.pop("cookies", [])
        options = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US", **options}
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        context.set_default_timeout(GLANCE_SECONDS * 1000)
        context.add_cookies(cookies)
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", self._hear)
        page = context.new_page()
        page.goto(url)
        return page

    def screenshot(self, page: Page, name: str, **options: Any) -> None:
        """Write what a page shows into the folder of screenshots."""
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", **options)

    def _hear(self, said: ConsoleMessage) -> None:
        complaint = f"{said.text} {said.location['url']}"
        if said.type == "error" and not re.search(EXPIRED, complaint):
            self.complaints.append(complaint)

    def forgive(self, pattern: str) -> None:
        """Drop the complaints in which `pattern` is found: Chromium itself complains of answers that are errors."""
        self.complaints = [said for said in self.complaints if not re.search(pattern, said)]

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def complaints_of_axe(page: Page | Frame) -> list[str]:
    """Return what axe finds that keeps people from using a page: serious and critical violations."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['impact']}: {one['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Return a browser, without a window."""
    with sync_playwright() as playwright:
        found = find_browser(playwright)
        if found is None:
            (pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip)(NO_BROWSER)
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def look(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Look]:
    """Open pages in the browser; at the end of the test none may have complained in its console."""
    look = Look(browser, request.node.name)
    try:
        yield look
    finally:
        look.close()
    assert look.complaints == []


@pytest.fixture(scope="package")
def videos(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Videos]:
    """Return a run of each DAG. Without a browser no Airflow is started."""
    home = tmp_path_factory.mktemp("pages")
    with (
        Sandbox(render_seconds=2, jitter=0, credits=1000, seed=5) as sandbox,
        Sandbox(render_seconds=1, jitter=0, faults=[GONE], seed=6) as brief,
        LocalAirflow(
            home / "airflow",
            HERE / "dags",
            wait_for=DAGS,
            connections={
                "hailuo_default": {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key},
                "hailuo_brief": {"conn_type": "hailuo", "host": brief.base_url, "password": brief.api_key},
            },
            database="postgres",
            config={"AIRFLOW__HAILUO__VIDEO_TAB": "True"},
        ) as airflow,
    ):
        yield Videos(airflow, sandbox, brief, home / "stored")


@pytest.fixture
def site(videos: Videos) -> Site:
    """Return where everybody is admin."""
    return Site(videos.airflow.url)


@pytest.fixture(scope="package")
def site_with_roles(videos: Videos) -> SiteWithRoles:
    """Return where users have roles, below a path: a second API server of the same Airflow."""
    airflow = videos.airflow
    config = {
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__FAB__AUTH_RATE_LIMITED": "False",
        "AIRFLOW__HAILUO__VIDEO_TAB": "False",
    }
    made = subprocess.run(
        [sys.executable, HERE / "users.py", PASSWORD, json.dumps(USERS), CONFIDENTIAL, *DAGS],
        env={**airflow.environment, **config},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return SiteWithRoles(airflow.start_another_server("api-server-with-roles", "/airflow", config))
