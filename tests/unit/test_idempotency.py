from __future__ import annotations

from types import SimpleNamespace

from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.apiframe.errors import ConflictError
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.idempotency import add_key_to_message, task_key


def task_instance(**differences: object) -> SimpleNamespace:
    return SimpleNamespace(**{"dag_id": "dag", "run_id": "run", "task_id": "video", "map_index": -1, **differences})


def key(*more: str, conn_id: str = "conn", namespace: str = "", epoch: int = 0, **differences: object) -> str:
    request = VideoRequest(prompt=str(differences.pop("prompt", "a sunrise")))
    settings = Settings(api_key="afk_1", namespace=namespace)
    return task_key(task_instance(**differences), conn_id, settings, request, epoch, *more)


def test_the_key_is_the_same_for_the_same_task_and_request_only():
    keys = [
        key(),
        *(key(**{name: 7}) for name in vars(task_instance())),
        key(conn_id="other"),
        key(epoch=1),
        key(prompt="a sunset"),
        key(namespace="staging"),
        key("more"),
        key("more", "yet"),
    ]

    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    # On a worker and in the triggerer, whatever they put for "not mapped".
    assert key(map_index=None) == keys[0]


def test_two_tasks_do_not_share_a_key_because_their_names_run_together():
    assert key(dag_id="a", run_id="bc") != key(dag_id="ab", run_id="c")
    assert key("ab", "c") != key("a", "bc")


def test_a_conflict_names_the_key_and_the_prompt():
    error = ConflictError("so it is", status=409)

    add_key_to_message(error, "order-7", "a " + "long " * 99)

    assert str(error).startswith("so it is; the key is 'order-7', this request's prompt 'a long ")
    assert len(str(error)) < 150
