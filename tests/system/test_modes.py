"""Between the modes of a task nothing differs but the visits to a worker: the same DAGs in all three of them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import pytest
from local_airflow import LocalAirflow

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest
from airflow_provider_hailuo.sandbox import Sandbox
from tests.system.conftest import API_KEY, PATIENCE_SECONDS, WRONG_KEY

pytestmark = pytest.mark.system

MODES = (0, 1, 2)
RUN_ID = "manual__2026-02-03T04:05:06+00:00"
RUN = {"dag_run_id": RUN_ID, "logical_date": "2026-02-03T04:05:06Z", "conf": {"colour": "red", "light": "dim"}}
VARIABLES = {"end": "the 1st", "scene": "[[stall]] a storm", "season": "spring", "place": '{"river": "Elbe"}'}
ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

FAILED = "The render ended as FAILED: {}. Its credits were refunded (job <job {}>). {} renders it anew"
TOO_LATE = "The deadline has passed and the video is not there; its status was <status>."
REFUSED = "HTTP 401, request <id>). Nothing was paid. Check the API key in the connection 'hailuo_wrong_key'"
CONFLICT = "the key is 'taken', this request's prompt '<dag> a sunrise' (HTTP 409, request <id>)"


class Situation(NamedTuple):
    """What a situation of `dags/modes.py` comes to.

    `visits` are those of the task `video` to a worker, all its tries together, with `worker_visits` 0, 1 and 2, None
    when it is a matter of luck; `state` is that of the run; `jobs` are those of the API; `told` is a part of what
    each failed try said; `called` are the callbacks, `assets` those with an event.
    """

    visits: tuple[int, int, int] | None = (0, 1, 2)
    state: str = "success"
    jobs: int = 1
    told: tuple[str, ...] = ()
    called: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()


SITUATIONS = {
    "success": Situation(),
    "names": Situation(),
    # What the triggerer cannot do a worker does.
    "filter": Situation((1, 1, 2)),
    "upstream": Situation((1, 1, 2)),
    "pulled": Situation((1, 1, 2)),
    "mapped": Situation((2, 2, 4), jobs=2),
    "pool": Situation((1, 1, 2), jobs=2),
    "outlet": Situation((2, 2, 2), assets=("videos",)),
    "late_outlet": Situation((2, 2, 2), assets=("videos",)),
    "callbacks": Situation((2, 2, 2), called=("video 1 success NoneType",)),
    "on_execute": Situation((2, 2, 2)),
    "no_xcom": Situation((2, 2, 2)),
    # Failures end on a worker.
    "failed": Situation(
        (1, 2, 2),
        "failed",
        told=(FAILED.format("content policy", 1, "Clearing the task"),),
        called=("video 1 failure HailuoJobFailedException",),
    ),
    "failed_twice": Situation(
        (3, 4, 4),
        "failed",
        jobs=2,
        told=(FAILED.format("no capacity", 1, "A retry"), FAILED.format("no capacity", 2, "Clearing the task")),
        called=("video 1 retry HailuoJobFailedException", "video 2 failure HailuoJobFailedException"),
    ),
    "undefined": Situation(
        (1, 1, 1),
        "failed",
        jobs=0,
        told=("has no attribute 'nope'",),
        called=("video 1 failure UndefinedError",),
    ),
    "broken_template": Situation((1, 1, 1), "failed", jobs=0, told=("TemplateSyntaxError",)),
    "bad_input": Situation(
        (1, 1, 1),
        "failed",
        jobs=0,
        told=("resolution: '4k': Input should be '768p' or '1080p'. Nothing was paid. Correct it",),
        called=("video 1 failure HailuoFailException",),
    ),
    "conflict": Situation((1, 1, 1), "failed", jobs=0, told=(CONFLICT,)),
    "wrong_key": Situation(
        (1, 1, 1), "failed", jobs=0, told=(REFUSED,), called=("video 1 failure HailuoFailException",)
    ),
    "no_connection": Situation((1, 1, 1), "failed", jobs=0, told=("airflow connections add no_such_conn",)),
    "timeout": Situation((1, 2, 2), "failed", told=(TOO_LATE,)),
    "execution_timeout": Situation((1, 2, 2), "failed", told=(TOO_LATE,)),
    # The render has ended when the task is tried again.
    "timeout_retried": Situation((2, 3, 3), told=(TOO_LATE,), called=("video 1 retry HailuoJobTimeoutException",)),
    # A cleared task wants another video.
    "cleared": Situation((1, 2, 4), jobs=2),
    "cleared_and_failed": Situation(
        (2, 3, 4), "failed", jobs=2, told=(FAILED.format("no capacity", 2, "Clearing the task"),)
    ),
    # Unless it has not got the one that is paid for, and has not been changed.
    "timeout_cleared": Situation((2, 3, 3), told=(TOO_LATE,)),
    "changed_and_cleared": Situation((2, 3, 4), jobs=2, told=(TOO_LATE,)),
}
# The triggerer is killed while these render.
KILLED = {
    "killed": Situation(),
    "sibling": Situation(),
    "cleared_while_it_renders": Situation((1, 2, 3)),
}
TABLE = {**SITUATIONS, **KILLED}

# Of the arguments of a task a few: tests/unit/operators/test_worker_visits.py has the others.
BLOCKERS = {
    "blocked/do_xcom_push": "do_xcom_push=False: it is 2",
    "blocked/pool": "a pool: it is 1",
    "blocked/macros": "{{ macros }} in resolution: it is 1",
    "blocked/own_end": "the subclass's own execute_complete: it is 2",
    "blocked/own_field": "the subclass's own template fields: it is 1",
    "blocked/mapped_with_labels": "map_index_template: it is 2",
    "blocked/upstream": "a value from upstream in prompt: it is 1",
    "blocked/mapped": "mapping: it is 1",
    "blocked/group.mapped": "mapping: it is 1",
    "blocked_by_max_active_tasks/video": "max_active_tasks of the DAG: it is 1",
    "blocked_by_native_objects/video": "render_template_as_native_obj of the DAG: it is 1",
}


class Modes:
    """One run of each DAG of `dags/modes.py`, and what came of it."""

    def __init__(self, airflow: LocalAirflow, sandbox: Sandbox, notes: Path) -> None:
        self.airflow = airflow
        self.sandbox = sandbox
        self.notes = notes
        self.ids_in_processes: set[str] = set()
        self.outcome = cache(self._outcome)

    def start(self, dag_id: str) -> None:
        """Start the run of a DAG; all have the same id and logical date."""
        self.airflow.request("POST", f"dags/{dag_id}/dagRuns", json=RUN)

    def ended(self, dag_id: str) -> str:
        """Wait for the run of a DAG and return its state."""
        return self.airflow.wait(dag_id, RUN_ID, timeout=PATIENCE_SECONDS)

    def tasks(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """Return the task instances of the run of a DAG by task id, as the REST API shows them."""
        return {ti["task_id"]: ti for ti in self.airflow.task_instances(dag_id, RUN_ID)}

    def log(self, dag_id: str, task_id: str = "video", try_number: int = 1, map_index: int = -1) -> list[Any]:
        """Return the messages in the log of one try of a task, each with its fields."""
        path = f"{_path(dag_id, task_id)}/logs/{try_number}"
        options = {"params": {"map_index": map_index}, "headers": {"Accept": "application/json"}}
        return list(self.airflow.request("GET", path, **options)["content"])

    def visits(self, dag_id: str) -> int:
        """Return how often the task `video` began to run on a worker: Airflow's audit log tells."""
        params = {"dag_id": dag_id, "task_id": "video", "event": "running"}
        return int(self.airflow.request("GET", "eventLogs", params=params)["total_entries"])

    def jobs(self, dag_id: str) -> list[Job]:
        """Return the jobs whose prompt begins with the id of a DAG, by prompt, then oldest first."""
        jobs = [Job.model_validate(told) for told in reversed(self.sandbox.jobs())]
        return sorted((job for job in jobs if _prompt(job).startswith(f"{dag_id} ")), key=_prompt)

    def renders(self, dag_id: str) -> bool:
        """Tell whether the API renders a job of a DAG while its task is deferred."""
        jobs = self.jobs(dag_id)
        return any(job.status == "PROCESSING" for job in jobs) and self.tasks(dag_id)["video"]["state"] == "deferred"

    def trigger_starts(self, dag_id: str) -> int:
        """Return how often a triggerer began to wait for the task `video`, as its log tells."""
        events = [line["event"] for line in self.log(dag_id)]
        return sum(event.startswith("trigger ") and event.endswith(" starting") for event in events)

    def waits_again(self, dag_id: str) -> bool:
        """Tell whether the second try of the task `video` has taken up its job and waits for it."""
        task = self.tasks(dag_id)["video"]
        if task["try_number"] < 2 or task["state"] != "deferred":
            return False
        return any("was cleared before it had delivered" in line["event"] for line in self.log(dag_id, try_number=2))

    def watch_processes(self, stop: threading.Event) -> None:
        """Keep the ids in the command lines of all processes: those that run a task have that of its instance."""
        while not stop.wait(0.1):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.ids_in_processes.update(re.findall(ID, " ".join(process.cmdline())))

    def notes_of(self, dag_id: str) -> list[str]:
        """Return what the callbacks of a DAG wrote down, in order."""
        lines = [line.split(" ", 1) for line in self.notes.read_text().splitlines()]
        return [note for about, note in lines if about == dag_id]

    def _outcome(self, dag_id: str) -> dict[str, Any]:
        """Return all that a user sees of the run of a DAG, with names in place of what is different in each run.

        Left out is what is known to differ: rendered fields, which Airflow shows only of tasks that began on a
        worker; times, pid and host of a task; on_execute callbacks, which Airflow calls at each visit to a worker;
        lines of the log other than failure and submission.
        """
        jobs = self.jobs(dag_id)
        events = self.airflow.request("GET", "assets/events", params={"source_dag_id": dag_id})["asset_events"]
        outcome = {
            "state": self.airflow.state(dag_id, RUN_ID),
            "tasks": {
                f"{ti['task_id']} {ti['map_index']}": self._outcome_of_task(**ti)
                for ti in self.airflow.task_instances(dag_id, RUN_ID)
            },
            "assets": [event["name"] for event in events],
            "called": [note for note in self.notes_of(dag_id) if " execute " not in note],
            "jobs": [(job.status, job.input, job.credit_cost) for job in jobs],
        }
        text = json.dumps(outcome)
        for number, job in enumerate(jobs, 1):
            text = text.replace(job.id, f"<job {number}>")
        for pattern, name in {
            dag_id: "<dag>",
            ID: "<id>",
            r"\b[0-9a-f]{64}\b": "<hash>",
            r'("(?:created|completed)": ")[^"]+': r"\1<time>",
            r"its status was [A-Z]+( \d+ %)?": "its status was <status>",
        }.items():
            text = re.sub(pattern, name, text)
        return dict(json.loads(text))

    def _outcome_of_task(self, dag_id: str, task_id: str, map_index: int, **_: Any) -> dict[str, Any]:
        path = _path(dag_id, task_id)
        tries = self.airflow.request("GET", f"{path}/{map_index}/tries")["task_instances"]
        log = [line for one in tries for line in self.log(dag_id, task_id, one["try_number"], map_index)]
        failures = [line["error_detail"] for line in log if line["event"] == "Task failed with exception"]
        keys = re.findall(r": submitted, .*; idempotency key (\S+)", "\n".join(line["event"] for line in log))
        xcoms = self.airflow.xcoms(dag_id, RUN_ID, task_id, map_index)
        return {
            "tries": [(one["try_number"], one["state"]) for one in tries],
            # How far a job was when somebody looked, and who has ended the task, differs.
            "xcoms": {key: value for key, value in xcoms.items() if key not in {"progress", "delivered"}},
            "links": self.airflow.request("GET", f"{path}/links", params={"map_index": map_index})["extra_links"],
            "told": [f"{error['exc_type']}: {error['exc_value']}" for failure in failures for error in failure],
            # A retry submits under the same key again.
            "keys": list(dict.fromkeys(keys)),
        }


