from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime, timedelta

import pytest

from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.compat import AirflowException, AirflowFailException, TaskDeferred
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.triggers.hailuo import DEFER_TIMEOUT_MARGIN_SECONDS, HailuoJobTrigger
from tests.unit.operators.fakes import TaskInstance, connect, make_dag


def operator(**arguments: object) -> HailuoGenerateOperator:
    return HailuoGenerateOperator(**{"task_id": "video", "prompt": "a sunrise", "poll_interval": 0.05, **arguments})


def execute(task: HailuoGenerateOperator, **differences: object) -> tuple[str, dict]:
    """Run `task` to its end as Airflow would: worker, triggerer, worker."""
    ti = TaskInstance(**differences)
    try:
        url = task.execute({"ti": ti})
    except TaskDeferred as deferral:
        url = resume(task, ti, deferral)
    return url, ti.xcoms


def resume(task: HailuoGenerateOperator, ti: TaskInstance, deferral: TaskDeferred) -> str:
    path, arguments = deferral.trigger.serialize()
    assert path.endswith(".HailuoJobTrigger")

    async def event() -> dict:
        async for event in HailuoJobTrigger(**json.loads(json.dumps(arguments))).run():
            return event.payload

    return getattr(task, deferral.method_name)({"ti": ti}, event=asyncio.run(event()))


def charged(sandbox: Sandbox) -> int:
    return sandbox.stats()["creditsCharged"]


def jobs(sandbox: Sandbox) -> int:
    return sum(sandbox.stats()["jobs"].values())


def test_it_submits_pushes_the_job_and_defers(sandbox: Sandbox):
    ti, before = TaskInstance(), time.time()

    with pytest.raises(TaskDeferred) as deferral:
        operator(timeout=600).execute({"ti": ti})

    trigger = deferral.value.trigger
    assert ti.xcoms == {"job_id": trigger.job_id}
    assert before + 600 <= trigger.deadline <= time.time() + 600
    assert 590 < deferral.value.timeout.total_seconds() - DEFER_TIMEOUT_MARGIN_SECONDS <= 600
    assert sandbox.api_key not in repr(trigger.serialize())
    assert charged(sandbox) == 5


@pytest.mark.parametrize("deferrable", [True, False])
def test_the_xcoms_tell_all_of_a_finished_video(sandbox: Sandbox, deferrable: bool):
    url, xcoms = execute(operator(deferrable=deferrable, resolution="768p", duration="10"))

    job = xcoms.pop("job")
    assert url == f"{sandbox.base_url}/videos/{job['id']}.mp4"
    assert xcoms == {"job_id": job["id"], "credit_cost": 8}
    created, completed = (datetime.fromisoformat(job.pop(name)) for name in ("created", "completed"))
    assert created < completed
    assert job == {
        "id": job["id"],
        "status": "COMPLETED",
        "url": url,
        "prompt": "a sunrise",
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": 10,
        "credits": 8,
    }


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_failed_render_names_job_reason_and_refund_and_may_be_retried(sandbox: Sandbox, deferrable: bool):
    task = operator(prompt="[[fail: content policy]]", deferrable=deferrable)
    ti = TaskInstance(max_tries=1)

    with pytest.raises(AirflowException) as raised:
        try:
            task.execute({"ti": ti})
        except TaskDeferred as deferral:
            resume(task, ti, deferral)

    assert not isinstance(raised.value, AirflowFailException)
    for part in ("content policy", "refunded", ti.xcoms["job_id"], "A retry renders it anew"):
        assert part in str(raised.value)
    assert (ti.xcoms["job"]["status"], ti.xcoms["job"]["url"], ti.xcoms["credit_cost"]) == ("FAILED", None, 0)
    assert charged(sandbox) == 0


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_timeout_names_the_job_and_may_be_retried(sandbox: Sandbox, deferrable: bool):
    with pytest.raises(
        AirflowException, match=r"may still be rendered.*\(job .*A retry takes it up again and does not pay twice"
    ):
        execute(operator(prompt="[[stall]]", deferrable=deferrable, timeout=0.2), max_tries=1)


def test_execution_timeout_holds_while_deferred(sandbox: Sandbox):
    ti = TaskInstance()

    with pytest.raises(TaskDeferred) as deferral:
        operator(execution_timeout=timedelta(seconds=60), timeout=600).execute({"ti": ti})

    # Airflow's own end would name no job: a part of the time is left for ours.
    assert deferral.value.trigger.deadline == pytest.approx(ti.start_date.timestamp() + 60 - 15, abs=0.01)


def test_a_retry_takes_up_the_running_job_and_the_finished_one_without_deferring(sandbox: Sandbox):
    task = operator(retries=2)
    first, second, third = (TaskInstance(try_number=n, max_tries=2) for n in (1, 2, 3))

    with pytest.raises(TaskDeferred):
        task.execute({"ti": first})
    with pytest.raises(TaskDeferred) as deferral:
        task.execute({"ti": second})
    url = resume(task, second, deferral.value)

    assert task.execute({"ti": third}) == url
    assert first.xcoms["job_id"] == second.xcoms["job_id"] == third.xcoms["job_id"]
    assert (jobs(sandbox), charged(sandbox)) == (1, 5)


