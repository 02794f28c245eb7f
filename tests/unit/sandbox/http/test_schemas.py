from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.http.schemas import (
    InvalidRequestError,
    event_json,
    job_json,
    page_json,
    parse_generate_request,
    parse_idempotency_key,
    parse_job_id,
    parse_job_query,
)
from airflow_provider_hailuo.sandbox.state.account import Account
from airflow_provider_hailuo.sandbox.state.jobs import Cursor, EventKind, GenerateRequest

ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
BASE = "http://sandbox"


def body(**changes: Any) -> dict[str, Any]:
    return {"prompt": "a wave", "model": "hailuo-02", **changes}


def hailuo(**params: Any) -> dict[str, Any]:
    return body(hailuoParams=params)


def parse(value: Any) -> GenerateRequest:
    return parse_generate_request(json.dumps(value).encode())


def refused(value: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidRequestError) as caught:
        parse(value)
    assert all(isinstance(text, str) and text for texts in caught.value.details.values() for text in texts)
    return {path: list(texts) for path, texts in caught.value.details.items()}


class TestGenerateRequest:
    def test_has_the_defaults_of_the_api(self) -> None:
        assert parse(body()) == GenerateRequest(
            prompt="a wave",
            model="hailuo-02",
            resolution="768p",
            duration=6,
            webhook_url=None,
            webhook_events=frozenset({EventKind.COMPLETED, EventKind.FAILED}),
            body=body(),
        )

    def test_holds_what_was_asked_for(self) -> None:
        asked = body(
            hailuoParams={
                "image": "https://example.com/a.png",
                "end_image": "http://127.0.0.1:8080/b.png?x=1#f",
                "resolution": "1080p",
                "duration": 6,
                "prompt_optimizer": False,
            },
            webhookUrl="http://localhost:9000/hook",
            webhookEvents=["progress", "completed", "progress"],
        )
        request = parse(asked)
        assert (request.resolution, request.duration) == ("1080p", 6)
        assert request.webhook_url == "http://localhost:9000/hook"
        assert request.webhook_events == {EventKind.PROGRESS, EventKind.COMPLETED}
        assert request.body == asked

    @pytest.mark.parametrize(
        "value",
        [
            body(prompt="x" * 2000),
            body(prompt="한" * 2000),
            body(prompt="🌅" * 1000),
            body(prompt="\x00\n🌅"),
            body(model="hailuo-2.3"),
            body(model="hailuo-2.3-fast"),
            body(model="hailuo-03"),
            hailuo(),
            hailuo(duration=6.0),
            hailuo(duration=10),
            hailuo(duration=10.0, resolution="768p"),
            hailuo(duration=6, resolution="1080p"),
            body(model="hailuo-03", hailuoParams={"image": "https://example.com/a.png"}),
            body(webhookEvents=["failed"]),
        ],
    )
    def test_is_accepted(self, value: dict[str, Any]) -> None:
        assert parse(value).body == value

    def test_duration_may_be_written_as_a_float(self) -> None:
        assert parse(hailuo(duration=10.0)).duration == 10
        assert parse(hailuo(duration=10.0)) == parse(hailuo(duration=10))

    @pytest.mark.parametrize(
        ("value", "paths"),
        [
            ({}, {"prompt", "model"}),
            ({"prompt": "a"}, {"model"}),
            (body(prompt=""), {"prompt"}),
            (body(prompt="x" * 2001), {"prompt"}),
            (body(prompt="🌅" * 1000 + "x"), {"prompt"}),
            (body(prompt=7), {"prompt"}),
            (body(prompt=None), {"prompt"}),
            (body(prompt=["a"]), {"prompt"}),
            (body(prompt="\ud800"), {"prompt"}),
            (body(model="hailuo-01"), {"model"}),
            (body(model="HAILUO-02"), {"model"}),
            (body(model=None), {"model"}),
            (body(webhook_url="https://example.com"), {"webhook_url"}),
            (body(duration=6), {"duration"}),
            (body(params={}), {"params"}),
            (body(hailuoParams=None), {"hailuoParams"}),
            (body(hailuoParams=[]), {"hailuoParams"}),
            (body(hailuoParams="{}"), {"hailuoParams"}),
            (hailuo(endImage="https://example.com/a.png"), {"hailuoParams.endImage"}),
            (hailuo(duration="6"), {"hailuoParams.duration"}),
            (hailuo(duration=7), {"hailuoParams.duration"}),
            (hailuo(duration=6.5), {"hailuoParams.duration"}),
            (hailuo(duration=True), {"hailuoParams.duration"}),
            (hailuo(duration=None), {"hailuoParams.duration"}),
            (hailuo(duration=10**400), {"hailuoParams.duration"}),
            (hailuo(duration=10, resolution="1080p"), {"hailuoParams.duration"}),
            (hailuo(resolution="720p"), {"hailuoParams.resolution"}),
            (hailuo(resolution="1080P"), {"hailuoParams.resolution"}),
            (hailuo(resolution=768), {"hailuoParams.resolution"}),
            (hailuo(resolution=None), {"hailuoParams.resolution"}),
            (hailuo(prompt_optimizer="true"), {"hailuoParams.prompt_optimizer"}),
            (hailuo(prompt_optimizer=1), {"hailuoParams.prompt_optimizer"}),
            (hailuo(prompt_optimizer=None), {"hailuoParams.prompt_optimizer"}),
            (hailuo(image="example.com/a.png"), {"hailuoParams.image"}),
            (hailuo(image="file:///etc/passwd"), {"hailuoParams.image"}),
            (hailuo(image="data:image/png;base64,AAAA"), {"hailuoParams.image"}),
            (hailuo(image=""), {"hailuoParams.image"}),
            (hailuo(image=None), {"hailuoParams.image"}),
            (hailuo(image=1), {"hailuoParams.image"}),
            (hailuo(end_image="nowhere"), {"hailuoParams.end_image"}),
            (body(webhookUrl="ftp://example.com"), {"webhookUrl"}),
            (body(webhookUrl="http://x:99999"), {"webhookUrl"}),
            (body(webhookUrl=None), {"webhookUrl"}),
            (body(webhookEvents=[]), {"webhookEvents"}),
            (body(webhookEvents=None), {"webhookEvents"}),
            (body(webhookEvents="completed"), {"webhookEvents"}),
            (body(webhookEvents=["completed", "cancelled"]), {"webhookEvents.1"}),
            (body(webhookEvents=[None]), {"webhookEvents.0"}),
            (
                {"prompt": "", "hailuoParams": {"duration": "6", "foo": 1}, "bar": 2},
                {"prompt", "model", "hailuoParams.duration", "hailuoParams.foo", "bar"},
            ),
        ],
    )
    def test_is_refused_by_field(self, value: dict[str, Any], paths: set[str]) -> None:
        assert set(refused(value)) == paths

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com",
            "HTTPS://user:pa%20ss@Example.com:8080/a/b;c=1/@:!$&'()*+,~-._?q=/?:@#f/?",
            "http://[::1]:9000/hook",
            "http://user@[2001:db8::7]/?",
            "http://example.com:?",
            "http://xn--bcher-kva.example/%E2%98%83.png",
            "http://under_score.example//",
        ],
    )
    def test_takes_urls_as_in_rfc_3986(self, url: str) -> None:
        assert parse(body(webhookUrl=url)).webhook_url == url

    @pytest.mark.parametrize(
        "url",
        [
            "http://bücher.example/",
            "http://example.com/☃.png",
            "http://example.com/\u017f\u212a",
            "http://example.com/?q=\u0665",
            " http://example.com",
            "http://example.com\n",
            "http://exam\tple.com/",
            "http://example.com/a b",
            "http://example.com/\x00",
            "http://example.com/100%",
            "http://example.com/%zz",
            "http://example.com/?q=%e",
            *(f"http://example.com/a{mark}b" for mark in '\\|{}^[]"<>`'),
            *(f"http://example.com/?q={mark}" for mark in '\\|{}^[]"<>`'),
            *(f"http://example.com/#{mark}" for mark in '\\|{}^[]"<>`#'),
            "http://[::1/",
            "http://[nowhere]/",
            "http://a[::1]/",
            "http://[::1]a/",
            "http:example.com",
            "http:///example.com",
            "http:\\\\example.com",
            "http://a@b@example.com/",
            "//example.com/a.png",
        ],
    )
    def test_takes_no_others(self, url: str) -> None:
        assert set(refused(hailuo(image=url))) == {"hailuoParams.image"}
        assert set(refused(body(webhookUrl=url))) == {"webhookUrl"}

    @pytest.mark.parametrize("model", ["hailuo-2.3", "hailuo-2.3-fast", "hailuo-03"])
    def test_takes_an_end_image_for_hailuo_02_only(self, model: str) -> None:
        params = {"end_image": "https://example.com/a.png"}
        assert parse(body(hailuoParams=params)).body["hailuoParams"] == params
        assert set(refused(body(model=model, hailuoParams=params))) == {"hailuoParams.end_image"}

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"prompt=a",
            b"\xff\xfe{}",
            b'{"prompt": NaN}',
            b'{"prompt": Infinity}',
            b"[" * 100_000,
            b"[]",
            b"null",
            b'"text"',
            b"6",
            b"1" * 5000,
        ],
    )
    def test_is_a_json_object(self, raw: bytes) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            parse_generate_request(raw)
        assert caught.value.details == {}


