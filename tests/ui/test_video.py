"""The page of a video, in each state that a task may be in."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import Look, Site, Videos, settle
from tests.ui.dags.videos import MARKUP, PROMPT

pytestmark = pytest.mark.system


def fact(page: Page, name: str):
    return page.locator(f"[data-fact={name}] dd")


def test_a_video_is_played_and_all_about_it_told(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("ready")), permissions=["clipboard-read", "clipboard-write"])
    job = videos.xcom("ready")
    settle(page)

    player = page.locator("#player video")
    box = page.locator("#player").bounding_box()
    assert box
    assert box["width"] / box["height"] == pytest.approx(16 / 9, abs=0.01)
    assert player.evaluate("async (video) => { await video.play(); return video.paused; }") is False
    assert player.evaluate("video => getComputedStyle(video).objectFit") == "contain"
    expect(page.locator("#task")).to_have_text("video")
    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#prompt-text")).to_have_text(PROMPT)
    for name, text in {
        "status": "COMPLETED",
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": "6 seconds",
        "credits": "5",
        "render_time": "2 s",
    }.items():
        expect(fact(page, name)).to_have_text(text)
    expect(fact(page, "job").locator("code")).to_have_text(job["id"])
    expect(page.locator("#open")).to_have_attribute("href", job["url"])
    expect(page.locator("#download")).to_have_attribute("download", f"{job['id']}.mp4")

    fact(page, "job").locator("button.copy").click()

    expect(fact(page, "job").locator("[role=status]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == job["id"]


def test_a_render_is_followed_until_the_video_is_there(videos: Videos, site: Site, look: Look):
    with videos.render("a ship for the page") as run_id:
        page = look(site.page("video", dag_id="rendering", run_id=run_id, task_id="video"))
        progress = page.locator("#progress")
        expect(progress).to_contain_text("usually about 3 minutes")
        expect(page.locator("#status")).to_have_text("Rendering")
        expect(progress).to_contain_text(re.compile(r"\d+ %"))
        expect(page.locator("#prompt-text")).to_contain_text("a ship for the page")
        first = progress.inner_text()
        expect(progress).not_to_have_text(first)

        videos.release("a ship for the page", run_id)

        expect(page.locator("#player video")).to_be_visible()
        expect(page.locator("#status")).to_have_text("Ready")


def test_a_failed_job_tells_why_and_that_it_was_refunded(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("failed")))
    expect(page.locator("#status")).to_have_text("Failed")
    expect(page.locator("[data-note=refunded]")).to_be_visible()
    expect(page.locator("[data-note=paid]")).to_have_count(0)
    expect(page.locator("#reason")).to_contain_text("content policy")
    expect(fact(page, "status")).to_have_text("FAILED")
    expect(page.locator("#player video, #open, #download")).to_have_count(0)


def test_a_task_that_failed_after_its_video_was_paid_says_so(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("paid")))
    expect(page.locator("#status")).to_contain_text("Paid, not delivered")
    expect(page.locator("[data-note=paid]")).to_be_visible()
    expect(page.locator("[data-note=refunded]")).to_have_count(0)
    expect(fact(page, "job").locator("code")).to_have_text(videos.xcom("paid", "job_id"))
    expect(fact(page, "resolution")).to_have_text("768p")


def test_a_link_that_has_expired_says_so(videos: Videos, site: Site, look: Look):
    place = videos.place("expired")
    page = look(site.page("video", **place))
    expect(page.get_by_role("alert")).to_contain_text("The link has expired")
    expect(page.locator("#prompt-text")).to_have_text("A fading rainbow")
    expect(page.locator("#open, #download")).to_have_count(0)


def test_a_stored_video_tells_where_it_is(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("stored")), permissions=["clipboard-read", "clipboard-write"])
    uri = videos.xcom("stored")["uri"]
    expect(fact(page, "stored").locator("code")).to_have_text(uri)
    expect(fact(page, "size")).to_contain_text("MB")

    fact(page, "stored").locator("button.copy").click()

    expect(fact(page, "stored").locator("[role=status]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == uri


def test_a_stored_video_is_played_from_there_where_the_browser_may(videos: Videos, site: Site, look: Look):
    place = videos.place("expired")
    kept = {"uri": videos.xcom("ready")["url"], "url": videos.xcom("expired")["url"]}
    with videos.with_job("expired", {**videos.xcom("expired"), **kept}):
        page = look(site.page("video", **place))
        settle(page)
        assert page.locator("#player video").evaluate("video => video.currentSrc") == kept["uri"]
        expect(page.get_by_role("alert")).to_have_count(0)
    with videos.with_job("expired", {**videos.xcom("expired"), "url": kept["uri"], "uri": kept["url"]}):
        page = look(site.page("video", **place))
        settle(page)
        assert page.locator("#player video").evaluate("video => video.currentSrc") == kept["uri"]


def test_no_address_but_one_of_the_web_is_played_or_linked_to(videos: Videos, site: Site, look: Look):
    place = videos.place("ready")
    with videos.with_job("ready", {**videos.xcom("ready"), "url": "javascript:alert(1)", "uri": "data:text/html,x"}):
        page = look(site.page("video", **place))
        expect(fact(page, "model")).to_be_visible()
        expect(page.locator("video, #open, #download")).to_have_count(0)


@pytest.mark.parametrize("job", ["text", 7, ["a", 1], {"id": 5, "url": {}, "prompt": ["x"], "created": "never"}])
def test_what_another_xcom_backend_may_hand_over_breaks_nothing(videos: Videos, site: Site, look: Look, job: object):
    place = videos.place("ready")
    with videos.with_job("ready", job):
        page = look(site.page("video", **place))
        expect(page.locator("h1")).not_to_have_text("")
        page = look(site.page("gallery", dag_id="ready"))
        expect(page.locator("#cards .card")).to_have_count(1)
        settle(page)


def test_a_batch_shows_all_its_videos(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("batch", "videos")))
    cards = page.locator("#items .card")
    expect(cards).to_have_count(3)
    assert cards.evaluate_all("all => all.map(e => e.dataset.status)") == ["ready", "failed", "ready"]
    expect(page.locator("#summary")).to_contain_text("2 of 3 videos")
    expect(page.locator("#prompt-text")).to_have_text("A tall tree")

    cards.nth(2).locator("a").click()

    expect(page.locator("#prompt-text")).to_have_text("A small tree")
    expect(page.locator("#items [aria-current=true]")).to_have_attribute("data-index", "2")
    settle(page)
    page.reload()
    expect(page.locator("#prompt-text")).to_have_text("A small tree")

    cards.nth(1).locator("a").click()

    expect(page.locator("#reason")).to_contain_text("content policy")
    expect(page.locator("[data-note=refunded]")).to_be_visible()


def test_each_mapped_task_shows_its_own_video(videos: Videos, site: Site, look: Look):
    for index, colour in enumerate(["green", "blue", "yellow"]):
        page = look(site.page("video", **videos.place("mapped", map_index=index)))
        expect(page.locator("#prompt-text")).to_have_text(f"A {colour} car")
        expect(page.locator("#task")).to_have_text(f"video [{index}]")
        settle(page)
        source = page.locator("#player video").evaluate("video => video.currentSrc")
        assert source == videos.xcom("mapped", "job", index)["url"]


def test_the_video_of_a_decorated_task_is_shown(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("decorated", "teapot")))
    expect(page.locator("#prompt-text")).to_have_text("A teapot on a table")
    expect(page.locator("#player video")).to_be_visible()


def test_a_task_that_is_not_ours_has_no_video_and_says_so_kindly(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("ready", "no_video")))
    expect(page.locator("[data-notice=foreign]")).to_be_visible()


def test_a_task_that_is_not_there_is_not_there(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("ready", "no_such_task")))
    expect(page.locator("[data-notice=missing]")).to_be_visible()
    look.forgive("status of 404 .*/api/v2/.*no_such_task")
    page = look(site.page("video"))
    expect(page.locator("[data-notice=missing]")).to_be_visible()


def test_what_a_prompt_says_is_text(videos: Videos, site: Site, look: Look):
    page = look(site.page("video", **videos.place("markup")))
    expect(page.locator("#prompt-text")).to_have_text(MARKUP)
    expect(page.locator("main :is(img, script)")).to_have_count(0)
    assert page.title() != "hacked"