def test_a_retry_that_is_told_an_odd_status_of_its_finished_job_does_not_pay_for_another(sandbox: Sandbox):
    task = operator(retries=2)
    url, xcoms = execute(task, max_tries=2)
    sandbox.set_faults([{"fault": "unknown-status", "route": "GET /v2/jobs/{id}", "times": 1}])
    ti = TaskInstance(try_number=2, max_tries=2)

    with pytest.raises(TaskDeferred) as deferral:
        task.execute({"ti": ti})

    assert resume(task, ti, deferral.value) == url
    assert ti.xcoms["job_id"] == xcoms["job_id"]
    assert (jobs(sandbox), charged(sandbox)) == (1, 5)


@pytest.mark.parametrize("difference", [{"map_index": 0}, {"run_id": "r2"}, {"task_id": "t2"}, {"dag_id": "d2"}])
def test_each_task_instance_has_a_video_of_its_own(sandbox: Sandbox, difference: dict):
    assert execute(operator())[0] != execute(operator(), **difference)[0]


def test_a_key_of_the_user_stands_for_one_video_and_no_other_request(sandbox: Sandbox):
    task = operator(idempotency_key="order-7")

    assert execute(task)[0] == execute(task, run_id="another")[0]
    with pytest.raises(AirflowFailException, match=r"'order-7'.*'a sunset'.*HTTP 409.*another idempotency_key"):
        execute(operator(idempotency_key="order-7", prompt="a sunset"))
    assert charged(sandbox) == 5


@pytest.mark.parametrize("sandbox", [30], indirect=True)
def test_too_few_credits_end_the_task_and_tell_how_many(sandbox: Sandbox):
    with pytest.raises(AirflowFailException, match=r"10 credits needed, 5 there.*HTTP 402.*Nothing was paid. Top up"):
        for n in range(4):
            execute(operator(resolution="1080p" if n else "768p"), run_id=f"r{n}")
    assert charged(sandbox) == 25


def test_a_wrong_key_ends_the_task_and_names_the_connection(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, sandbox, password="afk_wrong")

    with pytest.raises(AirflowFailException, match=r"HTTP 401.*API key in the connection 'hailuo_default'") as raised:
        execute(operator())
    assert "afk_wrong" not in str(raised.value)


def test_a_missing_connection_is_worth_a_retry():
    # Airflow says so too while a secrets backend fails.
    with pytest.raises(AirflowException, match=r"airflow connections add no_such_conn.*Nothing was paid") as raised:
        execute(operator(hailuo_conn_id="no_such_conn"))
    assert not isinstance(raised.value, AirflowFailException)


def test_an_api_that_is_away_is_worth_a_retry(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    connect(monkeypatch, sandbox, host="http://127.0.0.1:9", extra={"retries": 0})

    with pytest.raises(AirflowException, match=r"refused.*Nothing was paid\. A retry submits it") as raised:
        execute(operator(), max_tries=1)
    assert not isinstance(raised.value, AirflowFailException)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"resolution": "4k"}, "resolution: '4k'"),
        ({"resolution": "1080p", "duration": 10}, "1080p renders 6 seconds only"),
        ({"prompt": "{{ ds }}", "duration": 7}, "duration: 7"),
        ({"image": "first.png"}, "image: 'first.png': must be an absolute http"),
        ({"image": "./boat.png"}, "image: './boat.png'"),
        ({"image": 7}, "image: 7"),
        ({"webhook_events": ["done"]}, "webhook_events"),
        ({"poll_interval": 0}, "poll_interval: 0"),
        ({"poll_interval": "5"}, "poll_interval: '5'"),
        ({"timeout": float("nan")}, "timeout: nan"),
        ({"timeout": float("inf")}, "timeout: inf"),
        ({"timeout": True}, "timeout: True"),
        ({"timeout": timedelta(0)}, "timeout: .*must be a number of seconds above 0, or a timedelta"),
        ({"poll_interval": timedelta(seconds=-1)}, "poll_interval"),
        ({"prompt": "None"}, "prompt: 'None'"),
        ({"webhook_events": {"done"}}, "webhook_events"),
        ({"webhook_events": ["{{ ds }}", "failed"], "image": "x"}, "image: 'x'"),
        ({"idempotency_key": "k" * 256}, "idempotency_key: .*1 to 255 printable ASCII characters"),
        ({"idempotency_key": 7}, "idempotency_key: 7"),
        ({"hailuo_conn_id": 7}, "hailuo_conn_id: 7: must be the id of a connection"),
        ({"hailuo_conn_id": ["hailuo_default"]}, "hailuo_conn_id: .*must be the id of a connection"),
        ({"deferrable": "False"}, "deferrable: 'False': must be True or False"),
        ({"deferrable": 1}, "deferrable: 1"),
        ({"deferrable": None}, "deferrable: None"),
        ({"wait_for_completion": "no"}, "wait_for_completion: 'no': must be True or False"),
        ({"worker_visits": True}, "worker_visits: True: must be 0, 1 or 2"),
        ({"worker_visits": "1"}, "worker_visits: '1'"),
        ({"worker_visits": 3}, "worker_visits: 3"),
        ({"worker_visits": None}, "worker_visits: None"),
        ({"multiple_outputs": True}, "multiple_outputs: True: the task returns one URL"),
        ({"destination": "boat.mp4"}, "destination: 'boat.mp4': must be a URL such as"),
        ({"destination": 7}, "destination: 7: must be a URL such as"),
        ({"destination_conn_id": 7}, "destination_conn_id: 7: must be the id"),
        ({"if_exists": "replace"}, "if_exists: 'replace': must be one of skip, overwrite, fail"),
        ({"metadata": "yes"}, "metadata: 'yes': must be True or False"),
        ({"poster": 1}, "poster: 1: must be True or False"),
        ({"destination": "/videos/", "wait_for_completion": False}, "destination: needs wait_for_completion=True"),
        ({"max_credits": 0}, "max_credits: 0: must be a number of credits above 0"),
        ({"max_credits": True}, "max_credits: True: must be a number of credits above 0"),
    ],
    ids=str,
)
def test_bad_input_is_refused_while_the_dag_is_parsed(arguments: dict, told: str):
    with pytest.raises(AirflowFailException, match=told) as raised:
        operator(**arguments)
    # There is no task yet that could be cleared.
    assert "clear" not in str(raised.value).lower()


