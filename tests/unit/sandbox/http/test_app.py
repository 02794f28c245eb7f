from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any
from uuid import UUID

import av
import httpx
import pytest

from airflow_provider_hailuo.sandbox.http import routes

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)

Api = Any


def assert_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert UUID(answer.headers["x-request-id"])
    body: dict[str, Any] = answer.json()
    assert body.pop("error")
    return body


def assert_refused(answer: httpx.Response, *fields: str) -> None:
    details = assert_error(answer, 400)["details"]
    assert set(details) == set(fields)
    assert all(isinstance(text, str) for texts in details.values() for text in texts)


class TestKey:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/v2/videos/generate"),
            ("GET", "/v2/jobs"),
            ("GET", f"/v2/jobs/{UNKNOWN}"),
            ("GET", "/v2/jobs/nonsense"),
            ("GET", "/v2/me"),
            ("POST", "/v2/uploads"),
        ],
    )
    @pytest.mark.parametrize("key", [None, "", "afk_sandbo", "AFK_SANDBOX", "afk_sandboxx", "kün"])
    def test_is_needed(self, api: Api, method: str, path: str, key: str | None) -> None:
        headers = [] if key is None else [(b"X-API-Key", key.encode("latin-1"))]
        with httpx.Client(base_url=api.base_url, trust_env=False) as stranger:
            answer = stranger.request(method, path, headers=headers)
        assert_error(answer, 401)
        assert answer.json()["error"] == ("Invalid API key" if key else "API key is required")

    def test_is_not_needed_for_files_and_stats(self, api: Api) -> None:
        with httpx.Client(base_url=api.base_url, trust_env=False) as stranger:
            assert stranger.get("/").json()["name"] == "hailuo-sandbox"
            assert stranger.get("/sandbox/stats").status_code == 200
            assert stranger.get("/sandbox/jobs").status_code == 200
            assert stranger.post("/sandbox/release?words=nothing").json() == []
            upload = api.post("/v2/uploads", files={"file": PNG}).json()
            assert stranger.get(upload["url"]).content == PNG


