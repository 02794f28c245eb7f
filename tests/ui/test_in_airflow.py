"""The pages inside Airflow's own UI: the navigation, the tabs, the button of a task, and its themes."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.ui.conftest import Look, Site, Videos, settle

pytestmark = pytest.mark.system

PROMPTS = {"ready": "A red paper boat", "batch": "A tall tree", "failed": "a brawl", "rendering": "a long journey"}
"""What the button leads to; that of a mapped task is pressed in `test_rights.py`."""


def inside(page: Page) -> FrameLocator:
    """Return what the frame in Airflow's page shows."""
    return page.frame_locator("iframe")


def task_page(site: Site, videos: Videos, dag_id: str, rest: str) -> str:
    videos.place(dag_id)
    return f"{site.url}/dags/{dag_id}/runs/{quote(videos.runs[dag_id])}/{rest}"


def test_the_navigation_leads_to_the_gallery_and_a_card_to_its_video(videos: Videos, site: Site, look: Look):
    videos.place("ready")
    page = look(site.url)
    page.get_by_role("link", name="Hailuo").click()
    inside(page).locator("#filter-dag").select_option("ready")
    expect(inside(page).locator("#cards .card")).to_have_count(1)

    inside(page).locator("#cards a.watch").click()

    expect(inside(page).locator("#player video")).to_be_visible()


def test_links_lead_out_of_the_frame(videos: Videos, site: Site, look: Look):
    videos.place("mapped")
    page = look(f"{site.url}/plugin/hailuo")
    inside(page).locator("#filter-dag").select_option("mapped")
    inside(page).locator("#cards a.task").first.click()
    page.wait_for_url(re.compile(r"/dags/mapped/runs/[^/]+/tasks/video/mapped/\d$"))
    expect(page.get_by_role("link", name="Rendered Templates")).to_be_visible()


def test_the_theme_of_airflow_is_followed_while_it_changes(videos: Videos, site: Site, look: Look):
    videos.all_ended()
    page = look(f"{site.url}/plugin/hailuo")
    root = inside(page).locator("html")
    expect(inside(page).locator("#cards .card")).to_have_count(13)
    colours = {}
    for name in "Dark", "Light":
        page.get_by_role("button", name="User").click()
        page.get_by_role("menuitem", name="Appearance").click()
        page.get_by_role("menuitemradio", name=f"{name} Mode").click()
        expect(root).to_have_attribute("data-theme", name.lower())
        page.keyboard.press("Escape")
        expect(page.get_by_role("menu")).to_have_count(0)
        colours[name] = [
            shown.evaluate("shown => getComputedStyle(shown).backgroundColor")
            for shown in (page.locator(":root"), inside(page).locator("body"))
        ]
        settle(page.frames[-1])
        look.screenshot(page, f"airflow-gallery-{name.lower()}")
    assert colours["Dark"][0] == colours["Dark"][1] != colours["Light"][0] == colours["Light"][1]


@pytest.mark.parametrize("dag_id", PROMPTS)
def test_the_button_of_a_task_leads_to_its_video(dag_id: str, videos: Videos, site: Site, look: Look):
    task = "videos" if dag_id == "batch" else "video"
    page = look(task_page(site, videos, dag_id, f"tasks/{task}/details"))
    page.get_by_text("Watch video").click()
    expect(page.locator("#prompt-text")).to_contain_text(PROMPTS[dag_id])


def test_a_tab_of_a_task_shows_its_video(videos: Videos, site: Site, look: Look):
    for task, prompt in {"video/mapped/2": "A yellow car", "video/mapped/0": "A green car"}.items():
        page = look(task_page(site, videos, "mapped", f"tasks/{task}"))
        page.get_by_role("link", name="Video", exact=True).click()
        expect(inside(page).locator("#prompt-text")).to_have_text(prompt)
        expect(inside(page).locator("#crumbs")).to_be_hidden()
    settle(page.frames[-1])
    look.screenshot(page, "airflow-tab")


def test_a_tab_of_a_task_that_is_not_ours_is_friendly(videos: Videos, site: Site, look: Look):
    page = look(task_page(site, videos, "ready", "tasks/no_video/plugin/hailuo-video"))
    expect(inside(page).locator("[data-notice=foreign]")).to_be_visible()


def test_tabs_of_a_dag_and_of_a_run_show_its_videos(videos: Videos, site: Site, look: Look):
    videos.place("mapped")
    for path in "", f"/runs/{quote(videos.runs['mapped'])}":
        page = look(f"{site.url}/dags/mapped{path}")
        page.get_by_role("link", name="Videos", exact=True).click()
        expect(inside(page).locator("#cards .card")).to_have_count(3)