@pytest.mark.parametrize(
    "arguments",
    [
        {
            "prompt": "{{ params.p }}",
            "idempotency_key": "{{ run_id }}" * 99,
            "resolution": "{% if x %}768p{% endif %}",
        },
        {"duration": "{{ params.d }}", "prompt_optimizer": "{# none #}", "webhook_events": "{{ params.events }}"},
        {"webhook_events": ["{{ params.event }}"], "webhook_url": "https://x.example/{{ ti.id }}"},
        {"image": "", "end_image": "None", "idempotency_key": "", "duration": "None"},
        {"webhook_events": {"progress", "completed", "failed"}},
        {"webhook_events": frozenset({"failed"}), "idempotency_key": "k" * 255},
        {"multiple_outputs": False},
    ],
)
def test_what_is_known_later_or_will_do_is_not_refused(arguments: dict):
    assert operator(**arguments).task_id == "video"


def test_what_comes_from_upstream_is_not_judged():
    with make_dag():
        upstream = operator(task_id="upstream")
        task = operator(
            prompt=upstream.output,
            duration=upstream.output,
            idempotency_key=upstream.output["key"],
            image=upstream.output,
        )

    assert task.upstream_task_ids == {"upstream"}


def test_durations_may_be_timedeltas():
    task = operator(timeout=timedelta(minutes=30), poll_interval=timedelta(seconds=2.5))

    assert (task.timeout, task.poll_interval) == (1800.0, 2.5)


def test_a_set_of_events_has_one_order_in_each_process(airflow_3_3: None):
    events = {"progress", "completed", "failed"}
    with make_dag():
        arguments = operator(webhook_events=events, worker_visits=0).start_trigger_args.trigger_kwargs

    assert arguments["webhook_events"] == ["completed", "failed", "progress"]


def test_what_a_template_will_hold_is_judged_when_it_is_rendered(sandbox: Sandbox):
    task = operator(prompt="{{ '' }}", resolution="{{ params.r }}", image="{% raw %}{% endraw %}")
    task.prompt, task.resolution, task.image = "a sunrise", "4k", "first.png"

    with pytest.raises(AirflowFailException, match=r"image: 'first\.png'.*resolution: '4k'.*Nothing was paid"):
        execute(task)
    assert jobs(sandbox) == 0


def test_what_renders_to_nothing_is_left_out(sandbox: Sandbox):
    task = operator(image="{{ '' }}", duration="{{ none }}", idempotency_key="{{ none }}")
    task.image, task.duration, task.idempotency_key = "", "None", "None"

    url, xcoms = execute(task)

    assert url == xcoms["job"]["url"]
    assert xcoms["job"]["duration"] == 6
    # "None" is no key that two tasks could share.
    assert execute(task, run_id="another")[0] != url


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_native_number_is_a_prompt(sandbox: Sandbox, deferrable: bool):
    task = operator(prompt="{{ 2026 }}", deferrable=deferrable)
    task.prompt = 2026

    assert execute(task)[1]["job"]["prompt"] == "2026"


def test_all_fields_of_the_request_are_templates():
    others = {"hailuo_conn_id", "idempotency_key", "image_conn_id", "destination", "destination_conn_id"}

    assert set(HailuoGenerateOperator.template_fields) == VideoRequest.model_fields.keys() | others
