"""The idempotency key of a video: derived, not stored, so that it is the same after any crash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from airflow_provider_hailuo.apiframe.models import VideoRequest

READABLE_CHARACTERS = 120
KEY_CHARACTERS = 255
"""The longest key that the API takes (Apiframe reference, "Idempotency")."""


def derive_key(readable: str, identity: Sequence[str | int], request: VideoRequest) -> str:
    """Return the key of a request that is made on somebody's behalf.

    The same identity and request give the same key in every process and on every Python version, another one gives
    another key.

    :param readable: leads the key for the eyes of people: its first 120 characters, in which what is not a letter, a
        digit, `.`, `_`, `/` or `-` of ASCII is replaced.
    :param identity: on whose behalf it is made.
    :param request: the request.
    :return: the key: at most 185 characters, which leaves room for the suffixes of `nth_key`.
    """
    # JSON keeps the parts apart, whatever characters they hold.
    fingerprint = json.dumps([list(identity), request.to_wire()], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(fingerprint.encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9._/-]', '_', readable)[:READABLE_CHARACTERS]}/{digest}"


def nth_key(key: str, n: int) -> str:
    """Return a key of the sequence `key`, `key/2`, `key/3`, ...

    :param key: the first key.
    :param n: which one, 1 or more.
    :return: the key; the first is cut if it would get longer than the 255 characters that the API takes.
    """
    suffix = "" if n == 1 else f"/{n}"
    return f"{key[: KEY_CHARACTERS - len(suffix)]}{suffix}"
