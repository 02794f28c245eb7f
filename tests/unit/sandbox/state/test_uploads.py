from __future__ import annotations

from random import Random

import pytest

from airflow_provider_hailuo.sandbox.state.uploads import RefusedUploadError, Uploads

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
MB = 1024 * 1024


def box(kind: bytes) -> bytes:
    return b"\x00\x00\x00\x20" + kind + bytes(20)


@pytest.mark.parametrize(
    ("start", "content_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image/jpeg"),
        (b"GIF89a\x01\x00", "image/gif"),
        (b"GIF87a\x01\x00", "image/gif"),
        (b"RIFF\x0a\x00\x00\x00WEBPVP8 ", "image/webp"),
        (box(b"ftypisom"), "video/mp4"),
        (box(b"ftypM4V "), "video/mp4"),
        (box(b"ftypqt  "), "video/quicktime"),
        (box(b"moov"), "video/quicktime"),
        (
            b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm",
            "video/webm",
        ),
        (b"\x1a\x45\xdf\xa3\x01" + bytes(7) + b"\x42\x86\x81\x01\x42\x82\x84webm", "video/webm"),
        (b"ID3\x04\x00", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"),
        (box(b"ftypM4A "), "audio/mp4"),
        (b"OggS\x00\x02", "audio/ogg"),
    ],
)
def test_types_are_told_from_the_first_bytes(start: bytes, content_type: str) -> None:
    upload = Uploads(rng=Random(1)).add(start, 100)
    assert (upload.content_type, upload.kind) == (content_type, content_type.partition("/")[0])


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x89PN",
        b"text",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"RIFF\x0a\x00\x00\x00AVI LIST",
        b"\xff\xfeh\x00i\x00",
        b"  GIF89a",
        box(b"ftypheic"),
        box(b"ftypavif"),
        box(b"ftyp3gp5"),
        box(b"ftypM4B "),
        b"\xff\xf1\x50\x80",  # AAC
        b"fLaC\x00\x00",
        b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\x01\x42\x82\x88matroska",
    ],
)
def test_other_types_are_refused(start: bytes) -> None:
    with pytest.raises(RefusedUploadError, match="PNG"):
        Uploads(rng=Random(1)).add(start, 100)


@pytest.mark.parametrize(("start", "limit"), [(PNG, 25), (box(b"ftypisom"), 50), (b"ID3", 25)])
def test_size_is_limited_by_kind(start: bytes, limit: int) -> None:
    uploads = Uploads(rng=Random(1))
    assert uploads.add(start, limit * MB).byte_size == limit * MB
    with pytest.raises(RefusedUploadError, match=f"at most {limit} MB"):
        uploads.add(start, limit * MB + 1)


def test_uploads_live_for_two_hours() -> None:
    moment = 0
    uploads = Uploads(rng=Random(1), clock=lambda: moment)
    first = uploads.add(PNG, 1)
    moment = 3600_000
    second = uploads.add(PNG, 1)
    assert first.expires_at == 7200_000

    moment = 7200_000 - 1
    assert uploads.get(first.id) == first
    assert uploads.take_expired() == []
    moment += 1
    assert uploads.get(first.id) is None
    assert uploads.take_expired() == [first.id]
    assert uploads.get(second.id) == second
    assert uploads.take_expired() == []
