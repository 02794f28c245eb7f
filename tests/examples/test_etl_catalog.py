"""The table of products: on PostgreSQL with S3 in a running Airflow, and on SQLite with nothing set up."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from PIL import Image

from airflow_provider_hailuo.sandbox import Sandbox
from tests.examples.conftest import EXAMPLES, PATIENCE_SECONDS, SIX_SECONDS, VIDEOS, Stage

pytestmark = pytest.mark.system

DAGS = ("hailuo_etl_catalog",)
(DAG,) = DAGS

# Of this process, from which the stage's Airflow has it.
os.environ["HAILUO_CATALOG_CONN_ID"] = "catalog"

URL = "https://example.com/teapot.png"
FAILS = "A catalogued vase [[fail: content policy]]"
STALLS = "A catalogued bowl [[stall]]"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    description: str
    image: str | None
    job_id: str | None
    video: str | None
    credits: int | None


@dataclass(frozen=True)
class Moment:
    """What there is at the end of a run: its state, the rows by id, all jobs for this DAG, newest first."""

    state: str
    rows: dict[int, Row]
    jobs: list[dict[str, Any]]

    def asked_since(self, before: Moment) -> list[str]:
        """Return the prompts of the jobs that there were not before."""
        return sorted(job["input"]["prompt"] for job in self.jobs[: len(self.jobs) - len(before.jobs)])


class Catalog:
    """The table in PostgreSQL, and the runs over it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def run(self, sql: str, *values: object) -> list[tuple]:
        with closing(psycopg2.connect(self.stage.catalog)) as database, database, database.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def rows(self) -> dict[int, Row]:
        found = self.run("select id, description, image, job_id, video, credits from products")
        return {product_id: Row(*more) for product_id, *more in found}

    def add(self, product_id: int, description: str, image: str | None = None) -> None:
        values = product_id, "a name", description, image
        self.run("insert into products (id, name, description, image) values (%s, %s, %s, %s)", *values)

    def now(self, state: str) -> Moment:
        jobs = [job for job in self.stage.sandbox.jobs() if "catalogued" in job["input"]["prompt"]]
        return Moment(state, self.rows(), jobs)

    def go(self, run_id: str) -> Moment:
        self.stage.start(DAG, run_id)
        return self.now(self.stage.ended(DAG, run_id))


def begin(stage: Stage) -> None:
    catalog = Catalog(stage)
    # Of the kind that a company has: other types, and columns that the DAG does not know.
    catalog.run(
        "create table products (id bigint primary key, name varchar(80) not null, description varchar(2000),"
        " image varchar(400), job_id varchar(36), video varchar(400), credits numeric)"
    )
    picture = io.BytesIO()
    Image.new("RGB", (64, 36), "teal").save(picture, "PNG")
    stage.s3.client.put_object(Bucket="videos", Key="lamp.png", Body=picture.getvalue())
    catalog.add(1, "A catalogued teapot's lid; it is 100% blue {{ ds }}", URL)
    catalog.add(2, "A catalogued lamp", "s3://videos/lamp.png")
    catalog.add(3, FAILS)
    catalog.add(4, STALLS)
    stage.start(DAG, "first")


@pytest.fixture(scope="module")
def moments(stage: Stage) -> dict[str, Moment]:
    """Return what there was in the first run while a video was missing, after it, and after each that followed."""
    catalog, moments = Catalog(stage), {}
    stage.airflow.until(lambda: sum(row.video is not None for row in catalog.rows().values()) == 2)
    moments["middle"] = catalog.now(stage.airflow.state(DAG, "first"))
    stage.airflow.until(lambda: stage.sandbox.release("catalogued"))
    moments["first"] = catalog.now(stage.ended(DAG, "first"))
    moments["again"] = catalog.go("again")

    catalog.run("update products set description = 'A catalogued vase' where id = 3")
    moments["corrected"] = catalog.go("corrected")
    moments["nothing"] = catalog.go("nothing")

    catalog.add(5, "A catalogued chair")
    # As if it could not have been written back.
    catalog.run("update products set job_id = null, video = null, credits = null where id = 1")
    moments["later"] = catalog.go("later")
    return moments


