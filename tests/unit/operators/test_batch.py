"""Many videos in one task, against the sandbox: worker, triggerer, worker."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_hailuo import metrics, storage
from airflow_provider_hailuo.apiframe import batch as batches
from airflow_provider_hailuo.compat import AIRFLOW, AirflowFailException, Asset, TaskDeferred
from airflow_provider_hailuo.exceptions import (
    HailuoException,
    HailuoFailException,
    HailuoJobFailedException,
    HailuoJobTimeoutException,
    HailuoStorageException,
    HailuoUnavailableException,
)
from airflow_provider_hailuo.operators import batch, task_state
from airflow_provider_hailuo.operators.batch import STATE_KEY, BatchState, HailuoGenerateBatchOperator
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.triggers import batch as triggers
from airflow_provider_hailuo.triggers.batch import HailuoBatchTrigger
from airflow_provider_hailuo.triggers.hailuo import DEFER_TIMEOUT_MARGIN_SECONDS
from airflow_provider_hailuo.webhooks import RECEIVER
from tests.unit.operators.fakes import Airflow, OutletEventAccessors, Store, Variables, away, make_dag, nothing
from tests.unit.operators.test_hailuo import charged, jobs
from tests.unit.operators.test_pictures import JPEG, PNG, uploads
from tests.unit.test_metrics import Backend


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "MIN_DEFERRED_SECONDS", 0)
    monkeypatch.setattr(batch, "RESULT_POLL_SECONDS", 0.02)


class Worker(Airflow):
    """Runs the tries of one task, worker and triggerer in turn; its store, if any, outlives them."""

    def __init__(self, *, retries: int = 3, store: bool = True, map_index: int = -1) -> None:
        super().__init__(None, Store() if store else None, retries=retries, map_index=map_index)
        self.triggers: list[HailuoBatchTrigger] = []
        self.events: list[dict[str, Any]] = []

    def begin(self, task: HailuoGenerateBatchOperator, *, inside: object = None) -> Any:
        """Make the first visit of the next try; return what it returns, or the deferral."""
        self.task = task
        return super().run(task, inside=inside)

    def wait(self, deferral: TaskDeferred, lives: float | None = None) -> dict[str, Any] | None:
        """Run the trigger as another process would, for so many seconds; return its event, None if it was killed."""
        path, arguments = deferral.trigger.serialize()
        assert path == "airflow_provider_hailuo.triggers.batch.HailuoBatchTrigger"
        self.triggers.append(HailuoBatchTrigger(**json.loads(json.dumps(arguments)), from_the_future=1))

        async def event() -> dict[str, Any]:
            return (await anext(self.triggers[-1].run())).payload

        with suppress(asyncio.TimeoutError):
            self.events.append(json.loads(json.dumps(asyncio.run(asyncio.wait_for(event(), lives)))))
            return self.events[-1]
        gc.collect()
        return None

    def end(self, event: dict[str, Any] | None) -> Any:
        return self.resume(self.task, event)

    def run(self, task: HailuoGenerateBatchOperator) -> Any:
        """Make the next try."""
        result = self.begin(task)
        return self.end(self.wait(result)) if isinstance(result, TaskDeferred) else result


def task(requests: Any, **arguments: Any) -> HailuoGenerateBatchOperator:
    defaults = {"task_id": "video", "poll_interval": 0.05, "retries": 3}
    return HailuoGenerateBatchOperator(**{**defaults, "requests": requests, **arguments})


def prompts(sandbox: Sandbox) -> list[str]:
    """Return what was rendered, in alphabetical order."""
    return sorted(job["input"]["prompt"] for job in sandbox.jobs())


def test_the_results_come_in_the_order_of_the_items(sandbox: Sandbox):
    worker = Worker()
    requests = ["[[slow: 0.5]] a", {"prompt": "b", "resolution": "1080p"}, {"prompt": "c", "duration": "10"}, "d"]

    results = worker.run(task(requests, max_in_flight=2))

    by_prompt = {job["input"]["prompt"]: job for job in sandbox.jobs()}
    for index, (result, prompt) in enumerate(zip(results, ["[[slow: 0.5]] a", "b", "c", "d"], strict=True)):
        job = by_prompt[prompt]
        url = f"{sandbox.base_url}/videos/{job['id']}.mp4"
        facts = {"index": index, "job_id": job["id"], "status": "COMPLETED", "url": url}
        assert result == {**facts, "credits": {"b": 10, "c": 8}.get(prompt, 5)}
    assert worker.xcoms["summary"] == {"items": 4, "completed": 4, "failed": 0, "refused": 0, "credits": 28}
    assert charged(sandbox) == 28


def test_waiting_on_the_worker_never_defers(sandbox: Sandbox):
    results = Worker().begin(task(["a", "b"], deferrable=False))

    assert [result["status"] for result in results] == ["COMPLETED"] * 2


def test_inside_another_task_it_waits_right_there_under_keys_of_its_own(sandbox: Sandbox):
    worker = Worker()

    for task_id in ("one", "two", "one"):
        worker.try_number = 0  # all of them belong to one try
        results = worker.begin(task(["a"], task_id=task_id), inside=SimpleNamespace(retries=3))
        assert results[0]["status"] == "COMPLETED"

    assert worker.store.kept == {}
    assert jobs(sandbox) == 2


def test_no_items_are_no_videos(sandbox: Sandbox):
    worker = Worker()

    assert worker.run(task([])) == []
    assert worker.xcoms["summary"]["items"] == 0


MIXED = ["a", "[[fail: content policy]] b", "c"]

# What is asked for

DEFAULTS = {"model": "hailuo-2.3", "duration": 10, "resolution": "768p"}


@pytest.mark.parametrize(
    "requests",
    [
        ["a", {"prompt": "b", "model": "hailuo-02", "duration": None}],
        '["a", {"prompt": "b", "model": "hailuo-02", "duration": ""}]',
        ("a", {"prompt": "b", "model": "hailuo-02"}),
    ],
    ids=["list", "JSON", "tuple"],
)
def test_items_are_prompts_or_fields_and_the_operators_are_defaults(sandbox: Sandbox, requests: Any):
    worker = Worker()

    worker.run(task(requests, **DEFAULTS))

    first, second = sorted(sandbox.jobs(), key=lambda job: job["input"]["prompt"])
    assert (first["input"]["prompt"], first["model"], first["creditCost"]) == ("a", "hailuo-2.3", 10)
    assert (second["input"]["prompt"], second["model"], second["creditCost"]) == ("b", "hailuo-02", 8)


BAD = ["a", {"prompt": "b", "duration": 7}, "", {"duration": 6}, {"prompt": "c", "size": 1}, {1: "d"}, None, "e"]
TOLD = {
    1: "duration: 7: must be 6 or 10",
    2: "must hold something that can be seen",
    3: "has no prompt",
    4: "size: 1: Extra inputs are not permitted",
    5: "the names of its fields must be text",
    6: "prompt: None: must be text",
}


def test_all_bad_input_is_told_at_once_and_nothing_is_submitted(sandbox: Sandbox):
    with pytest.raises(AirflowFailException) as raised:
        Worker().run(task(BAD))

    for part in ("6 of 8 items will not do (items 1-6)", *(f"item {n}: " for n in TOLD), *TOLD.values()):
        assert part in str(raised.value)
    assert "Nothing was paid" in str(raised.value)
    assert not any(sandbox.stats()["requests"].values())


def test_bad_input_that_is_skipped_stops_nothing_else(sandbox: Sandbox):
    worker = Worker()

    results = worker.run(task(BAD, on_item_failure="skip"))

    assert [result.get("status") for result in results] == ["COMPLETED", *[None] * 6, "COMPLETED"]
    for index, problem in TOLD.items():
        assert problem in results[index]["error"]
    assert worker.xcoms["summary"] == {"items": 8, "completed": 2, "failed": 0, "refused": 6, "credits": 10}


@pytest.mark.parametrize(
    ("requests", "told"),
    [
        ("['a', 'b']", "a template has to end with '| tojson'"),
        ("5", "must be a list"),
        ('{"prompt": "a"}', "must be a list"),
        ({"a", "b"}, "must be a list"),
        (None, "must be a list"),
        (["a"] * 10_001, "10001 items, 10000 are allowed"),
    ],
    ids=["Python", "number", "object", "set", "None", "many"],
)
def test_what_is_no_list_of_items_is_refused(sandbox: Sandbox, requests: Any, told: str):
    with pytest.raises(AirflowFailException, match=told):
        Worker().run(task(requests))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_in_flight": 0}, "max_in_flight: 0"),
        ({"max_in_flight": True}, "max_in_flight: True"),
        ({"on_item_failure": "ignore"}, "'fail' or 'skip'"),
        ({"max_credits": 0}, "max_credits: 0"),
        ({"duration": 7}, "duration: 7"),
        ({"image": "boat.png"}, "image: 'boat.png'"),
        ({"destination": "/videos/boat.mp4"}, "must be a directory"),
        ({"destination": "videos/"}, "destination"),
        ({"metadata": "yes"}, "metadata: 'yes'"),
        ({"deferrable": 1}, "deferrable: 1"),
        ({"timeout": 0}, "timeout: 0"),
        ({"poll_interval": timedelta(0)}, "poll_interval"),
    ],
    ids=str,
)
def test_what_a_dag_says_wrongly_is_refused_when_it_is_parsed(arguments: dict[str, Any], told: str):
    with pytest.raises(AirflowFailException, match=told):
        task(["a"], **arguments)


def test_templates_are_rendered_also_within_items(sandbox: Sandbox):
    with make_dag():
        made = task(["a {{ ds }}", {"prompt": "{{ b }}", "duration": "{{ seconds }}"}], resolution="{{ none }}")
    made.render_template_fields({"ds": "2026-01-01", "b": "b", "seconds": 10, "none": None})

    Worker().run(made)

    assert prompts(sandbox) == ["a 2026-01-01", "b"]
    assert charged(sandbox) == 13


# What the trigger is given


def test_the_trigger_gets_all_items_in_little_space_and_no_secret(sandbox: Sandbox):
    worker = Worker()
    requests = [f"A paper boat in the rain, number {n}" for n in range(1000)]

    deferral = worker.begin(task(requests, duration=6, resolution="768p", timeout=600, max_in_flight=50))

    arguments = deferral.trigger.serialize()[1]
    items = batches.unpack(arguments["items"])
    assert [item["prompt"] for item in items] == requests
    assert len(json.dumps(arguments)) < 10_000
    assert sandbox.api_key not in json.dumps(arguments)
    assert HailuoBatchTrigger(**json.loads(json.dumps(arguments))).serialize()[1] == arguments


@pytest.mark.parametrize(
    ("items", "arguments", "seconds"),
    [
        (1, {"timeout": 600}, 600),
        (40, {"timeout": 600}, 1200),
        (41, {"timeout": 600}, 1800),
        (41, {"timeout": 600, "execution_timeout": timedelta(seconds=1000)}, 970),
        (10_000, {"timeout": 600}, 23 * 3600),
    ],
)
def test_the_time_of_the_whole(sandbox: Sandbox, items: int, arguments: dict[str, Any], seconds: float):
    before = time.time()
    deferral = Worker().begin(task(["a"] * items, **arguments))
    after = time.time()

    deadline = deferral.trigger.plan["deadline"]
    assert before + seconds <= deadline <= after + seconds
    assert deadline - after <= deferral.timeout.total_seconds() - DEFER_TIMEOUT_MARGIN_SECONDS <= deadline - before


def test_an_event_is_small(sandbox: Sandbox):
    worker = Worker()

    worker.run(task(["[[fail: policy]]" if n % 3 == 0 else "a" for n in range(60)], on_item_failure="skip"))

    assert len(json.dumps(worker.events[0])) < 60 * 45
    assert "http" not in json.dumps(worker.events[0])


# Credits


@pytest.mark.parametrize(
    ("requests", "max_credits", "told"),
    [
        (["a", "b"], 9, "2 videos cost 10 credits"),
        (["a"] * 300, 5000, "300 videos cost 1500 credits, and the account has 1000 credits"),
        ([{"prompt": "a", "model": "hailuo-03"}], 100, "no price is known"),
    ],
)
def test_what_would_be_too_dear_is_not_begun(sandbox: Sandbox, requests: Any, max_credits: float, told: str):
    with pytest.raises(AirflowFailException, match=told):
        Worker().run(task(requests, max_credits=max_credits))

    assert jobs(sandbox) == 0


@pytest.mark.parametrize("sandbox", [20], indirect=True)
def test_a_retry_is_not_refused_for_what_the_tries_before_have_spent(sandbox: Sandbox):
    worker = Worker()

    for _ in range(2):
        with pytest.raises(HailuoJobFailedException):
            worker.run(task(MIXED, max_credits=20))

    assert (jobs(sandbox), charged(sandbox)) == (4, 10)


@pytest.mark.parametrize("sandbox", [50], indirect=True)
def test_too_few_credits_in_the_middle_are_told_and_a_retry_makes_the_rest(sandbox: Sandbox):
    worker = Worker()

    with pytest.raises(HailuoUnavailableException) as raised:
        worker.run(task(["a"] * 100, max_in_flight=4))

    assert 14 <= sandbox.stats()["requests"]["POST /v2/videos/generate"] <= 18  # nothing more is sent
    told = str(raised.value)
    for part in ("100 items, 10 completed, 90 failed", "50 credits", "item 10: ", "Insufficient credits", "85 more"):
        assert part in told
    assert sum(job["id"] in told for job in sandbox.jobs()) == 3
    for part in ("and 7 more", "A retry makes what is missing and pays for nothing twice"):
        assert part in told
    with pytest.raises(HailuoUnavailableException):
        worker.run(task(["a"] * 100, max_in_flight=4))
    assert jobs(sandbox) == 10


@pytest.mark.parametrize("sandbox", [4], indirect=True)
def test_too_few_credits_for_anything_fail_for_good(sandbox: Sandbox):
    with pytest.raises(HailuoFailException, match="Insufficient credits"):
        Worker().run(task(["a"] * 10))


# What fails, retries, clearing


@pytest.mark.parametrize("store", [True, False], ids=["store", "no store"])
def test_a_retry_renders_only_what_has_failed(sandbox: Sandbox, store: bool):
    worker = Worker(store=store)

    for n in range(1, 4):
        with pytest.raises(HailuoJobFailedException) as raised:
            worker.run(task(MIXED))
        assert prompts(sandbox).count("[[fail: content policy]] b") == n
        assert worker.xcoms["summary"] == {"items": 3, "completed": 2, "failed": 1, "refused": 0, "credits": 10}

    assert (jobs(sandbox), charged(sandbox)) == (5, 10)
    newest = next(job["id"] for job in sandbox.jobs() if job["status"] == "FAILED")
    for part in (
        f"item 1: The render ended as FAILED: content policy. Its credits were refunded (job {newest})",
        "3 items, 2 completed, 1 failed",
        "Videos that are there: jobs ",
        "A retry makes what is missing",
    ):
        assert part in str(raised.value)


@pytest.mark.skipif(AIRFLOW < (3, 1), reason="there is no receiver before Airflow 3.1")
def test_a_retry_announces_where_the_first_try_did(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    worker = Worker()
    for base_url in "http://127.0.0.1:8", "http://127.0.0.1:9":
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
        with pytest.raises(HailuoJobFailedException):
            worker.run(task(MIXED, webhook_url="auto"))

    # The API compares the bodies that come under a key: another URL would be refused.
    assert (jobs(sandbox), charged(sandbox)) == (4, 10)
    assert [trigger.plan["uploads"] for trigger in worker.triggers] == [
        [{RECEIVER: "http://127.0.0.1:8/hailuo/webhooks/hailuo_default"}]
    ] * 2
    assert all(job["webhookStatus"] is not None for job in sandbox.jobs())


def test_failed_items_that_are_skipped_are_told(sandbox: Sandbox, log: Callable[[], str]):
    worker = Worker()

    results = worker.run(task(MIXED, on_item_failure="skip"))

    assert [result["status"] for result in results] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "content policy" in results[1]["error"]
    assert results[1]["credits"] == 0
    assert worker.xcoms["summary"] == {"items": 3, "completed": 2, "failed": 1, "refused": 0, "credits": 10}
    assert "Batch: 3 items, 2 completed, 1 failed, 0 refused, 10 credits" in log()


def test_an_item_that_upstream_changed_is_a_new_one_and_the_others_are_not(sandbox: Sandbox):
    worker = Worker()
    with pytest.raises(HailuoJobFailedException):
        worker.run(task(MIXED))

    worker.run(task(["a", "another", "c"]))

    assert prompts(sandbox) == sorted([*MIXED, "another"])


def test_the_same_prompt_twice_is_two_videos(sandbox: Sandbox):
    results = Worker().run(task(["a", "a"]))

    assert len({result["job_id"] for result in results}) == 2


@pytest.mark.parametrize("store", [True, False], ids=["store", "no store"])
def test_clearing_what_was_delivered_makes_all_anew(sandbox: Sandbox, store: bool):
    worker = Worker(store=store)
    worker.run(task(["a", "b"]))
    worker.clear()

    worker.run(task(["a", "b"]))

    assert (jobs(sandbox), charged(sandbox)) == (4, 20)


def test_that_a_batch_was_delivered_is_known_also_after_a_try_that_has_failed_early(sandbox: Sandbox):
    worker = Worker()
    worker.run(task(["a"]))
    worker.clear()
    with pytest.raises(HailuoFailException):
        worker.run(task([{"prompt": "a", "duration": 7}]))
    worker.clear()

    worker.run(task(["a"]))

    assert jobs(sandbox) == 2


def test_clearing_what_was_not_delivered_goes_on(sandbox: Sandbox):
    worker = Worker(retries=0)
    with pytest.raises(HailuoJobFailedException, match="Clearing the task makes what is missing"):
        worker.run(task(MIXED))
    worker.clear()

    with pytest.raises(HailuoJobFailedException):
        worker.run(task(MIXED))

    assert prompts(sandbox).count("a") == 1
    assert prompts(sandbox).count(MIXED[1]) == 2
    # Of a task that was cleared, videos that were purged are wanted again.
    assert [trigger.plan["renew"] for trigger in worker.triggers] == [False, True]


def test_without_a_store_clearing_begins_anew_and_each_item_has_one_key_again(sandbox: Sandbox):
    worker = Worker(store=False)
    for _ in range(2):
        with pytest.raises(HailuoJobFailedException):
            worker.run(task(MIXED))
    worker.clear()

    with pytest.raises(HailuoJobFailedException):
        worker.run(task(MIXED))

    assert prompts(sandbox).count("a") == 2
    assert prompts(sandbox).count(MIXED[1]) == 3


def test_mapped_instances_have_keys_of_their_own(sandbox: Sandbox):
    for map_index in range(2):
        Worker(store=False, map_index=map_index).run(task(["a"]))

    assert jobs(sandbox) == 2


@pytest.mark.parametrize(("hook", "done"), [("on_get", "read"), ("on_set", "written")])
def test_without_the_store_nothing_is_submitted(sandbox: Sandbox, hook: str, done: str):
    worker = Worker()
    setattr(worker.store, hook, away)

    with pytest.raises(HailuoUnavailableException, match=f"could not be {done}"):
        worker.run(task(["a"]))

    assert not any(sandbox.stats()["requests"].values())
    worker.store.on_get = worker.store.on_set = nothing
    worker.run(task(["a"]))
    assert jobs(sandbox) == 1


def begun_before(hours: float) -> Worker:
    """Return a worker whose first try, which has failed, was so long ago."""
    worker = Worker()
    with pytest.raises(HailuoJobFailedException):
        worker.run(task(MIXED))
    kept = worker.store.get(STATE_KEY)
    worker.store.set(STATE_KEY, {**kept, "since": kept["since"] - hours * 3600})
    return worker


def test_after_a_day_a_retry_does_not_pay_again_and_clearing_does(sandbox: Sandbox):
    worker = begun_before(23.5)

    with pytest.raises(HailuoFailException, match="would pay for all videos again"):
        worker.run(task(MIXED))
    assert jobs(sandbox) == 3
    worker.clear()
    worker.run(task(["a"]))
    assert jobs(sandbox) == 4


def test_a_retry_gives_up_before_the_keys_are_forgotten(sandbox: Sandbox):
    deferral = begun_before(22.9).begin(task(MIXED))

    assert deferral.timeout.total_seconds() - DEFER_TIMEOUT_MARGIN_SECONDS == pytest.approx(360, abs=10)


def test_of_what_a_task_has_begun():
    begun = BatchState("salt", max_tries=3, since=0)

    assert begun.next_try(3, 10) == BatchState("salt", 3, 0, tries=2)
    assert begun.next_try(7, 10) == BatchState("salt", 7, 0, tries=2, cleared=True)
    delivered = BatchState("salt", 3, 0, delivered=True)
    assert delivered.next_try(3, 10) == BatchState("salt", 3, 0, tries=2, delivered=True)
    assert delivered.next_try(7, 10) is None
    assert begun.next_try(7, 24 * 3600) is None


# A triggerer, or a worker, that dies


# Up to 4.13, anyio leaves a connection that is cancelled as it is made to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("store", [True, False], ids=["store", "no store"])
@pytest.mark.parametrize("lives", [0.001, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_a_triggerer_that_dies_pays_nothing_twice(sandbox: Sandbox, lives: float, store: bool):
    worker = Worker(store=store)
    deferral = worker.begin(task([str(n) for n in range(30)], max_in_flight=6))

    for _ in range(3):
        event = worker.wait(deferral, lives)
    results = worker.end(event or worker.wait(deferral))

    assert [result["status"] for result in results] == ["COMPLETED"] * 30
    assert (jobs(sandbox), charged(sandbox)) == (30, 150)


def test_a_worker_that_dies_before_it_takes_the_results_pays_nothing_twice(sandbox: Sandbox):
    worker = Worker()
    deferral = worker.begin(task([str(n) for n in range(10)]))
    worker.wait(deferral)

    results = worker.run(task([str(n) for n in range(10)]))

    assert len(results) == 10
    assert (jobs(sandbox), charged(sandbox)) == (10, 50)
    # What is completed needs no looks by the trigger, and few by the worker.
    assert sandbox.stats()["requests"]["POST /v2/videos/generate"] == 20


def test_an_event_of_another_try_begins_this_one(sandbox: Sandbox):
    worker = Worker()
    deferral = worker.begin(task(["a"]))
    event = worker.wait(deferral)
    worker.try_number += 1

    assert isinstance(worker.end(event), TaskDeferred)
    assert isinstance(worker.end(None), TaskDeferred)


def test_a_timeout_names_the_jobs_and_a_retry_takes_them_up(sandbox: Sandbox):
    worker = Worker()
    requests = ["a", "[[stall]] b", "[[stall]] c"]

    with pytest.raises(HailuoJobTimeoutException) as raised:
        worker.run(task(requests, timeout=0.5))

    stalled = [job["id"] for job in sandbox.jobs() if job["status"] == "PROCESSING"]
    for part in ("paid if they complete: jobs", *stalled, "A retry makes what is missing"):
        assert part in str(raised.value)
    sandbox.release()
    assert [result["status"] for result in worker.run(task(requests))] == ["COMPLETED"] * 3
    assert (jobs(sandbox), charged(sandbox)) == (3, 15)


def test_what_a_retry_can_get_is_not_skipped(sandbox: Sandbox):
    with pytest.raises(HailuoJobTimeoutException):
        Worker().run(task(["a", "[[stall]] b"], timeout=0.3, on_item_failure="skip"))


def test_results_that_cannot_be_read_name_the_jobs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    worker = Worker()
    deferral = worker.begin(task(["a", "b"]))
    event = worker.wait(deferral)
    monkeypatch.delenv("AIRFLOW_CONN_HAILUO_DEFAULT")

    with pytest.raises(HailuoUnavailableException) as raised:
        worker.end(event)

    for job in sandbox.jobs():
        assert job["id"] in str(raised.value)


# Refused by the API


def test_an_item_that_the_api_refuses_names_its_index_and_stops_nothing(sandbox: Sandbox):
    sandbox.set_faults(
        [{"fault": "error", "status": 400, "route": "POST /v2/videos/generate", "skip": 2, "times": 1}]
    )
    worker = Worker()

    with pytest.raises(HailuoFailException) as raised:
        worker.run(task(["a", "b", "c", "d"], max_in_flight=1))

    for part in ("4 items, 3 completed, 0 failed, 1 refused, 15 credits", "item 2: ", "No retry mends that"):
        assert part in str(raised.value)
    assert worker.xcoms["summary"]["refused"] == 1


def test_an_item_that_was_refused_beside_one_that_a_retry_mends_is_retried(sandbox: Sandbox):
    sandbox.set_faults([{"fault": "error", "status": 400, "route": "POST /v2/videos/generate", "times": 1}])

    with pytest.raises(HailuoJobFailedException):
        Worker().run(task(["a", "[[fail: no]] b"], max_in_flight=1))


# Stored


def test_what_the_page_shows_of_each_video_is_there_also_of_a_batch_that_fails(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch, "MAX_XCOM_ITEMS", 3)
    long = "a" * 500
    worker = Worker()

    with pytest.raises(HailuoJobFailedException):
        worker.run(task(["[[fail: no]] b", long, "c", "d"]))

    shown = worker.xcoms["items"]
    assert [(item["index"], item["status"]) for item in shown] == [(0, "FAILED"), (1, "COMPLETED"), (2, "COMPLETED")]
    assert [item["prompt"] for item in shown] == ["[[fail: no]] b", f"{'a' * 99}…", "c"]
    assert "no" in shown[0]["error"]
    assert all(item["url"].endswith(f"{item['job_id']}.mp4") for item in shown[1:])


def lines(uri: str) -> list[dict[str, Any]]:
    text = Path(uri.removeprefix("file://")).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_videos_are_stored_and_the_manifest_tells_all(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()

    uri = worker.run(task(["a", "[[fail: no]] b", "é"], on_item_failure="skip", destination=f"{tmp_path}/new/"))

    told = lines(uri)
    assert worker.xcoms["summary"]["manifest"] == uri
    assert Path(uri).name.startswith("manifest-run-")
    assert [line["index"] for line in told] == [0, 1, 2]
    assert "no" in told[1]["error"]
    for line in (told[0], told[2]):
        path = Path(line["uri"].removeprefix("file://"))
        assert path == tmp_path / "new" / f"{line['job_id']}.mp4"
        assert path.stat().st_size == line["bytes"]
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_metadata_tells_the_prompt_as_far_as_it_is_known(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()
    uri = worker.run(task(["a", {"prompt": "b", "duration": 10}], destination=f"{tmp_path}/", metadata=True))

    told = [json.loads((tmp_path / f"{line['job_id']}.json").read_text()) for line in lines(uri)]
    assert [(meta["prompt"], meta["duration"], meta["dag_id"]) for meta in told] == [
        ("a", 6, "dag"),
        ("b", 10, "dag"),
    ]

    deferral = worker.begin(task(["c"], destination=f"{tmp_path}/", metadata=True))
    event = worker.wait(deferral)
    worker.task.requests = ["something else by now"]
    (line,) = lines(worker.end(event))
    told = json.loads((tmp_path / f"{line['job_id']}.json").read_text())
    assert (told["prompt"], told["duration"], told["model"]) == (None, None, "hailuo-02")


def refuse_to_store(patch: pytest.MonkeyPatch, suffix: str, error: Exception, times: int = 1000) -> list[str]:
    """Let the storage refuse files that end so; return the names of those that it has refused."""
    put, refused = storage._put, []

    def put_or_refuse(path: Any, *rest: Any) -> None:
        if path.name.endswith(suffix) and len(refused) < times:
            refused.append(path.name)
            raise error
        put(path, *rest)

    patch.setattr(storage, "_put", put_or_refuse)
    return refused


def test_what_could_not_be_stored_is_stored_by_a_retry_which_fetches_nothing_twice(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    worker = Worker()
    made = task(["a", "b", "c"], destination=f"{tmp_path}/", on_item_failure="skip")

    with monkeypatch.context() as patch:
        refused = refuse_to_store(patch, ".mp4", OSError(28, "No space left on device"), times=1)
        with pytest.raises(HailuoStorageException) as raised:
            worker.run(made)
    for part in ("No space left", refused[0].removesuffix(".mp4"), "A retry", "The manifest is file://"):
        assert part in str(raised.value)
    assert len(list(tmp_path.glob("*.mp4"))) == 2
    assert worker.xcoms["summary"]["completed"] == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}

    uri = worker.run(made)

    assert all("uri" in line for line in lines(uri))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (jobs(sandbox), charged(sandbox)) == (3, 15)


@pytest.mark.parametrize("what", ["mp4", "jsonl"])
def test_a_storage_that_is_away_is_not_asked_for_each_video_and_a_retry_stores_them(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    worker = Worker()
    made = task([str(n) for n in range(30)], destination=f"{tmp_path}/")

    with monkeypatch.context() as patch:
        asked = refuse_to_store(patch, what, ConnectionError("the storage is away"))
        with pytest.raises(HailuoStorageException, match="the storage is away"):
            worker.run(made)
    assert len(asked) < 12

    uri = worker.run(made)

    assert len([line for line in lines(uri) if "uri" in line]) == 30
    assert jobs(sandbox) == 30


def test_a_destination_that_will_not_do_is_told_before_anything_is_paid(sandbox: Sandbox, tmp_path: Path):
    (tmp_path / "file").write_text("no directory")

    with pytest.raises(AirflowFailException, match="cannot be made"):
        Worker().run(task(["a"], destination=f"{tmp_path}/file/"))

    assert jobs(sandbox) == 0


def test_two_runs_and_two_instances_have_manifests_of_their_own(sandbox: Sandbox, tmp_path: Path):
    uris = [Worker(map_index=map_index).run(task(["a"], destination=f"{tmp_path}/")) for map_index in (-1, 0, 1)]

    assert len(set(uris)) == 3


def test_assets_among_the_outlets_are_told_of_the_batch(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()
    asset = Asset("videos")
    worker.outlet_events = OutletEventAccessors()

    manifest = worker.run(task(["a", "b"], destination=f"{tmp_path}/", outlets=[asset]))

    told = worker.outlet_events[asset].extra
    assert told == worker.xcoms["summary"]
    assert (told["completed"], told["credits"], told["manifest"]) == (2, 10, manifest)


def test_an_airflow_that_cannot_be_told_of_a_batch_is_told_by_a_retry(sandbox: Sandbox, tmp_path: Path):
    worker = Worker()
    arguments = {"destination": f"{tmp_path}/", "outlets": [Asset("videos")]}

    with pytest.raises(HailuoException, match=r"could not be told of the batch.*A retry .* does not pay twice"):
        worker.run(task(["a"], **arguments))
    worker.outlet_events = OutletEventAccessors()
    worker.run(task(["a"], **arguments))

    assert charged(sandbox) == 5


# What is counted


def test_each_item_is_counted_and_its_video_once_when_no_retry_follows(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    backend = Backend()
    monkeypatch.setattr(metrics, "stats", lambda **_: backend)
    worker = Worker(retries=1)
    requests = ["a", {"prompt": "[[fail: policy]]", "model": "hailuo-2.3"}, "b"]

    def counted() -> dict[str, Any]:
        told, backend.told = backend.told, []
        assert any(counted[0] == metrics.STATUS_REQUESTS for counted in told)
        told = [counted for counted in told if counted[0] != metrics.STATUS_REQUESTS]
        assert {(tags["conn_id"], tags["dag_id"]) for _, _, tags in told} == {("hailuo_default", "dag")}
        kinds = Counter((name, tags["model"], tags.get("cause")) for name, _, tags in told)
        return {"credits": sum(n for name, n, _ in told if name == metrics.CREDITS), **kinds}

    arguments = {"destination": f"{tmp_path}/", "retries": 1}
    with pytest.raises(HailuoJobFailedException):
        worker.run(task(requests, **arguments))
    first = counted()
    with pytest.raises(HailuoJobFailedException):
        worker.run(task(requests, **arguments))
    last = counted()

    assert first[metrics.SUBMITTED, "hailuo-02", None] == 2
    assert first[metrics.FAILED, "hailuo-2.3", "JobFailedError"] == 1
    assert first[metrics.BYTES_STORED, "hailuo-02", None] == 2
    assert (metrics.COMPLETED, "hailuo-02", None) not in first
    assert first["credits"] == 0
    assert last[metrics.FAILED, "hailuo-2.3", "JobFailedError"] == 1
    assert last[metrics.COMPLETED, "hailuo-02", None] == last[metrics.RENDER_DURATION, "hailuo-02", None] == 2
    assert last["credits"] == 10


def test_a_batch_that_is_refused_is_counted(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    backend = Backend()
    monkeypatch.setattr(metrics, "stats", lambda **_: backend)

    with pytest.raises(HailuoFailException):
        Worker().run(task(["a", ""]))

    assert [(name, tags["cause"]) for name, _, tags in backend.told] == [(metrics.FAILED, "InvalidInputError")]


# Pictures to upload


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Return where two pictures lie, the second of which is there twice."""
    found = [tmp_path / name for name in ("a.png", "b.jpg", "again.jpg")]
    for path, content in zip(found, (PNG, JPEG, JPEG), strict=True):
        path.write_bytes(content)
    return found


