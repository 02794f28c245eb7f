from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_hailuo import metrics
from airflow_provider_hailuo.compat import AIRFLOW, stats

JOB = {"credits": 5, "created": "2026-02-03T04:05:06+00:00", "completed": "2026-02-03T04:08:06.500000+00:00"}


class Backend:
    """What Airflow hands metrics to."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def incr(self, name: str, count: int, *, tags: dict[str, str]) -> None:
        self.told.append((name, count, tags))

    def timing(self, name: str, duration: timedelta, *, tags: dict[str, str]) -> None:
        self.told.append((name, duration, tags))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Backend()
    monkeypatch.setattr(metrics, "stats", lambda **_: backend)
    return backend


def test_a_count_says_what_it_is_about(backend: Backend):
    tags = {"conn_id": "hailuo_default", "dag_id": "dag", "cause": "JobFailedError"}

    metrics.count(metrics.FAILED, {**tags, "model": None})
    metrics.count(metrics.BYTES_STORED, {}, 1234.0)

    assert backend.told == [("hailuo.failed", 1, tags), ("hailuo.bytes_stored", 1234, {})]


def test_a_video_is_itself_its_credits_and_its_time(backend: Backend):
    tags = {"dag_id": "dag"}

    metrics.completed(JOB, tags)

    assert backend.told == [
        ("hailuo.completed", 1, tags),
        ("hailuo.credits", 5, tags),
        ("hailuo.render_duration", timedelta(seconds=180.5), tags),
    ]


@pytest.mark.parametrize("unknown", [{"credits": None}, {"created": None}, {"completed": None}], ids=str)
def test_what_the_api_does_not_tell_is_not_counted(backend: Backend, unknown: dict[str, None]):
    metrics.completed({**JOB, **unknown}, {})

    assert len(backend.told) == (3 if "credits" in unknown else 2)


def test_a_backend_that_breaks_costs_no_video(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "stats", lambda **_: 1 / 0)

    metrics.completed(JOB, {})


@pytest.mark.parametrize("in_triggerer", [False, True])
def test_airflow_has_metrics_in_both_places(in_triggerer: bool):
    where = stats(in_triggerer=in_triggerer)

    where.incr("hailuo.submitted", 1, tags={"dag_id": "dag"})
    where.timing("hailuo.render_duration", timedelta(seconds=1), tags={})
    assert AIRFLOW < (3, 2) or where is not stats(in_triggerer=not in_triggerer)


def test_the_page_of_metrics_names_them_all():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    told = set(re.findall(r"^\| `(hailuo\.\w+)`", page, re.MULTILINE))

    assert told == {
        value for value in vars(metrics).values() if isinstance(value, str) and value.startswith("hailuo.")
    }
