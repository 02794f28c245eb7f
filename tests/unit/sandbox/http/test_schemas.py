from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from airflow_provider_hailuo.sandbox.http.schemas import (
    InvalidRequestError,
    job_json,
    parse_generate_request,
    parse_idempotency_key,
    parse_job_id,
    parse_job_query,
)
from airflow_provider_hailuo.sandbox.state.account import Account
from airflow_provider_hailuo.sandbox.state.jobs import EventKind, GenerateRequest

ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
BASE = "http://sandbox"


def body(**changes: Any) -> dict[str, Any]:
    return {"prompt": "a wave", "model": "hailuo-02", **changes}


def hailuo(**params: Any) -> dict[str, Any]:
    return body(hailuoParams=params)


def parse(value: Any) -> GenerateRequest:
    return parse_generate_request(json.dumps(value).encode())


def refused_fields(parse: Callable[[Any], Any], value: Any) -> set[str]:
    with pytest.raises(InvalidRequestError) as caught:
        parse(value)
    return set(caught.value.details)


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
            hailuo(),
            hailuo(duration=10, resolution="768p"),
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
            (body(prompt=""), {"prompt"}),
            (body(prompt="x" * 2001), {"prompt"}),
            (body(prompt="🌅" * 1000 + "x"), {"prompt"}),
            (body(prompt=None), {"prompt"}),
            (body(prompt="\ud800"), {"prompt"}),
            (body(model="hailuo-01"), {"model"}),
            (body(model="HAILUO-02"), {"model"}),
            (body(webhook_url="https://example.com"), {"webhook_url"}),
            (body(duration=6), {"duration"}),
            (body(params={}), {"params"}),
            (body(hailuoParams=None), {"hailuoParams"}),
            (body(hailuoParams=[]), {"hailuoParams"}),
            (hailuo(endImage="https://example.com/a.png"), {"hailuoParams.endImage"}),
            (hailuo(duration="6"), {"hailuoParams.duration"}),
            (hailuo(duration=7), {"hailuoParams.duration"}),
            (hailuo(duration=6.5), {"hailuoParams.duration"}),
            (hailuo(duration=True), {"hailuoParams.duration"}),
            (hailuo(duration=10**400), {"hailuoParams.duration"}),
            (hailuo(duration=10, resolution="1080p"), {"hailuoParams.duration"}),
            (hailuo(resolution="720p"), {"hailuoParams.resolution"}),
            (hailuo(resolution="1080P"), {"hailuoParams.resolution"}),
            (hailuo(prompt_optimizer="true"), {"hailuoParams.prompt_optimizer"}),
            (hailuo(image="example.com/a.png"), {"hailuoParams.image"}),
            (hailuo(image="file:///etc/passwd"), {"hailuoParams.image"}),
            (hailuo(image="data:image/png;base64,AAAA"), {"hailuoParams.image"}),
            (hailuo(image=""), {"hailuoParams.image"}),
            (hailuo(image=None), {"hailuoParams.image"}),
            (body(webhookUrl="ftp://example.com"), {"webhookUrl"}),
            (body(webhookUrl="http://x:99999"), {"webhookUrl"}),
            (body(webhookUrl=None), {"webhookUrl"}),
            (body(webhookEvents=[]), {"webhookEvents"}),
            (body(webhookEvents=["completed", "cancelled"]), {"webhookEvents.1"}),
            (
                {"prompt": "", "hailuoParams": {"duration": "6", "foo": 1}, "bar": 2},
                {"prompt", "model", "hailuoParams.duration", "hailuoParams.foo", "bar"},
            ),
        ],
    )
    def test_is_refused_by_field(self, value: dict[str, Any], paths: set[str]) -> None:
        assert refused_fields(parse, value) == paths

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
        both = body(hailuoParams={"image": url}, webhookUrl=url)
        assert refused_fields(parse, both) == {"hailuoParams.image", "webhookUrl"}

    @pytest.mark.parametrize("model", ["hailuo-2.3", "hailuo-2.3-fast", "hailuo-03"])
    def test_takes_an_end_image_for_hailuo_02_only(self, model: str) -> None:
        params = {"end_image": "https://example.com/a.png"}
        assert parse(body(hailuoParams=params)).body["hailuoParams"] == params
        assert refused_fields(parse, body(model=model, hailuoParams=params)) == {"hailuoParams.end_image"}

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"\xff\xfe{}",
            b'{"prompt": NaN}',
            b"[" * 100_000,
            b"[]",
            b"null",
            b"1" * 5000,  # Python refuses to read it
        ],
    )
    def test_is_a_json_object(self, raw: bytes) -> None:
        assert refused_fields(parse_generate_request, raw) == set()


