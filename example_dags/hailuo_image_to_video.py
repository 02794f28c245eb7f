"""A video from one picture to another, both out of your own storage.

Run it with pictures of your own (`image`, `end_image`), or as it is: then it draws two.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from typing import Any

import pendulum

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

try:
    from airflow.sdk import ObjectStoragePath, Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.io.path import ObjectStoragePath
    from airflow.models.param import Param

VIDEOS = os.environ.get("HAILUO_VIDEOS", tempfile.gettempdir())  # or "s3://my-bucket/videos", or any other storage
VIDEOS_CONN_ID = os.environ.get("HAILUO_VIDEOS_CONN_ID")  # its connection, "aws_default" as an example


def png(red: int, green: int, blue: int, width: int = 1366, height: int = 768) -> bytes:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    rows = (b"\0" + bytes((red, green, blue)) * width) * height
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={
        "image": Param(
            None,
            type=["null", "string"],
            description="First frame: https://..., s3://bucket/first.png, /path/first.png; without any two are drawn",
        ),
        "end_image": Param(None, type=["null", "string"], description="Last frame, likewise"),
        "prompt": Param("Slow cinematic transition, soft light", type="string"),
    },
    tags=["hailuo"],
)
def hailuo_image_to_video() -> None:
    """Find the pictures, then generate a video between them."""

    @task(multiple_outputs=True)
    def pictures(params: dict[str, Any]) -> dict[str, Any]:
        """Return where the pictures of this run lie; draw two if it was given none."""
        if params["image"] or params["end_image"]:
            return {"image": params["image"], "end_image": params["end_image"]}
        folder = f"{VIDEOS}/pictures"
        ObjectStoragePath(folder, conn_id=VIDEOS_CONN_ID).mkdir(parents=True, exist_ok=True)
        drawn = {"image": png(250, 190, 120), "end_image": png(30, 40, 90)}
        for name, content in drawn.items():
            ObjectStoragePath(f"{folder}/{name}.png", conn_id=VIDEOS_CONN_ID).write_bytes(content)
        return {name: f"{folder}/{name}.png" for name in drawn}

    frames = pictures()
    HailuoGenerateOperator(
        task_id="make_video",
        prompt="{{ params.prompt }}",
        image=frames["image"],  # checked and uploaded right before the submission
        end_image=frames["end_image"],
        image_conn_id=VIDEOS_CONN_ID,
        destination=f"{VIDEOS}/image_to_video/",
        destination_conn_id=VIDEOS_CONN_ID,
        retries=2,
    )


hailuo_image_to_video()
