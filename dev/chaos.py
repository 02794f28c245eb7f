"""`make chaos`: break things on purpose, in a real Airflow, and count videos and credits afterwards.

With `PRODUCTION=1` the Airflow is the one of `production.py`, which has more that can break.

Each scenario runs a batch of videos, injects faults, and then looks at every task, every XCom and the account of the
sandbox: each video must be there, and must have been paid once.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from local_airflow import LocalAirflow, Postgres, exit_on_signals
from production import DEPLOYMENTS, TRIGGERERS, WORKERS, Daemon, ProductionAirflow
from webhook_storm import Storm

from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.webhooks import jobs_asset_uri

PROJECT = Path(__file__).resolve().parent.parent
DEATHS = ["dies_before_post", "dies_before_answer", "dies_before_deferral", "dies_at_the_end"]
DAGS = [
    *("batch", "one_task", "gives_up", "differs", "edited", "failed_and_cleared_1", "failed_and_cleared_2", "secret"),
    *DEATHS,
    *(f"{death}_and_differs" for death in DEATHS),
    *("storm", "storm_follows"),
]
STORM = "hailuo_storm"  # the connection of the storm's videos
CREDITS = 5  # of each video
PATIENCE_SECONDS = 600
WAVES = 5
"""In how many parts the videos of a storm are ready."""
GENERATE, LOOK, LIST = "POST /v2/videos/generate", "GET /v2/jobs/{id}", "GET /v2/jobs"


@dataclass(frozen=True)
class Seen:
    """What became of a batch.

    `faults` were injected; `videos` were asked for; `lost` have no success with the right URL in XCom; `paid_twice`
    have more than one job; `credits` were charged, less those refunded; it took `seconds`; `stuck` tasks have not
    ended; `wrong` counts what else is not as it should be, and `notes` tell more.
    """

    faults: int
    videos: int
    lost: int
    paid_twice: int
    credits: int
    seconds: float
    stuck: int
    wrong: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def right(self) -> bool:
        """Whether faults struck, each video is there, and was paid once."""
        paid_once = self.paid_twice == 0 and self.credits == CREDITS * self.videos
        return self.faults > 0 and self.lost == self.stuck == 0 and paid_once and not self.wrong


class Chaos:
    """An Airflow and a sandbox, and ways to break them.

    :param airflow: runs.
    :param sandbox: runs.
    :param deaths: the directory where dying tasks and failed look-ups leave a note.
    :param secret: the file without which the secrets backend fails.
    """

    def __init__(self, airflow: LocalAirflow, sandbox: Sandbox, deaths: Path, secret: Path) -> None:
        self.airflow = airflow
        self.sandbox = sandbox
        self.secret = secret
        self._deaths = deaths
        self._strikes = 0
        self.restarts = 0

    def batch(
        self,
        videos: int,
        strike: Callable[[], None] = lambda: None,
        dag_id: str = "batch",
        *,
        tries_are_faults: bool = False,
    ) -> Seen:
        """Run a batch of videos to its end, and look.

        :param videos: how many.
        :param strike: is called after the batch was triggered.
        :param dag_id: the DAG.
        :param tries_are_faults: whether each try after the first one is a fault, and nothing else is. What fails in
            the end is cleared until it succeeds.
        """
        start, charged, faults = time.monotonic(), self.sandbox.stats()["creditsCharged"], self._faults()
        run_id = self.airflow.trigger(dag_id, conf={"videos": videos})
        strike()
        with suppress(TimeoutError):
            while self.airflow.wait(dag_id, run_id, timeout=PATIENCE_SECONDS) == "failed" and tries_are_faults:
                self.airflow.clear(dag_id, run_id, only_failed=True)
        self.sandbox.set_faults([])
        jobs = self.jobs(run_id)
        urls = self.urls(run_id)
        tries = self.airflow.query(
            "select sum(try_number - 1) from task_instance where run_id = %s and task_id = 'video'", run_id
        )
        return Seen(
            faults=int(tries[0][0]) if tries_are_faults else self._faults() - faults,
            videos=videos,
            lost=sum(urls.get(n) not in {job.video_url for job in jobs[n]} for n in range(videos)),
            paid_twice=sum(len(of_one) > 1 for of_one in jobs.values()),
            credits=self.sandbox.stats()["creditsCharged"] - charged,
            seconds=time.monotonic() - start,
            stuck=self.stuck(run_id),
        )

    def stuck(self, run_id: str) -> int:
        """Return how many videos of a run have not ended."""
        return sum(state not in {"success", "failed"} for state, _ in self.tries(run_id).values())

    def kill(self, name: str) -> None:
        """Kill a component and all of its processes, as a power cut does."""
        self._strikes += 1
        self.airflow.kill(name)

    def kill_and_start(self, *names: str) -> None:
        """Kill components, and start them again."""
        for name in names:
            self.kill(name)
        for name in names:
            self.airflow.start(name)

    def renew(self, name: str) -> None:
        """End a triggerer as a new deployment does, start its successor, and wait until that is well."""
        self._strikes += 1
        alive = (
            "select count(*) from job where job_type = 'TriggererJob' and state = 'running' "
            "and latest_heartbeat > now() - interval '10 seconds'"
        )
        self.airflow.kill(name, signal.SIGTERM)
        self.airflow.start(name)
        self.airflow.until(lambda: self.airflow.query(alive)[0][0] == len(TRIGGERERS))

    def restart(self, server: Daemon | Postgres) -> None:
        """Restart a server that all components are connected to."""
        self._strikes += 1
        server.restart()

    @property
    def workers(self) -> Sequence[str]:
        """The components in which tasks run."""
        return WORKERS if isinstance(self.airflow, ProductionAirflow) else ("scheduler",)

    def keep_triggerer(self) -> None:
        """Start the triggerer again if it has ended, as whoever supervises it does.

        Airflow 3.3.2 lets it die when a task is cleared at the moment of its event: the clear gives the row another
        primary key.
        """
        if isinstance(self.airflow, ProductionAirflow):
            self.airflow.check()
        elif self.airflow.ended("triggerer"):
            self.restarts += 1
            self.airflow.start("triggerer")

    @contextmanager
    def two_api_servers(self) -> Iterator[Sequence[str]]:
        """Yield the addresses of two API servers."""
        if isinstance(self.airflow, ProductionAirflow):
            yield self.airflow.api_servers
        else:
            yield self.airflow.url, self.airflow.start_another_server("api-server-2")
            self.airflow.kill("api-server-2")

    def until(self, state: str, count: int = 1) -> None:
        """Wait until `count` tasks are in `state` at the same time."""
        query = "select count(*) from task_instance where task_id = 'video' and state = %s"
        self.airflow.until(lambda: self.airflow.query(query, state)[0][0] >= count)

    def run_ended(self, run_id: str) -> bool:
        """Tell whether a run has ended."""
        query = "select 1 from dag_run where run_id = %s and state in ('success', 'failed')"
        return bool(self.airflow.query(query, run_id))

    def clear_some(self, run_id: str, count: int, *states: str) -> int:
        """Clear at most `count` videos of the storm that are in one of these states, and return how many."""
        query = (
            "select map_index from task_instance where run_id = %s and task_id = 'video' and state = any(%s) "
            "order by random() limit %s"
        )
        chosen = [n for (n,) in self.airflow.query(query, run_id, list(states), count)]
        if chosen:
            self.airflow.clear("storm", run_id, [("video", n) for n in chosen])
        return len(chosen)

    def _faults(self) -> int:
        return self._strikes + len(list(self._deaths.iterdir())) + sum(self.sandbox.stats()["faults"].values())

    def jobs(self, run_id: str) -> dict[int, list[Job]]:
        """Return the jobs of a run by the map index of their task, which their prompts tell."""
        jobs: defaultdict[int, list[Job]] = defaultdict(list)
        for told in self.sandbox.jobs():
            *_, asked_by, n = told["input"]["prompt"].split(" ")
            if asked_by == run_id:
                jobs[int(n)].append(Job.model_validate(told))
        return jobs

    def tries(self, run_id: str) -> dict[int, tuple[str, int]]:
        """Return state and number of tries of the videos of a run, by map index."""
        query = "select map_index, state, try_number from task_instance where run_id = %s and task_id = 'video'"
        return {n: (state, tries) for n, state, tries in self.airflow.query(query, run_id)}

    def named(self, run_id: str) -> dict[int, str]:
        """Return the jobs that the XComs `job_id` and `job` of the tasks of a run agree on, by map index."""
        query = (
            "select i.map_index, cast(i.value as text), cast(j.value as text) from xcom i "
            "join xcom j using (dag_id, run_id, task_id, map_index) "
            "where i.run_id = %s and i.task_id = 'video' and i.key = 'job_id' and j.key = 'job'"
        )
        named = {
            n: (json.loads(job_id), json.loads(job)["id"]) for n, job_id, job in self.airflow.query(query, run_id)
        }
        return {n: one for n, (one, other) in named.items() if one == other}

    def delivered_before_clear(self, run_id: str) -> Counter[int]:
        """Return how often a video of a run had been delivered when its task was cleared, by map index."""
        query = (
            "select map_index from task_instance_history "
            "where run_id = %s and task_id = 'video' and state = 'success'"
        )
        return Counter(n for (n,) in self.airflow.query(query, run_id))

    def events(self) -> Counter[str]:
        """Return how many events the asset of the storm's videos has of each job."""
        query = (
            "select cast(e.extra as json) ->> 'job' from asset_event e join asset a on a.id = e.asset_id "
            "where a.uri = %s"
        )
        return Counter(job_id for (job_id,) in self.airflow.query(query, jobs_asset_uri(STORM)))

    def urls(self, run_id: str) -> dict[int, str]:
        """Return the URLs in the XComs of the tasks of a run that ended well, by map index, or by item of a batch."""
        query = (
            "select x.map_index, cast(x.value as text) from xcom x "
            "join task_instance t using (dag_id, run_id, task_id, map_index) "
            "where x.run_id = %s and x.task_id = 'video' and x.key = 'return_value' and t.state = 'success'"
        )
        urls = {n: json.loads(value) for n, value in self.airflow.query(query, run_id)}
        return {item["index"]: item["url"] for item in urls[-1]} if -1 in urls else urls


