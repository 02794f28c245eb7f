"""The arithmetic of `deploy/sizing.py`, by hand; what it takes for granted, as code and Airflow have it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from airflow.configuration import conf

from airflow_provider_hailuo.apiframe import calls, watcher

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("sizing", ROOT / "deploy" / "sizing.py")
sizing = importlib.util.module_from_spec(spec)
sys.modules["sizing"] = sizing
spec.loader.exec_module(sizing)

FIGURES = sizing.Measured(
    slot_seconds={"2": 5.0, "1": 2.0, "0": 0.0, "batch": 4.0},
    delay_intervals=1.0,
    start_seconds=0.1,
    videos_per_second={"2": 2.0, "1": 2.0, "0": 2.0, "batch": 8.0},
    triggerers={100: 250.0, 1000: 300.0},
)
A_VIDEO_A_SECOND = sizing.Load(videos_per_day=86_400, peak_factor=1, render_seconds=95)
CAPS = sizing.Caps(requests_per_minute=500)


def size(mode, caps=CAPS, **load):
    return sizing.size(replace(A_VIDEO_A_SECOND, **load), mode, FIGURES, caps)


def results():
    return json.loads(sizing.RESULTS.read_text("utf-8"))


@pytest.mark.parametrize(
    ("per_second", "seconds", "number"),
    [
        (1, 100, 130),  # 100 and three times 10
        (0.01, 100, 4),  # 1 and three times 1
        (4, 9, 54),  # 36 and three times 6
        (0.0001, 25, 1),  # 0.0025 and three times 0.05
        (1, 0, 1),
    ],
)
def test_at_once(per_second, seconds, number):
    assert sizing.at_once(per_second, seconds) == number


@pytest.mark.parametrize(
    ("jobs", "triggerers", "requests"),
    [
        (1, 1, 1),
        (3, 1, 3),
        (6, 2, 6),
        (4, 1, 1),  # one page
        (100, 1, 1),
        (101, 1, 2),
        (101, 2, 4),  # each walks through both pages
        (950, 2, 20),
    ],
)
def test_status_requests(jobs, triggerers, requests):
    assert sizing.status_requests(jobs, triggerers) == requests


def test_status_requests_are_those_that_were_measured():
    rows = [row for row in results()["triggerer"]["rows"] if row["contender"] == "ours" and not row["foreign_jobs"]]
    assert len(rows) == 3
    for row in rows:
        assert sizing.status_requests(row["waiting"], 1) / 5 == pytest.approx(row["requests_per_second"], rel=0.02)


def test_a_task_for_each_video():
    assert size("2") == sizing.Size(
        starts_per_minute=60,
        renders=130,  # a video a second stays 95 s and one interval of 5 s
        triggerers=2,
        triggerer_megabytes=300.0,
        worker_slots=12,  # 5 and three times 2.24
        pool_slots=130,
        requests_per_minute=60 + 48,  # 2 pages for each of 2 triggerers, 12 times
        connections=15 * (2 + 1 + 2 + 2 * 2) + 12,
        limits=(),
    )


def test_fewer_visits_take_fewer_slots():
    assert size("1").worker_slots == 7  # 2 and three times 1.41
    assert size("0").worker_slots == 1
    assert size("0").pool_slots is None


def test_a_batch():
    assert size("batch") == sizing.Size(
        starts_per_minute=60,
        renders=400,  # 1 batch of 100 at once in the mean, 4 at most
        triggerers=2,
        triggerer_megabytes=300.0,
        worker_slots=1,
        pool_slots=5,  # a batch stays 10 s longer: 1.1 and three times 1.05
        requests_per_minute=60 + 96,  # 4 pages for each of 2 triggerers, 12 times
        connections=15 * (2 + 1 + 2 + 2 * 2) + 1,
        limits=(),
    )


def test_a_batch_is_no_larger_than_the_day():
    assert size("batch", videos_per_day=10).renders == 10


def test_what_is_stored_holds_a_slot():
    assert size("2", store_seconds=4).worker_slots == 18  # 9 and three times 3
    assert size("1", store_seconds=4).worker_slots == 7  # it stores nothing


def test_triggerers_hold_all_with_one_of_them_down():
    many = size("1", capacity=100)
    assert many.triggerers == 3
    assert many.triggerer_megabytes == 250.0  # 65 jobs
    assert size("1", render_seconds=1195, capacity=2000).triggerer_megabytes is None  # 1,304 jobs


def test_what_the_api_does_not_allow():
    caps = sizing.Caps(requests_per_minute=107, jobs=100)
    tight = size("2", caps)
    assert tight.limits == ("the API: 107 requests a minute", "the API: 100 renders at once")
    assert tight.pool_slots == 100
    assert size("batch", caps).pool_slots == 1
    assert size("2", replace(caps, requests_per_minute=108, jobs=130)).limits == ()


def test_what_was_not_measured():
    assert size("2", videos_per_day=3 * 86_400).limits == ("measured up to 120 starts a minute",)
    assert size("batch", videos_per_day=3 * 86_400).limits == ()


def test_the_most_videos_that_the_api_allows():
    caps = sizing.Caps(requests_per_minute=108)
    most = sizing.most_videos(A_VIDEO_A_SECOND, "2", FIGURES, caps)
    assert most == 86_400
    assert sizing.most_videos(A_VIDEO_A_SECOND, "2", FIGURES, sizing.Caps(500, jobs=130)) == 86_400
    assert sizing.most_videos(A_VIDEO_A_SECOND, "2", FIGURES, sizing.Caps(1)) == 0


def test_figures_are_those_of_the_benchmarks():
    slow, quick = (sizing.measured(results(), interval) for interval in (5, 1))
    assert {mode: round(seconds, 1) for mode, seconds in slow.slot_seconds.items()} == {
        "2": 5.3, "1": 2.0, "0": 0.0, "batch": 4.3
    }  # fmt: skip
    assert quick.slot_seconds["2"] < slow.slot_seconds["2"]
    assert round(slow.delay_intervals, 2) == 0.90
    assert round(slow.start_seconds, 3) == 0.085
    assert sorted(slow.triggerers) == [100, 1000, 5000]


def test_what_is_taken_for_granted_is_so():
    assert sizing.ONE_BY_ONE == watcher.FEW
    assert inspect.signature(calls.list_jobs).parameters["limit"].default == sizing.PAGE

    def default(section, option):
        return int(conf.get_default_value(section, option))

    assert default("triggerer", "capacity") == sizing.Load.capacity
    assert default("workers", "min_heartbeat_interval") == 5
    pool = default("database", "sql_alchemy_pool_size") + default("database", "sql_alchemy_max_overflow")
    assert pool == sizing.CONNECTIONS


def test_documentation_shows_what_the_script_prints(capsys):
    sizing.main([])
    page = (ROOT / "docs" / "sizing.md").read_text("utf-8")
    assert capsys.readouterr().out in page


def test_figures_in_the_text_are_computed():
    page = (ROOT / "docs" / "sizing.md").read_text("utf-8")
    figures, load = sizing.measured(results(), 5), sizing.Load(100_000)
    rare, often = (sizing.size(replace(load, poll_interval=seconds), "2", figures, CAPS) for seconds in (30, 5))
    assert f"makes {rare.requests_per_minute:.0f} requests a minute of the {often.requests_per_minute:.0f}" in page
    assert f"makes it {sizing.measured(results(), 1).slot_seconds['2']:.1f} s for both visits" in page
    assert f"has started {60 * figures.videos_per_second['2']:.0f} mapped videos a minute" in page
    pool = sizing.size(sizing.Load(1_000), "2", figures, CAPS).pool_slots
    assert f"airflow pools set hailuo {pool} " in page


def test_numbers_and_results_may_be_given(tmp_path, capsys):
    given = results()
    for row in given["slots"]["rows"]:
        row["slot_seconds"] *= 100
    (tmp_path / "own.json").write_text(json.dumps(given))
    sizing.main(["--videos-per-day", "5000", "--renders-at-once", "20", "--results", str(tmp_path / "own.json")])
    printed = capsys.readouterr().out
    assert "held 525.9 s" in printed
    assert "| 5,000 | `worker_visits=2` |" in printed
    assert "20 renders at once" in printed
    assert "| 1,000 |" not in printed
