"""What must hold for any input: generated, shrunk to the smallest counter-example when it does not."""

from __future__ import annotations

import asyncio
import itertools
import json
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_provider_hailuo.apiframe import calls, errors, watcher
from airflow_provider_hailuo.apiframe.backoff import RETRY_AFTER_CAP_SECONDS
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.idempotency import derive_key
from airflow_provider_hailuo.apiframe.models import Account, Job, JobPage, Submission, Upload, VideoRequest
from airflow_provider_hailuo.apiframe.polling import (
    REFUSALS,
    REFUSED_SECONDS,
    URL_SECONDS,
    Finished,
    GaveUp,
    JobPoll,
    video_url,
)
from airflow_provider_hailuo.apiframe.watcher import wait_for_job
from tests.fake_api import Accounts, account, job_id, page_of_a_proxy, refusal
from tests.virtual_time import moment, now, patch_clock, run

# How fast the machine is decides nothing here.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
REQUEST = VideoRequest(prompt="x")
CALLS = {
    "generate": (calls.generate_video(REQUEST, "key"), Submission),
    "job": (calls.get_job(JOB_ID), Job),
    "jobs": (calls.list_jobs(), JobPage),
    "account": (calls.get_account(), Account),
    "upload": (calls.upload("a", b"b"), Upload),
}
KEY = "afk_the_key_of_the_properties"

NAMES = """
    jobId id status jobs nextCursor hasMore result videoUrl videos url error details creditCost
    creditsRequired creditsAvailable progress createdAt completedAt expired input user team credits
    email plan
"""
names = st.sampled_from(NAMES.split())
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from([JOB_ID, "COMPLETED", "FAILED", "https://cdn.example/v.mp4", "2026-03-15T10:00:00.000Z", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=5), inner, max_size=8),
    max_leaves=20,
)
bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    | st.tuples(json_values, st.integers(0, 100)).map(lambda cut: json.dumps(cut[0]).encode()[: cut[1]])
    # Nearly right: the documented shape with odd values in it.
    | st.dictionaries(names, json_values, max_size=12).map(
        lambda odd: json.dumps({"id": JOB_ID, "jobId": JOB_ID, "status": "COMPLETED", "jobs": [], **odd}).encode()
    )
)
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
headers = st.dictionaries(
    st.sampled_from(["x-request-id", "retry-after", "location", "content-type"]),
    header_text | st.integers(-10, 10**12).map(str) | st.just("Sun, 15 Mar 2026 10:01:30 GMT"),
)
statuses = st.integers(100, 599) | st.sampled_from([200, 201, 202, 400, 401, 402, 403, 404, 409, 429, 500, 503])


def judge(outcome: object, expected: type) -> None:
    if isinstance(outcome, errors.ApiframeError):
        assert "\n" not in str(outcome)
        assert len(str(outcome)) <= 2048
        assert KEY not in str(outcome)
        assert outcome.retry_after is None or outcome.retry_after >= 0
    else:
        assert isinstance(outcome, expected)
        if isinstance(outcome, Job) and outcome.is_final:
            try:
                assert video_url(outcome).startswith("http")
            except errors.JobError as error:
                judge(error, Job)


@settings(max_examples=2000)
@given(status=statuses, given_headers=headers, body=bodies)
def test_any_answer_to_any_call_is_a_typed_value_or_an_error_of_ours(status: int, given_headers: dict, body: bytes):
    # Five calls to each of 2000 answers: making an answer up takes longer than reading it.
    for call, expected in CALLS.values():
        try:
            outcome: object = call.parse(status, httpx.Headers(given_headers), body)
        except errors.ApiframeError as error:
            outcome = error
        judge(outcome, expected)


@settings(max_examples=300)
@given(
    answers=st.lists(st.tuples(statuses.filter(lambda s: s >= 200), headers, bodies), min_size=1, max_size=6),
    submits=st.booleans(),
)
def test_the_client_ends_after_its_retries_whatever_comes(answers: list[tuple[int, dict, bytes]], submits: bool):
    stream, waits = itertools.cycle(answers), []

    def answer(_: httpx.Request) -> httpx.Response:
        status, given_headers, body = next(stream)
        return httpx.Response(status, headers=given_headers, content=body)

    transport = httpx.MockTransport(answer)
    with Client(Settings(api_key=KEY), transport=transport, sleep=waits.append) as client:
        try:
            outcome: object = client.send(calls.generate_video(REQUEST, "key") if submits else calls.get_job(JOB_ID))
        except errors.ApiframeError as error:
            outcome = error
    judge(outcome, Submission if submits else Job)
    # A submission that the API is still working on is asked for again for a minute and at most one wait.
    assert len(waits) <= (16 if submits else 4)
    assert all(0 < wait <= RETRY_AFTER_CAP_SECONDS + 30 for wait in waits)


