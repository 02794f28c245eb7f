from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.models import Account, Job, JobPage, Submission, Team, User, VideoRequest

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"
NOW = datetime(2026, 3, 15, 10, 0, 0, tzinfo=timezone.utc)
REQUEST = VideoRequest(prompt="a sunrise")


def answer(call, status: int, body: object, **headers: str):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call.parse(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def test_submitting():
    call = calls.generate_video(REQUEST, "key-1")

    assert (call.method, call.path) == ("POST", "/v2/videos/generate")
    assert call.json == {"prompt": "a sunrise", "model": "hailuo-02"}
    assert call.idempotency_key == "key-1"
    told = {"jobId": JOB_ID, "status": "QUEUED"}
    assert answer(call, 202, told) == Submission(job_id=JOB_ID, status="QUEUED")


def test_a_ready_body_is_sent_as_it_is():
    body = {"prompt": "a sunrise", "aFieldOfLastYear": None}

    assert calls.generate_video(body, "key-1").json == body


@pytest.mark.parametrize("key", [" a", "a ", "a\nb", "a\r\nX-API-Key: b", "ключ", "x" * 256, 7, True, b"x", ["x"]])
def test_a_key_that_is_no_header_value_is_refused(key: object):
    with pytest.raises(errors.InvalidInputError, match=r"idempotency_key: .*255 printable ASCII"):
        calls.generate_video(REQUEST, key)


@pytest.mark.parametrize("key", ["x", "airflow/a b/c", "x" * 255])
def test_a_key_of_255_printable_characters_is_accepted(key: str):
    assert calls.generate_video(REQUEST, key).idempotency_key == calls.check_idempotency_key(key) == key


@pytest.mark.parametrize("key", [None, "", " \n", "None"])
def test_what_templates_make_of_no_key_is_no_key(key: str | None):
    assert calls.check_idempotency_key(key) is None
    assert calls.generate_video(REQUEST, key).idempotency_key is None


@pytest.mark.parametrize("job_id", ["", ".", "..", f"{JOB_ID}\n", "x" * 256])
def test_what_cannot_be_a_job_id_is_refused(job_id: str):
    with pytest.raises(errors.InvalidInputError, match=r"job_id: .* must be the id of a job"):
        calls.get_job(job_id)


@pytest.mark.parametrize(
    ("job_id", "path"),
    [
        ("job_01HZX00000001", "/v2/jobs/job_01HZX00000001"),
        ("7", "/v2/jobs/7"),
        ("../me", "/v2/jobs/..%2Fme"),
        ("a?b#c d", "/v2/jobs/a%3Fb%23c%20d"),
        ("%2e%2e", "/v2/jobs/%252e%252e"),
    ],
)
def test_a_job_id_of_any_form_leads_to_the_job_and_nowhere_else(job_id: str, path: str):
    call = calls.get_job(job_id)

    assert (call.method, call.path, call.job_id) == ("GET", path, job_id)
    assert answer(call, 200, {"id": job_id, "status": "QUEUED"}).id == job_id


def test_an_answer_about_another_job_is_refused():
    other = "00000000-0000-4000-8000-000000000000"

    with pytest.raises(errors.UnreadableAnswerError, match=f"about job {other}.*job {JOB_ID}"):
        answer(calls.get_job(JOB_ID), 200, {"id": other, "status": "COMPLETED"})


def test_walking_the_list_of_jobs():
    assert calls.list_jobs().params == {"limit": 100}
    call = calls.list_jobs(limit=20, cursor="next")
    assert call.params == {"limit": 20, "cursor": "next"}
    page = answer(call, 200, {"jobs": [{"id": JOB_ID, "status": "QUEUED"}], "nextCursor": "c2", "hasMore": True})
    assert page == JobPage(jobs=[Job(id=JOB_ID, status="QUEUED")], next_cursor="c2", has_more=True)


def test_reading_the_account():
    told = {
        "user": {"id": "u", "email": "a@b.c", "role": "OWNER"},
        "team": {"id": "t", "name": "Team", "credits": 1234, "plan": "pro", "customerId": None},
        "apiKey": None,
    }

    account = Account(user=User(id="u", email="a@b.c"), team=Team(name="Team", credits=1234, plan="pro"))
    assert answer(calls.get_account(), 200, told) == account
    assert answer(calls.get_account(), 200, {"user": {"id": "u"}, "team": None}).team is None


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("first.png", "first.png"),
        ("a b/c:d.png", "a_b_c_d.png"),
        ('x"; name="y\r\nX-Evil: 1\r\n\r\n.png', "x___name__y__X-Evil__1____.png"),
        ("лодка\0.jpg", "______.jpg"),
        ("x" * 5000 + ".gif", "x" * 96 + ".gif"),
        ("", "file"),
    ],
)
def test_an_upload_has_a_harmless_name(name: str, sent: str):
    assert calls.upload(name, b"").files == {"file": (sent, b"")}


