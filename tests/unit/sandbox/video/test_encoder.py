from __future__ import annotations

from pathlib import Path

import av
import pytest

from airflow_provider_hailuo.sandbox.video.encoder import write_video


@pytest.mark.parametrize(("resolution", "size"), [("768p", (1366, 768)), ("1080p", (1920, 1080))])
def test_video_is_h264_of_the_size_and_length_asked_for(
    tmp_path: Path, resolution: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "video.mp4"
    title = "a wave 🌊\n바다"
    write_video(path, seed="1", title=title, left="left", right="right", resolution=resolution, seconds=6)

    assert list(tmp_path.iterdir()) == [path]
    content = path.read_bytes()
    assert content[4:8] == b"ftyp"
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(path) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.pix_fmt) == (*size, "yuv420p")
        assert (stream.average_rate, stream.frames) == (24, 144)
        assert container.duration == 6 * av.time_base
        frames = [bytes(frame.planes[0]) for frame in container.decode(video=0)]
    assert len(frames) == 144
    assert len(set(frames)) == 144
