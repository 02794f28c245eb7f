"""Each fault of the sandbox through the client: an error of ours, in time, and the job is found again by its key."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.client import AsyncClient, Client, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.sandbox import Sandbox

GENERATE = "POST /v2/videos/generate"
SUBMISSION = calls.generate_video(VideoRequest(prompt="a sunrise"), "key-1")


def send(flavour: str, settings: Settings, call: calls.Call) -> Any:
    async def send_async() -> Any:
        async with AsyncClient(settings) as client:
            return await client.send(call)

    if flavour == "async":
        return asyncio.run(send_async())
    with Client(settings) as client:
        return client.send(call)


@pytest.mark.parametrize("flavour", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"fault": "error", "status": 429, "retryAfter": 3}, errors.RateLimitError),
        ({"fault": "error", "status": 429, "retryAfter": 3, "httpDate": True}, errors.RateLimitError),
        ({"fault": "error", "status": 502, "html": True}, errors.ServerError),
        ({"fault": "error", "status": 503, "after": True}, errors.ServerError),
        ({"fault": "reset"}, errors.NetworkError),
        ({"fault": "reset", "after": True}, errors.NetworkError),
        ({"fault": "slow", "delay": 30}, errors.RequestTimeoutError),
        ({"fault": "drip", "delay": 0.2}, errors.RequestTimeoutError),
        ({"fault": "stalled"}, errors.RequestTimeoutError),
        ({"fault": "truncated"}, errors.UnreadableAnswerError),
        ({"fault": "empty"}, errors.UnreadableAnswerError),
        ({"fault": "not-json"}, errors.UnreadableAnswerError),
        ({"fault": "wrong-types"}, errors.UnreadableAnswerError),
    ],
    ids=str,
)
def test_a_spoiled_submission_is_a_passing_error_and_its_repetition_pays_once(flavour: str, fault: dict, kind: type):
    with Sandbox(render_seconds=1, faults=[{**fault, "route": GENERATE, "times": 1}]) as sandbox:
        patient = Settings(api_key=sandbox.api_key, base_url=sandbox.base_url)
        hasty = Settings(api_key=sandbox.api_key, base_url=sandbox.base_url, timeout=0.5, retries=0)

        with pytest.raises(kind) as raised:
            send(flavour, hasty, SUBMISSION)
        assert raised.value.transient
        assert send(flavour, patient, SUBMISSION).job_id == send(flavour, patient, SUBMISSION).job_id
        assert sum(sandbox.stats()["jobs"].values()) == 1
        assert sandbox.stats()["creditsCharged"] == 5


@pytest.mark.parametrize("flavour", ["sync", "async"])
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 418])
@pytest.mark.parametrize("html", [False, True])
def test_any_odd_answer_to_a_look_is_an_error_of_ours_that_tells_its_status(flavour: str, status: int, html: bool):
    with Sandbox(faults=[{"fault": "error", "status": status, "html": html}]) as sandbox:
        settings = Settings(api_key=sandbox.api_key, base_url=sandbox.base_url, retries=0)

        with pytest.raises(errors.ApiframeError) as raised:
            send(flavour, settings, calls.get_job("00000000-0000-4000-8000-000000000000"))
        assert raised.value.status == status


@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_a_submission_that_is_still_in_progress_is_one_job(flavour: str):
    with Sandbox(faults=[{"fault": "in-progress", "times": 1}]) as sandbox:
        settings = Settings(api_key=sandbox.api_key, base_url=sandbox.base_url)

        with suppress(errors.ConflictError):
            send(flavour, settings, SUBMISSION)
        (job,) = sandbox.jobs()
        assert send(flavour, settings, SUBMISSION).job_id == job["id"]
        assert sandbox.stats()["creditsCharged"] == 5


@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_by_itself_the_client_gets_through_all_that_passes(flavour: str):
    faults = [{"fault": "reset", "after": True}, {"fault": "error", "status": 503, "html": True}, {"fault": "empty"}]
    with Sandbox(faults=[{**fault, "route": GENERATE, "times": 1} for fault in faults]) as sandbox:
        settings = Settings(api_key=sandbox.api_key, base_url=sandbox.base_url)

        assert send(flavour, settings, SUBMISSION).status in {"QUEUED", "PROCESSING"}
        assert sandbox.stats()["creditsCharged"] == 5
