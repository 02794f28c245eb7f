"""What an outage of the API costs those who wait: how many are lost, and how soon the others know.

All renders end while the API answers 503 to everything. They are short, because only what happens after that is
looked at; the poll intervals are the real ones. For who waits see polling.py.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from random import Random
from threading import Barrier

from common import Json, RunningSandbox, at_once, percentile, print_measured, progress, sandbox, submit
from polling import CONTENDERS, Waited, moment, waiting_process

# In lengths of the outage: the jobs are submitted within the first, and take the second.
SPREAD, RENDER = 0.1, 0.6
PATIENCE_SECONDS = 180.0
NOTES = [
    "During the outage the API answers 503 to each request, and all renders end.",
    "Informed: seconds from the end of the outage until that share of all waiters knows; None: so many never did.",
    "Requests during the outage are counted by the API's side.",
    "Lost: the waiter died of an error. The video is rendered and paid, and nobody fetches it.",
    "One poller per trigger ends at its first error, as the openai provider's; whose client tries three times first.",
    "The http provider's HttpSensorTrigger 6.3.0, by its source, outlives a 503, but cannot look at a job's status.",
    "All of ours know at once, at the first look after the outage: one draw from the wait between two looks.",
]


@dataclass(frozen=True)
class Run:
    """One run: who waits, for how many jobs, and how long the outage is."""

    contender: str
    jobs: int
    outage_seconds: float


def measure(quick: bool) -> Json:
    """Measure an outage of 60 s that 1000 waiters live through (`quick`: 10 s, 200); return `rows` and `notes`.

    A row tells of one `contender` with this many `jobs` and an outage of `outage_seconds`:

    - `informed_50_percent_seconds`, `_95_`, `_100_`: from the end of the outage until so many waiters knew.
    - `requests_during_outage`: how many the API refused.
    - `lost`: waiters that died, and `errors`: of what; `forgotten`: waiters that never heard of their job.
    """
    jobs, seconds = (200, 10.0) if quick else (1000, 60.0)
    runs = [Run(contender, jobs, seconds) for contender in CONTENDERS]
    batches = [runs] if quick else [[run] for run in runs]
    return {"rows": [row for batch in batches for row in at_once(measure_run, batch)], "notes": NOTES}


def measure_run(run: Run, barrier: Barrier) -> Json:
    """Let the waiters of one run live through the outage, from the `barrier` on, and return the row about them."""
    draw = Random(run.jobs)  # noqa: S311 - the same moments for all contenders
    delays = [draw.uniform(0, SPREAD * run.outage_seconds) for _ in range(run.jobs)]
    with (
        sandbox(render_seconds=RENDER * run.outage_seconds) as box,
        waiting_process(run.contender, box, CONTENDERS[run.contender].interval, PATIENCE_SECONDS) as pipe,
    ):
        barrier.wait()
        waited, begin, end = asyncio.run(_outage(box, pipe, delays, run.outage_seconds))
        refused = box.stats()["faults"]["error"]
        ended = [moment(job["completedAt"]) for job in box.jobs()]
    if not begin < min(ended) <= max(ended) < end:
        raise RuntimeError("Not all renders ended during the outage: the machine was busy with something else")
    late = [known - end for known in waited.known.values()] + [math.inf] * (run.jobs - len(waited.known))
    informed = {percent: percentile(late, percent) for percent in (50, 95, 100)}
    row = {
        **asdict(run),
        **{f"informed_{p}_percent_seconds": None if math.isinf(after) else after for p, after in informed.items()},
        "requests_during_outage": refused,
        "lost": sum(waited.lost.values()),
        "errors": waited.lost,
        "forgotten": waited.forgotten,
    }
    progress(f"outage: {row}")
    return row


async def _outage(
    box: RunningSandbox, pipe: Connection, delays: Sequence[float], seconds: float
) -> tuple[Waited, float, float]:
    """Submit a job after each of the `delays`, then have the outage.

    Return what became of the waiters, and when the outage began and ended, in seconds since the epoch.
    """
    async for job_id in submit(box, delays):
        pipe.send(job_id)
    pipe.send(None)
    begin = time.time()
    await asyncio.to_thread(box.set_faults, [{"fault": "error", "status": 503}])
    await asyncio.sleep(seconds)
    await asyncio.to_thread(box.set_faults, [])
    end = time.time()
    return await asyncio.to_thread(pipe.recv), begin, end


if __name__ == "__main__":
    print_measured(measure, __doc__)
