from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest

from airflow_provider_hailuo.operators import visits
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from tests.unit.operators.fakes import DAG, Asset, make_dag


@pytest.fixture(autouse=True)
def airflow_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "TRIGGERS_WRITE_XCOMS", True)


@pytest.fixture
def dag() -> Iterator[DAG]:
    with make_dag() as dag:
        yield dag


def operator(**arguments: object) -> HailuoGenerateOperator:
    return HailuoGenerateOperator(**{"task_id": "video", "prompt": "a sunrise", "worker_visits": 0, **arguments})


def taken(task: HailuoGenerateOperator) -> tuple[int, str | None]:
    return task._visits()


def callback(*_: object) -> None:
    pass


def test_the_default_is_two_visits_whatever_the_task_is(dag: DAG):
    task = HailuoGenerateOperator(task_id="video", prompt="{{ ti.xcom_pull('x') }}", on_success_callback=callback)

    assert taken(task) == (2, None)
    assert task.start_from_trigger is False


def test_no_visit_means_that_airflow_starts_the_task_in_the_triggerer(dag: DAG):
    task = operator(prompt="a sunrise on {{ ds }}", duration=10, timeout=60, execution_timeout=timedelta(seconds=50))

    assert taken(task) == (0, None)
    assert task.start_from_trigger is True
    assert task.start_trigger_args.trigger_cls == "airflow_provider_hailuo.triggers.hailuo.HailuoGenerateTrigger"
    assert task.start_trigger_args.next_method == "execute_complete"
    kwargs = task.start_trigger_args.trigger_kwargs
    # What is to be rendered has one name in the operator, among the arguments and in the trigger.
    assert set(task.template_fields) <= set(kwargs)
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
def test_templates_that_the_triggerer_renders_as_a_worker_does(dag: DAG, template: str):
    assert taken(operator(prompt=template)) == (0, None)
    assert taken(operator(task_id="list", webhook_events=[template])) == (0, None)


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
def test_templates_that_it_would_render_otherwise_or_not_each_time_the_same(dag: DAG, template: str, blocker: str):
    assert taken(operator(prompt=template)) == (1, blocker)


@pytest.mark.parametrize(
    ("arguments", "blocker"),
    [
        ({"pool": "videos"}, "a pool"),
        ({"pool_slots": 2}, "a pool"),
        ({"max_active_tis_per_dag": 3}, "max_active_tis_per_dag"),
        ({"max_active_tis_per_dagrun": 3}, "max_active_tis_per_dagrun"),
    ],
)
def test_what_keeps_the_start_on_a_worker(dag: DAG, arguments: dict, blocker: str):
    assert taken(operator(**arguments)) == (1, blocker)
    assert taken(operator(**arguments, task_id="other", worker_visits=1)) == (1, None)


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
    ],
)
def test_what_keeps_the_end_on_a_worker(dag: DAG, arguments: dict, blocker: str):
    for wanted in (0, 1):
        task = operator(**arguments, task_id=f"video_{wanted}", worker_visits=wanted)
        assert taken(task) == (2, blocker)
        assert task.start_from_trigger is False


def test_failure_and_retry_callbacks_keep_nothing(dag: DAG):
    assert taken(operator(on_failure_callback=callback, on_retry_callback=callback, retries=3)) == (0, None)


def test_a_value_from_upstream_keeps_the_start_on_a_worker(dag: DAG):
    upstream = operator(task_id="upstream")

    assert taken(operator(prompt=upstream.output)) == (1, "a value from upstream in prompt")


def test_what_the_dag_sets_counts():
    for arguments, blocker in (
        ({"max_active_tasks": 3}, "max_active_tasks of the DAG"),
        ({"render_template_as_native_obj": True}, "render_template_as_native_obj of the DAG"),
    ):
        with make_dag(**arguments):
            assert taken(operator()) == (1, blocker)
    assert taken(operator()) == (1, "no DAG")


def test_what_a_task_is_given_later_counts(dag: DAG):
    for name, value, blocker in (
        ("outlets", [Asset("videos")], "outlets"),
        ("on_success_callback", [callback], "on_success_callback"),
        ("pool", "videos", "a pool"),
    ):
        task = operator(task_id=name)
        assert task.start_from_trigger is True
        setattr(task, name, value)
        assert taken(task)[1] == blocker
        assert (task.start_from_trigger, task.start_trigger_args) == (False, None)


def test_rendered_values_do_not_hide_what_stood_in_the_way(dag: DAG):
    task = operator(prompt="{{ macros.ds_add(ds, 1) }}", hailuo_conn_id="no_such_conn")

    task.render_template_fields({"macros": SimpleNamespace(ds_add=lambda ds, _: ds), "ds": "2026-01-01"})

    assert task.prompt == "2026-01-01"
    assert task._before_rendering == (1, "{{ macros }} in prompt")


def test_a_task_may_be_given_to_its_dag_later():
    task = operator()

    with make_dag() as dag:
        dag.add_task(task)

    assert (taken(task), task.start_from_trigger) == ((0, None), True)


def test_mapped_tasks_start_on_a_worker(dag: DAG):
    mapped = HailuoGenerateOperator.partial(task_id="mapped", worker_visits=0).expand(prompt=["a", "b"])

    assert mapped.start_from_trigger is False


def test_an_older_airflow_takes_two_visits(dag: DAG, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visits, "TRIGGERS_WRITE_XCOMS", False)

    assert taken(operator()) == taken(operator(task_id="other", worker_visits=1)) == (2, "an Airflow older than 3.3")


@pytest.mark.parametrize("wanted", [3, -1, "0", None])
def test_another_number_is_refused(dag: DAG, wanted: object):
    with pytest.raises(Exception, match=r"worker_visits: .*must be 0, 1 or 2"):
        operator(worker_visits=wanted)
