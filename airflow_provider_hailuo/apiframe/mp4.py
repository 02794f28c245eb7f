"""Whether a file is a whole MP4, told by its outermost boxes (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import os
from typing import IO

from airflow_provider_hailuo.apiframe.errors import excerpt

_HEADER_BYTES = 8
_LONG_HEADER_BYTES = 16


def check_mp4(file: IO[bytes]) -> None:
    """Check that a file is a whole MP4: `ftyp` comes first, `moov` and `mdat` are there, and the last box ends it.

    Only the headers of the outermost boxes are read, however large the file is. Whether the pictures can be decoded
    is not looked at.

    :param file: open for reading, and seekable. It is left at another position.
    :raises ValueError: it is none, or is cut off; says what is wrong, and where.
    """
    file.seek(0, os.SEEK_END)
    end = file.tell()
    if not end:
        raise ValueError("it is empty")
    missing = {b"moov", b"mdat"}
    position = 0
    while position < end:
        kind, size = _read_header(file, position, end)
        missing.discard(kind)
        position += size
    if missing:
        raise ValueError(f"it is no whole MP4: it holds no {' and no '.join(sorted(k.decode() for k in missing))}")


def _read_header(file: IO[bytes], position: int, end: int) -> tuple[bytes, int]:
    """Return the type and the size in bytes of the box at `position`."""
    file.seek(position)
    header = file.read(min(_LONG_HEADER_BYTES, end - position))
    kind = header[4:_HEADER_BYTES]
    if position == 0 and kind != b"ftyp":
        raise ValueError(f"it is no MP4: it begins with {excerpt(header)!r}")
    size, least = int.from_bytes(header[:4], "big"), _HEADER_BYTES
    if size == 1:
        size, least = int.from_bytes(header[_HEADER_BYTES:], "big"), _LONG_HEADER_BYTES
    if len(header) < least:
        raise ValueError(f"it is cut off: it ends in the header of a box, at byte {end}")
    if size == 0 and least == _HEADER_BYTES:
        return kind, end - position
    name = f"the box {excerpt(kind)!r} at byte {position}"
    if size < least:
        raise ValueError(f"it is no MP4: {name} claims to have {size} bytes")
    if position + size > end:
        raise ValueError(f"it is cut off: {name} has {size} bytes, of which {end - position} are there")
    return kind, size