class TestIdempotencyKey:
    @pytest.mark.parametrize("key", [None, "k", "k" * 255])
    def test_is_accepted(self, key: str | None) -> None:
        assert parse_idempotency_key(key) == key

    def test_has_at_most_255_characters(self) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            parse_idempotency_key("k" * 256)
        assert set(caught.value.details) == {"Idempotency-Key"}


class TestJobId:
    @pytest.mark.parametrize("text", [ID, ID.upper()])
    def test_is_a_uuid(self, text: str) -> None:
        assert parse_job_id(text) == ID

    @pytest.mark.parametrize(
        "text", ["", "x", ID[:-1], ID + "0", f"{{{ID}}}", ID.replace("-", ""), ID + "\n", "İ" + ID[1:]]
    )
    def test_is_refused_otherwise(self, text: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            parse_job_id(text)
        assert set(caught.value.details) == {"id"}


class TestJobQuery:
    def test_has_the_defaults_of_the_api(self) -> None:
        query = parse_job_query([])
        assert (query.limit, query.scope) == (20, "user")
        assert (query.before, query.status, query.model, query.search) == (None, None, None, None)
        assert query.include_models == "false"

    def test_holds_what_was_asked_for(self) -> None:
        asked = {"limit": "100", "scope": "team", "status": "FAILED", "model": "kling", "search": ID.upper()}
        query = parse_job_query(asked.items())
        assert (query.limit, query.scope, query.status, query.model, query.search) == (
            100,
            "team",
            JobStatus.FAILED,
            "kling",
            ID,
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(
                ("limit", value)
                for value in ("0", "101", "-1", "", "x", "1.0", "+5", " 5", "1_0", "\u0665", "9" * 5000)
            ),
            *(("status", value) for value in ("DONE", "completed", "", "JobStatus.FAILED")),
            *(("scope", value) for value in ("all", "", "User")),
            *(("search", value) for value in ("a wave", "", ID[:-1])),
            *(("cursor", value) for value in ("", "x", "AAAA", "é", "MTIz", "////", ID)),
            ("model", ""),
            *(("include_models", value) for value in ("", "1", "True", "yes")),
        ],
    )
    def test_is_refused_by_field(self, name: str, value: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            parse_job_query([(name, value)])
        assert set(caught.value.details) == {name}

    def test_holds_nothing_that_nobody_knows(self) -> None:
        known = [("limit", "7"), ("include_models", "true")]
        unknown = [("page", "2"), ("page", "3"), ("before", "x"), ("includeModels", "maybe")]
        assert parse_job_query(known + unknown) == parse_job_query(known)
        assert parse_job_query(known).include_models == "true"

    def test_has_each_value_once(self) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            parse_job_query([("limit", "1"), ("limit", "2"), ("status", "FAILED")])
        assert set(caught.value.details) == {"limit"}


class OneJob:
    """An account whose clock is set by hand, with one job in it."""

    def __init__(self, **fields: Any) -> None:
        self.moment = 1_773_568_800_005
        self.account = Account(
            credits=1000,
            render_seconds=100,
            jitter=0,
            retention_seconds=86400,
            rng=Random(1),
            clock=lambda: self.moment,
        )
        self.id = self.account.submit(parse(body(**fields))).id

    def job_at(self, seconds: float) -> dict[str, Any]:
        self.moment += round(seconds * 1000)
        job = self.account.job(self.id)
        assert job
        return job_json(job, now=self.account.now, base_url=BASE)


class TestJobJson:
    def test_of_a_job_that_renders(self) -> None:
        one = OneJob(hailuoParams={"duration": 6}, webhookUrl="http://hook", webhookEvents=["completed"])
        assert one.job_at(55) == {
            "id": one.id,
            "status": "PROCESSING",
            "model": "hailuo-02",
            "progress": 50,
            "result": None,
            "error": None,
            "creditCost": 5,
            "webhookStatus": "pending",
            "input": {"prompt": "a wave", "hailuoParams": {"duration": 6}},
            "expired": False,
            "createdAt": "2026-03-15T10:00:00.005Z",
            "completedAt": None,
        }

    def test_of_a_finished_job(self) -> None:
        one = OneJob()
        job = one.job_at(200)
        assert job["result"] == {"videoUrl": f"{BASE}/videos/{one.id}.mp4"}
        assert (job["status"], job["progress"], job["completedAt"]) == ("COMPLETED", 100, "2026-03-15T10:01:40.005Z")

    def test_of_an_expired_job_keeps_the_url(self) -> None:
        one = OneJob()
        job = one.job_at(100 + 86400)
        assert job["expired"] is True
        assert job["result"] == {"videoUrl": f"{BASE}/videos/{one.id}.mp4"}

    def test_of_a_failed_job(self) -> None:
        job = OneJob(prompt="[[fail: content policy]]").job_at(200)
        assert (job["status"], job["error"], job["creditCost"]) == ("FAILED", "content policy", 0)
        assert (job["result"], job["progress"]) == (None, 0)

    def test_can_be_serialised(self) -> None:
        assert json.loads(json.dumps(OneJob(prompt="한국 🌅").job_at(0)))["input"] == {"prompt": "한국 🌅"}


class TestPageJson:
    def test_leads_on_by_a_cursor_that_reads_back(self) -> None:
        one = OneJob()
        job = one.account.job(one.id)
        assert job
        page = page_json([job], has_more=True, now=one.moment, base_url=BASE)
        assert page["hasMore"] is True
        assert [j["id"] for j in page["jobs"]] == [one.id]
        assert parse_job_query([("cursor", page["nextCursor"])]).before == Cursor(job.created_at, job.id)

    def test_tells_all_of_a_job_but_what_was_asked_for(self) -> None:
        one = OneJob()
        complete = one.job_at(200)
        job = one.account.job(one.id)
        assert job
        page = page_json([job], has_more=False, now=one.moment, base_url=BASE)
        assert page["jobs"] == [{name: value for name, value in complete.items() if name != "input"}]

    def test_tells_the_models_when_they_are_given(self) -> None:
        page = page_json([], has_more=False, now=0, base_url=BASE, models=["hailuo-02"])
        assert page == {"jobs": [], "nextCursor": None, "hasMore": False, "models": ["hailuo-02"]}

    def test_ends_without_a_cursor(self) -> None:
        assert page_json([], has_more=False, now=0, base_url=BASE) == {
            "jobs": [],
            "nextCursor": None,
            "hasMore": False,
        }


class TestEventJson:
    def events(self, **fields: Any) -> list[dict[str, Any]]:
        one = OneJob(webhookUrl="http://hook", **fields)
        one.job_at(200)
        return [event_json(event, base_url=BASE) | {"jobId": "id"} for event in one.account.take_events()]

    def test_of_completion(self) -> None:
        (event,) = self.events()
        assert event.pop("result")["videoUrl"].startswith(f"{BASE}/videos/")
        assert event == {
            "event": "completed",
            "jobId": "id",
            "status": "COMPLETED",
            "progress": 100,
            "model": "hailuo-02",
            "creditCost": 5,
            "completedAt": "2026-03-15T10:01:40.005Z",
        }

    def test_of_a_failure_carries_the_error(self) -> None:
        (event,) = self.events(prompt="[[fail: no]]")
        assert event == {"event": "failed", "jobId": "id", "status": "FAILED", "error": "no", "model": "hailuo-02"}

    def test_of_progress_carries_the_progress(self) -> None:
        events = self.events(webhookEvents=["progress"])
        assert events == [
            {"event": "progress", "jobId": "id", "status": "PROCESSING", "progress": percent, "model": "hailuo-02"}
            for percent in (25, 50, 75)
        ]
