from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from airflow_provider_hailuo.sandbox.video.picture import Picture


def picture(**changes: Any) -> Picture:
    texts = {"seed": "job", "title": "a wave", "left": "hailuo-02", "right": "id"}
    return Picture(**{**texts, "width": 342, "height": 192, "frames": 24, **changes})


def differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


@pytest.mark.parametrize(("top", "bottom"), [(0, 77), (145, 165)], ids=["sky", "hills"])
def test_moves_from_frame_to_frame(top: int, bottom: int) -> None:
    moving = picture()
    frames = [moving.frame(number).crop((0, top, 342, bottom)) for number in range(24)]
    assert all(differ(one, other) for one, other in pairwise(frames))


def test_is_the_same_for_the_same_job_only() -> None:
    assert not differ(picture().frame(5), picture().frame(5))
    assert differ(picture().frame(5), picture(seed="another").frame(5))


def test_shows_title_model_and_id() -> None:
    frame = picture().frame(5)
    for other in (picture(title="a whale"), picture(left="hailuo-03"), picture(right="di")):
        changed = ImageChops.difference(frame, other.frame(5)).getbbox()
        assert changed
        assert changed[1] > 192 / 2


def test_title_is_legible_on_every_landscape() -> None:
    for seed in range(20):
        frame = picture(seed=str(seed), title="", width=683, height=384).frame(12)
        behind = frame.crop((28, 384 * 3 // 4, 655, 384 * 7 // 8)).convert("L")
        assert ImageStat.Stat(behind).mean[0] < 110


def test_bar_fills_up() -> None:
    def filled(number: int) -> int:
        bar = picture().frame(number).crop((0, 180, 342, 182)).convert("L")
        return sum(bar.getpixel((x, 0)) == 255 for x in range(342))

    margins = 2 * round(56 * 192 / 768)
    assert 0 < filled(0) < filled(11) < filled(23) == 342 - margins


@pytest.mark.parametrize(
    "title",
    ["", "\x00\n", "🌅👨‍👩‍👧‍👦" * 50, "x" * 2000, "a\u0301" * 1000, "한국 " * 600, "\u202eabc ال\u200fعربية हिन्दी"],
)
def test_takes_any_title(title: str) -> None:
    picture(title=title).frame(0)
