"""`make bench`: run the benchmarks one after the other, print their tables, draw their plots.

Each part replaces its former result in `full.json` (or `quick.json`) as soon as it is measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import report
from common import Json, progress
from report import RESULTS

PARTS = ("polling", "triggerer", "slots", "outage")
MORE = ("burst", "batch", "webhooks")
"""What runs only when it is named: an hour of its own, a quarter of one, ten minutes."""


def conditions() -> Json:
    """Return what a reader has to know of where, when and with what something was measured."""
    commit = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(commit, capture_output=True, text=True, check=False).stdout.strip() or None,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "airflow": version("apache-airflow"),
    }


def run(parts: Sequence[str], path: Path, *, quick: bool) -> None:
    """Measure these parts and put the results into the file `path`. Parameters: `quick`, in their short form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        progress(f"{part} begins")
        where, start = conditions(), time.monotonic()
        measured = import_module(part).measure(quick)
        results = json.loads(path.read_text()) if path.exists() else {}
        results[part] = {"conditions": where, "seconds": round(time.monotonic() - start), **measured}
        path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Do what the command line says."""
    parser = ArgumentParser(description=__doc__)
    options = parser.add_argument
    options("--quick", action="store_true", help="a small form of all, in three minutes")
    options("--only", default=",".join(PARTS), help=f"the parts to run (default %(default)s; also {', '.join(MORE)})")
    options("--output", type=Path, default=RESULTS, help="the directory for results (default benchmarks/results)")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := set(parts) - {*PARTS, *MORE}:
        parser.error(f"argument --only: there is no {', '.join(sorted(unknown))}")
    path = given.output / ("quick.json" if given.quick else "full.json")
    run(parts, path, quick=given.quick)
    report.publish(path)


if __name__ == "__main__":
    main()
