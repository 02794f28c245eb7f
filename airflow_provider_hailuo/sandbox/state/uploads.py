"""Uploaded files: what they are, told from their first bytes, and how long they live. No I/O."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from airflow_provider_hailuo.sandbox.state.jobs import new_id, wall_clock

LIFETIME_MS: Final = 2 * 3600 * 1000
"""How long an upload lives (Apiframe reference, "Upload a file": 1 to 2 hours)."""

SIZE_LIMITS: Final = {"image": 25 * 1024 * 1024, "video": 50 * 1024 * 1024, "audio": 25 * 1024 * 1024}
"""The most bytes of each kind (Apiframe reference, "Upload a file")."""

# The first match counts, so that the special comes before the general.
_SIGNATURES: Final = tuple(
    (re.compile(pattern, re.DOTALL), content_type)
    for pattern, content_type in (
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF.{4}WEBP", "image/webp"),
        (rb".{4}ftypqt  ", "video/quicktime"),
        (rb".{4}ftypM4A ", "audio/mp4"),
        (rb".{4}ftyp(?:iso|mp4|avc|M4V|MSNV|dash)", "video/mp4"),
        (rb".{4}(?:moov|mdat|wide)", "video/quicktime"),
        (rb"\x1a\x45\xdf\xa3.{0,40}?\x42\x82.webm", "video/webm"),
        (rb"RIFF.{4}WAVE", "audio/wav"),
        (rb"ID3|\xff[\xf2\xf3\xfa\xfb]", "audio/mpeg"),
        (rb"OggS", "audio/ogg"),
    )
)
SNIFFED_BYTES: Final = 64
"""How many bytes of a file tell its type."""


class RefusedUploadError(ValueError):
    """A file is of no accepted type, or too large; the text says which."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An uploaded file.

    :param id: a UUID.
    :param content_type: its type, such as `image/png`.
    :param byte_size: its length in bytes.
    :param expires_at: when it is deleted, in milliseconds since the epoch.
    """

    id: str
    content_type: str
    byte_size: int
    expires_at: int

    @property
    def kind(self) -> str:
        """`image`, `video` or `audio`."""
        return self.content_type.partition("/")[0]


class Uploads:
    """The files that were uploaded and have not expired.

    :param rng: makes the ids; a seeded one makes them reproducible.
    :param clock: returns the present moment in milliseconds since the epoch, default the time of day.
    """

    def __init__(self, *, rng: Random, clock: Callable[[], int] = wall_clock) -> None:
        self._rng = rng
        self._clock = clock
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    def add(self, start: bytes, byte_size: int) -> Upload:
        """Add an upload, unless the API would refuse it.

        :param start: the first `SNIFFED_BYTES` bytes of the file.
        :param byte_size: its length in bytes.
        :return: the new upload.
        :raises RefusedUploadError: when the file is of no accepted type, or too large.
        """
        types = (content_type for signature, content_type in _SIGNATURES if signature.match(start))
        content_type = next(types, None)
        if content_type is None:
            raise RefusedUploadError(
                "must be a PNG, JPEG, WebP or GIF image, an MP4, WebM or MOV video, or MP3, WAV, OGG or M4A audio"
            )
        upload = Upload(
            id=new_id(self._rng),
            content_type=content_type,
            byte_size=byte_size,
            expires_at=self._clock() + LIFETIME_MS,
        )
        limit = SIZE_LIMITS[upload.kind]
        if byte_size > limit:
            raise RefusedUploadError(f"must be at most {limit // 1024**2} MB, the limit of {upload.kind} files")
        self._uploads[upload.id] = upload
        return upload

    def get(self, upload_id: str) -> Upload | None:
        """Look an upload up.

        :param upload_id: its id.
        :return: the upload; None when there is none, or none any more.
        """
        upload = self._uploads.get(upload_id)
        return upload if upload and self._clock() < upload.expires_at else None

    def take_expired(self) -> list[str]:
        """Forget the uploads that have expired.

        :return: their ids, the oldest first.
        """
        expired = []
        now = self._clock()
        while self._uploads and next(iter(self._uploads.values())).expires_at <= now:
            expired.append(self._uploads.popitem(last=False)[0])
        return expired
