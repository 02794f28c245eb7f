"""What identifies a task instance and tells of its tries, the same on a worker as in the triggerer."""

from __future__ import annotations

from typing import Any, Protocol


class TaskInstance(Protocol):
    """What identifies a task instance, on the worker as in the triggerer."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None


def task_instance_key(ti: TaskInstance) -> dict[str, Any]:
    """Return what identifies a task instance, as the parameters of Airflow's XCom methods.

    Their order goes into names that a later version has to find again, as those of Variables.

    :param ti: the task instance.
    :return: `dag_id`, `run_id`, `task_id` and `map_index`.
    """
    return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": map_index(ti)}


def map_index(ti: TaskInstance) -> int:
    """Return the map index of a task instance.

    :param ti: the task instance.
    :return: the index; -1 if it is not mapped.
    """
    return -1 if ti.map_index is None else ti.map_index


def has_retries_left(ti: Any) -> bool:
    """Tell whether Airflow is going to retry a task if this try fails.

    :param ti: its task instance, on a worker.
    :return: whether it is.
    """
    return bool(ti.try_number <= (ti.max_tries or 0))


def is_nested(task: Any, ti: Any) -> bool:
    """Tell whether another task's code calls `execute` of a task: XComs and state would be the other one's.

    :param task: the task.
    :param ti: the task instance that runs, on a worker.
    :return: whether it is another task's.
    """
    return getattr(ti, "task", task) is not task
