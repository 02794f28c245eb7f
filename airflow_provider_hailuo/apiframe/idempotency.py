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
    """Return the key of `request` when it is made on behalf of `identity`.

    `readable` leads the key for the eyes of people (cut and cleaned), `identity` tells who asks: the same identity
    and request give the same key in every process and on every Python version, another one gives another key.
    The key has at most 255 characters, the API's limit, with room for the suffixes of `nth_key`.
    """
    # JSON keeps the parts apart, whatever characters they hold.
    fingerprint = json.dumps([list(identity), request.to_wire()], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(fingerprint.encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9._/-]', '_', readable)[:READABLE_CHARACTERS]}/{digest}"


def nth_key(key: str, n: int) -> str:
    """Return the `n`-th key (1 or more) of the sequence that begins with `key`: `key`, `key/2`, `key/3`, ...

    A key of the greatest length is cut for that.
    """
    suffix = "" if n == 1 else f"/{n}"
    return f"{key[: KEY_CHARACTERS - len(suffix)]}{suffix}"