@pytest.mark.parametrize("key", [None, "k", "k" * 255])
def test_idempotency_key_is_accepted(key: str | None) -> None:
    assert parse_idempotency_key(key) == key


class TestJobId:
    @pytest.mark.parametrize("text", [ID, ID.upper()])
    def test_is_a_uuid(self, text: str) -> None:
        assert parse_job_id(text) == ID

    @pytest.mark.parametrize(
        "text", ["", "x", ID[:-1], ID + "0", f"{{{ID}}}", ID.replace("-", ""), ID + "\n", "İ" + ID[1:]]
    )
    def test_is_refused_otherwise(self, text: str) -> None:
        assert refused_fields(parse_job_id, text) == {"id"}


class TestJobQuery:
    def test_has_the_defaults_of_the_api(self) -> None:
        nothing = dict.fromkeys(("before", "status", "model", "search"))
        assert dict(parse_job_query([])) == {**nothing, "limit": 20, "scope": "user", "include_models": "false"}

    def test_holds_what_was_asked_for(self) -> None:
        asked = {"limit": "100", "scope": "team", "status": "FAILED", "model": "kling", "search": ID.upper()}
        told = dict(parse_job_query(asked.items()))
        assert told == {**asked, "limit": 100, "search": ID, "before": None, "include_models": "false"}

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
        assert refused_fields(parse_job_query, [(name, value)]) == {name}

    def test_holds_nothing_that_nobody_knows(self) -> None:
        known = [("limit", "7"), ("include_models", "true")]
        unknown = [("page", "2"), ("page", "3"), ("before", "x"), ("includeModels", "maybe")]
        assert parse_job_query(known + unknown) == parse_job_query(known)
        assert parse_job_query(known).include_models == "true"

    def test_has_each_value_once(self) -> None:
        pairs = [("limit", "1"), ("limit", "2"), ("status", "FAILED")]
        assert refused_fields(parse_job_query, pairs) == {"limit"}


def told(seconds: int, **fields: Any) -> dict[str, Any]:
    """Return what is told of a job that was submitted so many seconds ago."""
    moment = 1_773_568_800_005
    account = Account(
        credits=5, render_seconds=100, jitter=0, retention_seconds=86400, rng=Random(1), clock=lambda: moment
    )
    job_id = account.submit(parse(body(**fields))).id
    moment += seconds * 1000
    job = account.job(job_id)
    assert job
    return job_json(job, now=account.now, base_url=BASE)


class TestJobJson:
    def test_of_a_job_that_renders(self) -> None:
        job = told(55, hailuoParams={"duration": 6}, webhookUrl="http://hook", webhookEvents=["completed"])
        assert job == {
            "id": job["id"],
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

    def test_of_a_finished_job_keeps_the_url_once_it_has_expired(self) -> None:
        job = told(100 + 86400)
        assert (job["status"], job["progress"], job["completedAt"]) == ("COMPLETED", 100, "2026-03-15T10:01:40.005Z")
        assert job["result"] == {"videoUrl": f"{BASE}/videos/{job['id']}.mp4"}
        assert job["expired"] is True
