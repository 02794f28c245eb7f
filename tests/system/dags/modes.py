"""The same situations in each of the modes of a task: DAG `<situation>_<visits>` has that `worker_visits`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pendulum
from airflow.sdk import DAG, Asset, get_parsing_context, task, task_group

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

SETTINGS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 0, "retry_delay": timedelta(seconds=1)},
    "params": {"colour": "blue", "braces": "{{ 7 * 7 }}", "resolution": "1080p", "duration": 6, "wrong": "4k"},
    "user_defined_filters": {"shout": str.upper},
}
RECORDS = Asset("videos")


def note(kind: str) -> Callable[[Any], None]:
    """Return a callback that appends to the file HAILUO_NOTES: DAG, task, try, `kind`, what the task failed with."""

    def write(context: Any) -> None:
        ti = context["ti"]
        error = type(context.get("exception")).__name__
        with Path(os.environ["HAILUO_NOTES"]).open("a") as notes:
            notes.write(f"{ti.dag_id} {ti.task_id} {ti.try_number} {kind} {error}\n")

    return write


def release(context: Any) -> None:
    """Let the renders end that a DAG waits for."""
    words = {"words": context["ti"].dag_id}
    httpx.post(f"{os.environ['HAILUO_SANDBOX']}/sandbox/release", params=words, trust_env=False).raise_for_status()


CALLBACKS: dict[str, Any] = {f"on_{kind}_callback": note(kind) for kind in ("execute", "success", "retry", "failure")}
FAILURE_CALLBACKS: dict[str, Any] = {f"on_{kind}_callback": note(kind) for kind in ("retry", "failure")}


@task
def look(url: Any, job: Any) -> Any:
    """Return what a task that follows gets to see."""
    return {"url": url, "job": job}


@task
def write(text: str) -> str:
    """Return a prompt, or a part of one, that is known only at run time."""
    return text


def video(text: str = "a sunrise", **arguments: Any) -> Callable[[str, int], Any]:
    """Return what makes a task whose prompt begins with the id of its DAG."""

    def make(dag_id: str, visits: int) -> HailuoGenerateOperator:
        settings = {"task_id": "video", "prompt": f"{dag_id} {text}", "poll_interval": 1, **arguments}
        return HailuoGenerateOperator(worker_visits=visits, **settings)

    return make


def looked_at(make: Callable[[str, int], HailuoGenerateOperator]) -> Callable[[str, int], None]:
    """Return what makes also a task that looks at what the first one made."""

    def make_both(dag_id: str, visits: int) -> None:
        output: Any = make(dag_id, visits).output
        look(output, output["job"])

    return make_both


def upstream(dag_id: str, visits: int) -> None:
    """Make a task whose prompt is the result of another."""
    video(prompt=write(f"{dag_id} a sunset"))(dag_id, visits)


def pulled(dag_id: str, visits: int) -> None:
    """Make a task whose template pulls the result of another."""
    write("a sunset") >> video("{{ ti.xcom_pull(task_ids='write') }}")(dag_id, visits)


def late_outlet(dag_id: str, visits: int) -> None:
    """Make a task that gets its outlet after it was made."""
    video()(dag_id, visits).add_outlets([RECORDS])


def mapped(dag_id: str, visits: int) -> None:
    """Make a mapped task."""
    HailuoGenerateOperator.partial(task_id="video", worker_visits=visits, poll_interval=1).expand(
        prompt=[f"{dag_id} a {colour} car" for colour in ("red", "green")]
    )


def pool(dag_id: str, visits: int) -> None:
    """Make two tasks for the one slot of the pool that has the name of their DAG."""
    for task_id in "video", "another":
        video(f"for {task_id}", task_id=task_id, pool=dag_id)(dag_id, visits)


def sibling(dag_id: str, visits: int) -> None:
    """Make a task beside another one."""
    video("[[stall]]")(dag_id, visits)
    write.override(task_id="sibling")("done")


SITUATIONS: dict[str, Callable[[str, int], Any]] = {
    "success": looked_at(video("a sunrise, {{ run_id }}", duration="{{ 10 }}", prompt_optimizer="{{ False }}")),
    "names": video(
        "{{ ds }} {{ ds_nodash }} {{ ts }} {{ ts_nodash }} {{ ts_nodash_with_tz }} {{ logical_date.add(days=1) }} "
        "{{ data_interval_start }} {{ data_interval_end }} {{ run_id }} "
        "{{ dag_run.conf.light }} {{ task_instance_key_str }} {{ params.colour }} {{ params.mood }} "
        "{{ params.braces }} {{ var.value.season }} {{ var.json.place.river }} {{ conn.hailuo_default.host }}",
        params={"mood": "calm"},
        resolution="{{ params.resolution }}",
        duration="{{ params.duration }}",
        hailuo_conn_id="hailuo_{{ 'default' }}",
        idempotency_key="mine/{{ dag_run.dag_id }}",
    ),
    "filter": video("{{ ds | shout }}"),
    "upstream": upstream,
    "pulled": pulled,
    "mapped": mapped,
    "pool": pool,
    "outlet": video(outlets=[RECORDS]),
    "late_outlet": late_outlet,
    "callbacks": video(**CALLBACKS),
    "on_execute": video(on_execute_callback=note("execute")),
    "no_xcom": looked_at(video(do_xcom_push=False)),
    "failed": looked_at(video("[[fail: content policy]]", **FAILURE_CALLBACKS)),
    "failed_twice": video("[[fail: no capacity]]", retries=1, **FAILURE_CALLBACKS),
    "failed_and_told": video("[[fail: no capacity]]", retries=1, **CALLBACKS),
    "undefined": video("{{ params.nope }}", **FAILURE_CALLBACKS),
    "broken_template": video("{{ ds"),
    "bad_input": video(resolution="{{ params.wrong }}", retries=1, **FAILURE_CALLBACKS),
    "conflict": video(idempotency_key="taken"),
    "wrong_key": video(hailuo_conn_id="hailuo_wrong_key", retries=1, **FAILURE_CALLBACKS),
    "no_connection": video(hailuo_conn_id="no_such_conn"),
    "timeout": video("[[stall]]", timeout=3),
    "execution_timeout": video("[[stall]]", execution_timeout=timedelta(seconds=10), poll_interval=3),
    "timeout_retried": video(
        "[[stall]]",
        timeout=3,
        retries=1,
        on_retry_callback=[note("retry"), release],
        on_failure_callback=note("failure"),
    ),
    "timeout_cleared": video("[[stall]]", timeout=3),
    "changed_and_cleared": video("{{ var.value.scene }}", timeout=3),
    "cleared": video(),
    "cleared_and_failed": video("{{ var.value.end }}"),
    "cleared_while_it_renders": video("[[stall]]"),
    "killed": video("[[stall]]"),
    "sibling": sibling,
}

# A worker needs one of them only.
wanted = get_parsing_context().dag_id

for situation, make in SITUATIONS.items():
    for visits in 0, 1, 2:
        if wanted in (None, f"{situation}_{visits}"):
            with DAG(f"{situation}_{visits}", **SETTINGS):
                make(f"{situation}_{visits}", visits)

# What keeps a task from `worker_visits=0`, by the id of the task: a few of those of its arguments, and all else. They
# fail right after they have said it.
UNVISITED: dict[str, Any] = {"worker_visits": 0, "hailuo_conn_id": "no_such_conn"}
BLOCKERS: dict[str, dict[str, Any]] = {
    "do_xcom_push": {"do_xcom_push": False},
    "pool": {"pool": "pool_0"},
    "macros": {"resolution": "{{ macros.uuid and '768p' }}"},
}


class OwnEnd(HailuoGenerateOperator):
    """Does something of its own at the end."""

    def execute_complete(self, context: Any, event: Any = None) -> str:
        """Return the URL in capitals."""
        return super().execute_complete(context, event).upper()


class OwnField(HailuoGenerateOperator):
    """Has a template field of its own, which it sets late."""

    template_fields = (*HailuoGenerateOperator.template_fields, "mood")

    def __init__(self, *, mood: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mood = mood


with DAG("blocked", **SETTINGS):
    OwnEnd(task_id="own_end", prompt="a sunrise", **UNVISITED)
    OwnField(task_id="own_field", mood="{{ ds }}", prompt="a sunrise", **UNVISITED)
    HailuoGenerateOperator.partial(
        task_id="mapped_with_labels", map_index_template="{{ task.prompt }}", **UNVISITED
    ).expand(prompt=["a sunrise"])
    for task_id, arguments in BLOCKERS.items():
        HailuoGenerateOperator(task_id=task_id, **{"prompt": "a sunrise", **UNVISITED, **arguments})
    HailuoGenerateOperator(task_id="upstream", **{**UNVISITED, "prompt": write("a sunset")})
    HailuoGenerateOperator.partial(task_id="mapped", **UNVISITED).expand(prompt=["a sunrise"])

    @task_group
    def group(prompt: str) -> None:
        """Make a task in a group that is mapped."""
        HailuoGenerateOperator(task_id="mapped", prompt="a sunrise", **UNVISITED)

    group.expand(prompt=["a sunrise"])

BLOCKED_BY: dict[str, dict[str, Any]] = {
    "max_active_tasks": {"max_active_tasks": 3},
    "native_objects": {"render_template_as_native_obj": True},
}
for name, settings in BLOCKED_BY.items():
    with DAG(f"blocked_by_{name}", **{**SETTINGS, **settings}):
        HailuoGenerateOperator(task_id="video", prompt="a sunrise", **UNVISITED)
