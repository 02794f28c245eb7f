"""The MP4 of a finished job: H.264, 24 frames per second, exactly as long as was ordered."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import av

from airflow_provider_hailuo.sandbox.picture import Picture
from airflow_provider_hailuo.sandbox.studio import Job

FRAMES_PER_SECOND: Final = 24

SIZES: Final = {"768p": (1366, 768), "1080p": (1920, 1080)}
"""Width and height in pixels by resolution."""

# The fastest preset: a flat, evenly moving picture looks the same in the slower ones.
_ENCODER: Final = {
    "preset": "ultrafast",
    "crf": "20",
    "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709",
}


def write_video(path: Path, job: Job) -> None:
    """Write the video of `job` to `path`. This takes seconds, and most of a CPU core."""
    order = job.order
    width, height = SIZES[order.resolution]
    frames = order.duration * FRAMES_PER_SECOND
    picture = Picture(
        seed=job.id,
        title=order.prompt,
        left=f"{order.model} · {order.resolution} · {order.duration} s",
        right=job.id,
        width=width,
        height=height,
        frames=frames,
    )
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_image(picture.frame(number))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