@pytest.fixture(params=["3.3", "before 3.3"])
def worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Return a worker with and without a task state store; without one Airflow's Variables take its place."""
    monkeypatch.setattr(task_state, "Variable", Variables())
    return Worker(store=request.param == "3.3")


def with_pictures(places: list[Path], first: str = "0") -> list[dict[str, str]]:
    numbers = [first, *map(str, range(1, len(places)))]
    return [{"prompt": n, "image": str(path)} for n, path in zip(numbers, places, strict=True)]


def images(sandbox: Sandbox) -> dict[str, list[str]]:
    """Return the pictures that each prompt was submitted with, the oldest first."""
    found: dict[str, list[str]] = {}
    for job in reversed(sandbox.jobs()):
        found.setdefault(job["input"]["prompt"], []).append(job["input"]["hailuoParams"]["image"])
    return found


def test_pictures_are_uploaded_before_the_first_submission(sandbox: Sandbox, worker: Worker, places: list[Path]):
    requests = [*with_pictures(places), {"prompt": "3", "image": "https://example.com/c.png"}, "4"]

    results = worker.run(task(requests, end_image=places[0].as_uri()))

    assert [result["status"] for result in results] == ["COMPLETED"] * 5
    sent = {job["input"]["prompt"]: job["input"]["hailuoParams"] for job in sandbox.jobs()}
    for n in "012":
        assert sent[n]["image"].startswith(f"{sandbox.base_url}/uploads/")
    assert sent["3"]["image"] == "https://example.com/c.png"
    assert "image" not in sent["4"]
    assert len({params["end_image"] for params in sent.values()}) == 1
    assert uploads(sandbox) == 4


