"""The gallery: what it shows of each task, what its filters find, and that it reads no more than it needs."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.conftest import Look, Site, Videos, settle
from tests.ui.dags.videos import MARKUP, PROMPT

pytestmark = pytest.mark.system

STATES = {
    "ready": "ready",
    "markup": "ready",
    "rendering": "rendering",
    "failed": "failed",
    "paid": "paid",
    "expired": "ready",
    "stored": "ready",
    "batch": "ready",
    "decorated": "ready",
    "confidential": "ready",
}
"""The DAGs with one video, or one batch, and what the gallery makes of each."""


@pytest.fixture
def gallery(videos: Videos, site: Site, look: Look) -> Page:
    """Return the gallery when all runs have ended but one."""
    videos.all_ended()
    page = look(site.page("gallery"))
    expect(page.locator("#cards .card")).not_to_have_count(0)
    settle(page)
    return page


def card(page: Page, dag_id: str) -> Locator:
    return page.locator(f"#cards .card[data-key^='[\"{dag_id}\",']")


def shown(page: Page) -> list[list]:
    """Return which task instances have a card, in their order."""
    keys = page.locator("#cards .card").evaluate_all("cards => cards.map(card => card.dataset.key)")
    return [json.loads(key) for key in keys]


def test_each_task_of_ours_has_a_card_with_its_state_the_newest_first(gallery: Page, videos: Videos):
    started = {
        (task["dag_id"], task["task_id"], task["map_index"]): task["start_date"]
        for dag_id, run_id in videos.runs.items()
        for task in videos.airflow.task_instances(dag_id, run_id)
        if task["task_id"] != "no_video"
    }

    cards = [(dag_id, task_id, map_index) for dag_id, _, task_id, map_index in shown(gallery)]

    assert cards == sorted(started, key=started.__getitem__, reverse=True)
    assert {dag_id: card(gallery, dag_id).get_attribute("data-status") for dag_id in STATES} == STATES
    expect(card(gallery, "mapped")).to_have_count(3)
    expect(gallery.locator("#count")).to_have_text("13 entries")
    expect(card(gallery, "ready").locator(".prompt")).to_have_text(PROMPT)
    expect(card(gallery, "ready").locator(".facts")).to_contain_text("5 credits")
    expect(card(gallery, "batch").locator(".facts")).to_contain_text("2 of 3 videos")
    expect(card(gallery, "rendering").locator("progress")).to_be_visible()
    # A video is loaded when its card comes near the screen.
    card(gallery, "expired").scroll_into_view_if_needed()
    expect(card(gallery, "expired").locator(".expired")).to_be_visible()
    card(gallery, "ready").scroll_into_view_if_needed()
    expect(card(gallery, "ready").locator("video")).to_have_js_property("videoWidth", 1366)


def test_what_a_prompt_says_is_text(gallery: Page):
    expect(card(gallery, "markup").locator(".prompt")).to_have_text(MARKUP)
    expect(gallery.locator("#cards :is(img, script)")).to_have_count(0)
    assert gallery.title() != "hacked"


def test_the_totals_and_the_chart_count_what_is_shown(gallery: Page):
    # 3 mapped, 2 of a batch, and one of each of the others that are ready: at 5 credits, one at 10.
    expect(gallery.locator("#total-videos .value")).to_have_text("11")
    expect(gallery.locator("#total-credits .value")).to_have_text("60")
    expect(gallery.locator("#total-failed .value")).to_have_text("2")
    expect(gallery.locator("#total-paid .value")).to_have_text("1")
    chart = gallery.locator("#chart svg").get_attribute("aria-label") or ""
    assert "10 ready, 2 failed, 1 rendering" in chart

    gallery.locator("#filter-dag").select_option("mapped")

    expect(gallery.locator("#total-videos .value")).to_have_text("3")
    expect(gallery.locator("#total-credits .value")).to_have_text("15")
    expect(gallery.locator("#total-failed .value")).to_have_text("0")


def test_filters_find_states_dags_words_and_days_and_stay_in_the_address(gallery: Page):
    cards = gallery.locator("#cards .card")
    for state, found in {"failed": {"failed", "paid"}, "rendering": {"rendering"}, "paid": {"paid"}}.items():
        gallery.locator("#filter-state").select_option(state)
        expect(cards).to_have_count(len(found))
        assert {dag_id for dag_id, *_ in shown(gallery)} == found

    gallery.reload()
    expect(cards).to_have_count(1)
    expect(gallery.locator("#filter-state")).to_have_value("paid")

    gallery.locator("#clear").click()
    expect(cards).to_have_count(13)
    expect(gallery.locator("#clear")).to_be_hidden()
    gallery.locator("#filter-words").fill("car BLUE")
    expect(cards).to_have_count(1)
    expect(cards.locator(".prompt")).to_have_text("A blue car")
    gallery.locator("#filter-words").fill("")
    tomorrow = (date.today() + timedelta(days=1)).isoformat()  # noqa: DTZ011 - the browser's day is the machine's
    gallery.locator("#filter-to").fill(tomorrow)
    expect(cards).to_have_count(13)
    gallery.locator("#filter-to").fill("")
    gallery.locator("#filter-from").fill(tomorrow)
    expect(gallery.locator("[data-notice=none_match]")).to_be_visible()
    expect(cards).to_have_count(0)


def test_what_was_paid_and_not_delivered_is_one_click_away(gallery: Page):
    gallery.locator("#total-paid").click()

    expect(gallery.locator("#cards .card")).to_have_count(1)
    expect(card(gallery, "paid").locator("[data-status=paid]")).to_be_visible()


def test_a_card_leads_to_its_video_and_to_its_task(gallery: Page, videos: Videos, site: Site):
    link = card(gallery, "mapped").nth(0).locator("a.task").evaluate("link => link.href")
    task = shown(gallery)[[dag_id for dag_id, *_ in shown(gallery)].index("mapped")]
    run_id = videos.runs["mapped"].replace(":", "%3A").replace("+", "%2B")
    assert link == f"{site.url}/dags/mapped/runs/{run_id}/tasks/video/mapped/{task[3]}"

    card(gallery, "mapped").nth(0).locator("a.watch").click()

    expect(gallery.locator("#prompt-text")).to_have_text(["A green car", "A blue car", "A yellow car"][task[3]])
    gallery.locator("#to-gallery").click()
    expect(gallery.locator("#cards .card")).to_have_count(13)


@pytest.mark.parametrize(
    ("clicked", "shown"),
    [("#cards .card a.watch", "#player video"), ("#total-paid", "[data-notice=none_paid]")],
)
def test_a_click_while_videos_are_read_is_not_lost(videos: Videos, site: Site, look: Look, clicked: str, shown: str):
    videos.all_ended()
    page = look(site.page("gallery", dag_id="ready"))
    settle(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(re.compile("/xcomEntries"), hold, times=1)
    page.reload()
    page.locator(clicked).hover()
    page.mouse.down()
    expect(page.locator("#cards .card .facts")).not_to_contain_text("5 credits")
    held[0].continue_()
    expect(page.locator("#cards .card .facts")).to_contain_text("5 credits")
    settle(page)
    page.mouse.up()
    expect(page.locator(shown)).to_be_visible()


def test_the_keyboard_leads_through_filters_and_cards(gallery: Page):
    gallery.locator("#filter-words").fill("a")  # else there is nothing to clear
    reached = []
    gallery.locator("#refresh").focus()
    for _ in range(15):
        gallery.keyboard.press("Tab")
        reached.append(gallery.evaluate("document.activeElement.id || document.activeElement.className"))
    assert list(dict.fromkeys(reached)) == [
        "total-paid",
        *(f"filter-{name}" for name in ("words", "state", "dag", "from", "to")),
        "clear",
        "watch",
        "task",
    ]
    expect(gallery.locator(":focus-visible")).to_have_count(1)
    gallery.locator("#cards .card a.watch").first.focus()
    gallery.keyboard.press("Enter")
    expect(gallery.locator("#player video")).to_be_visible()


def test_of_one_run_there_is_what_belongs_to_it(videos: Videos, site: Site, look: Look):
    place = videos.place("mapped")
    page = look(site.page("gallery", dag_id="mapped", run_id=place["run_id"]))
    expect(page.locator("#cards .card")).to_have_count(3)
    expect(page.locator("#filter-dag")).to_have_count(0)


def test_a_run_without_videos_says_so(videos: Videos, site: Site, look: Look):
    page = look(site.page("gallery", dag_id="ready", run_id="no such run"))
    expect(page.locator("[data-notice=none]:visible, [data-notice=missing]:visible")).to_have_count(1)
    expect(page.locator("#cards .card")).to_have_count(0)
    look.forgive("status of 404 .*/api/v2/")


def test_what_renders_is_followed(videos: Videos, site: Site, look: Look):
    with videos.render("a train for the gallery") as run_id:
        page = look(site.page("gallery", dag_id="rendering", run_id=run_id))
        expect(page.locator(".card[data-status=rendering] progress")).to_be_visible()

        videos.release("a train for the gallery", run_id)

        expect(page.locator(".card[data-status=ready] video")).to_be_visible()
