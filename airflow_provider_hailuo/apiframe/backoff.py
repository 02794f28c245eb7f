"""How long to wait after a failure: exponential, with jitter, and never less than the API asks for."""

from __future__ import annotations

import random
from collections.abc import Callable

from airflow_provider_hailuo.apiframe.errors import ApiframeError

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
RETRY_AFTER_CAP_SECONDS = 120.0


def backoff(failures: int, error: BaseException | None, *, draw: Callable[[], float] = random.random) -> float:
    """Return how long to wait before the next try.

    The wait doubles from 0.5 s up to 30 s, of which half is left to chance, so that many clients do not come back at
    once. What `Retry-After` asks for, at most 120 s, is added to it.

    :param failures: how many tries in a row have failed, 1 or more.
    :param error: what the last one failed with; only an `ApiframeError` can carry a `Retry-After`.
    :param draw: returns a number from 0 to 1 (default `random.random`).
    :return: seconds, above 0.
    """
    step = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
    seconds = step * (1 + draw()) / 2
    asked = error.retry_after if isinstance(error, ApiframeError) else None
    return seconds if asked is None else min(asked, RETRY_AFTER_CAP_SECONDS) + seconds