def dies(dag_id: str) -> Callable[[Chaos, int], Seen]:
    """Return the scenario in which each task's process is killed once, at the moment that the DAG is named for."""
    return lambda chaos, videos: chaos.batch(videos, dag_id=dag_id)


def gives_up(dag_id: str) -> Callable[[Chaos, int], Seen]:
    """Return the scenario in which each try ends before its video is there, and what fails for good is cleared."""
    return lambda chaos, videos: chaos.batch(videos, dag_id=dag_id, tries_are_faults=True)


def disturbed(*rules: dict[str, Any]) -> Callable[[Chaos, int], Seen]:
    """Return the scenario in which the sandbox follows these rules."""

    def scenario(chaos: Chaos, videos: int) -> Seen:
        chaos.sandbox.set_faults(rules)
        return chaos.batch(videos)

    return scenario


def triggerer_killed_twice(chaos: Chaos, videos: int) -> Seen:
    """Kill the triggerer and start another, twice while the videos render."""

    def strike() -> None:
        for _ in range(2):
            chaos.until("deferred", videos // 2)
            time.sleep(2)
            chaos.kill_and_start("triggerer")
            time.sleep(5)

    return chaos.batch(videos, strike)


def one_of_two_triggerers_killed(chaos: Chaos, videos: int) -> Seen:
    """Let two triggerers share the videos and kill one of them."""
    other = TRIGGERERS[1]
    alone = other not in chaos.airflow.plan
    if alone:
        chaos.airflow.start("triggerer", name=other)

    def strike() -> None:
        chaos.until("deferred", videos // 2)
        time.sleep(2)
        chaos.kill("triggerer")

    try:
        return chaos.batch(videos, strike)
    finally:
        if alone:
            chaos.airflow.kill(other)
        chaos.airflow.start("triggerer")


def workers_killed(chaos: Chaos, videos: int) -> Seen:
    """Kill all workers, with LocalExecutor the scheduler too, at the first visits, in between, and at the second."""

    def strike() -> None:
        for state in "running", "deferred", "running":
            chaos.until(state)
            chaos.kill_and_start(*chaos.workers)

    return chaos.batch(videos, strike)


def in_each_phase(*struck: str) -> Callable[[Chaos, int], Seen]:
    """Return the scenario in which these are killed or restarted: as tasks run, wait, and run again."""

    def scenario(chaos: Chaos, videos: int) -> Seen:
        def strike() -> None:
            for state, name in zip(("running", "deferred", "running"), struck, strict=True):
                chaos.until(state)
                if name in chaos.airflow.plan:
                    chaos.kill_and_start(name)
                else:
                    chaos.restart(getattr(chaos.airflow, name))

        return chaos.batch(videos, strike)

    return scenario


def triggerers_renewed(chaos: Chaos, videos: int) -> Seen:
    """Replace both triggerers, one after the other, while the videos render."""

    def strike() -> None:
        chaos.until("deferred", videos // 2)
        for name in TRIGGERERS:
            chaos.renew(name)

    return chaos.batch(videos, strike)


def one_task_killed(chaos: Chaos, videos: int) -> Seen:
    """Make all videos in one task; kill its worker at both visits, and the triggerer twice in between."""
    before = chaos.sandbox.stats()["creditsCharged"]

    def is_charged(share: float) -> bool:
        return chaos.sandbox.stats()["creditsCharged"] - before >= share * videos * CREDITS

    def strike() -> None:
        chaos.until("running")
        chaos.kill_and_start(*chaos.workers)
        for share in 0.3, 0.6:
            chaos.airflow.until(partial(is_charged, share))
            chaos.kill_and_start("triggerer")
        chaos.until("running")
        chaos.kill_and_start(*chaos.workers)

    return chaos.batch(videos, strike, dag_id="one_task")


def secrets_backend_out(chaos: Chaos, videos: int) -> Seen:
    """Take the secrets backend away before half of the submissions, and again for over a minute in mid-render."""
    kept = chaos.secret.read_text()

    def out(seconds: float) -> None:
        chaos.secret.unlink()
        time.sleep(seconds)
        chaos.secret.write_text(kept)

    def strike() -> None:
        out(10)
        chaos.until("deferred", videos // 2)
        # A new triggerer has to look up the connection.
        chaos.kill_and_start("triggerer")
        out(90)

    return chaos.batch(videos, strike, dag_id="secret")


def storm_of_webhooks(chaos: Chaos, videos: int) -> Seen:
    """Send webhooks to two API servers, duplicates and forged ones, while videos end and their tasks are cleared."""
    start, charged, cleared = time.monotonic(), chaos.sandbox.stats()["creditsCharged"], 0
    restarts = chaos.restarts
    with chaos.two_api_servers() as servers:
        receivers = [f"{server}/hailuo/webhooks/{STORM}" for server in servers]
        storm = Storm(receivers, chaos.sandbox.api_key)
        run_id = chaos.airflow.trigger("storm", {"videos": videos, "waves": WAVES, "receivers": receivers})
        chaos.until("deferred", videos)
        ids = [job.id for jobs in chaos.jobs(run_id).values() for job in jobs]
        early = [storm.right(job_id) for job_id in ids]
        of_each = [forged for job_id in random.sample(ids, len(ids) // 7) for forged in storm.forged(job_id)]
        early += of_each
        late = [storm.right(job_id) for job_id in ids]
        webhooks = random.sample(early, len(early)) + random.sample(late, len(late))
        with ThreadPoolExecutor(1) as thread:
            blowing = thread.submit(asyncio.run, storm.blow(webhooks))
            for wave in range(WAVES):
                while not blowing.done() and storm.answered < len(early) * (wave + 1) / (WAVES + 1):
                    chaos.keep_triggerer()
                    time.sleep(0.02)
                cleared += chaos.clear_some(run_id, videos // 30, "deferred")
                chaos.sandbox.release(f"wave {wave}:")
                cleared += chaos.clear_some(run_id, videos // 30, "scheduled", "queued", "running")
            blowing.result()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not chaos.run_ended(run_id) and time.monotonic() < deadline:
            chaos.keep_triggerer()
            # Of tasks that were cleared when they had delivered already.
            chaos.sandbox.release()
            time.sleep(0.5)
    jobs, urls, named, events = chaos.jobs(run_id), chaos.urls(run_id), chaos.named(run_id), chaos.events()
    again, tries = chaos.delivered_before_clear(run_id), chaos.tries(run_id)
    done = {n: {job.id: job.video_url for job in of_one if job.is_final} for n, of_one in jobs.items()}
    odd = {
        "with another number of events than one": sum(
            events[job.id] != 1 for of_one in jobs.values() for job in of_one
        ),
        **storm.wrong,
    }
    return Seen(
        faults=len(webhooks) + cleared,
        videos=videos + sum(again.values()),
        lost=sum(urls.get(n) is None or urls[n] != done[n].get(named.get(n, "")) for n in range(videos)),
        paid_twice=sum(len(jobs[n]) > 1 + again[n] for n in range(videos)),
        credits=chaos.sandbox.stats()["creditsCharged"] - charged,
        seconds=time.monotonic() - start,
        stuck=chaos.stuck(run_id),
        wrong={what: count for what, count in odd.items() if count},
        notes=[
            f"{len(webhooks)} webhooks, {len(of_each)} of them forged or about nothing",
            f"{cleared} clears, {sum(again.values())} of what had been delivered just before",
            f"{sum(tried - 1 for _, tried in tries.values()) - cleared} more tries, {restarts} triggerers that died",
            f"answers took {max(storm.seconds):.1f} s at most, half of them {median(storm.seconds):.2f} s",
            *sorted(f"{count} {kind}: {status}" for (kind, status), count in storm.answers.items()),
        ],
    )


ODD: list[dict[str, Any]] = [
    *(
        {"fault": "error", "status": status, "html": True, "route": route, "probability": 0.04}
        for status in (302, 400, 401, 403, 404, 409, 418, 451, 502)
        for route in (LOOK, LIST)
    ),
    *(
        {"fault": "error", "status": status, "route": route, "probability": 0.04}
        for status in (400, 401, 403, 404, 500)
        for route in (LOOK, LIST)
    ),
    {"fault": "late-url", "delay": 3, "route": LOOK, "probability": 0.1},
    {"fault": "summary-list", "probability": 0.3},
    {"fault": "other-case", "shape": "output", "probability": 0.3},
    {"fault": "other-case", "shape": "url", "probability": 0.3},
    {"fault": "unknown-status", "probability": 0.05},
]

NOISE: list[dict[str, Any]] = [
    {"fault": "reset", "probability": 0.05},
    {"fault": "reset", "after": True, "probability": 0.1},
    {"fault": "error", "status": 500, "probability": 0.05},
    {"fault": "error", "status": 502, "html": True, "probability": 0.05},
    {"fault": "error", "status": 503, "after": True, "probability": 0.1},
    {"fault": "error", "status": 429, "retryAfter": 1, "probability": 0.05},
    {"fault": "truncated", "probability": 0.05},
    {"fault": "empty", "probability": 0.05},
    {"fault": "not-json", "probability": 0.05},
    {"fault": "wrong-types", "probability": 0.05},
    {"fault": "unknown-status", "probability": 0.05},
    {"fault": "slow", "delay": 1, "probability": 0.05},
]


@dataclass(frozen=True)
class Scenario:
    """What is broken, in a batch of how many `videos`; CI takes those of `quick`."""

    name: str
    play: Callable[[Chaos, int], Seen]
    videos: int
    quick: int


SCENARIOS = [
    *(
        Scenario(f"task killed {moment}{what}", dies(f"{death}{dag}"), 20, quick)
        for death, moment in zip(
            DEATHS,
            ("before the POST", "between POST and answer", "between answer and deferral", "in execute_complete"),
            strict=True,
        )
        for dag, what, quick in (("", "", 3), ("_and_differs", ", renders differently", 0))
    ),
    Scenario("each try gives up too early", gives_up("gives_up"), 40, 0),
    Scenario("templates that differ by try", gives_up("differs"), 40, 4),
    Scenario("`retries` edited between tries", gives_up("edited"), 40, 0),
    Scenario("failed tasks cleared", gives_up("failed_and_cleared_2"), 40, 4),
    Scenario("failed tasks cleared, worker_visits=1", gives_up("failed_and_cleared_1"), 40, 0),
    Scenario("secrets backend out for 10 and 90 s", secrets_backend_out, 20, 0),
    Scenario("triggerer killed twice in mid-render", triggerer_killed_twice, 20, 0),
    Scenario("one of two triggerers killed", one_of_two_triggerers_killed, 20, 4),
    Scenario("all workers killed in each phase", workers_killed, 10, 2),
    Scenario("one task of all videos, killed four times", one_task_killed, 1000, 0),
    Scenario(
        "API out for 60 s in mid-render",
        disturbed({"fault": "error", "status": 503, "skip": 60, "seconds": 60}),
        30,
        0,
    ),
    Scenario("storm of webhooks, true and forged", storm_of_webhooks, 300, 0),
    Scenario(
        "429 storm on submission",
        disturbed({"fault": "error", "status": 429, "retryAfter": 1, "route": GENERATE, "probability": 0.7}),
        50,
        8,
    ),
    Scenario(
        "answer lost, then 409 'in progress'",
        disturbed(
            {"fault": "reset", "after": True, "route": GENERATE, "probability": 0.5},
            {"fault": "in-progress", "probability": 0.6},
        ),
        40,
        6,
    ),
    Scenario("every kind of bad answer on every route", disturbed(*NOISE), 120, 8),
    Scenario("storm of odd answers about the jobs", disturbed(*ODD), 120, 8),
]

PRODUCTION_SCENARIOS = [
    Scenario("both triggerers renewed, one by one", triggerers_renewed, 40, 0),
    Scenario(
        "a scheduler of two killed in each phase", in_each_phase("scheduler", "scheduler-2", "scheduler"), 40, 0
    ),
    Scenario("a worker of two killed in each phase", in_each_phase("worker", "worker-2", "worker"), 40, 4),
    Scenario(
        "an API server of two killed in each phase", in_each_phase("api-server", "api-server-2", "api-server"), 40, 0
    ),
    Scenario("Redis restarted in each phase", in_each_phase(*3 * ["redis"]), 40, 0),
    Scenario("PostgreSQL restarted in each phase", in_each_phase(*3 * ["postgres"]), 40, 0),
]
"""What only an Airflow of several machines has."""


@contextmanager
def stage(*, quick: bool, production: bool = False) -> Iterator[Chaos]:
    """Run an Airflow that notices dead processes soon, and a sandbox whose videos take 20 seconds (`quick`: 8)."""
    with tempfile.TemporaryDirectory(prefix="hailuo-chaos-") as directory:
        home, deaths = Path(directory, "airflow"), Path(directory, "deaths")
        deaths.mkdir()
        with Sandbox(render_seconds=8 if quick else 20, jitter=0.2, credits=20_000, seed=1) as sandbox:
            connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
            secret = Path(directory, "secret")
            secret.write_text(json.dumps(connection))
            with DEPLOYMENTS["production" if production else "postgres"](
                home,
                PROJECT / "tests/system/dags",
                wait_for=DAGS,
                connections=dict.fromkeys(("hailuo_default", STORM), connection),
                config={
                    "HAILUO_DEATHS": str(deaths),
                    "HAILUO_SECRET": str(secret),
                    "PYTHONPATH": str(PROJECT / "tests/system/secrets_backend"),
                    "AIRFLOW__SECRETS__BACKEND": "flaky_secrets.FlakySecrets",
                    "AIRFLOW__WORKERS__SECRETS_BACKEND": "flaky_secrets.FlakySecrets",
                    "AIRFLOW__CORE__PARALLELISM": "8",
                    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
                    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
                    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
                    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
                },
            ) as airflow:
                yield Chaos(airflow, sandbox, deaths, secret)


def main() -> int:
    """Play all scenarios, print a table, and return 0 when everything is as it should be."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small batches")
    parser.add_argument("--production", action="store_true", help="on Celery and Redis, with two of each component")
    parser.add_argument("--only", default="", metavar="WORDS", help="scenarios whose name holds these words")
    given = parser.parse_args()
    quick = given.quick
    scenarios = [*SCENARIOS, *(PRODUCTION_SCENARIOS if given.production else ())]
    row = "{:<44} {:>7} {:>7} {:>5} {:>11} {:>6} {:>16} {:>6}  {}"
    print(row.format("what is broken", "faults", "videos", "lost", "paid twice", "stuck", "credits (right)", "s", ""))
    played: list[Seen] = []
    counted = ("faults", "videos", "lost", "paid_twice", "stuck")
    with exit_on_signals(), stage(quick=quick, production=given.production) as chaos:
        for scenario in scenarios:
            if given.only not in scenario.name:
                continue
            if videos := scenario.quick if quick else scenario.videos:
                seen = scenario.play(chaos, videos)
                played.append(seen)
                paid, verdict = f"{seen.credits} ({CREDITS * seen.videos})", "ok" if seen.right else "WRONG"
                figures = [getattr(seen, name) for name in counted]
                print(row.format(scenario.name, *figures, paid, round(seen.seconds), verdict), flush=True)
                for note in (*seen.notes, *(f"WRONG: {count} {what}" for what, count in seen.wrong.items())):
                    print(f"    {note}", flush=True)
    total = [sum(getattr(seen, name) for seen in played) for name in counted]
    print(row.format("all", *total, "", round(sum(seen.seconds for seen in played)), ""))
    return 0 if all(seen.right for seen in played) else 1


if __name__ == "__main__":
    sys.exit(main())
