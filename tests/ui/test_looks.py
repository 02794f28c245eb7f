"""How the pages look, for the eyes of people (`.screenshots/`), and what keeps people from using them (axe)."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import Look, Site, Videos, complaints_of_axe, settle

pytestmark = pytest.mark.system

PLACES = {
    "ready": ("ready", "video", -1),
    "rendering": ("rendering", "video", -1),
    "failed": ("failed", "video", -1),
    "paid": ("paid", "video", -1),
    "expired": ("expired", "video", -1),
    "stored": ("stored", "video", -1),
    "batch": ("batch", "videos", -1),
    "mapped": ("mapped", "video", 1),
    "foreign": ("ready", "no_video", -1),
}
HANGUL = re.compile("[가-힣]")


@pytest.mark.parametrize("name", ["gallery", "nothing", *PLACES])
def test_a_page_is_fit_for_all_in_both_themes(name: str, videos: Videos, site: Site, look: Look):
    videos.all_ended()
    query = {"from": "2020-01-01", "to": "2020-01-02"} if name == "nothing" else {}
    url = site.page("video", **videos.place(*PLACES[name])) if name in PLACES else site.page("gallery", **query)
    page = look(url, reduced_motion="reduce")
    for theme in "light", "dark":
        page.set_viewport_size({"width": 1280, "height": 800})
        page.emulate_media(color_scheme=theme)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        expect(page.locator("h1")).to_be_visible()
        settle(page)
        look.screenshot(page, f"{name}-{theme}")

        assert complaints_of_axe(page) == []

        page.set_viewport_size({"width": 360, "height": 740})
        look.screenshot(page, f"{name}-{theme}-narrow")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("name", ["gallery", "rendering", "paid", "failed", "batch", "foreign"])
def test_who_reads_korean_reads_korean(name: str, videos: Videos, site: Site, look: Look):
    videos.all_ended()
    url = site.page("video", **videos.place(*PLACES[name])) if name in PLACES else site.page("gallery")
    page = look(url, locale="ko-KR")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    settle(page)
    look.screenshot(page, f"{name}-korean")
    texts = page.locator("main :is(h1, h2, dt, label > span, option, .badge, .notice p)").all_inner_texts()
    untranslated = [text for text in texts if not HANGUL.search(text)]
    # What is the same in both: the names of DAGs and tasks, which belong to the user, and "DAG" itself.
    assert set(untranslated) <= {"DAG", "video", "videos", "no_video", *videos.runs}


def test_who_reads_neither_reads_english(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("ready")), locale="pl-PL")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#status")).to_have_text("Ready")