def test_a_retry_uploads_anew_for_what_it_submits_anew_and_pays_nothing_twice(
    sandbox: Sandbox, worker: Worker, places: list[Path]
):
    requests = with_pictures(places, "[[fail: policy]]")

    with pytest.raises(HailuoJobFailedException):
        worker.run(task(requests))
    with pytest.raises(HailuoJobFailedException):
        worker.run(task(requests))

    sent = images(sandbox)
    assert [len(sent[prompt]) for prompt in ("[[fail: policy]]", "1", "2")] == [2, 1, 1]
    assert len(set(sent["[[fail: policy]]"])) == 2
    assert charged(sandbox) == 10


@pytest.mark.parametrize("lives", [0, 0.05])
def test_pictures_that_are_gone_or_replaced_at_a_retry_change_nothing(
    sandbox: Sandbox, worker: Worker, places: list[Path], log: Callable[[], str], lives: float
):
    deferral = worker.begin(task(with_pictures(places)))
    worker.wait(deferral, lives)
    places[0].unlink()
    places[1].write_bytes(PNG)

    results = worker.run(task(with_pictures(places)))

    assert [result["status"] for result in results] == ["COMPLETED"] * 3
    assert {prompt: len(sent) for prompt, sent in images(sandbox).items()} == {"0": 1, "1": 1, "2": 1}
    assert "a.png: what was uploaded before is used: image:" in log()
    assert "b.jpg: what was uploaded before is used: it was replaced" in log()