def _path(dag_id: str, task_id: str) -> str:
    return f"dags/{dag_id}/dagRuns/{quote(RUN_ID)}/taskInstances/{task_id}"


def _prompt(job: Job) -> str:
    return str((job.input or {})["prompt"])


def in_each_mode(*situations: str) -> list[str]:
    """Return the ids of the DAGs of `situations`."""
    return [f"{situation}_{visits}" for situation in situations for visits in MODES]


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modes]:
    """Return the runs of all DAGs after they have ended."""
    home = tmp_path_factory.mktemp("modes")
    notes = home / "notes"
    notes.touch()
    others = {blocked.partition("/")[0] for blocked in BLOCKERS}
    with Sandbox(render_seconds=3, jitter=0, credits=5000, api_key=API_KEY, seed=1) as sandbox:
        connection = {"conn_type": "hailuo", "host": sandbox.base_url}
        with LocalAirflow(
            home / "airflow",
            Path(__file__).parent / "dags",
            wait_for=(*in_each_mode(*TABLE), *others),
            connections={
                "hailuo_default": {**connection, "password": API_KEY},
                "hailuo_wrong_key": {**connection, "password": WRONG_KEY},
            },
            database="postgres",
            config={
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
                "HAILUO_NOTES": str(notes),
                "HAILUO_SANDBOX": sandbox.base_url,
            },
        ) as airflow:
            modes, stop = Modes(airflow, sandbox, notes), threading.Event()
            watcher = threading.Thread(target=modes.watch_processes, args=(stop,))
            watcher.start()
            try:
                run_all(modes, others)
                yield modes
            finally:
                stop.set()
                watcher.join()


