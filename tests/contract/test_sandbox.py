"""Client and sandbox against the facts of the vendor's contract."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest
from airflow_provider_hailuo.sandbox import Sandbox

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(render_seconds=0.2, jitter=0, credits=10_000, seed=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def wire(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """The bare wire, with the right key."""
    with httpx.Client(base_url=sandbox.base_url, headers={"X-API-Key": sandbox.api_key}) as wire:
        yield wire


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


def test_the_documented_body_is_accepted(wire: httpx.Client):
    answer = wire.post(
        "/v2/videos/generate",
        json={
            "prompt": "a cinematic sunrise over a futuristic cityscape, smooth camera push-in",
            "model": "hailuo-02",
            "hailuoParams": {
                "image": "https://example.com/input.jpg",
                "resolution": "768p",
                "end_image": "https://example.com/input.jpg",
                "prompt_optimizer": True,
            },
            "webhookUrl": "http://127.0.0.1:9/hook",
            "webhookEvents": ["progress", "completed", "failed"],
        },
    )

    assert answer.status_code == 202
    assert answer.json().keys() == {"jobId", "status"}
    assert answer.json()["status"] == "QUEUED"
    assert answer.headers["x-request-id"]


def test_a_job_has_the_documented_fields(wire: httpx.Client, client: Client):
    stalls = client.send(calls.generate_video(VideoRequest(prompt="[[stall]] a sunset"))).job_id
    young = wire.get(f"/v2/jobs/{stalls}").json()
    job_id = client.send(calls.generate_video(VideoRequest(prompt="a sunrise"))).job_id
    finished(client, job_id)
    done = wire.get(f"/v2/jobs/{job_id}").json()

    for job in (young, done):
        assert job.keys() >= {
            "id",
            "status",
            "model",
            "progress",
            "result",
            "error",
            "creditCost",
            "webhookStatus",
            "input",
            "expired",
            "createdAt",
            "completedAt",
        }
    assert (young["result"], young["error"], young["completedAt"], young["expired"]) == (None, None, None, False)
    assert young["status"] in {"QUEUED", "PROCESSING"}
    assert 0 <= young["progress"] < 100
    assert (done["status"], done["progress"], done["creditCost"]) == ("COMPLETED", 100, 5)
    assert done["result"].keys() == {"videoUrl"}
    assert done["createdAt"].endswith("Z")
    assert done.pop("input")["prompt"] == "a sunrise"
    assert wire.get("/v2/jobs", params={"search": job_id}).json()["jobs"] == [done]


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
    ],
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


@pytest.mark.parametrize(
    "body",
    [
        {"model": "hailuo-02"},
        {"prompt": "", "model": "hailuo-02"},
        {"prompt": "x" * 2001, "model": "hailuo-02"},
        {"prompt": "🌅" * 1001, "model": "hailuo-02"},
        {"prompt": "x"},
        {"prompt": "x", "model": "sora"},
        {"prompt": "x", "model": "hailuo-02", "hailuoParams": {"duration": 10, "resolution": "1080p"}},
        {"prompt": "x", "model": "hailuo-02", "hailuoParams": {"duration": "6"}},
        {"prompt": "x", "model": "hailuo-02", "hailuoParams": {"seed": 1}},
        {"prompt": "x", "model": "hailuo-02", "hailuoParams": {"image": None}},
        {"prompt": "x", "model": "hailuo-03", "hailuoParams": {"end_image": "https://example.com/a.png"}},
        {"prompt": "x", "model": "hailuo-02", "webhook_url": "https://example.com"},
        {"prompt": "x", "model": "hailuo-02", "webhookUrl": "https://exämple.com"},
        {"prompt": "x", "model": "hailuo-02", "hailuoParams": {"image": "https://example.com/a b.png"}},
        {"prompt": "x", "model": "hailuo-02", "hailuoParams": {"end_image": "https://example.com/100%"}},
        {"prompt": "x", "model": "hailuo-02", "webhookEvents": []},
        {"prompt": "x", "model": "hailuo-02", "surprise": 1},
    ],
)
def test_the_contract_is_strict(wire: httpx.Client, body: dict):
    answer = wire.post("/v2/videos/generate", json=body)

    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)
    assert all(isinstance(complaints, list) for complaints in answer.json()["details"].values())
    assert answer.json()["details"]


def send_wrong_key(sandbox: Sandbox, call: calls.Call):
    with Client(Settings(api_key="afk_wrong", base_url=sandbox.base_url)) as client:
        return client.send(call)


def test_401_for_a_wrong_key_on_each_endpoint(sandbox: Sandbox):
    for call in (
        calls.generate_video(VideoRequest(prompt="x")),
        calls.get_job(UNKNOWN),
        calls.list_jobs(),
        calls.get_account(),
        calls.upload("a.png", b"\x89PNG\r\n\x1a\n"),
    ):
        with pytest.raises(errors.AuthenticationError):
            send_wrong_key(sandbox, call)


def test_401_says_whether_the_key_is_missing_or_wrong(sandbox: Sandbox):
    answers = [httpx.get(f"{sandbox.base_url}/v2/me", headers=sent) for sent in ({}, {"X-API-Key": "afk_wrong"})]

    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (401, {"error": "API key is required"}),
        (401, {"error": "Invalid API key"}),
    ]


def test_402_tells_the_credits():
    with (
        Sandbox(credits=3) as poor,
        Client(Settings(api_key=poor.api_key, base_url=poor.base_url)) as client,
        pytest.raises(errors.InsufficientCreditsError) as raised,
    ):
        client.send(calls.generate_video(VideoRequest(prompt="x", resolution="1080p")))

    assert (raised.value.required, raised.value.available) == (10, 3)


def test_404_for_an_unknown_job(client: Client):
    with pytest.raises(errors.NotFoundError) as raised:
        client.send(calls.get_job(UNKNOWN))

    assert raised.value.job_id == UNKNOWN
    assert raised.value.request_id


def test_400_for_an_id_that_is_no_uuid(wire: httpx.Client):
    assert wire.get("/v2/jobs/42").status_code == 400


def test_a_key_gives_the_original_job_and_409_for_another_body(client: Client, sandbox: Sandbox):
    request = VideoRequest(prompt="once")
    before = sandbox.stats()["credits"]
    first, second = (client.send(calls.generate_video(request, "contract-1")) for _ in range(2))

    assert first.job_id == second.job_id
    assert before - sandbox.stats()["credits"] == 5
    with pytest.raises(errors.ConflictError):
        client.send(calls.generate_video(VideoRequest(prompt="twice"), "contract-1"))


def test_the_status_of_a_repeated_submission_is_the_job_s(client: Client):
    call = calls.generate_video(VideoRequest(prompt="once"), "contract-2")
    finished(client, client.send(call).job_id)

    assert client.send(call).status == "COMPLETED"


def test_walking_the_pages_meets_each_job_once_newest_first(client: Client):
    mine = [client.send(calls.generate_video(VideoRequest(prompt=f"page {n}"))).job_id for n in range(12)]
    met: list[Job] = []
    page = client.send(calls.list_jobs(limit=5))
    while True:
        met += page.jobs
        if not page.has_more:
            break
        page = client.send(calls.list_jobs(limit=5, cursor=page.next_cursor))

    assert {job.id for job in met[:12]} == set(mine)
    # Jobs of one millisecond come in the order of their ids.
    places = [(job.created_at, job.id) for job in met]
    assert places == sorted(places, reverse=True)
    assert len({job.id for job in met}) == len(met)
    assert page.next_cursor is None


def test_a_list_takes_any_query_and_tells_the_models_that_there_are(wire: httpx.Client):
    submitted = wire.post("/v2/videos/generate", json={"prompt": "x", "model": "hailuo-03"}).json()
    page = wire.get("/v2/jobs", params={"limit": 1, "sort": "oldest", "include_models": "true"}).json()

    assert [job["id"] for job in page["jobs"]] == [submitted["jobId"]]
    assert "hailuo-03" in page["models"]
    assert "models" not in wire.get("/v2/jobs").json()
    assert wire.get("/v2/jobs", params={"include_models": "1"}).status_code == 400


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
