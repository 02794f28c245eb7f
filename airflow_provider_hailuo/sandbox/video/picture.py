"""The pictures of a video: a drifting landscape, its own for each seed, and a caption."""

from __future__ import annotations

import math
from random import Random
from typing import Final, NamedTuple

from PIL import Image, ImageDraw

from airflow_provider_hailuo.sandbox.video.text import font_for, printable, wrap

_Colour = tuple[int, int, int]


class _Palette(NamedTuple):
    zenith: _Colour
    sky: _Colour
    horizon: _Colour
    sun: _Colour
    ground: _Colour


_PALETTES: Final = (
    _Palette((24, 28, 72), (116, 62, 120), (246, 150, 104), (255, 226, 170), (20, 16, 44)),
    _Palette((14, 42, 84), (40, 120, 160), (232, 214, 170), (255, 244, 214), (8, 28, 46)),
    _Palette((38, 20, 64), (148, 52, 98), (252, 128, 96), (255, 214, 150), (28, 10, 36)),
    _Palette((8, 18, 44), (24, 76, 104), (116, 196, 176), (226, 255, 232), (4, 18, 30)),
    _Palette((54, 34, 44), (176, 96, 58), (250, 196, 110), (255, 240, 196), (40, 20, 20)),
    _Palette((26, 34, 70), (104, 112, 180), (240, 196, 208), (255, 238, 232), (22, 24, 52)),
)
_WHITE: Final = (255, 255, 255)
_BLACK: Final = (0, 0, 0)
_RIDGES: Final = 4


class Picture:
    """The view from a train: sky, sun and ridges that pass at their own speeds, under a caption.

    Everything moves by whole pixels per frame: the motion is smooth, the drawing cheap and the video small.

    :param seed: text that decides about the landscape.
    :param title: what to write large, shortened to fit.
    :param left: the small line under it, at the left.
    :param right: the same at the right.
    :param width: in pixels.
    :param height: in pixels.
    :param frames: how many frames the video has.
    """

    def __init__(self, *, seed: str, title: str, left: str, right: str, width: int, height: int, frames: int) -> None:
        rng = Random(seed)  # noqa: S311 - decoration, not cryptography
        palette = rng.choice(_PALETTES)
        self._width, self._height, self._frames = width, height, frames
        self._sky = _sky(palette, rng, width + frames, height)
        self._ridges = [
            _Ridge(palette, rng, index=index, width=width, height=height, frames=frames) for index in range(_RIDGES)
        ]
        self._caption = _Caption(title, left, right, width, height)

    def frame(self, number: int) -> Image.Image:
        """Draw a frame.

        :param number: which one, counted from 0.
        :return: the picture.
        """
        image = self._sky.crop((number, 0, number + self._width, self._height))
        for ridge in self._ridges:
            ridge.draw(image, number)
        self._caption.draw(image, elapsed=(number + 1) / self._frames)
        return image


class _Ridge:
    """A chain of hills, the farther the paler and the slower.

    Only the band between its lowest and its highest point needs a mask; below, it is opaque.
    """

    def __init__(self, palette: _Palette, rng: Random, *, index: int, width: int, height: int, frames: int) -> None:
        unit = height / 768
        self._speed = max(1, round((index + 1) * unit))
        length = width + frames * self._speed
        waves = [
            (rng.uniform(0.6, 1.4) * pitch * (1.3 - 0.15 * index) / (260 * unit), rng.uniform(0, math.tau), pitch)
            for pitch in (1, 2.1, 4.3, 9)
        ]
        middle, swing = height * (0.56 + 0.11 * index), height * (0.053 + 0.0075 * index)
        outline = [
            (x, middle - swing * sum(math.sin(x * rate + phase) / pitch**1.25 for rate, phase, pitch in waves))
            for x in range(0, length + 4, 4)
        ]
        self._top = max(0, int(min(y for _, y in outline)))
        bottom = min(height, int(max(y for _, y in outline)) + 1)
        # Drawn at twice the size and reduced: this smooths the edge.
        mask = Image.new("L", (2 * length, 2 * (bottom - self._top)))
        points = [(2 * x, 2 * (y - self._top)) for x, y in outline]
        ImageDraw.Draw(mask).polygon([(0, mask.height), *points, (points[-1][0], mask.height)], fill=255)
        self._mask = mask.reduce(2)

        depth = (index + 1) / _RIDGES
        crest = _mix(_mix(palette.horizon, palette.sky, 0.35), palette.ground, depth**0.8)
        mist = _mix(crest, palette.horizon, 0.38 * (1 - depth) + 0.1)
        haze = self._top + round(0.26 * height)
        body = _gradient(width, height, [(self._top, crest), (haze, mist)])
        self._band = body.crop((0, self._top, width, bottom))
        self._base = body.crop((0, bottom, width, height))

    def draw(self, image: Image.Image, number: int) -> None:
        start = number * self._speed
        mask = self._mask.crop((start, 0, start + self._band.width, self._mask.height))
        image.paste(self._band, (0, self._top), mask)
        image.paste(self._base, (0, self._top + self._band.height))


