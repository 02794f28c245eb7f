from __future__ import annotations

import io

import pytest

from airflow_provider_hailuo.apiframe.mp4 import check_mp4


def box(kind: bytes, payload: bytes = b"") -> bytes:
    return (8 + len(payload)).to_bytes(4, "big") + kind + payload


def long_box(kind: bytes, payload: bytes = b"", size: int | None = None) -> bytes:
    return b"\0\0\0\1" + kind + (16 + len(payload) if size is None else size).to_bytes(8, "big") + payload


def endless_box(kind: bytes, payload: bytes = b"") -> bytes:
    return b"\0\0\0\0" + kind + payload


FTYP = box(b"ftyp", b"isom\0\0\2\0isom")
MOOV = box(b"moov", box(b"mvhd", b"m" * 20))
MDAT = box(b"mdat", b"pictures" * 10)
WHOLE = FTYP + MOOV + MDAT


class Recorder(io.BytesIO):
    """Counts the bytes that are read."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.bytes_read += len(content)
        return content


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        FTYP + MDAT + MOOV,
        FTYP + box(b"free") + MOOV + box(b"uuid", b"u" * 30) + MDAT + MDAT + box(b"mfra"),
        FTYP + MOOV + long_box(b"mdat", b"pictures"),
        FTYP + MOOV + long_box(b"mdat"),
        FTYP + MOOV + endless_box(b"mdat", b"pictures"),
        FTYP + MOOV + endless_box(b"mdat"),
    ],
)
def test_a_whole_file_passes_wherever_it_stands(content: bytes):
    file = io.BytesIO(content)
    file.seek(7)

    check_mp4(file)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_file_that_is_cut_off_anywhere_fails(length: int):
    with pytest.raises(ValueError, match=r"^it is "):
        check_mp4(io.BytesIO(WHOLE[:length]))


@pytest.mark.parametrize("length", range(len(FTYP + MOOV) + 1, len(FTYP + MOOV) + 24))
def test_a_file_that_is_cut_off_in_a_long_box_fails(length: int):
    with pytest.raises(ValueError, match="it is cut off"):
        check_mp4(io.BytesIO((FTYP + MOOV + long_box(b"mdat", b"pictures"))[:length]))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", r"it is no MP4: it begins with '<!DOCTYPE html><'"),
        (b"\xff\x1b[31m\n", r"begins with '.\\\\x1b\[31m\\\\n'"),
        (MOOV + MDAT, "it is no MP4: it begins with"),
        (MOOV + FTYP + MDAT, "it is no MP4: it begins with"),
        (FTYP, "holds no mdat and no moov$"),
        (FTYP + MDAT, "holds no moov$"),
        (FTYP + MOOV, "holds no mdat$"),
        (FTYP + MOOV + endless_box(b"free", MDAT), "holds no mdat$"),
        (FTYP + box(b"free", MOOV) + MDAT, "holds no moov$"),
        (WHOLE + b"\0", "it is cut off: it ends in the header of a box, at byte 145"),
        (WHOLE[:-1], r"it is cut off: the box 'mdat' at byte 56 has 88 bytes, of which 87 are there"),
        (WHOLE + b"\0\0\0\7\n\n\n\n", r"the box '\\\\n\\\\n\\\\n\\\\n' at byte 144 claims to have 7"),
        (FTYP + b"\0\0\0\7moov", "it is no MP4: the box 'moov' at byte 20 claims to have 7 bytes"),
        (FTYP + long_box(b"moov", size=15), "the box 'moov' at byte 20 claims to have 15 bytes"),
        (FTYP + long_box(b"moov", size=0), "the box 'moov' at byte 20 claims to have 0 bytes"),
        (FTYP + long_box(b"moov", size=2**64 - 1), "the box 'moov' at byte 20 has 18446744073709551615 bytes"),
    ],
)
def test_what_is_wrong_is_told(content: bytes, told: str):
    with pytest.raises(ValueError, match=told):
        check_mp4(io.BytesIO(content))


def test_payloads_are_not_read():
    file = Recorder(FTYP + MOOV + box(b"mdat", bytes(1_000_000)))

    check_mp4(file)

    assert file.bytes_read == 3 * 16
