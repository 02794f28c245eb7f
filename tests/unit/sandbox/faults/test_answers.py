"""What clients get to see, from a sandbox that runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from starlette.responses import JSONResponse

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.faults.answers import UNKNOWN_STATUS, altered_answer, applies
from airflow_provider_hailuo.sandbox.faults.rules import LateUrlRule

Api = Any
SetFaults = Callable[..., None]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(92)


def jobs_created(api: Api) -> int:
    return int(api.sandbox.stats()["jobsCreated"])


def without_input(job: dict[str, Any]) -> dict[str, Any]:
    assert job.pop("input")["prompt"]
    return job


class TestError:
    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (302, {"error": "Found"}),
            (401, {"error": "Invalid API key"}),
            (402, {"error": "Insufficient credits", "creditsRequired": 5, "creditsAvailable": 0}),
            (403, {"error": "API key is inactive"}),
            (503, {"error": "Service Unavailable"}),
            (520, {"error": "Unknown"}),
        ],
    )
    def test_has_the_envelope_of_the_api(
        self, api: Api, set_faults: SetFaults, status: int, body: dict[str, Any]
    ) -> None:
        set_faults({"fault": "error", "status": status})
        answer = api.generate()
        assert (answer.status_code, answer.json()) == (status, body)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        assert "retry-after" not in answer.headers

    def test_can_be_a_page_of_a_proxy(self, api: Api, set_faults: SetFaults) -> None:
        set_faults({"fault": "error", "status": 502, "html": True, "retryAfter": 1})
        answer = api.get("/v2/me")
        assert (answer.status_code, answer.headers["retry-after"]) == (502, "1")
        assert answer.headers["content-type"].startswith("text/html")
        assert "<h1>502 Bad Gateway</h1>" in answer.text

    @pytest.mark.parametrize("html", [False, True])
    def test_of_any_status_is_an_answer_like_any_other(
        self, api: Api, set_faults: SetFaults, caplog: pytest.LogCaptureFixture, html: bool
    ) -> None:
        for status in range(300, 600):
            set_faults({"fault": "error", "status": status, "html": html})
            answer = api.get("/v2/me")
            # HTTP has no 304 with a body.
            assert (answer.status_code, answer.content == b"") == (status, status == 304)
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []

    @pytest.mark.parametrize("seconds", [0, 7, 10**9])
    def test_can_tell_when_to_come_back(self, api: Api, set_faults: SetFaults, seconds: int) -> None:
        set_faults({"fault": "error", "status": 429, "retryAfter": seconds})
        assert api.get("/v2/me").headers["retry-after"] == str(seconds)
        set_faults({"fault": "error", "status": 429, "retryAfter": seconds, "httpDate": True})
        date = api.get("/v2/me").headers["retry-after"]
        assert date.endswith(" GMT")
        late = datetime.now(timezone.utc) + timedelta(seconds=seconds) - parsedate_to_datetime(date)
        assert timedelta(0) <= late < timedelta(seconds=10)


class TestInProgress:
    def test_lasts_until_the_original_is_told(self, start: Callable[..., Api]) -> None:
        api = start(faults=[{"fault": "in-progress", "times": 2}])
        answers = [api.generate(key="key") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [409, 409, 202]
        assert "in progress" in answers[0].json()["error"]
        (job,) = api.sandbox.jobs()
        assert answers[2].json()["jobId"] == job["id"]
        assert api.sandbox.stats()["creditsCharged"] == 5

    def test_is_told_of_accepted_submissions_with_a_key_only(self, start: Callable[..., Api]) -> None:
        api = start(credits=10, faults=[{"fault": "in-progress"}])
        headers = {"Idempotency-Key": ""}
        body = {"prompt": "a wave", "model": "hailuo-02"}
        assert api.post("/v2/videos/generate", json=body, headers=headers).status_code == 202
        assert api.generate().status_code == 202
        assert api.sandbox.stats()["faults"] == {}
        assert api.generate(key="key").json()["creditsRequired"] == 5
        assert "details" in api.generate("", key="key").json()
        assert api.get("/v2/me").status_code == 200


class TestBody:
    @pytest.mark.parametrize(
        ("fault", "head", "start"),
        [
            ("truncated", (202, "application/json", "33"), '{"jobId":"'),
            ("empty", (202, "application/json", "0"), ""),
            ("not-json", (200, "text/html; charset=utf-8", "97"), "<html>"),
        ],
    )
    def test_is_spoiled_once_the_request_was_carried_out(
        self, api: Api, set_faults: SetFaults, fault: str, head: tuple[Any, ...], start: str
    ) -> None:
        set_faults({"fault": fault})
        before = jobs_created(api)
        answer = api.generate()
        headers = answer.headers
        assert (answer.status_code, headers["content-type"], headers["content-length"]) == head
        assert answer.text.startswith(start)
        assert jobs_created(api) == before + 1

    def test_of_errors_is_altered_too(self, api: Api, set_faults: SetFaults) -> None:
        set_faults({"fault": "truncated"})
        answer = api.get("/v2/me", headers={"X-API-Key": "wrong"})
        assert (answer.status_code, answer.text[:9]) == (401, '{"error":')

    def test_of_files_is_altered_when_they_are_named(self, api: Api, set_faults: SetFaults) -> None:
        url = api.post("/v2/uploads", files={"file": PNG}).json()["url"]
        set_faults({"fault": "truncated"})
        assert api.get(url).content == PNG
        set_faults({"fault": "truncated", "route": "GET /uploads/{id}"})
        answer = api.get(url)
        assert (answer.content, answer.headers["content-type"]) == (PNG[:50], "image/png")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_wrong_types(api: Api, set_faults: SetFaults) -> None:
    job_id = api.submit()
    set_faults({"fault": "wrong-types"})
    answer = api.generate()
    assert (answer.status_code, answer.json()) == (202, {"jobId": 7, "status": 7})
    job = api.job(job_id)
    assert (job["id"], job["status"], job["progress"], job["result"], job["expired"]) == (7, 7, "7", "7", "7")
    assert api.get("/v2/jobs?limit=1").json() == {"jobs": "7", "nextCursor": 7, "hasMore": "7"}
    assert api.get("/v2/me").json() == {"user": "7", "team": "7", "apiKey": "7"}
    assert api.post("/v2/uploads", files={"file": PNG}).json()["url"] == 7


class TestJob:
    """One job is COMPLETED, another one is not: `told` returns what the API tells of them, singly and on pages.

    That is without what was asked for, which pages never tell.
    """

    @pytest.fixture
    def told(self, api: Api, set_faults: SetFaults, eventually: Any) -> Callable[[str], Any]:
        ids = api.submit(), api.submit("[[stall]]")
        # The one that renders no longer changes.
        eventually(lambda: api.job(ids[1])["progress"] == 99)
        honest = [without_input(api.job(job_id)) for job_id in ids]

        def told(fault: str, **more: Any) -> Any:
            set_faults({"fault": fault, **more})
            answers = [api.get(f"/v2/jobs/{job_id}") for job_id in ids]
            pages = [api.get(f"/v2/jobs?search={job_id}").json()["jobs"] for job_id in ids]
            (report,) = api.get("/sandbox/faults").json()
            return honest, answers, pages, report["struck"]

        return told

    def test_has_vanished(self, told: Any) -> None:
        _, answers, pages, struck = told("vanished")
        assert [(answer.status_code, answer.json()) for answer in answers] == [(404, {"error": "Job not found"})] * 2
        assert pages == [[], []]
        assert struck == 4

    @pytest.mark.parametrize(
        ("rule", "completed", "rendering", "strikes"),
        [
            ({"fault": "unknown-status"}, {"status": UNKNOWN_STATUS}, {"status": UNKNOWN_STATUS}, 4),
            ({"fault": "no-url"}, {"result": None}, {}, 2),
            ({"fault": "expired"}, {"expired": True}, {}, 2),
            ({"fault": "late-url", "delay": 600}, {"result": None}, {}, 2),
        ],
        ids=["unknown-status", "no-url", "expired", "late-url"],
    )
    def test_is_told_otherwise(
        self, told: Any, rule: dict[str, Any], completed: dict[str, Any], rendering: dict[str, Any], strikes: int
    ) -> None:
        honest, answers, pages, struck = told(**rule)
        odd = [{**honest[0], **completed}, {**honest[1], **rendering}]
        assert [without_input(answer.json()) for answer in answers] == odd
        assert pages == [[job] for job in odd]
        assert struck == strikes

    def test_that_is_unknown_has_no_status_of_the_api(self) -> None:
        assert UNKNOWN_STATUS not in set(JobStatus)

    @pytest.mark.parametrize(("seconds", "late"), [(-1, True), (0, True), (4.999, True), (5, False), (5000, False)])
    def test_has_its_url_some_seconds_after_its_completion(self, seconds: float, late: bool) -> None:
        rule = LateUrlRule(fault="late-url")
        job = {"status": "COMPLETED", "completedAt": "2026-03-15T10:03:02.500Z", "result": {"videoUrl": "http://x"}}
        now = datetime(2026, 3, 15, 10, 3, 2, 500_000, timezone.utc) + timedelta(seconds=seconds)
        for answer in (JSONResponse(job), JSONResponse({"jobs": [job]})):
            assert applies(rule, answer, keyed=False, now=now) is late
            told = json.loads(bytes(altered_answer(rule, answer, now).body))
            (told,) = told.get("jobs", [told])
            assert told == {**job, "result": None if late else job["result"]}

    def test_comes_without_result_in_a_list(self, told: Any) -> None:
        honest, answers, pages, struck = told("summary-list")
        assert [without_input(answer.json()) for answer in answers] == honest
        assert pages == [[{name: value for name, value in job.items() if name != "result"}] for job in honest]
        assert struck == 2

    @pytest.mark.parametrize("shape", ["video_url", "url", "output"])
    def test_is_told_in_other_words(self, told: Any, shape: str) -> None:
        (completed, rendering), answers, pages, struck = told("other-case", shape=shape)
        url = f" {completed['result']['videoUrl']}\n"
        result = {shape: [url] if shape == "output" else url}
        odd = [{**completed, "status": "completed", "result": result}, {**rendering, "status": "Processing"}]
        assert [without_input(answer.json()) for answer in answers] == odd
        assert pages == [[job] for job in odd]
        assert struck == 4

    def test_that_cannot_be_changed_is_not_struck(self, start: Callable[..., Api]) -> None:
        faults = ("vanished", "unknown-status", "no-url", "expired", "late-url", "summary-list", "other-case")
        rules = [{"fault": fault} for fault in faults]
        api = start(render_seconds=0, retention_seconds=0, faults=rules)
        assert api.get("/v2/jobs").json()["jobs"] == []
        assert api.get("/v2/jobs/nonsense").status_code == 400
        assert api.get("/v2/jobs", headers={"X-API-Key": "wrong"}).status_code == 401
        assert api.get("/v2/me").status_code == 200
        job_id = api.submit()
        api.sandbox.set_faults([{"fault": "expired"}])
        assert api.job(job_id)["expired"]
        assert api.sandbox.stats()["faults"] == {}

    def test_of_an_altered_page_leaves_the_cursor_alone(self, start: Callable[..., Api]) -> None:
        api = start(faults=[{"fault": "vanished", "times": 1}])
        ids = [api.submit() for _ in range(3)]
        page = api.get("/v2/jobs?limit=2").json()
        assert (page["jobs"], page["hasMore"]) == ([], True)
        rest = api.get("/v2/jobs", params={"limit": "2", "cursor": page["nextCursor"]}).json()["jobs"]
        assert len({job["id"] for job in rest} & set(ids)) == 1
