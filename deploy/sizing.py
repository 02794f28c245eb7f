#!/usr/bin/env python3
"""How much of an Airflow a number of videos a day needs: `python deploy/sizing.py --help`.

It needs nothing but Python. What was measured comes from `benchmarks/results/full.json`; all else that it takes for
granted it says. Little's law does the rest: what is under way is what comes per second, times how long it stays.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "full.json"

DAY = 86_400
MODES = ("2", "1", "0", "batch")
"""`worker_visits` of a task for each video, and one task for a batch of them."""

PAGE = 100
"""Jobs that one request for a page of them tells of."""

ONE_BY_ONE = 3
"""So few jobs a triggerer asks for one by one."""

SPARE_TRIGGERERS = 1
"""So many may be down at the peak."""

SCHEDULERS, DAG_PROCESSORS, API_SERVERS = 2, 1, 2
CONNECTIONS = 15
"""What a pool of connections opens at most: `[database] sql_alchemy_pool_size` and `sql_alchemy_max_overflow`."""


@dataclass(frozen=True)
class Load:
    """What is asked for.

    :param videos_per_day: videos that start on a day.
    :param peak_factor: how many times the day's average the busiest time has.
    :param render_seconds: how long a render takes, in the mean.
    :param poll_interval: seconds between two looks at a job.
    :param batch_size: videos of a batch task, all of which render at once (its `max_in_flight`).
    :param store_seconds: how long a worker takes to download and store a video.
    :param capacity: `[triggerer] capacity`, the triggers that one triggerer runs at once.
    """

    videos_per_day: int
    peak_factor: float = 4.0
    render_seconds: float = 180.0
    poll_interval: float = 5.0
    batch_size: int = 100
    store_seconds: float = 0.0
    capacity: int = 1000


@dataclass(frozen=True)
class Caps:
    """What the API allows an account, as far as it is known.

    :param requests_per_minute: requests of any kind.
    :param jobs: renders at once; None: unknown.
    """

    requests_per_minute: float
    jobs: int | None = None


@dataclass(frozen=True)
class Measured:
    """What the benchmarks have measured.

    :param slot_seconds: of a worker for one task, by mode.
    :param delay_intervals: poll intervals until the end of a render is known, 95 of 100.
    :param start_seconds: of a batch, what each of its videos adds to its length.
    :param videos_per_second: that one small Airflow has made, by mode; with fewer visits it was not measured, and is
        what it is with two.
    :param triggerers: MB of a triggerer, by the number of jobs that wait in it.
    """

    slot_seconds: Mapping[str, float]
    delay_intervals: float
    start_seconds: float
    videos_per_second: Mapping[str, float]
    triggerers: Mapping[int, float]


@dataclass(frozen=True)
class Size:
    """What a load needs in one mode, at its peak.

    :param starts_per_minute: videos.
    :param renders: at once.
    :param triggerers: with the spare one.
    :param triggerer_megabytes: of each, when the spare one is down; None: not measured.
    :param worker_slots: of workers, of all machines.
    :param pool_slots: of a pool with `include_deferred`, as many as the API allows; None: this mode obeys no pool.
    :param requests_per_minute: to the API.
    :param connections: to Airflow's database, at most.
    :param limits: what ends before Airflow does, or was not measured.
    """

    starts_per_minute: float
    renders: int
    triggerers: int
    triggerer_megabytes: float | None
    worker_slots: int
    pool_slots: int | None
    requests_per_minute: float
    connections: int
    limits: tuple[str, ...]


def measured(results: Mapping[str, Any], heartbeat_interval: int) -> Measured:
    """Return what matters here of the benchmarks' results; of several figures for the same the worst.

    :param results: the content of `full.json`.
    :param heartbeat_interval: `[workers] min_heartbeat_interval` in seconds: 1 or 5 was measured.
    :return: the figures.
    """
    slots = {
        mode: max(
            row["slot_seconds"]
            for row in results["slots"]["rows"]
            if row["contender"] == f"ours, worker_visits={mode}"
            and row["min_heartbeat_interval"] == heartbeat_interval
        )
        for mode in ("2", "1", "0")
    }
    one_task, mapped = results["batch"]["rows"]
    batch_render = 33.0  # renders of 30 s, 10 % up or down: the last one counts
    return Measured(
        slot_seconds={**slots, "batch": one_task["slot_seconds"]},
        delay_intervals=max(
            row["delay_p95_intervals"]
            for row in results["polling"]["rows"]
            if row["contender"] == "ours" and row["scale"] == 1
        ),
        start_seconds=(one_task["total_seconds"] - batch_render) / one_task["videos"],
        videos_per_second={
            **dict.fromkeys(("2", "1", "0"), mapped["videos"] / mapped["total_seconds"]),
            "batch": one_task["videos"] / one_task["total_seconds"],
        },
        triggerers={
            row["waiting"]: row["memory_mb"]
            for row in results["triggerer"]["rows"]
            if row["contender"] == "ours" and not row["foreign_jobs"]
        },
    )


def at_once(per_second: float, seconds: float) -> int:
    """Return how many are under way at once, but for one moment of a thousand.

    Little's law gives the mean. What comes by chance varies around it by its square root: three times that is added.

    :param per_second: how many come.
    :param seconds: how long each stays.
    :return: how many to be ready for; 1 at least.
    """
    mean = per_second * seconds
    return max(1, math.ceil(mean + 3 * math.sqrt(mean)))


def status_requests(jobs: int, triggerers: int) -> int:
    """Return how often all triggerers together ask the API at one look at all jobs.

    Each walks through the pages of the whole account, because its jobs lie among those of the others.

    :param jobs: that are waited for, spread evenly.
    :param triggerers: that wait for them.
    :return: requests.
    """
    each = math.ceil(jobs / triggerers)
    return jobs if each <= ONE_BY_ONE else triggerers * min(each, math.ceil(jobs / PAGE))


def size(load: Load, mode: str, figures: Measured, caps: Caps) -> Size:
    """Return what a load needs.

    :param load: what is asked for.
    :param mode: one of `MODES`.
    :param figures: what was measured.
    :param caps: what the API allows.
    :return: the size, at the peak.
    """
    per_task = max(1, min(load.batch_size, load.videos_per_day)) if mode == "batch" else 1
    videos = load.videos_per_day * load.peak_factor / DAY
    tasks = videos / per_task

    wait = load.render_seconds + figures.delay_intervals * load.poll_interval
    triggers = at_once(tasks, wait + (per_task * figures.start_seconds if mode == "batch" else 0))
    renders = at_once(tasks, wait) * per_task
    triggerers = math.ceil(triggers / load.capacity) + SPARE_TRIGGERERS

    storing = load.store_seconds * per_task if mode in {"2", "batch"} else 0
    worker_slots = at_once(tasks, figures.slot_seconds[mode] + storing)

    requests = 60 * (videos + status_requests(renders, min(triggerers, triggers)) / load.poll_interval)
    allowed = triggers if caps.jobs is None else max(1, caps.jobs // per_task)
    pools = SCHEDULERS + DAG_PROCESSORS + triggerers + 2 * API_SERVERS
    return Size(
        starts_per_minute=60 * videos,
        renders=renders,
        triggerers=triggerers,
        triggerer_megabytes=megabytes(math.ceil(renders / (triggerers - SPARE_TRIGGERERS)), figures),
        worker_slots=worker_slots,
        pool_slots=None if mode == "0" else min(triggers, allowed),
        requests_per_minute=requests,
        connections=CONNECTIONS * pools + worker_slots,
        limits=tuple(limits(videos, renders, requests, caps, figures.videos_per_second[mode])),
    )


def megabytes(jobs: int, figures: Measured) -> float | None:
    """Return the memory of a triggerer that waits for so many jobs.

    :param jobs: that it waits for.
    :param figures: what was measured.
    :return: MB of the next greater number that was measured; None if there is none.
    """
    return next((figures.triggerers[waiting] for waiting in sorted(figures.triggerers) if waiting >= jobs), None)


def limits(videos: float, renders: int, requests: float, caps: Caps, tried: float) -> Iterator[str]:
    """Tell what ends before Airflow does.

    :param videos: per second.
    :param renders: at once.
    :param requests: per minute.
    :param caps: what the API allows.
    :param tried: videos per second that were made in the benchmark.
    :return: each limit that is passed.
    """
    if requests > caps.requests_per_minute:
        yield f"the API: {caps.requests_per_minute:g} requests a minute"
    if caps.jobs is not None and renders > caps.jobs:
        yield f"the API: {caps.jobs} renders at once"
    if videos > tried:
        yield f"measured up to {60 * tried:.0f} starts a minute"


def most_videos(load: Load, mode: str, figures: Measured, caps: Caps) -> int:
    """Return how many videos a day the API's caps allow.

    :param load: what is asked for; its `videos_per_day` does not matter.
    :param mode: one of `MODES`.
    :param figures: what was measured.
    :param caps: what the API allows.
    :return: videos a day, to 100; 0 if the caps are too small for any.
    """

    def allowed(hundreds: int) -> bool:
        needed = size(replace(load, videos_per_day=100 * hundreds), mode, figures, caps)
        return needed.requests_per_minute <= caps.requests_per_minute and needed.renders <= (caps.jobs or math.inf)

    low, high = 0, 100_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return 100 * low


def report(loads: Sequence[Load], figures: Measured, caps: Caps, heartbeat_interval: int) -> str:
    """Return assumptions and results in Markdown.

    :param loads: which differ in `videos_per_day` alone.
    :param figures: what was measured.
    :param caps: what the API allows.
    :param heartbeat_interval: seconds, of which `figures` are.
    :return: the text, without a newline at its end.
    """
    heads = (
        *("videos a day", "mode", "starts a minute", "renders at once", "triggerers", "worker slots", "pool slots"),
        *("API requests a minute", "database connections, at most", "limit"),
    )
    rows = (row(load, mode, size(load, mode, figures, caps)) for load in loads for mode in MODES)
    most = ", ".join(f"{most_videos(loads[0], mode, figures, caps):,} ({name(mode)})" for mode in MODES)
    text = [
        *(fill(f"- {line}", 118, subsequent_indent="  ") for line in assumptions(loads[0], figures, caps)),
        f"- `[workers] min_heartbeat_interval` is {heartbeat_interval} s (the batch was measured with 1 s).",
        "",
        *table(heads, rows),
        "",
        fill(f"At this peak the API allows so many videos a day: {most}.", 118),
    ]
    return "\n".join(text)


def assumptions(load: Load, figures: Measured, caps: Caps) -> Iterator[str]:
    """Tell what the figures rest on.

    :param load: what is asked for, but for the number of videos.
    :param figures: what was measured.
    :param caps: what the API allows.
    :return: sentences in Markdown.
    """
    slot, jobs = figures.slot_seconds, "any number of" if caps.jobs is None else f"{caps.jobs:,}"
    delay = figures.delay_intervals * load.poll_interval
    yield (
        f"The busiest time has {load.peak_factor:g} times the day's average. Videos start by chance in it, so that "
        "numbers at once are Little's law and three times the square root of that."
    )
    yield (
        f"A render takes {load.render_seconds:g} s. A triggerer looks each {load.poll_interval:g} s, and knows of "
        f"95 of 100 ends within {delay:.1f} s (measured)."
    )
    yield (
        f"A worker slot is held {slot['2']:.1f} s with `worker_visits=2`, {slot['1']:.1f} s with 1, not at all with "
        f"0, and {slot['batch']:.1f} s by a batch (measured). To store a video takes {load.store_seconds:g} s "
        "more, of a batch one after the other. One slot is there in any case: retries take a worker in each mode."
    )
    yield (
        f"A batch has {load.batch_size:,} videos, or those of the day; all of them render at once, and each makes it "
        f"{figures.start_seconds:.3f} s longer (measured)."
    )
    yield (
        f"A triggerer runs up to {load.capacity:,} triggers. One more than needed is there, for the one that is "
        "restarted. Its memory was measured with as many jobs or more."
    )
    yield (
        f"At each look a triggerer asks for each of up to {ONE_BY_ONE} jobs, or for the pages of {PAGE} jobs of the "
        "whole account, on which there are no other jobs. A submission is one request."
    )
    yield f"The API allows {caps.requests_per_minute:g} requests a minute and {jobs} renders at once."
    yield (
        f"There are {SCHEDULERS} schedulers, {DAG_PROCESSORS} DAG processor and {API_SERVERS} API servers of one "
        f"process. A pool opens up to {CONNECTIONS} connections, an API server has two, Celery's result backend "
        "opens one for each worker slot."
    )


def row(load: Load, mode: str, needed: Size) -> Sequence[str]:
    """Return the cells of a row.

    :param load: what is asked for.
    :param mode: one of `MODES`.
    :param needed: for that.
    :return: the cells.
    """
    starts, memory = needed.starts_per_minute, needed.triggerer_megabytes
    return (
        f"{load.videos_per_day:,}",
        name(mode),
        f"{starts:.2g}" if starts < 10 else f"{starts:,.0f}",
        f"{needed.renders:,}",
        f"{needed.triggerers} of {'unknown size' if memory is None else f'{memory:.0f} MB'}",
        f"{needed.worker_slots:,}",
        "none" if needed.pool_slots is None else f"{needed.pool_slots:,}",
        f"{needed.requests_per_minute:,.0f}",
        f"{needed.connections:,}",
        "; ".join(needed.limits) or "none",
    )


def name(mode: str) -> str:
    """Return a mode as a reader knows it.

    :param mode: one of `MODES`.
    :return: Markdown.
    """
    return mode if mode == "batch" else f"`worker_visits={mode}`"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Write a Markdown table.

    :param heads: of the columns.
    :param rows: their cells.
    :return: its lines.
    """
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the sizes.

    :param arguments: the command line without the program's name (default: that of the process).
    """
    parser = ArgumentParser(
        "sizing.py",
        description="How much of an Airflow a number of videos a day needs.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    option("--videos-per-day", type=int, nargs="+", default=[10, 1_000, 100_000], help="how many start on a day")
    option("--peak-factor", type=float, default=Load.peak_factor, help="times the day's average at the busiest time")
    option("--render-seconds", type=float, default=Load.render_seconds, help="how long a render takes")
    option("--poll-interval", type=float, default=Load.poll_interval, help="seconds between two looks at a job")
    option("--batch-size", type=int, default=Load.batch_size, help="videos of a batch task")
    option("--store-seconds", type=float, default=Load.store_seconds, help="of a worker, to store a video")
    option("--capacity", type=int, default=Load.capacity, help="[triggerer] capacity")
    option("--heartbeat-interval", type=int, choices=(1, 5), default=5, help="[workers] min_heartbeat_interval")
    option("--requests-per-minute", type=float, default=500, help="that the API allows")
    option("--renders-at-once", type=int, help="that the API allows; left out: any number")
    option("--results", type=Path, default=RESULTS, help="what the benchmarks have measured")
    given = parser.parse_args(arguments)
    load = Load(
        given.videos_per_day[0],
        peak_factor=given.peak_factor,
        render_seconds=given.render_seconds,
        poll_interval=given.poll_interval,
        batch_size=given.batch_size,
        store_seconds=given.store_seconds,
        capacity=given.capacity,
    )
    loads = [replace(load, videos_per_day=videos) for videos in given.videos_per_day]
    figures = measured(json.loads(given.results.read_text("utf-8")), given.heartbeat_interval)
    caps = Caps(given.requests_per_minute, given.renders_at_once)
    sys.stdout.write(report(loads, figures, caps, given.heartbeat_interval) + "\n")


if __name__ == "__main__":
    main()
