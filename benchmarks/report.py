"""Results of the benchmarks as Markdown tables and plots: `python benchmarks/report.py benchmarks/results/full.json`.

The plots of the committed results go to `docs/bench-*.png`, those of others beside their file.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from common import Json
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"


@dataclass(frozen=True)
class Part:
    """How a part is shown: its `title`, and its `columns`, each with the key of its figure in the rows."""

    title: str
    columns: Mapping[str, str]


PARTS = {
    "slots": Part(
        "Worker slots, processes and CPU, per video",
        {
            "": "contender",
            "min_heartbeat_interval": "min_heartbeat_interval",
            "render, s": "render_seconds",
            "videos": "videos",
            "succeeded": "succeeded",
            "slot seconds": "slot_seconds",
            "slot seconds per second of render": "slot_seconds_per_render_second",
            "slot seconds at 180 s (from the slope)": "slot_seconds_at_180",
            "its standard error": "slot_seconds_at_180_error",
            "worker processes": "worker_processes",
            "recorded starts": "recorded_starts",
            "worker CPU, s": "worker_cpu_seconds",
            "total, s": "total_seconds",
            "status requests": "status_requests",
        },
    ),
    "polling": Part(
        "Requests and delay",
        {
            "": "contender",
            "in flight": "jobs",
            "scale": "scale",
            "status requests per video": "requests_per_video",
            "peak requests/s": "peak_requests_per_second",
            "delay p50, poll intervals": "delay_p50_intervals",
            "p95": "delay_p95_intervals",
            "delay p50, s": "delay_p50_seconds",
            "p95, s": "delay_p95_seconds",
            "max, s": "delay_max_seconds",
            "CPU per video, s": "cpu_seconds_per_video",
            "lost": "lost",
            "forgotten": "forgotten",
            "remark": "why",
        },
    ),
    "triggerer": Part(
        "One triggerer",
        {
            "": "contender",
            "waiting": "waiting",
            "foreign jobs": "foreign_jobs",
            "CPU, % of a core": "cpu_percent",
            "of it the runner": "runner_cpu_percent",
            "above idle": "cpu_percent_above_idle",
            "memory, MB": "memory_mb",
            "kB per job": "kb_per_job",
            "kB per job above idle": "kb_per_job_above_idle",
            "lag p50, ms": "lag_p50_ms",
            "p99, ms": "lag_p99_ms",
            "max, ms": "lag_max_ms",
            "requests/s": "requests_per_second",
            "pick-up of all, s": "pick_up_seconds",
            "remark": "why",
        },
    ),
    "burst": Part(
        "Many videos at once",
        {
            "": "contender",
            "at once": "videos",
            "succeeded": "succeeded",
            "start to success p50, s": "total_p50_seconds",
            "p95, s": "total_p95_seconds",
            "ends of the renders spread over, s": "ready_spread_seconds",
            "COMPLETED to success p50, s": "late_p50_seconds",
            "p95, s ": "late_p95_seconds",
            "loop blocked": "blocked",
            "triggerer CPU per video, s": "cpu_seconds_per_video",
        },
    ),
    "batch": Part(
        "Many videos in one run",
        {
            "": "contender",
            "videos": "videos",
            "succeeded": "succeeded",
            "submissions": "submissions",
            "status requests": "status_requests",
            "slot seconds": "slot_seconds",
            "worker processes": "worker_processes",
            "credits": "credits",
            "total, s": "total_seconds",
        },
    ),
    "webhooks": Part(
        "With webhooks and without",
        {
            "": "contender",
            "videos": "videos",
            "succeeded": "succeeded",
            "render, s": "render_seconds",
            "COMPLETED to resumed p50, s": "resumed_p50_seconds",
            "p95, s": "resumed_p95_seconds",
            "COMPLETED to success p50, s": "late_p50_seconds",
            "p95, s ": "late_p95_seconds",
            "status requests per video": "requests_per_video",
        },
    ),
    "outage": Part(
        "An outage of the API",
        {
            "": "contender",
            "in flight": "jobs",
            "outage, s": "outage_seconds",
            "50 % informed after, s": "informed_50_percent_seconds",
            "95 %": "informed_95_percent_seconds",
            "all": "informed_100_percent_seconds",
            "requests during it": "requests_during_outage",
            "lost": "lost",
            "forgotten": "forgotten",
        },
    ),
}

# Okabe and Ito's colours, which the colour-blind can tell apart.
STYLES: Mapping[str, Json] = {
    "documented loop": {"color": "#000000", "marker": "s"},
    "one poller per trigger": {"color": "#d55e00", "marker": "^"},
    "ours": {"color": "#0072b2", "marker": "o"},
    "idle": {"color": "#808080", "marker": "D"},
}
OURS, OTHERS = ("#0072b2", "#a6cee3"), ("#555555", "#cccccc")
RC: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
}


def publish(path: Path) -> None:
    """Print the tables of the results in the file `path`, and draw their plots."""
    results = json.loads(path.read_text())
    print("\n".join(markdown(results)))
    directory = PROJECT / "docs" if path.resolve() == RESULTS / "full.json" else path.parent
    with mpl.rc_context(RC):
        for name, draw in PLOTS.items():
            if name in results:
                picture = directory / f"bench-{name}.png"
                draw(results[name]["rows"]).savefig(picture)
                print(picture)


def markdown(results: Json) -> Iterator[str]:
    """Yield the lines of the report: for each part its table, its notes, and where it was measured."""
    for name, part in PARTS.items():
        if name not in results:
            continue
        rows = results[name]["rows"]
        # A column without figures tells nothing.
        columns = {head: key for head, key in part.columns.items() if any(row.get(key) is not None for row in rows)}
        yield f"## {part.title}\n"
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        for row in rows:
            yield f"| {' | '.join(cell(row.get(key)) for key in columns.values())} |"
        yield ""
        yield from (f"- {note}" for note in results[name]["notes"])
        where = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in results[name]["conditions"].items())
        yield f"- {where}; took {results[name]['seconds']} s.\n"


def cell(value: Any) -> str:
    """Return a figure as text, a fraction with three digits that count; "" for None."""
    if isinstance(value, float):
        decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{decimals}f}"
    return f"{value:,}" if isinstance(value, int) else str(value or "")


def slots_plot(rows: Sequence[Json]) -> Figure:
    """Return the plot of the worker-slot seconds per video, by contender, of the longest render that was measured."""
    usual = [row for row in rows if row["min_heartbeat_interval"] == rows[0]["min_heartbeat_interval"]]
    render = max(row["render_seconds"] for row in usual)
    shown = [row for row in usual if row["render_seconds"] == render]
    figure = Figure(figsize=(10, 0.8 + 0.45 * len(shown)))
    axes = figure.subplots()
    title = f"Worker-slot seconds per video: renders of {render} s"
    longest = 0.0
    for place, row in enumerate(shown):
        dark, light = OURS if row["contender"].startswith("ours") else OTHERS
        end, text = row["slot_seconds"], f"{row['slot_seconds']:.1f} s"
        if row.get("slot_seconds_at_180") is not None:
            title = f"Worker-slot seconds per video: renders of {render} s (dark), of 180 s from the slope (light)"
            predicted = max(0, row["slot_seconds_at_180"])
            axes.barh(place, predicted, color=light, height=0.7)
            text += f"; at 180 s: {predicted:.0f} ± {row['slot_seconds_at_180_error']:.0f} s"
            end = max(end, predicted)
        axes.barh(place, row["slot_seconds"], color=dark, height=0.35)
        axes.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center")
        longest = max(longest, end)
    axes.set(title=title, xlim=(0, 1.3 * longest))
    axes.set_yticks(range(len(shown)), [row["contender"] for row in shown])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    return figure


def polling_plot(rows: Sequence[Json]) -> Figure:
    """Return the plots of requests per video and of delay against the number of renders in flight."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    left.set(title="Status requests per video", xlabel="renders in flight", xscale="log", yscale="log")
    right.set(title="Delay (p95), in poll intervals", xlabel="renders in flight", xscale="log")
    for axes, figures in (left, "requests_per_video"), (right, "delay_p95_intervals"):
        lines(axes, rows, "jobs", figures)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    return figure


