"""`hailuo_image_to_video`: pictures out of S3 become the frames of a video in S3."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from airflow_provider_hailuo.apiframe.pictures import check_picture
from tests.examples.conftest import EXAMPLES, SIX_SECONDS, VIDEOS, Stage

pytestmark = pytest.mark.system

DAG = "hailuo_image_to_video"
DAGS = (DAG,)
OWN = "From a picture of our own"


def begin(stage: Stage) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (640, 360), "green").save(picture, "PNG")
    stage.s3.client.put_object(Bucket="videos", Key="ours/first.png", Body=picture.getvalue())
    stage.start(DAG, "as_it_is")
    stage.start(DAG, "own", conf={"image": "s3://videos/ours/first.png", "prompt": OWN})


def frames(stage: Stage, job_id: str) -> dict[str, bytes]:
    """Return the pictures that a job was given."""
    (job,) = (job for job in stage.sandbox.jobs() if job["id"] == job_id)
    params: dict[str, Any] = job["input"]["hailuoParams"]
    return {name: httpx.get(params[name]).content for name in ("image", "end_image") if name in params}


def drawn(stage: Stage) -> dict[str, bytes]:
    """Return the pictures that the DAG has drawn."""
    return {name: stage.s3.read(f"{VIDEOS}/pictures/{name}.png") for name in ("image", "end_image")}


def test_as_it_is_it_goes_from_one_picture_of_the_storage_to_another(stage: Stage):
    assert stage.ended(DAG, "as_it_is") == "success"

    xcoms = stage.airflow.xcoms(DAG, "as_it_is", "make_video")
    uri = xcoms["return_value"]
    assert uri == f"{VIDEOS}/image_to_video/{xcoms['job_id']}.mp4"
    assert stage.video(uri) == SIX_SECONDS
    given = frames(stage, xcoms["job_id"])
    assert given == drawn(stage)
    pictures = [Image.open(io.BytesIO(content)) for content in given.values()]
    assert [picture.getcolors() for picture in pictures] == [
        [(1366 * 768, (250, 190, 120))],
        [(1366 * 768, (30, 40, 90))],
    ]


def test_a_picture_of_ones_own_is_enough(stage: Stage):
    assert stage.ended(DAG, "own") == "success"

    job = stage.airflow.xcom(DAG, "own", "make_video", "job")
    assert frames(stage, job["id"]) == {"image": stage.s3.read("s3://videos/ours/first.png")}
    assert stage.prompts(OWN) == [OWN]
    assert job["credits"] == 5


def test_a_run_that_is_made_again_renders_anew_from_the_same_pictures(stage: Stage):
    assert stage.ended(DAG, "as_it_is") == "success"
    before = stage.airflow.xcom(DAG, "as_it_is", "make_video", "job")

    stage.airflow.clear(DAG, "as_it_is")

    stage.airflow.until(lambda: stage.airflow.tries(DAG, "as_it_is", "make_video") == [("success", 2)])
    after = stage.airflow.xcom(DAG, "as_it_is", "make_video", "job")
    assert after["id"] != before["id"]
    assert [stage.video(job["uri"]) for job in (before, after)] == [SIX_SECONDS] * 2
    assert frames(stage, after["id"]) == frames(stage, before["id"]) == drawn(stage)
    assert after["credits"] == before["credits"] == 5


def test_it_needs_no_storage_but_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAILUO_VIDEOS", str(tmp_path / "videos"))
    dag = runpy.run_path(str(EXAMPLES / f"{DAG}.py"))[DAG]()

    drawn = dag.get_task("pictures").python_callable({"image": None, "end_image": None})

    assert drawn == {name: f"{tmp_path}/videos/pictures/{name}.png" for name in ("image", "end_image")}
    for name, path in drawn.items():
        with Path(path).open("rb") as file:
            assert check_picture(file, name, path).content_type == "image/png"
