"""Pictures by their bytes: of which kind they are, and whether all of them is there. Their names tell nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Final

from airflow_provider_hailuo.apiframe.errors import InvalidInputError

LARGEST_BYTES: Final = 25 * 1024 * 1024
"""The largest picture that the API takes (Apiframe reference, "Uploads": 25 MB). It does not say whether a MB is 10^6
or 2^20 bytes: with the larger one nothing is refused here that the API would take."""

HEAD_BYTES: Final = 4096
CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class Picture:
    """What a file was found to be.

    :param content_type: its media type.
    :param extension: how the name of such a file ends, without a dot.
    :param bytes: how large it is.
    :param sha256: of its content, in hexadecimal digits.
    """

    content_type: str
    extension: str
    bytes: int
    sha256: str


def check_picture(file: IO[bytes], field: str, name: str) -> Picture:
    """Check that a file is a whole picture of a kind that the API takes: PNG, JPEG, WebP or GIF, at most 25 MB.

    :param file: the file, opened for reading; it is at its beginning afterwards.
    :param field: what the file is for, `image` as an example, for errors.
    :param name: what the user calls the file, for errors.
    :return: what it is.
    :raises InvalidInputError: it is something else, too large, or not whole.
    """

    def refuse(problem: str) -> InvalidInputError:
        return InvalidInputError.of((field, name, problem))

    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise refuse("is an empty file")
    if size > LARGEST_BYTES:
        raise refuse("is larger than the 25 MB that the API takes: make it smaller, or save it as JPEG")
    file.seek(0)
    head = file.read(HEAD_BYTES)
    found = next((kind for kind in _KINDS if kind.begins.match(head)), None)
    if found is None:
        what, remedy = next((told for begins, told in _OTHERS.items() if begins.match(head)), _UNKNOWN)
        raise refuse(f"is {what}, and the API takes PNG, JPEG, WebP and GIF: {remedy}")
    try:
        found.read(file, size)
    except EOFError:
        kind = found.content_type.removeprefix("image/").upper()
        raise refuse(f"is cut off: {size} bytes of a {kind} without its end: copy or save it again") from None
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return Picture(found.content_type, found.extension, size, digest.hexdigest())


def _take(file: IO[bytes], size: int) -> bytes:
    taken = file.read(size)
    if len(taken) < size:
        raise EOFError
    return taken


def _skip(file: IO[bytes], size: int, length: int) -> None:
    if file.seek(length, os.SEEK_CUR) > size:
        raise EOFError


# What follows the end of a picture is let through, as decoders do: phones put a second picture or a video there,
# cameras pad to full blocks, and editors leave notes.


def _read_png(file: IO[bytes], size: int) -> None:
    """Read to the end (PNG specification, 5.2 and 5.3)."""
    file.seek(8)
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(_take(file, 4), "big")
        kind = _take(file, 4)
        _skip(file, size, length + 4)


def _read_jpeg(file: IO[bytes], size: int) -> None:
    """Read to the marker of the end after the first scan (ITU-T T.81, annex B): a thumbnail has one of its own."""
    file.seek(2)
    marker = 0
    while marker != 0xDA:
        while _take(file, 1) != b"\xff":
            pass
        while (byte := _take(file, 1)) == b"\xff":
            pass
        marker = byte[0]
        length = int.from_bytes(_take(file, 2), "big")
        _skip(file, size, max(0, length - 2))
    last = b""
    while chunk := file.read(CHUNK_BYTES):
        if b"\xff\xd9" in last + chunk:
            return
        last = chunk[-1:]
    raise EOFError


def _read_gif(file: IO[bytes], size: int) -> None:
    """Read to the trailer (GIF89a specification, appendix A)."""
    file.seek(10)
    _skip_colours(file, size, _take(file, 3)[0])
    while (block := _take(file, 1)) != b";":
        if block == b",":
            _skip_colours(file, size, _take(file, 9)[8])
            _take(file, 1)
        elif block == b"!":
            _take(file, 1)
        else:
            continue  # decoders look for the next block
        while length := _take(file, 1)[0]:
            _skip(file, size, length)


def _skip_colours(file: IO[bytes], size: int, flags: int) -> None:
    if flags & 0x80:
        _skip(file, size, 3 * 2 ** ((flags & 7) + 1))


def _read_webp(file: IO[bytes], size: int) -> None:
    """Compare the length that the container tells (WebP container specification, "WebP file header")."""
    file.seek(4)
    if int.from_bytes(_take(file, 4), "little") + 8 > size:
        raise EOFError


@dataclass(frozen=True)
class _Kind:
    content_type: str
    extension: str
    begins: re.Pattern[bytes]
    read: Callable[[IO[bytes], int], None]


_KINDS: Final = (
    _Kind("image/png", "png", re.compile(rb"\x89PNG\r\n\x1a\n"), _read_png),
    _Kind("image/jpeg", "jpg", re.compile(rb"\xff\xd8\xff"), _read_jpeg),
    _Kind("image/gif", "gif", re.compile(rb"GIF8[79]a"), _read_gif),
    _Kind("image/webp", "webp", re.compile(rb"RIFF....WEBP", re.DOTALL), _read_webp),
)

_TO_PICTURE: Final = "convert it to JPEG or PNG"
_UNKNOWN: Final = ("no picture of a known kind", _TO_PICTURE)
# The first match counts. What has no picture in it needs more than to be converted.
_OTHERS: Final[Mapping[re.Pattern[bytes], tuple[str, str]]] = {
    re.compile(rb"....ftyp(?:hei|hev|mif|msf|avi[fs])", re.DOTALL): ("a HEIC, HEIF or AVIF picture", _TO_PICTURE),
    re.compile(rb"....ftyp|\x1a\x45\xdf\xa3", re.DOTALL): ("a video", "take one picture of it, as JPEG or PNG"),
    re.compile(rb"BM.{4}\0{4}", re.DOTALL): ("a BMP picture", _TO_PICTURE),
    re.compile(rb"II[*+]\0|MM\0[*+]"): ("a TIFF picture", _TO_PICTURE),
    re.compile(rb"%PDF"): ("a PDF", "render a page of it to PNG"),
    re.compile(rb"(?is)(?:\xef\xbb\xbf)?\s*<(?!(?:!doctype\s+)?html)(?:.*<)?svg\b"): (
        "an SVG drawing",
        "render it to PNG",
    ),
    re.compile(rb"(?:\xef\xbb\xbf)?\s*<"): ("HTML or XML, as an error or a login page is", "look where it came from"),
}
