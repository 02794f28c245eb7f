"""A function writes the prompt: what it may return, when it is called, and what is paid then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_hailuo.compat import AIRFLOW, AirflowException, AirflowFailException, TaskDeferred
from airflow_provider_hailuo.decorators.hailuo import hailuo_task
from airflow_provider_hailuo.exceptions import HailuoFailException
from airflow_provider_hailuo.operators import task_state, worker_visits
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.triggers.hailuo import START_ON_WORKER
from tests.unit.operators.fakes import Airflow, Store, World, make_dag, url
from tests.unit.operators.test_pictures import Variables, asked, uploads

if AIRFLOW >= (3, 0):
    from airflow.sdk import task
    from airflow.sdk.definitions.template import literal
else:
    from airflow.decorators import task
    from airflow.utils.template import literal


def make(function: Callable[..., Any], *args: Any, **arguments: Any) -> HailuoGenerateOperator:
    """Return the task that a function makes which is decorated with `arguments` and called with `args`."""
    with make_dag():
        return hailuo_task(task_id="video", **arguments)(function)(*args).operator


def returning(returned: Any, **arguments: Any) -> HailuoGenerateOperator:
    return make(lambda: returned, **arguments)


def work(airflow: Airflow, task: HailuoGenerateOperator, **variables: Any) -> Any:
    """Make the next try of `task` as a worker does: render it, then execute it, in a context with `variables`."""
    airflow.try_number += 1
    to_clear = sorted(airflow.xcoms)
    airflow.xcoms.clear()
    task.render_template_fields(variables)
    return airflow._visit(task, to_clear, lambda context: task.execute({**context, **variables}))


def sent(world: World) -> list[dict[str, Any]]:
    return [body for _, body in world.posts]


def prompts(world: World) -> list[str]:
    return [body["prompt"] for body in sent(world)]


class Author:
    """A function that returns another prompt at each call, or fails, and its task in one process after the other."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self.calls = 0
        self.error: Exception | None = None

    def write(self) -> dict[str, Any]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {"prompt": f"scene {self.calls}", **self.fields}

    @property
    def task(self) -> HailuoGenerateOperator:
        return make(self.write)


# What the function returns


def test_a_text_is_the_prompt(world: World, airflow: Airflow):
    assert isinstance(work(airflow, returning("a boat")), TaskDeferred)

    world.now += 60
    assert airflow.resume(returning("a boat"), airflow.event()) == url("job_1")
    assert sent(world) == [{"prompt": "a boat", "model": "hailuo-02"}]


def test_a_dictionary_goes_before_the_arguments_of_the_decorator(world: World, airflow: Airflow):
    fields = {"prompt": "a boat", "duration": "10", "model": None}

    work(airflow, returning(fields, prompt="a lamp", model="hailuo-2.3", duration=6, resolution="768p"))

    assert sent(world) == [
        {"prompt": "a boat", "model": "hailuo-02", "hailuoParams": {"duration": 10, "resolution": "768p"}}
    ]


def test_the_prompt_of_the_decorator_holds_where_the_function_writes_none(world: World, airflow: Airflow):
    work(airflow, returning({"duration": 10}, prompt="a lamp on {{ ds }}"), ds="2026-01-02")

    assert sent(world) == [{"prompt": "a lamp on 2026-01-02", "model": "hailuo-02", "hailuoParams": {"duration": 10}}]


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (None, r"<lambda>\(\): None: must return a prompt, a text, or a dictionary of prompt, model, image"),
        (7, r"<lambda>\(\): 7: must return a prompt"),
        (["a boat"], r"<lambda>\(\): \['a boat'\]: must return"),
        (b"a boat", r"<lambda>\(\): b'a boat': must return"),
        (Path("/a/boat"), r"<lambda>\(\): .*/a/boat.*must return"),
        ("", r"prompt: '': must hold something that can be seen"),
        ({}, r"prompt: '': must hold something"),
        ({"promt": "a boat"}, r"prompt: '': .*promt: 'a boat': Extra inputs"),
        ({"prompt": "a boat", "colour": "red"}, r"colour: 'red': Extra inputs"),
        ({"prompt": "a boat", "destination": "/videos/"}, r"destination: '/videos/': Extra inputs"),
        ({"prompt": "a boat", 7: "x"}, r"7: 'x': Extra inputs"),
        ({"prompt": "a boat", "duration": 7}, r"duration: 7: must be 6 or 10"),
    ],
    ids=repr,
)
def test_what_is_no_request_ends_the_task_and_pays_nothing(
    world: World, airflow: Airflow, returned: object, told: str
):
    with pytest.raises(HailuoFailException, match=rf"{told}.*Nothing was paid\. Correct it") as raised:
        work(airflow, returning(returned))
    assert isinstance(raised.value, AirflowFailException)
    assert (world.posts, airflow.store.kept) == ([], {})


