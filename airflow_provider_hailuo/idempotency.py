"""The idempotency keys of a task instance, the same on a worker as in the triggerer."""

from __future__ import annotations

from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.apiframe.errors import ConflictError, excerpt
from airflow_provider_hailuo.apiframe.idempotency import derive_key
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.task_instance import TaskInstance, map_index


def task_key(
    ti: TaskInstance, hailuo_conn_id: str, settings: Settings, request: VideoRequest, *more: str | int
) -> str:
    """Return the first idempotency key of a request on behalf of a task instance.

    :param ti: the task instance.
    :param hailuo_conn_id: the Airflow connection.
    :param settings: what it holds; its namespace goes into the key.
    :param request: the request.
    :param more: what else is to make it another key: something that clearing the task changes, and a retry does not.
    :return: the key.
    """
    return derive_key(key_prefix(ti), [*key_identity(ti, hailuo_conn_id, settings), *more], request)


def key_prefix(ti: TaskInstance) -> str:
    """Return what leads the idempotency keys of a task instance, for the eyes of people.

    :param ti: the task instance.
    :return: the prefix.
    """
    return f"airflow/{ti.dag_id}/{ti.task_id}"


def key_identity(ti: TaskInstance, hailuo_conn_id: str, settings: Settings) -> list[str | int]:
    """Return on whose behalf a task instance asks for videos, as it goes into the keys.

    :param ti: the task instance.
    :param hailuo_conn_id: the Airflow connection.
    :param settings: what it holds; its namespace is a part.
    :return: the parts.
    """
    return [hailuo_conn_id, settings.namespace, ti.dag_id, ti.run_id, ti.task_id, map_index(ti)]


def add_key_to_message(error: ConflictError, key: str, prompt: str) -> None:
    """Add to the message of an error what the API saw a conflict in.

    :param error: the error, whose message is changed.
    :param key: the idempotency key.
    :param prompt: the prompt of the request.
    """
    error.message += f"; the key is {key!r}, this request's prompt {excerpt(prompt, 60)!r}"