refusals = [
    errors.NotFoundError("x", from_api=True),
    errors.AuthenticationError("x", from_api=True),
    errors.CredentialsUnavailableError("x"),
    errors.InvalidInputError("x"),
]
passing = [
    errors.NetworkError("x"),
    errors.RateLimitError("x", from_api=True),
    errors.RateLimitError("x", retry_after=1e9),
    errors.ServerError("x"),
    errors.UnreadableAnswerError("x"),
    errors.NotFoundError("<html>"),
    errors.UnexpectedStatusError("<html>"),
]
outcomes = st.sampled_from(["QUEUED", "PROCESSING", "PAUSED", "COMPLETED", "FAILED"]) | st.sampled_from(
    [*refusals, *passing]
)


@settings(max_examples=300)
@given(
    looks=st.lists(st.tuples(outcomes, st.floats(0, 1e6)), min_size=1, max_size=30),
    seconds=st.floats(-10, 1e5),
    interval=st.floats(1e-6, 1e4),
    draw=st.floats(0, 1),
)
@example(looks=[("QUEUED", 0.0), ("COMPLETED", 0.0)], seconds=62.0, interval=1.0, draw=0.0)
def test_a_wait_is_positive_never_past_the_deadline_and_ends(looks, seconds: float, interval: float, draw: float):
    start = 1_790_000_000.0
    last_good, refused, without_url, completed_at = start, 0, 0.0, None
    poll = JobPoll(JOB_ID, start + seconds, interval, draw=lambda: draw)
    now = start
    for n in range(100_000):
        what, latency = looks[n % len(looks)]
        now += min(latency, 5.0)
        without_url += 0.0 if completed_at is None else now - completed_at
        completed_at = now if what == "COMPLETED" else None
        if isinstance(what, str):
            decision = poll.on_job(Job(id=JOB_ID, status=what), now)
            last_good, refused = now, 0
        else:
            decision = poll.on_error(what, now)
            refused += what in refusals
        if isinstance(decision, Finished):
            # The sums of many pauses are not exact.
            assert what == "FAILED" or without_url >= URL_SECONDS - 1e-3 or now >= start + seconds
            return
        if isinstance(decision, GaveUp):
            timed_out = isinstance(decision.error, errors.JobTimeoutError)
            lasted = now - last_good >= REFUSED_SECONDS - 1e-3 and refused >= REFUSALS and what in refusals
            assert now >= start + seconds if timed_out else lasted
            assert decision.error.job_id == JOB_ID
            assert {error.message for error in refusals} == {"x"}
            return
        assert 0 < decision.seconds <= start + seconds - now
        assert decision.seconds >= min(0.05, start + seconds - now)
        # Far from the deadline, jump: the number of looks is not what is judged here.
        now += max(decision.seconds, (start + seconds - now) / 50)
        assert now <= start + seconds + 1e-6
    raise AssertionError("it never ended")


@settings(max_examples=500)
@given(job_id=st.text(max_size=300) | st.integers() | json_values)
def test_each_job_id_that_an_answer_may_hold_can_be_asked_for(job_id: object):
    try:
        submission = Submission.model_validate({"jobId": job_id, "status": "QUEUED"})
    except ValidationError:
        return
    call = calls.get_job(submission.job_id)
    assert call.path.startswith("/v2/jobs/")
    assert unquote(call.path.removeprefix("/v2/jobs/")) == submission.job_id
    assert httpx.URL("https://a.b/").join(call.path).path == f"/v2/jobs/{submission.job_id}"
    assert call.path.count("/") == 3


values = json_values | st.sets(names) | st.text(max_size=2100) | st.sampled_from(["None", "https://a.b/ü", b"x"])


@settings(max_examples=500)
@given(
    fields=st.dictionaries(st.sampled_from([*VideoRequest.model_fields]), values),
    prompt=st.text(max_size=2100) | values,
)
def test_any_values_make_a_body_that_the_api_takes_or_an_error_of_ours(fields: dict, prompt: object):
    try:
        body = VideoRequest(**{"prompt": prompt, **fields}).to_wire()
    except errors.InvalidInputError as error:
        judge(error, dict)
        return
    assert None not in body.values()
    assert "\0" not in body["prompt"]
    assert 0 < len(body["prompt"].encode("utf-16-le")) <= 4000
    for url in (body.get("webhookUrl"), *(body.get("hailuoParams", {}).get(name) for name in ("image", "end_image"))):
        assert url is None or (url.isascii() and str(httpx.URL(url)))
    # What was accepted once is accepted again, and is the same.
    assert VideoRequest(**VideoRequest(**{"prompt": prompt, **fields}).model_dump()).to_wire() == body


@settings(max_examples=500)
@given(readable=st.text(max_size=400), identity=st.lists(st.text(max_size=8) | st.integers(), max_size=6))
def test_every_derived_key_is_one_that_the_api_takes(readable: str, identity: list):
    key = derive_key(readable, identity, REQUEST)

    assert calls.generate_video(REQUEST, f"{key}/9999").idempotency_key == f"{key}/9999"


