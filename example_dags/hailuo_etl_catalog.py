"""Videos for the products of a table: made from the picture and description of each row, and written back to it.

A run makes only what is missing. It runs as it is on a SQLite file with two products, if the provider of SQLite is
installed; with `HAILUO_CATALOG_CONN_ID` on the table `products` of any database that `common.sql` knows.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from typing import Any

import pendulum

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import BaseHook, dag, task, task_group
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task, task_group
    from airflow.hooks.base import BaseHook

VIDEOS = os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())  # or "s3://my-bucket/videos", or any other storage
VIDEOS_CONN_ID = os.environ.get("HAILUO_VIDEOS_CONN_ID")  # its connection, "aws_default" as an example

CATALOG_CONN_ID = os.environ.get("HAILUO_CATALOG_CONN_ID", "hailuo_demo_catalog")
DEMO = CATALOG_CONN_ID == "hailuo_demo_catalog"
if DEMO:
    # So that there is nothing to set up. A catalog of your own gets a connection in Airflow instead.
    demo = {"conn_type": "sqlite", "host": f"{tempfile.gettempdir()}/hailuo_demo_catalog.db"}
    os.environ["AIRFLOW_CONN_HAILUO_DEMO_CATALOG"] = json.dumps(demo)

TABLE = """
CREATE TABLE IF NOT EXISTS products (
    id INTEGER PRIMARY KEY,
    description TEXT NOT NULL,
    image TEXT,        -- the first frame: an http(s) URL, a path or URL in storage; NULL: the description alone
    job_id TEXT,
    video TEXT,        -- where it is stored; NULL: it is missing
    credits INTEGER
)"""
PRODUCTS = """
INSERT INTO products (id, description) VALUES
    (1, 'A blue teapot turns slowly on a wooden table, soft morning light'),
    (2, 'A brass desk lamp is switched on, the camera moves around it')
ON CONFLICT DO NOTHING"""
# At most 100 rows, so that there is a limit to what a run costs; the next run takes the next ones.
MISSING = "SELECT id, description, image FROM products WHERE video IS NULL ORDER BY id LIMIT 100"
# Databases write the place of a value in different ways.
WRITE_BACK = "UPDATE products SET job_id = {0}, video = {0}, credits = {0} WHERE id = {0}"


def parameters(product_id: int, description: str, image: str | None) -> dict[str, Any]:
    """Return what a row means for the tasks that make and store its video."""
    content = hashlib.sha256(json.dumps([description, image]).encode()).hexdigest()
    in_storage = image and not image.startswith(("http://", "https://"))
    return {
        "product_id": product_id,
        "description": description,
        "image": image,
        # The key stands for the row, not for the run: within 24 hours a later run gets the video that an earlier one
        # has paid for but could not write back, and pays nothing. A picture in storage has another URL each time it
        # is uploaded, which under the same key would be refused: for those each run has a key of its own. When their
        # write-back has failed for good, clear it: another run would pay again.
        "idempotency_key": None if in_storage else f"products/{product_id}/{content}",
        "destination": f"{VIDEOS}/product-{product_id}.mp4",
    }


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # two at once would find the same rows missing
    tags=["hailuo"],
)
def hailuo_etl_catalog() -> None:
    """Make the videos that are missing, and write job, place and credits back to the rows."""

    @task
    def make_demo_catalog() -> None:
        """Make the table, unless it is there."""
        BaseHook.get_hook(CATALOG_CONN_ID).run([TABLE, PRODUCTS])

    @task
    def missing() -> list[dict[str, Any]]:
        """Return one entry for each product that has no video."""
        return [parameters(*row) for row in BaseHook.get_hook(CATALOG_CONN_ID).get_records(MISSING)]

    # A group, so that each row is written back when its own video is there, whatever becomes of the others.
    @task_group
    def product(
        product_id: int, description: str, image: str | None, idempotency_key: str | None, destination: str
    ) -> None:
        video = HailuoGenerateOperator(
            task_id="make_video",
            prompt=description,
            image=image,
            image_conn_id=VIDEOS_CONN_ID,
            destination=destination,
            destination_conn_id=VIDEOS_CONN_ID,
            idempotency_key=idempotency_key,
            retries=2,
        )

        @task(retries=5)  # tries only to write: the video is there
        def write_back(product_id: int, uri: str, job: dict[str, Any]) -> None:
            """Write to the row what has become of it."""
            catalog = BaseHook.get_hook(CATALOG_CONN_ID)
            values = job["id"], uri, job["credits"], product_id
            catalog.run(WRITE_BACK.format(catalog.placeholder), parameters=values)

        write_back(product_id, video.output, video.output["job"])

    rows = missing()
    if DEMO:
        make_demo_catalog() >> rows
    product.expand_kwargs(rows)


hailuo_etl_catalog()
