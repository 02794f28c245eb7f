"""MP4 files: H.264, 24 frames per second, exactly as long as asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import av

from airflow_provider_hailuo.sandbox.video.picture import Picture

FRAMES_PER_SECOND: Final = 24
"""How many frames a second of video has."""

SIZES: Final = {"768p": (1366, 768), "1080p": (1920, 1080)}
"""Width and height in pixels by resolution."""

# The fastest preset: a flat, evenly moving picture looks the same in the slower ones.
_ENCODER: Final = {
    "preset": "ultrafast",
    "crf": "20",
    "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709",
}


def write_video(path: Path, *, seed: str, title: str, left: str, right: str, resolution: str, seconds: int) -> None:
    """Render a video. This takes seconds, and most of a CPU core.

    :param path: the file to write.
    :param seed: text that decides about the landscape.
    :param title: what to write large on it, shortened to fit.
    :param left: the small line under it, at the left.
    :param right: the same at the right.
    :param resolution: one of `SIZES`.
    :param seconds: the length.
    """
    width, height = SIZES[resolution]
    frames = seconds * FRAMES_PER_SECOND
    picture = Picture(seed=seed, title=title, left=left, right=right, width=width, height=height, frames=frames)
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_image(picture.frame(number))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