def run_all(modes: Modes, others: set[str]) -> None:
    """Run all DAGs to their end, and clear and kill what they are about."""
    for key, value in VARIABLES.items():
        modes.airflow.request("POST", "variables", json={"key": key, "value": value})
    for pool in in_each_mode("pool"):
        modes.airflow.request("POST", "pools", json={"name": pool, "slots": 1, "include_deferred": True})
    with Client(Settings(api_key=API_KEY, base_url=modes.sandbox.base_url)) as client:
        client.send(calls.generate_video(VideoRequest(prompt="another"), "taken"))

    for dag_id in (*in_each_mode(*SITUATIONS), *others):
        modes.start(dag_id)
    for dag_id in (*in_each_mode(*SITUATIONS), *others):
        modes.ended(dag_id)

    modes.sandbox.release("timeout_cleared")
    for key, value in {"end": "the 2nd [[fail: no capacity]]", "scene": "a calm"}.items():
        modes.airflow.request("PATCH", f"variables/{key}", json={"key": key, "value": value})
    cleared = in_each_mode("cleared", "cleared_and_failed", "timeout_cleared", "changed_and_cleared")
    for dag_id in cleared:
        modes.airflow.clear(dag_id, RUN_ID, ["video"])
    for dag_id in in_each_mode(*KILLED):
        modes.start(dag_id)
    for dag_id in cleared:
        modes.ended(dag_id)
    siblings = in_each_mode("sibling")
    modes.airflow.until(lambda: all(modes.tasks(dag_id)["sibling"]["state"] == "success" for dag_id in siblings))
    modes.airflow.until(lambda: all(map(modes.renders, in_each_mode(*KILLED))))
    modes.airflow.kill("triggerer")
    for dag_id in in_each_mode("cleared_while_it_renders"):
        modes.airflow.clear(dag_id, RUN_ID, ["video"])
    for dag_id in siblings:
        modes.airflow.clear(dag_id, RUN_ID, ["sibling"])
    modes.airflow.start("triggerer")
    modes.airflow.until(
        lambda: all(modes.trigger_starts(dag_id) == 2 for dag_id in in_each_mode("killed", "sibling"))
    )
    modes.airflow.until(lambda: all(modes.waits_again(dag_id) for dag_id in in_each_mode("cleared_while_it_renders")))
    modes.sandbox.release()
    for dag_id in in_each_mode(*KILLED):
        modes.ended(dag_id)


