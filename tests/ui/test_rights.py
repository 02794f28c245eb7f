"""Who sees what, where users have roles and all lies below a path; and what each route of ours answers to whom."""

from __future__ import annotations

import http.client
import re
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import CONFIDENTIAL, USERS, Look, SiteWithRoles, Videos, settle

pytestmark = pytest.mark.system


def test_nobody_sees_nothing(videos: Videos, site_with_roles: SiteWithRoles, look: Look):
    place = videos.place("ready")
    for url in site_with_roles.page("gallery"), site_with_roles.page("video", **place):
        page = look(url)
        expect(page.locator("main > [data-notice=signed_out]")).to_be_visible()
        expect(page.locator("main > *")).to_have_count(1)
        assert "paper boat" not in page.content()
        expect(page.get_by_role("link")).to_have_attribute("href", f"{site_with_roles.url}/")
    look.forgive("status of 401 .*/api/v2/")


def test_who_has_a_cookie_that_is_no_session_is_nobody(videos: Videos, site_with_roles: SiteWithRoles, look: Look):
    cookie = {"name": "_token", "value": "not.a.token", "url": f"{site_with_roles.url}/"}
    page = look(site_with_roles.page("gallery"), cookies=[cookie])
    expect(page.locator("main > [data-notice=signed_out]")).to_be_visible()
    look.forgive("status of 401 .*/api/v2/")


def test_a_viewer_sees_all_videos(videos: Videos, site_with_roles: SiteWithRoles, look: Look):
    videos.all_ended()
    page = look(site_with_roles.page("gallery"), cookies=site_with_roles.cookies("vic"))
    expect(page.locator("#cards .card")).to_have_count(13)
    settle(page)
    page.locator(f"#cards .card[data-key*={CONFIDENTIAL}] a.watch").click()
    expect(page.locator("#prompt-text")).to_have_text("The unreleased product")
    settle(page)


def test_who_may_not_read_a_dag_does_not_see_its_videos(videos: Videos, site_with_roles: SiteWithRoles, look: Look):
    videos.all_ended()
    cookies = site_with_roles.cookies("gus")
    page = look(site_with_roles.page("gallery"), cookies=cookies)
    expect(page.locator("#cards .card")).to_have_count(12)
    settle(page)
    expect(page.locator("#total-videos .value")).to_have_text("10")
    page.locator("#filter-words").fill("unreleased")
    expect(page.locator("[data-notice=none_match]")).to_be_visible()

    page = look(site_with_roles.page("gallery", dag_id=CONFIDENTIAL), cookies=cookies)
    expect(page.locator("main > [data-notice=forbidden]")).to_be_visible()
    page = look(site_with_roles.page("video", **videos.place(CONFIDENTIAL)), cookies=cookies)
    expect(page.locator("main > [data-notice=forbidden]")).to_be_visible()
    assert "unreleased" not in page.content()
    look.forgive("status of 403 .*/api/v2/")


def test_the_pages_work_in_airflow_below_a_path(videos: Videos, site_with_roles: SiteWithRoles, look: Look):
    place = videos.place("mapped", map_index=1)
    run = f"{site_with_roles.url}/dags/mapped/runs/{quote(str(place['run_id']))}"
    page = look(f"{site_with_roles.url}/plugin/hailuo", cookies=site_with_roles.cookies("ann"))
    frame = page.frame_locator("iframe")
    frame.locator("#filter-dag").select_option("mapped")
    expect(frame.locator("#cards .card")).to_have_count(3)
    frame.locator("#cards a.task").first.click()
    page.wait_for_url(re.compile(f"^{re.escape(site_with_roles.url)}/dags/mapped/runs/.*/mapped/\\d$"))
    # No tab where nobody asked for it.
    expect(page.get_by_role("link", name="Rendered Templates")).to_be_visible()
    expect(page.get_by_role("link", name="Video", exact=True)).to_have_count(0)

    page.goto(f"{run}/tasks/video/mapped/1/details")
    page.get_by_text("Watch video").click()

    expect(page.locator("#prompt-text")).to_have_text("A blue car")
    assert page.url.startswith(f"{site_with_roles.url}/hailuo/video?")
    settle(page)
    files = (f"{api.base_url}/" for api in (videos.sandbox, videos.expired))
    places = (f"{site_with_roles.url}/", *files, "data:", "blob:")
    assert [url for url in look.requests if not url.startswith(places)] == []


PAGES = ("gallery", "video", "static/gallery.js", "static/hailuo.css", "static/icon.svg")
ABSENT = (
    "",
    "docs",
    "redoc",
    "openapi.json",
    "app.py",
    "static/",
    "static/..",
    "static/../app.py",
    "static/%2e%2e/app.py",
    "static/..%2fapp.py",
    "static/%2e%2e%2fapp.py",
    "static/..%5capp.py",
    "static/%252e%252e/app.py",
    "static/....//app.py",
    "static//etc/passwd",
    "static/%2fetc%2fpasswd",
    "static/gallery.js%00.css",
    "..%2f..%2f..%2fairflow.cfg",
)


@pytest.mark.parametrize("user", [None, *USERS, "wrong cookie"])
def test_each_route_answers_with_a_static_page_or_not_at_all(
    user: str | None, videos: Videos, site_with_roles: SiteWithRoles
):
    token = site_with_roles.token(user) if user in USERS else user and "x.y.z"
    cookie = {"Cookie": f"_token={token}"} if token else {}
    for path in (*PAGES, *ABSENT):
        for method in ("GET", "POST", "PUT", "DELETE"):
            status, headers, body = ask(site_with_roles, method, f"hailuo/{path}", cookie)
            what = f"{method} {path!r} as {user}: {status}"
            if path in PAGES:
                assert status == (200 if method == "GET" else 405), what
            else:
                assert status in {404, 405}, what
            assert "default-src 'none'" in headers["content-security-policy"], what
            assert "unsafe" not in headers["content-security-policy"], what
            assert headers["x-content-type-options"] == "nosniff", what
            assert headers["referrer-policy"] == "no-referrer", what
            assert "set-cookie" not in headers or user == "wrong cookie", what  # Airflow takes it away
            for leak in (b"import ", b"root:", b"Traceback", str(videos.airflow.home).encode()):
                assert leak not in body or path.endswith(".js"), what


def ask(site: SiteWithRoles, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Return the answer to a request whose path nobody tidies up."""
    place = urlsplit(site.url)
    connection = http.client.HTTPConnection(place.netloc, timeout=600)
    connection.request(method, f"{place.path}/{path}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize(("user", "status"), [(None, 401), ("wrong cookie", 403), *((user, 200) for user in USERS)])
def test_the_data_of_the_pages_is_told_to_those_who_are_signed_in(
    user: str | None, status: int, videos: Videos, site_with_roles: SiteWithRoles
):
    token = site_with_roles.token(user) if user in USERS else user and "x.y.z"
    cookie = {"Cookie": f"_token={token}"} if token else {}

    found, _, body = ask(site_with_roles, "GET", "api/v2/dags/~/dagRuns/~/taskInstances?limit=1", cookie)

    assert found == status
    assert (b"task_instances" in body) == (status == 200)