class _Caption:
    """The title, a small line under it and a bar that fills up, on a shade that keeps them legible."""

    def __init__(self, title: str, left: str, right: str, width: int, height: int) -> None:
        unit = height / 768
        margin = round(56 * unit)
        self._bar = (margin, height - round(48 * unit), width - margin, height - round(42 * unit))

        ink = Image.new("L", (width, height))
        draw = ImageDraw.Draw(ink)
        draw.rectangle(self._bar, fill=90)
        line = height - round(70 * unit)
        small = font_for(left + right, round(22 * unit))
        draw.text((margin, line), left, 215, small, anchor="ls")
        draw.text((width - margin, line), right, 215, small, anchor="rs")
        title = printable(title)
        large = font_for(title, round(42 * unit))
        rows = wrap(title, large, width=width - 2 * margin, lines=3)
        for row, text in enumerate(reversed(rows)):
            draw.text((margin, line - round((52 + 56 * row) * unit)), text, 255, large, anchor="ls")

        self._top = height // 2
        shade = _gradient(width, height, [(self._top, _BLACK), (height, (200, 200, 200))]).getchannel(0)
        layer = Image.alpha_composite(_layer(_BLACK, shade), _layer(_WHITE, ink))
        layer = layer.crop((0, self._top, width, height))
        self._colour, self._mask = layer.convert("RGB"), layer.getchannel("A")

    def draw(self, image: Image.Image, *, elapsed: float) -> None:
        image.paste(self._colour, (0, self._top), self._mask)
        left, top, right, bottom = self._bar
        image.paste(_WHITE, (left, top, left + round((right - left) * elapsed), bottom + 1))


def _sky(palette: _Palette, rng: Random, width: int, height: int) -> Image.Image:
    """Return the sky with the sun in it, wider than the frame by the way it drifts."""
    sky = _gradient(
        width,
        height,
        [(0, palette.zenith), (round(0.43 * height), palette.sky), (round(0.72 * height), palette.horizon)],
    )
    x, y = round(rng.uniform(0.35, 0.65) * width), round(rng.uniform(0.34, 0.44) * height)
    radius = round(0.06 * height)
    # Pillow's gradient is 0 in the middle and about 180 at the nearest edge.
    glow = Image.radial_gradient("L").point([round(215 * max(0.0, 1 - v / 178) ** 2.2) for v in range(256)])
    _stamp(sky, palette.sun, glow.resize((14 * radius, 14 * radius), Image.Resampling.BICUBIC), x, y)
    disc = Image.new("L", (4 * radius, 4 * radius))
    ImageDraw.Draw(disc).ellipse((0, 0, 4 * radius - 1, 4 * radius - 1), fill=255)
    _stamp(sky, _mix(palette.sun, _WHITE, 0.5), disc.reduce(2), x, y)
    return sky


def _layer(colour: _Colour, mask: Image.Image) -> Image.Image:
    layer = Image.new("RGBA", mask.size, colour)
    layer.putalpha(mask)
    return layer


def _stamp(image: Image.Image, colour: _Colour, mask: Image.Image, x: int, y: int) -> None:
    """Paint `colour` through `mask`, centred on (x, y)."""
    image.paste(colour, (x - mask.width // 2, y - mask.height // 2), mask)


def _gradient(width: int, height: int, stops: list[tuple[int, _Colour]]) -> Image.Image:
    """Return an image that runs from top to bottom through `stops`, pairs of a row and its colour."""
    column = Image.new("RGB", (1, height))
    for y in range(height):
        above = max((stop for stop in stops if stop[0] <= y), default=stops[0])
        below = min((stop for stop in stops if stop[0] > y), default=stops[-1])
        way = (y - above[0]) / (below[0] - above[0]) if below[0] > above[0] else 0.0
        column.putpixel((0, y), _mix(above[1], below[1], way))
    return column.resize((width, height))


def _mix(one: _Colour, other: _Colour, share: float) -> _Colour:
    """Return `one` with `share` of `other` in it, from 0 to 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