@pytest.mark.parametrize("situation", TABLE)
def test_each_mode_comes_to_the_same(modes: Modes, situation: str):
    none, one, two = (modes.outcome(dag_id) for dag_id in in_each_mode(situation))

    assert none == two
    assert one == two


def test_a_trigger_that_ends_a_task_has_airflow_say_so(modes: Modes):
    delivered = ["delivered" in modes.airflow.xcoms(dag_id, RUN_ID, "video") for dag_id in in_each_mode("success")]

    assert delivered == [True, True, False]


@pytest.mark.parametrize("situation", TABLE)
def test_it_is_what_the_situation_comes_to(modes: Modes, situation: str):
    expected, outcome = TABLE[situation], modes.outcome(f"{situation}_2")
    told = [text for task in outcome["tasks"].values() for text in task["told"]]

    assert outcome["state"] == expected.state
    assert len(outcome["jobs"]) == expected.jobs
    assert len(told) == len(expected.told)
    assert all(part in text for part, text in zip(expected.told, told, strict=True)), told
    assert tuple(outcome["called"]) == expected.called
    assert tuple(outcome["assets"]) == expected.assets


@pytest.mark.parametrize("situation", [name for name, row in TABLE.items() if row.visits])
def test_a_worker_is_visited_no_more_than_said(modes: Modes, situation: str):
    assert tuple(map(modes.visits, in_each_mode(situation))) == TABLE[situation].visits