def test_pictures_of_the_function_are_uploaded_once(sandbox: Sandbox, picture: Path, run: Callable[..., str]):
    def video() -> HailuoGenerateOperator:
        return returning({"prompt": "a boat", "image": str(picture)}, deferrable=False, poll_interval=0.05)

    sandbox.set_faults([{"fault": "reset", "after": True, "route": "POST /v2/videos/generate", "times": 1}])
    with pytest.raises(AirflowException, match="may have been created"):
        run(video())

    assert run(video()).startswith(sandbox.base_url)
    (request,) = asked(sandbox)
    assert request["hailuoParams"]["image"].startswith(f"{sandbox.base_url}/uploads/")
    assert uploads(sandbox) == 1


def test_a_resumption_knows_of_its_pictures_where_there_is_no_store(
    sandbox: Sandbox, picture: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(task_state, "Variable", Variables())
    airflow = Airflow(World(), None)

    def video() -> HailuoGenerateOperator:
        return returning({"prompt": "a boat", "image": str(picture)}, poll_interval=0.05)

    for _ in range(2):
        job_id = work(airflow, video()).trigger.job_id
        event = {"job_id": job_id, "error": None, "try_number": airflow.try_number}
        assert job_id in airflow.resume(video(), event)
        airflow.clear()

    # That the first one was delivered had to be written down where the second one looked.
    assert len(asked(sandbox)) == 2


# What the function is given, and templates


def test_it_is_given_arguments_and_the_context(world: World, airflow: Airflow):
    def write(product: str, place: str, ds: str, ti: Any = None, **context: Any) -> str:
        return f"{product} {place} on {ds}, try {ti.try_number} of {context['run_id']}, {sorted(context)}"

    work(airflow, make(write, "a lamp", "in {{ run_id }}"), ds="2026-01-02", run_id="r1")

    assert prompts(world)[0].startswith("a lamp in r1 on 2026-01-02, try 1 of r1, ['run_id'")


@pytest.mark.parametrize(
    ("returned", "prompt"),
    [
        ("a boat on {{ ds }}", "a boat on 2026-01-02"),
        ({"prompt": literal("a boat on {{ ds }}")}, "a boat on {{ ds }}"),
    ],
)
def test_templates_in_what_it_returns_are_rendered(world: World, airflow: Airflow, returned: Any, prompt: str):
    work(airflow, returning(returned), ds="2026-01-02")

    assert prompts(world) == [prompt]


def test_each_field_that_it_returns_is_a_template(world: World, airflow: Airflow):
    fields = {
        "prompt": "a boat",
        "duration": "{{ 5 + 5 }}",
        "webhook_events": ["{{ 'failed' }}"],
        "webhook_url": "https://x.example/{{ ds }}",
    }

    work(airflow, returning(fields), ds="2026-01-02")

    (body,) = sent(world)
    assert body["hailuoParams"] == {"duration": 10}
    assert (body["webhookUrl"], body["webhookEvents"]) == ("https://x.example/2026-01-02", ["failed"])


def test_nothing_is_rendered_twice(world: World, airflow: Airflow):
    # What a template renders to comes from outside, and may ask for a secret.
    seen = []

    def write(product: str) -> dict[str, int]:
        seen.append(product)
        return {"duration": 10}

    work(airflow, make(write, "{{ conf }}", prompt="{{ conf }}"), conf="{{ secret }}")

    assert seen == prompts(world) == ["{{ secret }}"]


# What the decorator takes


def test_airflow_knows_it_by_its_name(world: World, airflow: Airflow):
    with make_dag():

        @task.hailuo(task_id="video", retries=4, resolution="1080p", pool="videos")
        def write(product: str) -> str:
            """Write."""
            return f"{product} on a table"

        video = write("a lamp").operator

    assert (video.retries, video.pool, video.doc_md) == (4, "videos", "Write.")
    work(airflow, video)
    assert sent(world) == [
        {"prompt": "a lamp on a table", "model": "hailuo-02", "hailuoParams": {"resolution": "1080p"}}
    ]


def test_without_arguments_the_function_names_the_task():
    with make_dag():

        @task.hailuo
        def advert() -> str:
            return "a boat"

        first, second = advert().operator, advert().operator

    assert (first.task_id, second.task_id) == ("advert", "advert__1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"resolution": "4k"}, "resolution: '4k'"),
        ({"prompt": "\u200b"}, "something that can be seen"),
        ({"multiple_outputs": True}, "multiple_outputs: True: the task returns one URL"),
    ],
)
def test_bad_arguments_are_refused_while_the_dag_is_parsed(arguments: dict[str, Any], told: str):
    with pytest.raises(HailuoFailException, match=told):
        returning("a boat", **arguments)


