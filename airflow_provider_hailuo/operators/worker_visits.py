"""How many visits to a worker a task takes: what a trigger alone cannot do, Airflow drops without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import meta, nodes

from airflow_provider_hailuo.apiframe.models import IMAGE_FIELDS
from airflow_provider_hailuo.compat import BaseOperator, conf
from airflow_provider_hailuo.pictures import to_upload
from airflow_provider_hailuo.webhooks import AUTO
from airflow_provider_hailuo.xcoms import TRIGGERS_PUSH_XCOMS

MAX_WORKER_VISITS = 2

SAFE_NAMES = frozenset(
    {
        "conn",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "params",
        "run_id",
        "task_instance_key_str",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    }
)
"""Names that a template may use in the triggerer: there they are what they are on a worker, each time."""

SAFE_OF_DAG_RUN = frozenset(
    {"conf", "dag_id", "data_interval_end", "data_interval_start", "logical_date", "run_after", "run_id"}
)
"""What of `dag_run` is in the triggerer what it is on a worker; its type and state, for example, are not."""

_PARSER = jinja2.Environment(autoescape=True)
# Jinja counts them as declared; among them is lipsum(), a text by chance.
_PARSER.globals.clear()


def effective_worker_visits(
    task: BaseOperator, wanted: int, *, deferrable: bool, of: type[BaseOperator]
) -> tuple[int, str | None]:
    """Return how many visits to a worker a task takes.

    :param task: the task.
    :param wanted: how many it would take at best: 0, 1 or 2.
    :param deferrable: whether it may wait in the triggerer.
    :param of: the class whose work the triggerer does; what a subclass does besides takes a worker.
    :return: `wanted` and None, or the next higher number at which nothing is lost, and what stands in the way.
    """
    reasons = [next(_blockers(task, visits, deferrable, of), None) for visits in range(wanted, MAX_WORKER_VISITS)]
    free = next((n for n, reason in enumerate(reasons) if reason is None), len(reasons))
    return wanted + free, reasons[0] if free else None


def _blockers(task: BaseOperator, visits: int, deferrable: bool, of: type[BaseOperator]) -> Iterator[str]:
    if not TRIGGERS_PUSH_XCOMS:
        yield "an Airflow older than 3.3"
    if not deferrable:
        yield "deferrable=False"
    yield from _blockers_of_the_end(task, of)
    if visits == 0:
        yield from _blockers_of_the_start(task, of)


def _blockers_of_the_end(task: BaseOperator, of: type[BaseOperator]) -> Iterator[str]:
    # These happen on a worker: after a success, or at each visit.
    for name in ("outlets", "inlets", "on_success_callback", "on_execute_callback"):
        if getattr(task, name):
            yield name
    if getattr(task, "destination", None) is not None:
        yield "destination"
    if getattr(task, "webhook_url", None) == AUTO:
        yield "webhook_url='auto', which resumes it on a worker"
    for name in ("pre_execute", "post_execute"):
        if getattr(task, f"_{name}_hook") is not None:
            yield name
    for name in ("execute", "execute_complete", "pre_execute", "post_execute", "operator_extra_links"):
        if getattr(type(task), name) is not getattr(of, name):
            yield f"the subclass's own {name}"
    if task.map_index_template is not None:
        yield "map_index_template"
    if not task.do_xcom_push:
        yield "do_xcom_push=False"
    yield from (f"the listener {name}" for name in _listeners())


def _listeners() -> Iterator[str]:
    """Yield who listens to what becomes of tasks: of those that a trigger ends, Airflow tells nobody."""
    from airflow.sdk.listener import get_listener_manager  # noqa: PLC0415 - of Airflow 3.3, and loads all plugins

    hook = get_listener_manager().hook
    for event in ("running", "success"):
        for found in getattr(hook, f"on_task_instance_{event}").get_hookimpls():
            yield getattr(found.plugin, "__name__", type(found.plugin).__name__)


def _blockers_of_the_start(task: BaseOperator, of: type[BaseOperator]) -> Iterator[str]:
    if hasattr(task, "python_callable"):
        yield "a function to call"
    if list(task.template_fields) != list(of.template_fields):
        yield "the subclass's own template fields"
        return
    if getattr(task, "max_credits", None) is not None:
        yield "max_credits"
    # Of a template the trigger finds out.
    known = {name: picture for name in IMAGE_FIELDS if "{" not in str(picture := getattr(task, name))}
    yield from (f"{name}, which has to be uploaded" for name in to_upload(known))
    # Limits hold for what is queued for a worker.
    if task.pool != "default_pool" or task.pool_slots != 1:
        yield "a pool"
    for name in ("max_active_tis_per_dag", "max_active_tis_per_dagrun"):
        if getattr(task, name) is not None:
            yield name
    dag = task.get_dag()
    if dag is None:
        yield "no DAG"
    elif dag.max_active_tasks != conf.getint("core", "max_active_tasks_per_dag"):
        yield "max_active_tasks of the DAG"
    elif dag.render_template_as_native_obj:
        yield "render_template_as_native_obj of the DAG"
    if task.get_closest_mapped_task_group() is not None:
        yield "mapping"
    values = {name: getattr(task, name) for name in task.template_fields}
    yield from _unsafe(values)


def _unsafe(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of the templated `values` the triggerer could not render, or not each time to the same."""
    for name, value in values.items():
        for part in value if isinstance(value, list | tuple | set | frozenset) else [value]:
            if isinstance(part, str):
                yield from (f"{problem} in {name}" for problem in _unsafe_template(part))
            elif part is not None and not isinstance(part, int | float):
                yield f"a value from upstream in {name}"


def _unsafe_template(template: str) -> Iterator[str]:
    try:
        parsed = _PARSER.parse(template)
        names = meta.find_undeclared_variables(parsed)
    except jinja2.TemplateAssertionError:
        yield "a filter that is not Jinja's own"
        return
    except jinja2.TemplateError:
        yield "a broken template"
        return
    for name in sorted(names - SAFE_NAMES):
        yield f"{{{{ {name} }}}}"
    of_run = [found.attr for found in parsed.find_all(nodes.Getattr) if _is_dag_run(found.node)]
    if not SAFE_OF_DAG_RUN.issuperset(of_run) or sum(map(_is_dag_run, parsed.find_all(nodes.Name))) > len(of_run):
        yield "{{ dag_run }} beyond its conf and dates"
    if any(found.name == "random" for found in parsed.find_all(nodes.Filter)):
        yield "{{ ... | random }}"


def _is_dag_run(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "dag_run"
