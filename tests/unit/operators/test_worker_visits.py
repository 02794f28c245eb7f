from __future__ import annotations

from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from airflow_provider_hailuo.compat import AIRFLOW, Asset
from airflow_provider_hailuo.operators import worker_visits
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from tests.unit.operators.fakes import make_dag

HAS_LISTENER_MANAGER = AIRFLOW >= (3, 2)


@pytest.fixture(autouse=True)
def airflow_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_visits, "TRIGGERS_PUSH_XCOMS", True)
    if not HAS_LISTENER_MANAGER:
        monkeypatch.setattr(worker_visits, "_listeners", lambda: iter(()))


def operator(kind: type[HailuoGenerateOperator] = HailuoGenerateOperator, **arguments: Any) -> HailuoGenerateOperator:
    return kind(**{"task_id": "video", "prompt": "a sunrise", "worker_visits": 0, **arguments})


def in_a_dag(kind: type[HailuoGenerateOperator] = HailuoGenerateOperator, **arguments: Any) -> HailuoGenerateOperator:
    """Return a task in a DAG of its own, which would take no visit to a worker."""
    with make_dag():
        return operator(kind, **arguments)


def taken(task: HailuoGenerateOperator) -> tuple[int, str | None]:
    return task._effective_worker_visits()


def callback(*_: object) -> None:
    pass


def test_the_default_is_two_visits_whatever_the_task_is():
    task = HailuoGenerateOperator(task_id="video", prompt="{{ ti.xcom_pull('x') }}", on_success_callback=callback)

    assert (taken(task), task.start_from_trigger) == ((2, None), False)


def test_no_visit_means_that_airflow_starts_the_task_in_the_triggerer():
    task = in_a_dag(prompt="a sunrise on {{ ds }}", duration=10, timeout=60, execution_timeout=timedelta(seconds=50))

    assert (taken(task), task.start_from_trigger) == ((0, None), True)
    assert task.start_trigger_args.trigger_cls == "airflow_provider_hailuo.triggers.hailuo.HailuoGenerateTrigger"
    assert task.start_trigger_args.next_method == "execute_complete"
    kwargs = task.start_trigger_args.trigger_kwargs
    # What is to be rendered has one name in the operator, among the arguments and in the trigger.
    assert set(task.template_fields) - {"destination", "destination_conn_id", "image_conn_id"} <= set(kwargs)
    assert (kwargs["prompt"], kwargs["duration"], kwargs["image"]) == ("a sunrise on {{ ds }}", 10, None)
    assert (kwargs["timeout"], kwargs["execution_timeout"]) == (60, 50.0)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ds }} {{ ts_nodash }} {{ run_id }} {{ dag_run.conf['x'] }} {{ params.x }} {{ data_interval_start }}",
        "{{ var.value.style }} {{ conn.other.host }}",
        "{% if params.night %}night{% else %}day{% endif %}",
        "{{ ds | upper }}",
        "{{ logical_date.year }}",
    ],
)
def test_templates_that_the_triggerer_renders_as_a_worker_does(template: str):
    assert taken(in_a_dag(prompt=template)) == taken(in_a_dag(webhook_events=[template])) == (0, None)


@pytest.mark.parametrize(
    ("template", "blocker"),
    [
        ("{{ ti.xcom_pull('x') }}", "{{ ti }} in prompt"),
        ("{{ task_instance.try_number }}", "{{ task_instance }} in prompt"),
        ("{{ prev_start_date_success }}", "{{ prev_start_date_success }} in prompt"),
        ("{{ macros.datetime.now() }}", "{{ macros }} in prompt"),
        ("{{ lipsum() }}", "{{ lipsum }} in prompt"),
        ("{{ ['a', 'b'] | random }}", "{{ ... | random }} in prompt"),
        ("{{ my_macro(ds) }}", "{{ my_macro }} in prompt"),
        ("{% for x in ti.xcom_pull('x') %}{{ x }}{% endfor %}", "{{ ti }} in prompt"),
        ("{{ ds", "a broken template in prompt"),
        ("{{ logical_date | ds }}", "a filter that is not Jinja's own in prompt"),
        ("{{ dag_run.run_type }}", "{{ dag_run }} beyond its conf and dates in prompt"),
        ("{{ dag_run }}", "{{ dag_run }} beyond its conf and dates in prompt"),
    ],
)
def test_templates_that_it_would_render_otherwise_or_not_each_time_the_same(template: str, blocker: str):
    assert taken(in_a_dag(prompt=template)) == (1, blocker)