def test_a_function_that_says_it_returns_a_dictionary_still_makes_one_url(world: World, airflow: Airflow):
    def write() -> dict[str, str]:
        return {"prompt": "a boat"}

    video = make(write, deferrable=False)

    assert video.multiple_outputs is False
    assert work(airflow, video) == url("job_1")


def test_what_is_known_of_the_arguments_is_among_the_templates(airflow: Airflow):
    video = make(lambda product: product, "a boat on {{ ds }}", destination="/videos/{{ ds }}/")

    video.render_template_fields({"ds": "2026-01-02"})

    assert (list(video.op_args), video.destination) == (["a boat on 2026-01-02"], "/videos/2026-01-02/")
    assert set(HailuoGenerateOperator.template_fields) < set(video.template_fields)


def test_it_is_mapped_over_arguments_of_the_function(world: World, airflow: Airflow):
    def write(product: str, place: str) -> dict[str, str]:
        return {"prompt": f"{product} {place}"}

    with make_dag():
        decorated = hailuo_task(task_id="video", resolution="768p", worker_visits=0)(write).override(duration=10)
        videos = decorated.partial(place="at sea").expand(product=["a boat", "a buoy"]).operator

    for n, product in enumerate(["a boat", "a buoy"]):
        airflow.store, airflow.map_index, airflow.try_number = Store(), n, 0
        video = videos.unmap({"op_kwargs": {"product": product}})
        assert video.multiple_outputs is False
        assert isinstance(work(airflow, video), TaskDeferred)

    assert prompts(world) == ["a boat at sea", "a buoy at sea"]
    assert all(body["hailuoParams"] == {"resolution": "768p", "duration": 10} for body in sent(world))


def test_a_default_argument_of_the_dag_is_one_of_the_decorator(world: World, airflow: Airflow):
    with make_dag(default_args={"resolution": "1080p", "retries": 7}):
        video = hailuo_task(task_id="video")(lambda: "a boat")().operator

    work(airflow, video)

    assert video.retries == 7
    assert sent(world)[0]["hailuoParams"] == {"resolution": "1080p"}


@pytest.mark.parametrize(("wanted", "taken"), [(2, 2), (1, 1), (0, 1)])
def test_a_trigger_may_end_it_but_not_start_it(
    world: World, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, wanted: int, taken: int
):
    monkeypatch.setattr(worker_visits, "TRIGGERS_PUSH_XCOMS", True)
    monkeypatch.setattr(worker_visits, "_listeners", lambda: iter(()))
    video = returning("a boat", worker_visits=wanted)

    assert video.start_from_trigger is False
    assert video._effective_worker_visits() == (taken, None if wanted else "a function to call")
    trigger = work(airflow, video).trigger
    assert trigger.end_from_trigger is (taken == 1)
    assert trigger.request["prompt"] == "a boat"


# When it is called, and what is paid


def test_a_resumption_does_not_call_it_again(world: World, airflow: Airflow):
    author = Author(duration=10)
    work(airflow, author.task)
    world.now += 60

    resumed = author.task
    assert airflow.resume(resumed, airflow.event()) == url("job_1")

    assert author.calls == 1
    facts = [airflow.xcoms["job"][name] for name in ("prompt", "resolution", "duration", "url")]
    assert facts == ["scene 1", "768p", 10, url("job_1")]
    # For the page "Rendered Templates".
    assert (resumed.overwrite_rtif_after_execution, resumed.prompt) == (True, "scene 1")