def test_each_row_is_written_back_when_its_own_video_is_there(moments: dict[str, Moment], stage: Stage):
    middle, first = moments["middle"], moments["first"]
    assert middle.state == "running"
    assert middle.rows[4] == Row(STALLS, None, None, None, None)
    assert first.state == "failed"

    jobs = {job["id"]: job for job in first.jobs}
    for product_id in 1, 2, 4:
        row = first.rows[product_id]
        job = jobs.pop(row.job_id)
        assert job["input"]["prompt"] == row.description
        assert row.credits == job["creditCost"] == 5
        assert row.video == f"{VIDEOS}/product-{product_id}.mp4"
        assert stage.video(row.video) == SIX_SECONDS
    assert [middle.rows[product_id] for product_id in (1, 2)] == [first.rows[product_id] for product_id in (1, 2)]
    assert first.rows[3] == Row(FAILS, None, None, None, None)
    assert [(job["input"]["prompt"], job["creditCost"]) for job in jobs.values()] == [(FAILS, 0)] * 3


def test_the_pictures_become_the_first_frames(moments: dict[str, Moment], stage: Stage):
    jobs = {job["id"]: job["input"].get("hailuoParams", {}) for job in moments["first"].jobs}
    rows = moments["first"].rows

    assert jobs[rows[1].job_id]["image"] == URL
    assert jobs[rows[2].job_id]["image"].startswith(stage.sandbox.base_url)
    assert "image" not in jobs[rows[4].job_id]


def test_the_next_run_tries_only_what_has_failed(moments: dict[str, Moment]):
    assert moments["again"].state == "failed"
    assert moments["again"].asked_since(moments["first"]) == [FAILS] * 3

    assert moments["corrected"].state == "success"
    assert moments["corrected"].asked_since(moments["again"]) == ["A catalogued vase"]
    assert moments["corrected"].rows[3].video == f"{VIDEOS}/product-3.mp4"
    for product_id in 1, 2, 4:
        assert moments["corrected"].rows[product_id] == moments["first"].rows[product_id]


def test_a_run_that_finds_nothing_missing_submits_nothing_and_succeeds(moments: dict[str, Moment], stage: Stage):
    assert moments["nothing"] == moments["corrected"]

    states = {task["task_id"]: task["state"] for task in stage.airflow.task_instances(DAG, "nothing")}
    assert states == {"missing": "success", "product.make_video": "skipped", "product.write_back": "skipped"}


def test_a_new_row_is_paid_for_and_one_that_was_not_written_back_is_not(moments: dict[str, Moment]):
    later = moments["later"]
    assert later.state == "success"
    assert later.asked_since(moments["nothing"]) == ["A catalogued chair"]

    assert later.rows[5].video == f"{VIDEOS}/product-5.mp4"
    assert later.rows[1] == moments["first"].rows[1]
    assert sum(job["creditCost"] for job in later.jobs) == sum(row.credits for row in later.rows.values()) == 25


def test_it_runs_on_sqlite_with_nothing_set_up(tmp_path: Path):
    with Sandbox(render_seconds=1, jitter=0, seed=1) as sandbox:
        connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HAILUO_")},
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
            "AIRFLOW_CONN_HAILUO_DEFAULT": json.dumps(connection),
            "TMPDIR": str(tmp_path),
        }

        def airflow(*arguments: str) -> None:
            command = [sys.executable, "-m", "airflow", *arguments]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
            )
            assert done.returncode == 0, done.stdout + done.stderr

        def rows() -> list[tuple]:
            with closing(sqlite3.connect(tmp_path / "hailuo_demo_catalog.db")) as database:
                return database.execute("select id, job_id, video, credits from products order by id").fetchall()

        airflow("db", "migrate")
        airflow("dags", "test", DAG, "2026-01-01")

        jobs = sandbox.jobs()
        written = rows()
        assert {job_id for _, job_id, _, _ in written} == {job["id"] for job in jobs}
        assert [(row[2], row[3]) for row in written] == [(f"file://{tmp_path}/product-{n}.mp4", 5) for n in (1, 2)]
        assert all(b"ftyp" in (tmp_path / f"product-{n}.mp4").read_bytes()[:12] for n in (1, 2))

        airflow("dags", "test", DAG, "2026-01-02")

        assert sandbox.jobs() == jobs
        assert rows() == written
