"""The pages of the documentation, taken apart: their blocks of code, pieces of code, links and anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[2]
PAGES = [
    *sorted(PROJECT.glob("*.md")),
    *sorted(path for path in (PROJECT / "docs").rglob("*.md") if "_build" not in path.parts),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    :param place: the page and the line, such as `docs/hook.md:5`.
    :param language: what stands behind the fence.
    :param text: the code.
    """

    place: str
    language: str
    text: str


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def _inline(page: Path, kind: str) -> Iterator[Token]:
    for token in _tokens(page):
        yield from (child for child in token.children or () if child.type == kind)


def name(page: Path) -> str:
    """Return the path of a page in the project."""
    return page.relative_to(PROJECT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for token in _tokens(page):
        if token.type == "fence":
            line = token.map[0] + 1 if token.map else 0
            yield Block(f"{name(page)}:{line}", token.info.strip().partition(" ")[0], token.content)


def pieces(page: Path) -> list[str]:
    """Return what stands between single backticks on a page, on one line each."""
    return [token.content for token in _inline(page, "code_inline")]


def links(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead."""
    hrefs = [str(token.attrGet("href")) for token in _inline(page, "link_open")]
    return hrefs + [str(token.attrGet("src")) for token in _inline(page, "image")]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code-hosting sites and MyST make them."""
    tokens = _tokens(page)
    headings = [tokens[i + 1].children or [] for i, token in enumerate(tokens) if token.type == "heading_open"]
    texts = ("".join(child.content for child in children) for children in headings)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in texts}
