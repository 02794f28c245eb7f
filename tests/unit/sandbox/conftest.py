from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo.sandbox import Sandbox


@contextmanager
def connected(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """A client of a running sandbox, with its key."""
    headers = {"X-API-Key": sandbox.api_key}
    with httpx.Client(base_url=sandbox.base_url, headers=headers, trust_env=False, timeout=30) as client:
        yield client
