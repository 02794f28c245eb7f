"""Text for a picture: a font that has the glyphs, and lines that fit."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import Final, cast

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_SYSTEM_FONTS: Final = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/nanum/NanumGothic.ttf",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/System/Library/Fonts/AppleSDGothicNeo.ttc",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
)


def printable(text: str) -> str:
    """Clean a text of control and unassigned characters, which fonts and layouts stumble over.

    :param text: the text.
    :return: what is left of it, on one line.
    """
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c)[0] != "C").split())


def font_for(text: str, size: int) -> Font:
    """Choose the font that lacks the fewest characters of a text.

    Pillow's own font comes first, so that plain text looks the same on every machine; a few well-known system
    fonts follow, as far as they are installed.

    :param text: what is to be written.
    :param size: the height of the letters in pixels.
    :return: the font in that size.
    """
    characters = set(text)
    fonts = [None, *(path for path in _SYSTEM_FONTS if Path(path).is_file())]
    return _font(min(fonts, key=lambda path: sum(not _has_glyph(path, c) for c in characters)), size)


def wrap(text: str, font: Font, *, width: int, lines: int) -> list[str]:
    """Break a text into lines that fit.

    Lines break at blanks, and inside a word that is wider than a line, as in languages without blanks. An ellipsis
    tells that the end was cut.

    :param text: the text.
    :param font: what it is written in.
    :param width: the most pixels of a line.
    :param lines: how many lines at most.
    :return: the lines.
    """
    rest = text
    wrapped: list[str] = []
    while rest and len(wrapped) < lines:
        end = _fitting(rest, font, width)
        blank = rest.rfind(" ", 0, end + 1)
        if end < len(rest) and blank > 0:
            end = blank
        wrapped.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        last = wrapped[-1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        wrapped[-1] = last.rstrip() + "…"
    return wrapped


def _fitting(text: str, font: Font, width: int) -> int:
    """Return how many characters from the start of `text` fit into `width` pixels, at least one."""
    return max(1, bisect_right(range(1, len(text) + 1), float(width), key=lambda end: font.getlength(text[:end])))


@cache
def _font(path: str | None, size: int) -> Font:
    # Of a given size, the default is a font of that kind.
    return cast("Font", ImageFont.load_default(size)) if path is None else ImageFont.truetype(path, size)


@cache
def _has_glyph(path: str | None, character: str) -> bool:
    font = _font(path, 16)
    return bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))
