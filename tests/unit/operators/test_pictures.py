"""Pictures that are elsewhere than at an http(s) URL: uploaded by the task, the same request at each try."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_hailuo import pictures
from airflow_provider_hailuo.compat import AirflowException, AirflowFailException
from airflow_provider_hailuo.operators import task_state
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.triggers.hailuo import START_ON_WORKER, HailuoGenerateTrigger
from tests.unit.apiframe.test_pictures import WHOLE
from tests.unit.operators.fakes import Airflow, Store, Variables
from tests.unit.operators.test_hailuo import TaskInstance, connect

PNG, JPEG = WHOLE["png"][2], WHOLE["jpeg"][2]


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.05, jitter=0, credits=100, seed=1) as sandbox:
        connect(monkeypatch, sandbox, extra=json.dumps({"retries": 0}))
        yield sandbox


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "boat.png"
    path.write_bytes(PNG)
    return path


@pytest.fixture(params=["3.3", "before 3.3"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what runs the next try of a task, on a worker with and without a task state store."""
    airflow = Airflow(None, Store() if request.param == "3.3" else None)
    monkeypatch.setattr(task_state, "Variable", Variables())

    def run(task: HailuoGenerateOperator, *, cleared: bool = False) -> str:
        if cleared:
            airflow.clear()
        return airflow.run(task)

    return run


def operator(**arguments: Any) -> HailuoGenerateOperator:
    defaults = {"task_id": "video", "prompt": "a boat", "poll_interval": 0.05, "deferrable": False}
    return HailuoGenerateOperator(**{**defaults, **arguments})


def asked(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return what the jobs were asked for, the oldest first."""
    return [job["input"] for job in reversed(sandbox.jobs())]


def uploads(sandbox: Sandbox) -> int:
    return sandbox.stats()["requests"]["POST /v2/uploads"]


def run_without_an_answer(sandbox: Sandbox, run: Callable[..., str], task: HailuoGenerateOperator) -> None:
    sandbox.set_faults([{"fault": "reset", "after": True, "route": "POST /v2/videos/generate", "times": 1}])
    with pytest.raises(AirflowException, match="may have been created"):
        run(task)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_picture_is_uploaded_right_before_the_submission(
    sandbox: Sandbox, picture: Path, run: Callable[..., str], scheme: str
):
    assert run(operator(image=f"{scheme}{picture}")).startswith(sandbox.base_url)

    (request,) = asked(sandbox)
    assert request["hailuoParams"]["image"].startswith(f"{sandbox.base_url}/uploads/")


def test_first_and_last_frame_are_two_pictures(
    sandbox: Sandbox, picture: Path, tmp_path: Path, run: Callable[..., str]
):
    (tmp_path / "end.jpg").write_bytes(JPEG)

    run(operator(image=str(picture), end_image=str(tmp_path / "end.jpg")))

    (request,) = asked(sandbox)
    first, last = (request["hailuoParams"][name] for name in ("image", "end_image"))
    assert first != last
    assert uploads(sandbox) == 2


def test_a_url_is_sent_as_it_is(sandbox: Sandbox, run: Callable[..., str]):
    run(operator(image="https://example.com/boat.png"))

    assert asked(sandbox)[0]["hailuoParams"]["image"] == "https://example.com/boat.png"
    assert uploads(sandbox) == 0


@pytest.mark.parametrize(
    "become",
    [lambda _: None, lambda picture: picture.unlink(), lambda picture: picture.write_bytes(JPEG)],
    ids=["there", "gone", "another"],
)
def test_a_retry_asks_for_the_same_whatever_has_become_of_the_picture_and_pays_once(
    sandbox: Sandbox, picture: Path, run: Callable[..., str], become: Callable[[Path], object]
):
    task = operator(image=str(picture))
    run_without_an_answer(sandbox, run, task)
    become(picture)

    assert run(task).startswith(sandbox.base_url)
    assert (len(asked(sandbox)), uploads(sandbox)) == (1, 1)


def test_a_picture_that_is_replaced_while_the_task_begins_is_asked_for_as_it_was_uploaded(
    sandbox: Sandbox, picture: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    upload = pictures.upload

    def replaced(*arguments: Any) -> tuple[str, str]:
        picture.write_bytes(JPEG)
        return upload(*arguments)

    monkeypatch.setattr(pictures, "upload", replaced)

    run(operator(image=str(picture)))

    (request,) = asked(sandbox)
    assert request["hailuoParams"]["image"].startswith(f"{sandbox.base_url}/uploads/")


def test_a_failed_render_is_rendered_anew_with_a_new_upload(sandbox: Sandbox, picture: Path, run: Callable[..., str]):
    task = operator(image=str(picture), prompt="[[fail: no capacity]]")
    for _ in range(2):
        with pytest.raises(AirflowException, match="no capacity"):
            run(task)

    one, other = (request["hailuoParams"]["image"] for request in asked(sandbox))
    assert one != other


@pytest.mark.parametrize(("content", "videos"), [(PNG, 1), (JPEG, 2)], ids=["the same", "another"])
def test_the_same_picture_elsewhere_is_the_same_request_after_a_clear_and_another_picture_is_not(
    sandbox: Sandbox, picture: Path, run: Callable[..., str], content: bytes, videos: int
):
    run_without_an_answer(sandbox, run, operator(image=str(picture)))
    other = picture.with_name("other")
    other.write_bytes(content)

    run(operator(image=str(other)), cleared=True)

    assert len(asked(sandbox)) == videos


def test_an_upload_that_fails_leaves_nothing_in_doubt(sandbox: Sandbox, picture: Path, run: Callable[..., str]):
    sandbox.set_faults([{"fault": "error", "status": 502, "route": "POST /v2/uploads", "times": 1}])
    task = operator(image=str(picture))

    with pytest.raises(AirflowException, match="Nothing was paid") as raised:
        run(task)
    assert not isinstance(raised.value, AirflowFailException)

    run(task)


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "there is no such file"), (b"", "is an empty file"), (PNG[:-20], "is cut off"), (b"boat", "convert it")],
    ids=str,
)
def test_what_is_no_picture_is_refused_before_anything_is_paid(
    sandbox: Sandbox, tmp_path: Path, run: Callable[..., str], content: bytes | None, told: str
):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)

    with pytest.raises(AirflowFailException) as raised:
        run(operator(image=f"{tmp_path}/x.png"))

    assert told in str(raised.value)
    assert "image: " in str(raised.value)
    assert "Nothing was paid" in str(raised.value)
    assert (asked(sandbox), uploads(sandbox)) == ([], 0)


def test_a_storage_that_is_away_is_asked_again_by_a_retry(
    sandbox: Sandbox, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(pictures, "object_storage_path", away)
    with pytest.raises(AirflowException, match="Nothing was paid") as raised:
        run(operator(image="s3://bucket/boat.png"))

    assert not isinstance(raised.value, AirflowFailException)


# Without a worker


def test_the_triggerer_leaves_what_renders_to_such_a_picture_to_a_worker():
    trigger = HailuoGenerateTrigger(prompt="a boat", image="s3://bucket/boat.png")
    trigger._task_instance = TaskInstance()

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    assert asyncio.run(events()) == [START_ON_WORKER]