def test_uploading():
    told = {
        "id": JOB_ID,
        "url": "https://cdn.example/u.png",
        "kind": "image",
        "contentType": "image/png",
        "byteSize": 4,
        "expiresAt": "2026-03-15T10:00:00.000Z",
    }

    upload = answer(calls.upload("first.png", b"\x89PNG"), 201, told)

    assert upload.model_dump(by_alias=True) == {**told, "expiresAt": NOW}


@pytest.mark.parametrize(
    ("status", "kind", "transient"),
    [
        (400, errors.BadRequestError, False),
        (401, errors.AuthenticationError, False),
        (402, errors.InsufficientCreditsError, False),
        (403, errors.PermissionDeniedError, False),
        (404, errors.NotFoundError, False),
        (409, errors.ConflictError, False),
        (429, errors.RateLimitError, True),
        (500, errors.ServerError, True),
        (503, errors.ServerError, True),
        (302, errors.UnexpectedStatusError, False),
        (418, errors.UnexpectedStatusError, False),
    ],
)
@pytest.mark.parametrize(
    "body", [{"error": "so it is"}, b"", b"<html>Bad gateway</html>", b'{"error": "cut o', [1], 7]
)
def test_each_status_is_its_own_error_whatever_the_body(status: int, kind: type, transient: bool, body: object):
    with pytest.raises(errors.ApiframeError) as raised:
        answer(calls.get_job(JOB_ID), status, body, x_request_id="req_1")

    assert type(raised.value) is kind
    assert raised.value.transient is transient
    assert (raised.value.status, raised.value.request_id, raised.value.job_id) == (status, "req_1", JOB_ID)


@pytest.mark.parametrize(
    ("body", "from_api"),
    [
        ({"error": "so it is"}, True),
        ({"error": "so it is", "details": {}}, True),
        ({"error": {"code": 7}}, False),
        ({"message": "Forbidden"}, False),
        (["error"], False),
        (b"", False),
        (b"<html>Not found</html>", False),
        (b'{"error": "cut o', False),
    ],
)
@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 409, 418, 429, 500, 503])
def test_a_submission_is_in_doubt_unless_the_api_itself_refuses_it(status: int, body: object, from_api: bool):
    with pytest.raises(errors.ApiframeError) as raised:
        answer(calls.generate_video(REQUEST), status, body)

    assert raised.value.from_api is from_api
    certain = from_api and status in {400, 401, 402, 403, 404, 409, 429}
    assert raised.value.in_doubt is not certain


def test_an_unreadable_answer_to_a_submission_is_in_doubt_and_a_look_never_is():
    with pytest.raises(errors.UnreadableAnswerError) as raised:
        answer(calls.generate_video(REQUEST), 202, b"{")
    assert (raised.value.in_doubt, raised.value.from_api) == (True, False)
    for status in (200, 500, 404):
        with pytest.raises(errors.ApiframeError) as raised:
            answer(calls.get_job(JOB_ID), status, b"{")
        assert not raised.value.in_doubt


@pytest.mark.parametrize("call", [calls.generate_video(REQUEST), calls.get_account()], ids=["generate", "account"])
@pytest.mark.parametrize("body", [{"error": "Not found"}, b"<html>404</html>"])
def test_404_to_what_is_always_there_points_to_the_base_url(call, body: object):
    with pytest.raises(errors.NotFoundError, match=rf"there is no {call.path} at this base URL, check the base URL"):
        answer(call, 404, body)


def test_404_to_a_job_is_about_the_job():
    with pytest.raises(errors.NotFoundError) as raised:
        answer(calls.get_job(JOB_ID), 404, {"error": "Job not found"})

    assert "base URL" not in str(raised.value)