@pytest.mark.parametrize(
    ("arguments", "blocker"),
    [
        ({"max_credits": 5}, "max_credits"),
        ({"image": "s3://bucket/boat.png"}, "image, which has to be uploaded"),
        ({"image": "/pictures/boat.png"}, "image, which has to be uploaded"),
        ({"pool": "videos"}, "a pool"),
        ({"pool_slots": 2}, "a pool"),
        ({"max_active_tis_per_dag": 3}, "max_active_tis_per_dag"),
        ({"max_active_tis_per_dagrun": 3}, "max_active_tis_per_dagrun"),
    ],
)
def test_what_keeps_the_start_on_a_worker(arguments: dict, blocker: str):
    assert taken(in_a_dag(**arguments)) == (1, blocker)
    assert taken(in_a_dag(**arguments, worker_visits=1)) == (1, None)


@pytest.mark.parametrize(
    ("arguments", "blocker"),
    [
        ({"outlets": [Asset("videos")]}, "outlets"),
        ({"inlets": [Asset("videos")]}, "inlets"),
        ({"on_success_callback": callback}, "on_success_callback"),
        ({"on_execute_callback": callback}, "on_execute_callback"),
        ({"pre_execute": callback}, "pre_execute"),
        ({"post_execute": callback}, "post_execute"),
        ({"do_xcom_push": False}, "do_xcom_push=False"),
        ({"deferrable": False}, "deferrable=False"),
        ({"map_index_template": "{{ task.job_id }}"}, "map_index_template"),
        ({"destination": "/videos/"}, "destination"),
        pytest.param(
            {"webhook_url": "auto"},
            "webhook_url='auto', which resumes it on a worker",
            marks=pytest.mark.skipif(AIRFLOW < (3, 1), reason="there is no receiver before Airflow 3.1"),
        ),
    ],
)
def test_what_keeps_the_end_on_a_worker(arguments: dict, blocker: str):
    for wanted in (0, 1):
        task = in_a_dag(**arguments, worker_visits=wanted)
        assert (taken(task), task.start_from_trigger) == ((2, blocker), False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"on_failure_callback": callback, "on_retry_callback": callback, "retries": 3},
        {"image": "https://example.com/boat.png"},
        {"image": "{{ params.image }}"},
    ],
)
def test_what_keeps_nothing_on_a_worker(arguments: dict):
    assert taken(in_a_dag(**arguments)) == (0, None)


def test_a_value_from_upstream_keeps_the_start_on_a_worker():
    with make_dag():
        task = operator(prompt=operator(task_id="upstream").output)

    assert taken(task) == (1, "a value from upstream in prompt")


def test_what_the_dag_sets_counts():
    for arguments, blocker in (
        ({"max_active_tasks": 3}, "max_active_tasks of the DAG"),
        ({"render_template_as_native_obj": True}, "render_template_as_native_obj of the DAG"),
    ):
        with make_dag(**arguments):
            assert taken(operator()) == (1, blocker)
    assert taken(operator()) == (1, "no DAG")


@pytest.mark.parametrize(
    ("name", "value", "blocker"),
    [
        ("outlets", [Asset("videos")], "outlets"),
        ("on_success_callback", [callback], "on_success_callback"),
        ("pool", "videos", "a pool"),
    ],
)
def test_what_a_task_is_given_later_counts(name: str, value: object, blocker: str):
    task = in_a_dag()
    assert task.start_from_trigger is True

    setattr(task, name, value)

    assert taken(task)[1] == blocker
    assert (task.start_from_trigger, task.start_trigger_args) == (False, None)


def test_rendered_values_do_not_hide_what_stood_in_the_way():
    task = in_a_dag(prompt="{{ macros.ds_add(ds, 1) }}", hailuo_conn_id="no_such_conn")

    task.render_template_fields({"macros": SimpleNamespace(ds_add=lambda ds, _: ds), "ds": "2026-01-01"})

    assert task.prompt == "2026-01-01"
    assert task._before_rendering == (1, "{{ macros }} in prompt")


def test_a_task_may_be_given_to_its_dag_later():
    task = operator()

    with make_dag() as dag:
        dag.add_task(task)

    assert (taken(task), task.start_from_trigger) == ((0, None), True)


def test_mapped_tasks_start_on_a_worker():
    with make_dag():
        mapped = HailuoGenerateOperator.partial(task_id="mapped", worker_visits=0).expand(prompt=["a", "b"])

    assert mapped.start_from_trigger is False


