from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from airflow_provider_hailuo import record
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest

REQUEST = VideoRequest(prompt="a sunrise")


def task_instance(**differences: object) -> SimpleNamespace:
    return SimpleNamespace(**{"dag_id": "dag", "run_id": "run", "task_id": "video", "map_index": -1, **differences})


def test_the_key_is_the_same_for_the_same_task_and_request_only():
    keys = [
        record.task_key(task_instance(), "conn", 0, REQUEST),
        *(record.task_key(task_instance(**{name: 7}), "conn", 0, REQUEST) for name in vars(task_instance())),
        record.task_key(task_instance(), "other", 0, REQUEST),
        record.task_key(task_instance(), "conn", 1, REQUEST),
        record.task_key(task_instance(), "conn", 0, VideoRequest(prompt="a sunset")),
    ]

    assert len(set(keys)) == len(keys)
    # On a worker and in the triggerer, whatever they put for "not mapped".
    assert keys[0] == record.task_key(task_instance(map_index=None), "conn", 0, REQUEST)


def test_the_facts_of_a_job_are_json_and_hold_the_defaults_of_the_api():
    job = Job(id="j", status="COMPLETED", result={"videoUrl": "https://x.example/v.mp4"}, credit_cost=5)

    facts = record.job_facts(job, record.request_facts(REQUEST))

    assert json.loads(json.dumps(facts)) == {
        "id": "j",
        "status": "COMPLETED",
        "url": "https://x.example/v.mp4",
        "prompt": "a sunrise",
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": 6,
        "credits": 5,
        "created": None,
        "completed": None,
    }


def test_what_an_earlier_try_left_is_deleted(monkeypatch: pytest.MonkeyPatch):
    xcoms = {"job_id": "1", "return_value": "u", "mine": 1}

    def delete(key: str, dag_id: str, task_id: str, run_id: str, map_index: int) -> None:
        assert (dag_id, task_id, run_id, map_index) == ("dag", "video", "run", -1)
        del xcoms[key]

    monkeypatch.setattr(record.XCom, "delete", delete, raising=False)
    ti = task_instance(xcom_pull=lambda key, **_: xcoms.get(key))

    record.forget(ti)

    assert xcoms == {"mine": 1}