def test_400_carries_the_complaints_per_field():
    details = {"hailuoParams.duration": ["must be 6", "or 10"], "x": "odd"}
    with pytest.raises(errors.BadRequestError) as raised:
        answer(calls.generate_video(REQUEST), 400, {"error": "Invalid input", "details": details})

    assert raised.value.details == {"hailuoParams.duration": ["must be 6", "or 10"], "x": ["odd"]}
    assert "Invalid input: hailuoParams.duration: must be 6, or 10; x: odd" in str(raised.value)


def test_402_carries_the_credits_needed_and_there():
    told = {"error": "Insufficient credits", "creditsRequired": 10, "creditsAvailable": 3}
    with pytest.raises(errors.InsufficientCreditsError) as raised:
        answer(calls.generate_video(REQUEST), 402, told)

    assert (raised.value.required, raised.value.available) == (10, 3)
    assert "Insufficient credits: 10 credits needed, 3 there" in str(raised.value)


@pytest.mark.parametrize("odd", ["10", None, True, [10]])
@pytest.mark.parametrize(("name", "other"), [("creditsRequired", "available"), ("creditsAvailable", "required")])
def test_402_with_odd_numbers_is_still_402(name: str, other: str, odd: object):
    told = {"error": "no", "creditsRequired": 10, "creditsAvailable": 10, name: odd}
    with pytest.raises(errors.InsufficientCreditsError, match=r"^no \(HTTP 402\)$") as raised:
        answer(calls.generate_video(REQUEST), 402, told)

    assert getattr(raised.value, other) == 10


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "Invalid JSON|EOF"),
        (b'{"id": "b2c3', "EOF"),
        (b"<html><body>Sign in</body></html>", "<html>"),
        (b"[]", "dictionary|object"),
        (b"null", "dictionary|object"),
        (b'{"status": "QUEUED"}', "id: Field required"),
        (b'{"id": 7, "status": "QUEUED"}', "about job 7"),
        (b'{"id": null, "status": "QUEUED"}', "id: .*string"),
        (b'{"id": "..", "status": "QUEUED"}', "id: .*must be the id of a job"),
        (b'{"id": "a\\nb", "status": "QUEUED"}', "id: .*must be the id of a job"),
        (b"\xff\xfe\x00", "begins with"),
        (b"[" * 100_000, "begins with"),
    ],
)
def test_a_body_of_another_shape_is_a_clear_error(body: bytes, told: str):
    with pytest.raises(errors.UnreadableAnswerError, match=told) as raised:
        answer(calls.get_job(JOB_ID), 200, body)

    assert raised.value.transient
    assert f"job {JOB_ID}" in str(raised.value)
    assert len(str(raised.value)) < 2000


def test_what_comes_from_outside_is_escaped_and_cut():
    told = {"error": "a\n2026-01-01 INFO forged " + "x" * 5000}
    with pytest.raises(errors.ServerError) as raised:
        answer(calls.get_account(), 500, told, x_request_id="r\n" * 500)

    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_redirect_is_told_and_not_followed():
    with pytest.raises(errors.UnexpectedStatusError, match=r"redirect to 'https://elsewhere.example/'"):
        answer(calls.get_account(), 302, b"", location="https://elsewhere.example/")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("Sun, 15 Mar 2026 10:01:30 GMT", 90.0),
        ("Sun, 15 Mar 2026 09:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("1e999", None),
        ("Sun, 99 Foo 2026", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None):
    assert calls.retry_after_seconds({"retry-after": value}, NOW) == seconds


def test_a_uuid_is_the_same_in_capitals():
    submission = answer(calls.generate_video(REQUEST), 202, {"jobId": JOB_ID.upper()})
    job = answer(calls.get_job(JOB_ID.upper()), 200, {"id": JOB_ID.upper(), "status": "QUEUED"})

    assert submission.job_id == job.id == JOB_ID


@pytest.mark.parametrize("told", [{"jobId": "job_1"}, {"jobId": "job_1", "status": None}], ids=str)
def test_a_submission_without_a_status_is_one(told: dict):
    assert answer(calls.generate_video(REQUEST), 202, told) == Submission(job_id="job_1", status=None)