def test_without_a_worker_there_is_no_trace_of_one(modes: Modes):
    tasks = {dag_id: modes.tasks(dag_id)["video"] for dag_id in in_each_mode("success")}
    none = tasks["success_0"]
    logs = modes.airflow.home / "logs" / "dag_id=success_0" / f"run_id={RUN_ID}" / "task_id=video"

    assert (none["pid"], none["hostname"], none["queued_when"]) == (None, "", None)
    assert {re.sub(r"\d+", "1", log.name) for log in logs.iterdir()} == {"attempt=1.log.trigger.1.log"}
    # No process of this machine was about the task at any time, as was seen of those that visit a worker.
    assert {dag_id for dag_id, task in tasks.items() if task["id"] in modes.ids_in_processes} == {
        "success_1",
        "success_2",
    }


@pytest.mark.parametrize("visits", MODES)
def test_the_next_task_gets_url_and_job(modes: Modes, visits: int):
    dag_id = f"success_{visits}"
    (job,) = modes.jobs(dag_id)
    seen = modes.airflow.xcom(dag_id, RUN_ID, "look")

    assert seen["url"] == seen["job"]["url"] == job.video_url == f"{modes.sandbox.base_url}/videos/{job.id}.mp4"
    assert (seen["job"]["id"], seen["job"]["credits"], seen["job"]["duration"]) == (job.id, 8, 10)