def test_nor_does_it_where_there_is_no_store(world: World, storeless: Airflow):
    test_a_resumption_does_not_call_it_again(world, storeless)


@pytest.mark.parametrize("error", [None, LookupError("no such product")], ids=repr)
def test_a_retry_takes_up_the_job_and_does_not_call_it(world: World, airflow: Airflow, error: Exception | None):
    author = Author()
    work(airflow, author.task)
    author.error = error

    assert work(airflow, author.task).trigger.request["prompt"] == "scene 1"
    world.now += 60

    assert work(airflow, author.task) == url("job_1")
    assert (author.calls, len(world.posts), world.paid) == (1, 1, 1)


def fail_first(world: World, airflow: Airflow, author: Author) -> None:
    """Make a try whose render fails."""
    world.outcomes = [{"status": "FAILED"}]
    work(airflow, author.task)
    world.now += 60


def test_after_a_failed_render_it_is_called_for_the_next_one(world: World, airflow: Airflow):
    author = Author(duration=10)
    fail_first(world, airflow, author)

    assert work(airflow, author.task).trigger.job_id == "job_2"

    assert author.calls == 2
    assert prompts(world) == ["scene 1", "scene 2"]
    assert sent(world)[1]["hailuoParams"] == {"duration": 10}


def test_an_error_of_the_function_is_its_own_and_a_retry_calls_it_again(world: World, airflow: Airflow):
    author = Author()
    author.error = LookupError("no such product")
    with pytest.raises(LookupError, match="no such product"):
        work(airflow, author.task)
    author.error = None

    assert isinstance(work(airflow, author.task), TaskDeferred)
    assert prompts(world) == ["scene 2"]


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [({}, LookupError("no such product"), "no such product"), ({"colour": "red"}, None, "colour: 'red'")],
    ids=["raises", "returns what is no request"],
)
def test_after_a_failed_render_it_may_fail_as_at_first(
    world: World, airflow: Airflow, fields: dict[str, str], error: Exception | None, told: str
):
    author = Author()
    fail_first(world, airflow, author)
    author.error, author.fields = error, fields

    with pytest.raises(LookupError if error else HailuoFailException, match=told):
        work(airflow, author.task)
    assert len(world.posts) == 1


def test_a_cleared_task_calls_it_and_takes_up_what_is_owed_if_it_asks_for_the_same(world: World, airflow: Airflow):
    work(airflow, returning("a boat"))
    airflow.clear()

    assert work(airflow, returning("a boat")).trigger.job_id == "job_1"
    airflow.clear()
    assert work(airflow, returning("a lamp")).trigger.job_id == "job_2"


def test_a_task_that_is_cleared_after_it_has_delivered_makes_a_new_video(world: World, airflow: Airflow):
    work(airflow, returning("a boat"))
    world.now += 60
    airflow.resume(returning("a boat"), airflow.event())
    airflow.clear()

    assert work(airflow, returning("a boat")).trigger.job_id == "job_2"


@pytest.mark.parametrize("event", [None, START_ON_WORKER, {"job_id": "job_1", "error": None, "try_number": 1}])
def test_a_resumption_that_begins_a_try_calls_it(world: World, storeless: Airflow, event: dict[str, Any] | None):
    work(storeless, returning("a boat"))

    deferral = storeless.resume(returning("a boat"), event, next_try=True)

    assert deferral.trigger.request["prompt"] == "a boat"
    assert (prompts(world), len(world.jobs)) == (["a boat"] * 2, 1)


def test_without_a_store_a_function_that_returns_the_same_pays_once(world: World, storeless: Airflow):
    for _ in range(3):
        assert work(storeless, returning({"prompt": "a boat"})).trigger.job_id == "job_1"
    assert world.paid == 1


def test_an_xcom_tells_what_it_returned(airflow: Airflow):
    work(airflow, returning({"prompt": "a boat on {{ ds }}"}, duration=10), ds="2026-01-02")

    assert airflow.xcoms == {"job_id": "job_1", "request": {"prompt": "a boat on 2026-01-02"}}