class TestErrors:
    def test_of_the_router_have_the_envelope(self, api: Api) -> None:
        for path in ("/v3/jobs", "/v2/jobs/", "/v2/jobs/a/b", "/videos", "/sandbox"):
            assert_error(api.get(path), 404)
        answer = api.put("/v2/me")
        assert_error(answer, 405)
        assert "GET" in answer.headers["allow"]

    def test_of_the_sandbox_itself_have_the_envelope(
        self, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(**_: Any) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(routes, "account_json", broken)
            assert assert_error(api.get("/v2/me"), 500) == {}
        assert api.get("/v2/me").status_code == 200
        assert [record.message for record in caplog.records if record.exc_info] == ["GET /v2/me failed"]

    def test_a_client_that_leaves_in_the_middle_of_its_request_is_none(
        self, api: Api, caplog: pytest.LogCaptureFixture
    ) -> None:
        head = f"POST /v2/videos/generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {api.sandbox.api_key}\r\n"
        with socket.create_connection((api.base_url.host, api.base_url.port)) as client:
            client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            while not api.sandbox.stats()["requests"]["POST /v2/videos/generate"]:
                pass
        assert [api.get("/v2/me").status_code for _ in range(5)] == [200] * 5
        assert [record for record in caplog.records if record.exc_info] == []

    def test_of_requests_name_the_fields(self, api: Api) -> None:
        answer = api.generate("", hailuoParams={"duration": "6"}, webhook_url="http://x")
        assert_refused(answer, "prompt", "hailuoParams.duration", "webhook_url")
        assert_refused(api.post("/v2/videos/generate", content=b"{"))
        assert_refused(api.get("/v2/jobs?limit=0&status=x"), "limit", "status")
        assert_refused(api.get("/v2/jobs/nonsense"), "id")
        assert_refused(api.generate(key="k" * 256), "Idempotency-Key")

    def test_of_an_odd_field_name_can_be_told(self, api: Api) -> None:
        raw = b'{"prompt": "a", "model": "hailuo-02", "\\ud800": 1}'
        assert_error(api.post("/v2/videos/generate", content=raw), 400)

    def test_charge_nothing(self, start: Callable[..., Api]) -> None:
        api = start(credits=7)
        body = assert_error(api.generate(hailuoParams={"duration": 10}), 402)
        assert body == {"creditsRequired": 8, "creditsAvailable": 7}
        assert_error(api.generate(""), 400)
        assert api.sandbox.stats()["creditsCharged"] == 0
        assert api.get("/v2/jobs").json() == {"jobs": [], "nextCursor": None, "hasMore": False}


class TestGenerate:
    def test_answers_with_a_queued_job(self, api: Api) -> None:
        answer = api.generate(hailuoParams={"resolution": "1080p"})
        assert answer.status_code == 202
        assert answer.headers["x-request-id"] != api.generate().headers["x-request-id"]
        assert set(answer.json()) == {"jobId", "status"}
        assert answer.json()["status"] == "QUEUED"
        assert str(UUID(answer.json()["jobId"])) == answer.json()["jobId"]

    def test_with_a_known_key_answers_with_the_original_job(self, start: Callable[..., Api]) -> None:
        api = start(render_seconds=0)
        job_id = api.submit(key="key")
        api.job(job_id)
        again = api.generate(key="key")
        assert (again.status_code, again.json()) == (202, {"jobId": job_id, "status": "COMPLETED"})
        assert_error(api.generate("another", key="key"), 409)
        assert_error(api.generate("", key="key"), 400)
        stats = api.sandbox.stats()
        assert (stats["creditsCharged"], stats["jobsCreated"], stats["idempotentReplays"]) == (5, 1, 1)

    def test_knows_a_body_by_its_meaning(self, api: Api) -> None:
        def send(raw: bytes) -> httpx.Response:
            answer: httpx.Response = api.post(
                "/v2/videos/generate", content=raw, headers={"Idempotency-Key": "meaning"}
            )
            return answer

        first = send(b'{"prompt": "a", "model": "hailuo-02", "hailuoParams": {"duration": 6}}')
        again = send(b'{"hailuoParams":{"duration":6.0},"model":"hailuo-02","prompt":"\\u0061"}')
        assert again.json()["jobId"] == first.json()["jobId"]
        assert_error(send(b'{"prompt": "a", "model": "hailuo-02"}'), 409)


class TestJobs:
    def test_are_told_one_by_one(self, api: Api) -> None:
        job_id = api.submit("[[fail: no luck]]", hailuoParams={"duration": 10})
        job = api.job(job_id)
        assert (job["id"], job["status"], job["error"], job["creditCost"]) == (job_id, "FAILED", "no luck", 0)
        assert job["input"] == {"prompt": "[[fail: no luck]]", "hailuoParams": {"duration": 10}}
        assert api.get(f"/v2/jobs/{job_id.upper()}").json() == job
        assert_error(api.get(f"/v2/jobs/{UNKNOWN}"), 404)

    def test_can_be_walked_while_new_ones_arrive(self, start: Callable[..., Api]) -> None:
        api = start()
        ids = [api.submit() for _ in range(25)]
        met: list[str] = []
        cursor: dict[str, str] = {}
        sizes = []
        while True:
            page = api.get("/v2/jobs", params={"limit": "10", **cursor}).json()
            sizes.append(len(page["jobs"]))
            met += [job["id"] for job in page["jobs"]]
            assert page["hasMore"] == (page["nextCursor"] is not None)
            if not page["hasMore"]:
                break
            cursor = {"cursor": page["nextCursor"]}
            api.submit()
        assert sizes == [10, 10, 5]
        assert sorted(met) == sorted(ids)
        newest = api.get("/v2/jobs").json()["jobs"]
        places = [(job["createdAt"], job["id"]) for job in newest]
        assert places == sorted(places, reverse=True)
        assert len(newest) == 20

    def test_can_be_filtered(self, start: Callable[..., Api]) -> None:
        api = start(render_seconds=0)
        failed = api.submit("[[fail: x]]")
        other = api.submit(model="hailuo-03")

        def found(**params: str) -> list[str]:
            return [job["id"] for job in api.get("/v2/jobs", params=params).json()["jobs"]]

        assert found(status="FAILED") == [failed]
        assert found(model="hailuo-03") == [other]
        assert found(search=failed) == [failed]
        assert found(search=failed, status="COMPLETED") == []
        assert found(search=UNKNOWN) == []
        assert len(found(scope="team")) == 2
        assert len(found()) == 2

    def test_of_a_list_leave_out_what_was_asked_for(self, api: Api) -> None:
        job = api.job(api.submit())
        (listed,) = api.get(f"/v2/jobs?search={job['id']}").json()["jobs"]
        assert job.pop("input") == {"prompt": "a wave"}
        assert listed == job

    def test_may_come_with_the_models_that_there_are(self, start: Callable[..., Api]) -> None:
        api = start()
        for model in ("hailuo-2.3", "hailuo-02", "hailuo-02"):
            api.submit(model=model)
        page = api.get("/v2/jobs?limit=1&include_models=true&page=2").json()
        assert (page["models"], len(page["jobs"])) == (["hailuo-02", "hailuo-2.3"], 1)
        assert "models" not in api.get("/v2/jobs?include_models=false").json()
        assert_refused(api.get("/v2/jobs?include_models=1"), "include_models")


def test_all_jobs_are_told_whatever_goes_wrong(start: Callable[..., Api]) -> None:
    api = start(faults=[{"fault": "reset", "skip": 101}, {"fault": "vanished"}])
    ids = {api.submit() for _ in range(101)}
    jobs = api.sandbox.jobs()
    assert {job["id"] for job in jobs} == ids
    assert [job["createdAt"] for job in jobs] == sorted((job["createdAt"] for job in jobs), reverse=True)
    assert jobs[0]["input"] == {"prompt": "a wave"}
    assert api.get("/").json()["jobs"] == f"{api.sandbox.base_url}/sandbox/jobs"
    assert api.sandbox.stats()["faults"] == {}


def test_stalled_jobs_are_released_whatever_goes_wrong(start: Callable[..., Api]) -> None:
    api = start(render_seconds=0)
    wave, duck, other = (api.submit(f"{words} [[stall]]") for words in ("파도 & more+", "a duck", "another"))
    api.sandbox.set_faults([{"fault": "reset"}])
    requests = api.sandbox.stats()["requests"]
    assert api.sandbox.release("파도 & more+") == [wave]
    assert [job["status"] for job in api.sandbox.jobs() if job["id"] != wave] == ["PROCESSING"] * 2
    assert api.post("/sandbox/release?words=duck").json() == [duck]
    assert api.sandbox.release() == [other]
    stats = api.sandbox.stats()
    assert (stats["requests"], stats["faults"], stats["creditsCharged"]) == (requests, {}, 15)
    assert (stats["jobs"]["COMPLETED"], stats["jobs"]["PROCESSING"]) == (3, 0)
    api.sandbox.set_faults(())
    assert api.head(api.job(wave)["result"]["videoUrl"]).status_code == 200
    assert api.get("/").json()["release"] == f"{api.sandbox.base_url}/sandbox/release"
    assert_error(api.get("/sandbox/release"), 405)


def test_me_tells_the_balance_and_only_the_start_of_the_key(start: Callable[..., Api]) -> None:
    api = start(api_key="afk_12345678", credits=50)
    api.submit()
    me = api.get("/v2/me").json()
    assert set(me["user"]) == {"id", "email", "role"}
    team = {"id": me["team"]["id"], "name": "Sandbox", "credits": 45, "plan": "sandbox", "customerId": None}
    assert me["team"] == team
    assert me["apiKey"]["prefix"] == "afk_1234"
    assert "afk_12345678" not in str(me)


class TestVideo:
    def test_is_served_in_ranges(self, api: Api, tmp_path: Any) -> None:
        url = api.job(api.submit("a wave, rendered"))["result"]["videoUrl"]
        assert url.startswith(f"{api.sandbox.base_url}/videos/")
        with httpx.Client(trust_env=False, timeout=60) as anyone:
            whole = anyone.get(url)
            head = anyone.head(url)
            part = anyone.get(url, headers={"Range": "bytes=100-199"})
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(whole.content)
        assert (part.status_code, part.content) == (206, whole.content[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
        file = tmp_path / "video.mp4"
        file.write_bytes(whole.content)
        with av.open(file) as container:
            assert container.streams.video[0].frames == 144

    def test_is_not_there_before_the_end_after_a_failure_or_after_the_retention(
        self, start: Callable[..., Api]
    ) -> None:
        api = start(render_seconds=0, retention_seconds=0)
        for prompt, expired in (("[[stall]]", False), ("[[fail: x]]", False), ("a wave", True)):
            job = api.job(api.submit(prompt))
            assert (job["result"] is not None, job["expired"]) == (expired, expired)
            assert_error(api.get(f"/videos/{job['id']}.mp4"), 404)
        for name in (UNKNOWN, "x", "..%2f..%2fetc%2fpasswd"):
            assert_error(api.get(f"/videos/{name}.mp4"), 404)


class TestUploads:
    def test_are_answered_and_served_as_what_they_are(self, api: Api) -> None:
        answer = api.post("/v2/uploads", files={"file": ("page.html", PNG, "text/html")})
        upload = answer.json()
        assert answer.status_code == 201
        assert set(upload) == {"id", "url", "kind", "contentType", "byteSize", "expiresAt"}
        assert (upload["kind"], upload["contentType"], upload["byteSize"]) == ("image", "image/png", len(PNG))
        assert upload["expiresAt"].endswith("Z")
        served = api.get(upload["url"])
        assert served.content == PNG
        assert served.headers["content-type"] == "image/png"
        assert served.headers["x-content-type-options"] == "nosniff"
        assert_error(api.get(f"/uploads/{UNKNOWN}"), 404)

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            ({"json": {}}, "file"),
            ({"data": {"file": "text"}}, "file"),
            ({"files": [("file", PNG), ("file", PNG)]}, "file"),
            ({"files": {"file": PNG, "image": PNG}}, "image"),
            ({"files": {"file": ("a.png", b"text", "image/png")}}, "file"),
        ],
    )
    def test_of_another_shape_or_type_are_refused(self, api: Api, request_: dict[str, Any], field: str) -> None:
        assert_refused(api.post("/v2/uploads", **request_), field)

    def test_may_come_with_other_text(self, api: Api) -> None:
        answer = api.post("/v2/uploads", files={"file": PNG}, data={"name": "x", "kind": "video"})
        assert (answer.status_code, answer.json()["kind"]) == (201, "image")


def test_stats_count_requests_by_route(start: Callable[..., Api]) -> None:
    api = start(render_seconds=0, credits=100)
    assert set(api.sandbox.stats()["requests"].values()) == {0}
    for prompt in ("a", "[[stall]]", "[[fail: x]]"):
        api.job(api.submit(prompt))
    api.generate("")
    api.get("/v2/jobs?limit=0")
    api.get("/v2/me", headers={"X-API-Key": "wrong"})
    api.get("/nowhere")
    api.get("/")
    stats = api.sandbox.stats()
    assert stats == {
        "requests": {
            "POST /v2/videos/generate": 4,
            "GET /v2/jobs/{id}": 3,
            "GET /v2/jobs": 1,
            "GET /v2/me": 1,
            "POST /v2/uploads": 0,
            "GET /videos/{id}.mp4": 0,
            "GET /uploads/{id}": 0,
        },
        "faults": {},
        "jobs": {"QUEUED": 0, "PROCESSING": 1, "COMPLETED": 1, "FAILED": 1, "CANCELLED": 0},
        "jobsCreated": 3,
        "idempotentReplays": 0,
        "credits": 90,
        "creditsCharged": 10,
    }
    assert api.get("/sandbox/stats").json() == stats


def test_urls_do_not_follow_the_host_header(api: Api) -> None:
    headers = {"Host": "evil.example.com"}
    upload = api.post("/v2/uploads", files={"file": PNG}, headers=headers).json()
    job = api.get(f"/v2/jobs/{api.submit()}", headers=headers).json()
    assert upload["url"].startswith(api.sandbox.base_url)
    assert job["result"]["videoUrl"].startswith(api.sandbox.base_url)
