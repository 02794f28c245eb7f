"""Client and sandbox against the facts of the vendor's contract."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest
from airflow_provider_hailuo.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.2, jitter=0, credits=10_000, seed=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(sandbox: Sandbox) -> Iterator[Client]:
    with Client(Settings(api_key=sandbox.api_key, base_url=sandbox.base_url)) as client:
        yield client


def finished(client: Client, job_id: str) -> Job:
    for _ in range(200):
        job = client.send(calls.get_job(job_id))
        if job.is_final:
            return job
        time.sleep(0.02)
    raise AssertionError(job)


def test_a_request_with_every_field_becomes_a_video(client: Client):
    request = VideoRequest(
        prompt="a cinematic sunrise over a futuristic cityscape, smooth camera push-in",
        model="hailuo-02",
        image="https://example.com/input.jpg",
        resolution="768p",
        duration=6,
        end_image="https://example.com/input.jpg",
        prompt_optimizer=True,
        webhook_url="http://127.0.0.1:9/hook",
        webhook_events=("progress", "completed", "failed"),
    )
    submission = client.send(calls.generate_video(request))

    assert submission.status == "QUEUED"
    job = finished(client, submission.job_id)
    assert (job.status, job.progress, job.credit_cost, job.error) == ("COMPLETED", 100, 5, None)
    assert job.video_url
    (listed,) = client.send(calls.list_jobs(limit=1)).jobs
    assert (listed.id, listed.video_url) == (job.id, job.video_url)


@pytest.mark.parametrize(
    ("params", "price"),
    [
        ({}, 5),
        ({"duration": 10}, 8),
        ({"resolution": "1080p"}, 10),
        ({"resolution": "768p", "duration": 6}, 5),
        ({"model": "hailuo-2.3"}, 5),
        ({"model": "hailuo-2.3", "duration": 10}, 10),
        ({"model": "hailuo-2.3", "resolution": "1080p"}, 10),
        ({"model": "hailuo-2.3-fast", "duration": 10}, 10),  # an assumption, as of the next one
        ({"model": "hailuo-03", "duration": 10}, 10),
    ],
    ids=str,
)
def test_prices(client: Client, sandbox: Sandbox, params: dict, price: int):
    before = sandbox.stats()["credits"]
    submission = client.send(calls.generate_video(VideoRequest(prompt="a sunrise", **params)))

    assert before - sandbox.stats()["credits"] == price
    assert client.send(calls.get_job(submission.job_id)).credit_cost == price


def test_a_failed_job_is_refunded_in_full(client: Client, sandbox: Sandbox):
    before = sandbox.stats()["credits"]
    job = finished(client, client.send(calls.generate_video(VideoRequest(prompt="[[fail: no]]"))).job_id)

    assert (job.status, job.error, job.credit_cost, job.video_url) == ("FAILED", "no", 0, None)
    assert job.progress == 0
    assert sandbox.stats()["credits"] == before


def test_402_tells_the_credits():
    with (
        Sandbox(credits=3) as poor,
        Client(Settings(api_key=poor.api_key, base_url=poor.base_url)) as client,
        pytest.raises(errors.InsufficientCreditsError) as raised,
    ):
        client.send(calls.generate_video(VideoRequest(prompt="x", resolution="1080p")))

    assert (raised.value.required, raised.value.available) == (10, 3)


def test_a_key_gives_the_original_job_as_it_is_now_and_409_for_another_body(client: Client, sandbox: Sandbox):
    call = calls.generate_video(VideoRequest(prompt="once"), "contract-1")
    before = sandbox.stats()["credits"]
    job = finished(client, client.send(call).job_id)
    again = client.send(call)

    assert (again.job_id, again.status) == (job.id, "COMPLETED")
    assert before - sandbox.stats()["credits"] == 5
    with pytest.raises(errors.ConflictError):
        client.send(calls.generate_video(VideoRequest(prompt="twice"), "contract-1"))


def test_the_account(client: Client, sandbox: Sandbox):
    account = client.send(calls.get_account())

    assert account.team is not None
    assert account.team.credits == sandbox.stats()["credits"]


def test_an_upload_serves_as_the_first_frame(client: Client):
    upload = client.send(calls.upload("first.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 100))

    assert (upload.kind, upload.content_type, upload.byte_size) == ("image", "image/png", 108)
    assert upload.expires_at is not None
    assert client.send(calls.generate_video(VideoRequest(prompt="x", image=upload.url))).status == "QUEUED"
    with pytest.raises(errors.BadRequestError, match="file"):
        client.send(calls.upload("first.png", b"this is no picture"))
