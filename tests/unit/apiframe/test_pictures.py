from __future__ import annotations

import hashlib
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_hailuo.apiframe import pictures
from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.apiframe.pictures import LARGEST_BYTES, Picture, check_picture


def drawn(kind: str, **options: Any) -> bytes:
    """Return a picture of noise, as an encoder writes it."""
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_thumbnail() -> bytes:
    """Return a JPEG that holds another one, which has an end of its own."""
    whole, thumbnail = drawn("JPEG"), drawn("JPEG", quality=10)
    segment = b"Exif\0\0" + thumbnail
    return whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + whole[2:]


def animated(*, palettes: bool) -> bytes:
    """Return a GIF of three frames, of one palette for all or one for each."""
    frames = [Image.effect_noise((32, 32), 60 + n).convert("P") for n in range(3)]
    for n, frame in enumerate(frames if palettes else []):
        frame.putpalette([(value * 7 + n * 50) % 256 for value in range(768)])
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], loop=0, comment=b"; not the end")
    return file.getvalue()


WHOLE = {
    "png": ("image/png", "png", drawn("PNG")),
    "jpeg": ("image/jpeg", "jpg", drawn("JPEG")),
    "progressive jpeg": ("image/jpeg", "jpg", drawn("JPEG", progressive=True)),
    "jpeg with a thumbnail": ("image/jpeg", "jpg", with_thumbnail()),
    "webp": ("image/webp", "webp", drawn("WEBP")),
    "lossless webp": ("image/webp", "webp", drawn("WEBP", lossless=True)),
    "gif": ("image/gif", "gif", drawn("GIF")),
    "animated gif": ("image/gif", "gif", animated(palettes=False)),
    "gif with palettes of its frames": ("image/gif", "gif", animated(palettes=True)),
}


JPEG, GIF = WHOLE["jpeg"][2], WHOLE["gif"][2]


def check(content: bytes) -> Picture:
    return check_picture(io.BytesIO(content), "image", "s3://bucket/boat.png")


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_picture_is_what_its_bytes_say(name: str):
    content_type, extension, content = WHOLE[name]
    file = io.BytesIO(content)
    file.seek(7)

    picture = check_picture(file, "image", "boat.txt")

    assert picture == Picture(content_type, extension, len(content), hashlib.sha256(content).hexdigest())
    assert file.tell() == 0


@pytest.mark.parametrize("name", WHOLE)
def test_what_follows_the_end_is_let_through(name: str):
    assert check(WHOLE[name][2] + b"\0" * 100 + b"made by a camera").bytes == len(WHOLE[name][2]) + 116


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_that_is_cut_off_anywhere_is_refused(name: str):
    content = WHOLE[name][2]

    for length in range(16, len(content)):
        with pytest.raises(InvalidInputError, match=r"image: 's3://bucket/boat\.png': is cut off: "):
            check(content[:length])


@pytest.mark.parametrize("name", [name for name in WHOLE if "webp" not in name])
@pytest.mark.parametrize("length", [40, 700, 1500])
def test_a_picture_whose_room_was_reserved_and_not_filled_is_refused(name: str, length: int):
    content = WHOLE[name][2]

    with pytest.raises(InvalidInputError, match="is cut off"):
        check(content[:length] + bytes(len(content) - length))


@pytest.mark.parametrize(
    "content",
    [
        JPEG[:20] + b"\0odd" + JPEG[20:],
        JPEG[:20] + b"\xff\xff\xff" + JPEG[20:],
        GIF[:-1] + b"\0odd" + GIF[-1:],
    ],
    ids=["JPEG", "JPEG with fill bytes", "GIF"],
)
def test_what_stands_between_the_parts_is_passed_over_as_decoders_do(content: bytes):
    Image.open(io.BytesIO(content)).load()

    assert check(content).bytes == len(content)


def test_an_end_between_two_pieces_that_are_read_is_seen(monkeypatch: pytest.MonkeyPatch):
    scan = JPEG.index(b"\xff\xda") + 2
    for size in range(1, 5):
        monkeypatch.setattr(pictures, "CHUNK_BYTES", size)
        assert check(JPEG).sha256 == hashlib.sha256(JPEG).hexdigest()
        with pytest.raises(InvalidInputError, match="is cut off"):
            check(JPEG[: (scan + len(JPEG)) // 2])


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (
            drawn("AVIF") if "AVIF" in Image.SAVE else b"\0\0\0 ftypavif",
            "a HEIC, HEIF or AVIF picture",
            "convert it to JPEG or PNG",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC, HEIF or AVIF picture", "convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC, HEIF or AVIF picture", "convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2", "a video", "take one picture of it"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01", "a video", "take one picture of it"),
        (drawn("BMP"), "a BMP picture", "convert it to JPEG or PNG"),
        (drawn("TIFF"), "a TIFF picture", "convert it to JPEG or PNG"),
        (b"MM\0*\0\0\0\x08", "a TIFF picture", "convert it to JPEG or PNG"),
        (drawn("PDF"), "a PDF", "render a page of it to PNG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "an SVG drawing", "render it to PNG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- A boat. -->\n<svg:svg>', "an SVG drawing", "render it to PNG"),
        (b"\n<!DOCTYPE html><html><svg>", "HTML or XML", "look where it came from"),
        (b"<html><body><svg>", "HTML or XML", "look where it came from"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "HTML or XML", "look where it came from"),
        (drawn("ICO"), "no picture of a known kind", "convert it to JPEG or PNG"),
        (b"RIFF\0\0\0\0WAVE", "no picture of a known kind", "convert it to JPEG or PNG"),
        (b"BMW and other cars", "no picture of a known kind", "convert it to JPEG or PNG"),
        (b"\x89PNG", "no picture of a known kind", "convert it to JPEG or PNG"),
        (b"boat", "no picture of a known kind", "convert it to JPEG or PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_api_does_not_take_is_refused_with_what_to_do(content: bytes, what: str, remedy: str):
    with pytest.raises(InvalidInputError) as raised:
        check(content)

    told = str(raised.value)
    assert told.startswith(f"image: 's3://bucket/boat.png': is {what}")
    assert ", and the API takes PNG, JPEG, WebP and GIF: " in told
    assert remedy in told


def test_an_empty_file_is_refused_and_a_name_cannot_forge_a_log():
    with pytest.raises(InvalidInputError, match=r"^image: 'a\\nb.*…: is an empty file$") as raised:
        check_picture(io.BytesIO(), "image", "a\nb" + "x" * 5000)

    assert len(str(raised.value)) < 120


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "gif"])
def test_the_largest_picture_takes_no_more_memory_than_a_small_one_and_a_larger_one_is_refused(
    name: str, tmp_path: Path
):
    content_type, _, content = WHOLE[name]
    path = tmp_path / "large"
    with path.open("w+b") as file:
        file.write(content)
        file.truncate(LARGEST_BYTES)
        tracemalloc.start()
        try:
            picture = check_picture(file, "image", "large")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (picture.content_type, picture.bytes) == (content_type, 25 * 1024 * 1024)
        assert peak < 1_000_000

        file.truncate(LARGEST_BYTES + 1)
        with pytest.raises(InvalidInputError, match=r"is larger than the 25 MB .*: make it smaller"):
            check_picture(file, "image", "large")