def triggerer_plot(rows: Sequence[Json]) -> Figure:
    """Return the plots of CPU and memory of a triggerer against the number of jobs that wait in it."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    left.set(title="CPU of a triggerer, % of a core", xlabel="waiting jobs")
    right.set(title="Memory of a triggerer, MB", xlabel="waiting jobs")
    alone = [row for row in rows if not row["foreign_jobs"]]
    # A triggerer in which nobody waits is where all lines begin.
    begin = [{**row, "contender": name} for row in alone if not row["waiting"] for name in STYLES]
    names = {row["contender"] for row in alone if row["waiting"]}
    for axes, figures in (left, "cpu_percent"), (right, "memory_mb"):
        for row in rows:
            if row["foreign_jobs"]:
                axes.plot(row["waiting"], row[figures], **STYLES[row["contender"]], markerfacecolor="white", zorder=3)
                text = f"hollow: with {row['foreign_jobs']:,} foreign jobs"
                axes.text(0.03, 0.93, text, transform=axes.transAxes, fontsize="small")
        lines(axes, [row for row in begin + alone if row["contender"] in names], "waiting", figures)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def lines(axes: Axes, rows: Sequence[Json], x: str, y: str) -> None:
    """Draw a line for each contender through its rows, with its name at the right end.

    Parameters: `x` and `y`, the keys of the figures. Of two rows with the same x the later one counts.
    """
    ends: dict[str, tuple[float, float]] = {}
    for name, style in STYLES.items():
        points = {row[x]: row[y] for row in rows if row["contender"] == name and row[y] is not None}
        if points:
            ends[name] = max(points.items())
            axes.plot(*zip(*sorted(points.items()), strict=True), **style, clip_on=False)
    bottom, top = axes.get_ylim()
    axes.set_ylim((0, 1.1 * top) if axes.get_yscale() == "linear" else (bottom, top))
    to_axes = axes.transData + axes.transAxes.inverted()
    height = -math.inf
    for name, end in sorted(ends.items(), key=lambda item: item[1][1]):
        # Names that would overlap move up.
        height = max(to_axes.transform(end)[1], height + 0.07)
        axes.annotate(
            name,
            (1, height),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=STYLES[name]["color"],
        )


PLOTS: Mapping[str, Callable[[Sequence[Json]], Figure]] = {
    "slots": slots_plot,
    "polling": polling_plot,
    "triggerer": triggerer_plot,
}


def main() -> None:
    """Do what the command line says."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="a file that benchmarks/run.py wrote")
    publish(parser.parse_args().results)


if __name__ == "__main__":
    main()
