from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from PIL import ImageFont

from airflow_provider_hailuo.sandbox.video import text as text_module
from airflow_provider_hailuo.sandbox.video.text import font_for, printable, wrap

WIDTH = 600
DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  wave\n\tat\u2028dawn ", "a wave at dawn"),
        ("a\x00b\x07\u200d\ud800\U0010ffffc", "abc"),
        ("바다 🌅", "바다 🌅"),
        ("\n\x00", ""),
        ("", ""),
    ],
)
def test_printable_is_one_line_that_can_be_drawn(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_plain_text_gets_the_font_that_every_machine_has() -> None:
    assert font_for("a wave, at dawn: 100 %", 40).getname() == ImageFont.load_default(40).getname()  # type: ignore[union-attr]
    assert font_for("", 40).size == 40


@pytest.mark.skipif(not DEJAVU.is_file(), reason="needs the font DejaVu Sans")
def test_other_text_gets_a_font_that_has_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_SYSTEM_FONTS", ("/nowhere.ttf", str(DEJAVU)))
    assert font_for("Москва", 40).getname() == ("DejaVu Sans", "Book")
    assert font_for("déjà vu", 40).getname() == ("DejaVu Sans", "Book")


def test_without_any_font_for_it_text_is_still_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_SYSTEM_FONTS", ())
    assert wrap("바다", font_for("바다", 40), width=WIDTH, lines=3) == ["바다"]


class TestWrap:
    @pytest.mark.parametrize(
        "text", ["", "short", "a wave " * 300, "x" * 2000, "x" * 100 + " y", "i " + "W" * 100, "해" * 500]
    )
    def test_fits(self, text: str) -> None:
        font = font_for(text, 40)
        text = printable(text)
        lines = wrap(text, font, width=WIDTH, lines=3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= WIDTH for line in lines)
        assert all(line == line.strip() and line for line in lines)
        whole = " ".join(lines).replace(" ", "")
        assert text.replace(" ", "").startswith(whole.removesuffix("…"))
        assert whole.endswith("…") == (whole != text.replace(" ", ""))

    def test_breaks_at_blanks_and_fills_the_lines(self) -> None:
        font = font_for("", 40)
        words = "the quick brown fox jumps over the lazy dog and runs"
        lines = wrap(words, font, width=WIDTH, lines=5)
        assert " ".join(lines) == words
        for line, following in pairwise(lines):
            assert font.getlength(f"{line} {following.split()[0]}") > WIDTH

    def test_of_no_room_at_all_ends(self) -> None:
        assert wrap("abc", font_for("", 40), width=1, lines=2) == ["a", "…"]