def test_the_triggerer_renders_the_templates(modes: Modes):
    (job,) = modes.outcome("names_0")["jobs"]

    assert job[1] == {
        "prompt": "<dag> 2026-02-03 20260203 2026-02-03T04:05:06+00:00 20260203T040506 20260203T040506+0000 "
        "2026-02-04 04:05:06+00:00 2026-02-03 04:05:06+00:00 2026-02-03 04:05:06+00:00 "
        f"{RUN_ID} dim <dag>__video__20260203 red calm {{{{ 7 * 7 }}}} spring Elbe {modes.sandbox.base_url}",
        "hailuoParams": {"resolution": "1080p", "duration": 6},
    }
    assert modes.outcome("names_0")["tasks"]["video -1"]["keys"] == ["mine/<dag>"]


@pytest.mark.parametrize("visits", MODES)
def test_a_pool_of_one_slot_lets_one_render_at_a_time(modes: Modes, visits: int):
    first, second = sorted(modes.jobs(f"pool_{visits}"), key=lambda job: str(job.created_at))

    assert first.completed_at
    assert second.created_at
    assert first.completed_at <= second.created_at


@pytest.mark.parametrize("dag_id", in_each_mode("cleared", "cleared_and_failed", "changed_and_cleared"))
def test_a_cleared_task_shows_its_new_video_only(modes: Modes, dag_id: str):
    video = modes.outcome(dag_id)["tasks"]["video -1"]

    assert video["xcoms"]["job_id"] == "<job 2>"
    assert "<job 1>" not in json.dumps([video["xcoms"], video["links"]])


@pytest.mark.parametrize("situation", ["timeout_cleared", "cleared_while_it_renders"])
def test_a_task_that_was_cleared_before_it_had_its_video_gets_the_one_that_is_paid(modes: Modes, situation: str):
    for dag_id in in_each_mode(situation):
        (job,) = modes.jobs(dag_id)
        assert modes.airflow.xcom(dag_id, RUN_ID, "video") == job.video_url


def test_the_log_says_that_a_changed_request_is_a_new_video(modes: Modes):
    for dag_id in in_each_mode("changed_and_cleared"):
        log = [line["event"] for line in modes.log(dag_id, try_number=2)]
        assert any("was cleared with another request than that of job " in line for line in log), log


@pytest.mark.parametrize("situation", ["killed", "sibling"])
def test_after_the_death_of_the_triggerer_the_next_one_goes_on_with_the_job(modes: Modes, situation: str):
    submissions = [line for line in modes.log(f"{situation}_0") if ": submitted, " in line["event"]]

    assert all(modes.trigger_starts(dag_id) == 2 for dag_id in in_each_mode(situation))
    assert len(submissions) == 1
    assert len(modes.jobs(f"{situation}_0")) == 1


def test_airflow_calls_on_execute_at_each_visit(modes: Modes):
    called = [modes.notes_of(dag_id) for dag_id in in_each_mode("on_execute")]

    assert called == [["video 1 execute NoneType"] * visits for visits in SITUATIONS["on_execute"].visits or ()]


@pytest.mark.parametrize("blocked", BLOCKERS)
def test_the_log_says_once_what_stands_in_the_way(modes: Modes, blocked: str):
    dag_id, _, task_id = blocked.partition("/")
    log = modes.log(dag_id, task_id, map_index=0 if "mapped" in task_id else -1)

    said = [line["event"] for line in log if "worker_visits" in line["event"]]
    assert said == [f"worker_visits=0 cannot be had with {BLOCKERS[blocked]}"]


def test_the_log_says_nothing_where_nothing_stands_in_the_way(modes: Modes):
    for dag_id in in_each_mode("success"):
        assert not any("worker_visits" in line["event"] for line in modes.log(dag_id))


def test_each_video_is_paid_once(modes: Modes):
    stats = modes.sandbox.stats()

    # The one more took the key of the situation "conflict".
    assert stats["jobsCreated"] == 1 + sum(situation.jobs for situation in TABLE.values()) * len(MODES)
