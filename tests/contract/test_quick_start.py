"""The vendor's documented quick start, recorded, and what our client sends for the same video."""

from __future__ import annotations

import json

import httpx
import requests
import requests_mock

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import Submission, VideoRequest

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
ANSWER = {"jobId": JOB_ID, "status": "QUEUED"}


def documented_quick_start() -> dict:
    # Apiframe, "Hailuo 02 API", quick start, as it stands on the page.
    response = requests.post(
        "https://api.apiframe.ai/v2/videos/generate",
        headers={
            "X-API-Key": "afk_your_api_key_here",
            "Content-Type": "application/json",
        },
        json={
            "prompt": "a cinematic sunrise over a futuristic cityscape, smooth camera push-in",
            "model": "hailuo-02",
            "hailuoParams": {
                "image": "https://example.com/input.jpg",
                "resolution": "768p",
                "end_image": "https://example.com/input.jpg",
                "prompt_optimizer": True,
            },
        },
        timeout=1,
    )
    return response.json()


def documented_poll() -> dict:
    return requests.get(
        f"https://api.apiframe.ai/v2/jobs/{JOB_ID}", headers={"X-API-Key": "afk_your_api_key_here"}, timeout=1
    ).json()


def ours(call: calls.Call) -> tuple[httpx.Request, object]:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202, json=ANSWER | {"id": JOB_ID})

    with Client(Settings(api_key="afk_your_api_key_here"), transport=httpx.MockTransport(answer)) as client:
        value = client.send(call)
    return sent[0], value


def test_our_submission_equals_the_documented_one():
    with requests_mock.Mocker() as vendor:
        vendor.post("https://api.apiframe.ai/v2/videos/generate", json=ANSWER, status_code=202)
        told = documented_quick_start()
    documented = vendor.last_request
    request, submission = ours(
        calls.generate_video(
            VideoRequest(
                prompt="a cinematic sunrise over a futuristic cityscape, smooth camera push-in",
                model="hailuo-02",
                image="https://example.com/input.jpg",
                resolution="768p",
                end_image="https://example.com/input.jpg",
                prompt_optimizer=True,
            )
        )
    )

    assert (request.method, str(request.url)) == (documented.method, documented.url)
    assert json.loads(request.content) == documented.json()
    for header in ("X-API-Key", "Content-Type"):
        assert request.headers[header] == documented.headers[header]
    assert submission == Submission(job_id=told["jobId"], status=told["status"])


def test_our_poll_equals_the_documented_one():
    with requests_mock.Mocker() as vendor:
        vendor.get(f"https://api.apiframe.ai/v2/jobs/{JOB_ID}", json={"status": "COMPLETED"})
        documented_poll()
    documented = vendor.last_request
    request, _ = ours(calls.get_job(JOB_ID))

    assert (request.method, str(request.url)) == (documented.method, documented.url)
    assert request.headers["X-API-Key"] == documented.headers["X-API-Key"]
    assert not request.content
