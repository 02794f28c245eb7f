"""A plugin with a listener, as OpenLineage has one: it appends what it hears to the file HAILUO_NOTES."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


def note(event: str, task_instance: Any) -> None:
    """Append a line: event, DAG, task."""
    with Path(os.environ["HAILUO_NOTES"]).open("a") as notes:
        notes.write(f"{event} {task_instance.dag_id} {task_instance.task_id}\n")


@hookimpl
def on_task_instance_running(previous_state: Any, task_instance: Any) -> None:
    """Hear of a task that begins on a worker."""
    note("running", task_instance)


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:
    """Hear of a task that has succeeded."""
    note("success", task_instance)


class Lineage(AirflowPlugin):
    """Brings the listener, which is this module."""

    name = "lineage"
    listeners = [sys.modules[__name__]]  # noqa: RUF012 - as Airflow wants it