def test_an_older_airflow_takes_two_visits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_visits, "TRIGGERS_PUSH_XCOMS", False)

    for wanted in (0, 1):
        assert taken(in_a_dag(worker_visits=wanted)) == (2, "an Airflow older than 3.3")


# Subclasses


class Configured(HailuoGenerateOperator):
    """Overrides what makes no difference to where it runs."""

    ui_color = "#ffffff"

    def __init__(self, **arguments: object) -> None:
        super().__init__(**{"resolution": "1080p", **arguments})
        self.title = "mine"

    def title_of_it(self) -> str:
        return self.title


def overriding(name: str) -> type[HailuoGenerateOperator]:
    def own(self: HailuoGenerateOperator, *arguments: object, **more: object) -> object:
        return getattr(super(subclass, self), name)(*arguments, **more)

    subclass = type("Own", (HailuoGenerateOperator,), {name: own})
    return subclass


def test_a_subclass_that_overrides_nothing_of_the_work_keeps_its_mode():
    task = in_a_dag(Configured)

    assert (taken(task), task.start_from_trigger) == ((0, None), True)
    assert taken(in_a_dag(Configured, worker_visits=1)) == (1, None)


@pytest.mark.parametrize("name", ["execute", "execute_complete", "pre_execute", "post_execute"])
@pytest.mark.parametrize("wanted", [0, 1])
def test_what_a_subclass_does_itself_takes_a_worker(name: str, wanted: int):
    kind = overriding(name)

    # Also that of a subclass in between.
    for each in (kind, type("Later", (kind,), {})):
        assert taken(in_a_dag(each, worker_visits=wanted)) == (2, f"the subclass's own {name}")


def test_links_of_a_subclass_take_a_worker_that_stores_them():
    kind = type("Linked", (HailuoGenerateOperator,), {"operator_extra_links": ()})

    assert taken(in_a_dag(kind, worker_visits=1)) == (2, "the subclass's own operator_extra_links")


def test_template_fields_of_a_subclass_that_are_set_late_are_rendered_on_a_worker():
    class Titled(HailuoGenerateOperator):
        template_fields = (*HailuoGenerateOperator.template_fields, "title")

        def __init__(self, *, title: str, **arguments: object) -> None:
            super().__init__(**arguments)
            self.title = title

    task = in_a_dag(Titled, title="{{ ds }}")

    assert taken(task) == (1, "the subclass's own template fields")
    assert (task.start_from_trigger, task.start_trigger_args) == (False, None)
    task.render_template_fields({"ds": "2026-01-01"})
    assert task.title == "2026-01-01"
    assert taken(in_a_dag(Titled, title="x", worker_visits=1)) == (1, None)


def test_template_fields_of_one_task_are_rendered_on_a_worker():
    task = in_a_dag()
    task.template_fields = (*task.template_fields, "pool")

    assert taken(task) == (1, "the subclass's own template fields")


# Listeners


@pytest.mark.parametrize(
    ("hook", "visits_taken"),
    [
        ("on_task_instance_success", 2),
        ("on_task_instance_running", 2),
        # This one hears all: what fails does so on a worker.
        ("on_task_instance_failed", 0),
        ("on_dag_run_success", 0),
    ],
)
def test_who_listens_to_tasks_needs_a_worker_to_hear_of_them(hook: str, visits_taken: int):
    hookimpl = pytest.importorskip("airflow.listeners").hookimpl
    get_listener_manager = pytest.importorskip("airflow.sdk.listener").get_listener_manager

    @hookimpl
    def heard() -> None:
        pass

    lineage = ModuleType("lineage")
    setattr(lineage, hook, heard)
    manager = get_listener_manager()
    manager.pm.register(lineage)
    try:
        assert taken(in_a_dag()) == (visits_taken, "the listener lineage" if visits_taken else None)
    finally:
        manager.pm.unregister(lineage)
    assert taken(in_a_dag()) == (0, None)


def test_who_did_not_ask_for_fewer_visits_does_not_load_all_plugins(monkeypatch: pytest.MonkeyPatch):
    def load() -> None:
        raise AssertionError

    monkeypatch.setattr(worker_visits, "_listeners", load)

    assert taken(in_a_dag(worker_visits=2)) == (2, None)
    assert taken(in_a_dag(outlets=[Asset("videos")])) == (2, "outlets")


def test_airflow_is_not_told_that_the_operator_ends_in_the_triggerer():
    # With any listener, the import of such a DAG fails in Airflow 3.3.
    assert not hasattr(HailuoGenerateOperator, "end_from_trigger")