moments = st.floats(0, 120)
waiters = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.integers(1, 300),
            "joins": moments,
            "leaves": st.none() | moments,
            "interval": st.sampled_from([0.5, 5.0, 30.0]),
            "deadline": st.floats(1, 300),
        }
    ),
    min_size=1,
    max_size=30,
)
answers = st.tuples(st.just(page_of_a_proxy), st.sampled_from([200, 302, 403, 404, 429, 500, 503])) | st.tuples(
    st.just(refusal), st.sampled_from([400, 401, 403, 404, 503])
)
outages = st.lists(st.tuples(moments, st.floats(0.1, 90), answers, st.booleans()), max_size=4)
look_up_failures = st.lists(
    st.tuples(moments, st.floats(0.1, 90), st.sampled_from([*refusals[2:], RuntimeError("x"), 2.0])), max_size=2
)
worlds = st.fixed_dictionaries(
    {
        "outages": outages,
        "look_up_failures": look_up_failures,
        "changes": st.lists(moments, max_size=3),
        "revoked": st.none() | moments,
        "unlisted": st.sets(st.integers(1, 300)),
        "ends": st.lists(st.floats(0, 200), max_size=300),
    }
)


class World:
    """Two accounts of 300 jobs each, a connection that changes between them, and what breaks when."""

    def __init__(self, *, outages, look_up_failures, changes, revoked, unlisted, ends) -> None:
        self.outages, self.look_up_failures = outages, look_up_failures
        self.changes, self.revoked = changes, revoked
        self.first = {"afk_a": 0, "afk_b": 300}
        both = {key: account(range(n + 1, n + 301), float("inf")) for key, n in self.first.items()}
        self.accounts = Accounts(**both)
        self.accounts.looking_up = self.looking_up
        for key, api in both.items():
            api.unlisted = api.unlisted | {n + self.first[key] for n in unlisted}
            api.ends = {n + self.first[key]: end for n, end in enumerate(ends, 1)}
            api.breaks = self.breaks

    def breaks(self, request: httpx.Request) -> httpx.Response | None:
        for begins, seconds, (answer, status), only_pages in self.outages:
            if begins <= moment() < begins + seconds and (request.url.path.endswith("/jobs") or not only_pages):
                return answer(status)
        return None

    async def looking_up(self) -> None:
        for begins, seconds, failure in self.look_up_failures:
            if begins <= moment() < begins + seconds:
                if isinstance(failure, Exception):
                    raise failure
                await asyncio.sleep(failure)

    async def change(self, after: float) -> None:
        await asyncio.sleep(after)
        self.accounts.now = "afk_b" if self.accounts.now == "afk_a" else "afk_a"

    async def revoke(self) -> None:
        if self.revoked is not None:
            await asyncio.sleep(self.revoked)
            self.accounts.accounts["afk_a"].keys = set()

    async def wait(self, *, n: int, joins: float, leaves: float | None, interval: float, deadline: float) -> None:
        await asyncio.sleep(joins)
        # It was submitted to the account to which the connection leads just now.
        key = self.accounts.now
        api, n = self.accounts.accounts[key], n + self.first[key]
        started = now()
        poll = JobPoll(job_id(n), started + deadline, interval)
        waiting = asyncio.create_task(
            wait_for_job(poll, lambda *_: None, "a", self.accounts.look_up, self.accounts.connect)
        )
        await asyncio.wait([waiting], timeout=leaves)
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting])
            return
        end, waited = await waiting, now() - started
        if isinstance(end, Finished):
            assert end.job.id == job_id(n)
            # Nobody hears of the end before it came.
            assert moment() >= api.ends[n]
        elif isinstance(end.error, errors.JobTimeoutError):
            assert end.error.job_id == job_id(n)
            assert waited >= deadline
        else:
            # It was refused for a minute, and nothing was seen of the job meanwhile.
            assert end.error.job_id == job_id(n)
            assert "so it has been for" in end.error.message
            assert waited >= REFUSED_SECONDS
            # While its own look-ups fail, or lead to the other account, the pages of others may show the job.
            unseen = moment() - api.told.get(n, 0) >= REFUSED_SECONDS or api.told[n] < joins
            assert unseen or self.look_up_failures or self.changes
        # At the latest at the first look after the deadline, which may have to wait for an interval, and for two slow
        # look-ups; and the pause before it, of up to 30 s in an outage, may be 5 % longer than was asked for.
        assert waited <= deadline + interval + 2.5 + 2 * 2.0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(waiters=waiters, faults=worlds)
def test_whoever_comes_and_goes_and_whatever_breaks_each_wait_ends_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, waiters: list[dict], faults: dict
):
    async def scenario() -> None:
        waits = (world.wait(**waiter) for waiter in waiters)
        await asyncio.gather(*waits, *map(world.change, world.changes), world.revoke())

    patch_clock(monkeypatch, watcher)
    world = World(**faults)
    run(scenario())

    assert world.accounts.open_clients == {"afk_a": 0, "afk_b": 0}
    # Bounded by what is waited for: never more than a third above one by one, at two ticks per interval, and what is
    # refused is sent once more.
    ticks = 2 * (420 / min(waiter["interval"] for waiter in waiters) + 2) + len(waiters)
    asked = sum(len(api.asked) for api in world.accounts.accounts.values())
    assert asked <= 2 * ticks * (len(waiters) * 4 / 3 + 4)
    assert all(len(api.clients) <= 2 * (len(waiters) + 1) for api in world.accounts.accounts.values())
