from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import httpx
import pytest

from airflow_provider_hailuo.sandbox import Sandbox

T = TypeVar("T")


class Api(httpx.Client):
    """A client of a running sandbox, with its key."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(
            base_url=sandbox.base_url, headers={"X-API-Key": sandbox.api_key}, trust_env=False, timeout=30
        )
        self.sandbox = sandbox

    def generate(self, prompt: str = "a wave", *, key: str | None = None, **fields: Any) -> httpx.Response:
        body = {"prompt": prompt, "model": "hailuo-02", **fields}
        return self.post("/v2/videos/generate", json=body, headers={"Idempotency-Key": key} if key else {})

    def submit(self, prompt: str = "a wave", **fields: Any) -> str:
        answer = self.generate(prompt, **fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/v2/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture
def start() -> Iterator[Callable[..., Api]]:
    """Start a sandbox with settings of the test's own, and return its client."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Api:
            return stack.enter_context(Api(stack.enter_context(Sandbox(**settings))))

        yield start


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    """A client of a sandbox that all tests share, where jobs end as soon as one looks at them."""
    with Sandbox(render_seconds=0, credits=10**6) as sandbox, Api(sandbox) as api:
        yield api


@pytest.fixture
def set_faults(api: Api) -> Iterator[Callable[..., None]]:
    """Put rules in force in the sandbox that all tests share, until the end of the test."""
    yield lambda *rules: api.sandbox.set_faults(rules)
    api.sandbox.set_faults(())


@pytest.fixture
def eventually() -> Callable[[Callable[[], T]], T]:
    """Return what a call returns as soon as that is true; fail when it is not within ten seconds."""

    def eventually(look: Callable[[], T]) -> T:
        deadline = time.monotonic() + 10
        while not (found := look()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)
        return found

    return eventually