def test_a_picture_that_will_not_do_is_bad_input_and_nothing_is_paid(
    sandbox: Sandbox, worker: Worker, places: list[Path], tmp_path: Path
):
    places[1].write_text("<svg/>")

    with pytest.raises(HailuoFailException, match=r"1 of 3 items.*item 1: image: .*b.jpg"):
        worker.run(task(with_pictures(places)))
    assert jobs(sandbox) == 0

    arguments = {"on_item_failure": "skip", "destination": f"{tmp_path}/", "metadata": True}
    manifest = worker.run(task(with_pictures(places), **arguments))
    results = lines(manifest)
    assert [result.get("status") for result in results] == ["COMPLETED", None, "COMPLETED"]
    assert "b.jpg" in results[1]["error"]
    told = json.loads((tmp_path / f"{results[0]['job_id']}.json").read_text())
    assert told["prompt"] == "0"


def test_uploads_that_fail_are_tried_again_by_a_retry(sandbox: Sandbox, worker: Worker, places: list[Path]):
    sandbox.set_faults([{"fault": "error", "status": 503, "route": "POST /v2/uploads"}])
    with pytest.raises(HailuoException, match="Nothing was paid"):
        worker.run(task(with_pictures(places)))
    sandbox.set_faults([])

    assert len(worker.run(task(with_pictures(places)))) == 3
    assert jobs(sandbox) == 3
