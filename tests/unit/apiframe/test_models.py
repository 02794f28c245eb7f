from __future__ import annotations

from datetime import datetime, timezone

import pytest
from pydantic import ValidationError

from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.apiframe.models import Job, Submission, VideoRequest

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"


def test_every_field_has_its_name_on_the_wire():
    request = VideoRequest(
        prompt="a sunrise",
        image="https://example.com/first.jpg",
        end_image="https://example.com/last.jpg",
        resolution="768p",
        duration=10,
        prompt_optimizer=False,
        webhook_url="https://example.com/hook",
        webhook_events=["completed", "failed"],
    )

    assert request.to_wire() == {
        "prompt": "a sunrise",
        "model": "hailuo-02",
        "hailuoParams": {
            "image": "https://example.com/first.jpg",
            "end_image": "https://example.com/last.jpg",
            "resolution": "768p",
            "duration": 10,
            "prompt_optimizer": False,
        },
        "webhookUrl": "https://example.com/hook",
        "webhookEvents": ["completed", "failed"],
    }


def test_rendered_templates_are_read_as_what_they_say():
    request = VideoRequest(prompt="x", duration="10", prompt_optimizer="False")

    assert request.to_wire()["hailuoParams"] == {"duration": 10, "prompt_optimizer": False}


@pytest.mark.parametrize("model", ["hailuo-02", "hailuo-2.3", "hailuo-2.3-fast", "hailuo-03"])
def test_the_four_models_are_accepted(model: str):
    assert VideoRequest(prompt="x", model=model).to_wire()["model"] == model


@pytest.mark.parametrize("prompt", ["가" * 2000, "🎬" * 1000, 2026, 1.5, -1])
def test_the_longest_prompt_is_accepted_and_so_is_a_native_number(prompt: str | float):
    assert VideoRequest(prompt=prompt).to_wire()["prompt"] == str(prompt)


@pytest.mark.parametrize("nothing", ["", " \n", "None", " None\n", None])
def test_an_optional_field_that_renders_to_nothing_is_left_out(nothing: str | None):
    optional = {name: nothing for name in VideoRequest.model_fields if name != "prompt"}

    assert VideoRequest(prompt="x", **optional).to_wire() == {"prompt": "x", "model": "hailuo-02"}


@pytest.mark.parametrize(
    "events",
    [
        {"completed", "failed", "progress"},
        frozenset({"failed", "progress", "completed"}),
        ("failed", "completed", "progress", "failed"),
        ["failed", "progress", "completed"],
    ],
)
def test_the_events_have_one_order_whatever_they_come_in(events: object):
    assert VideoRequest(prompt="x", webhook_events=events).webhook_events == ["progress", "completed", "failed"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": ""}, ["prompt", "''", "can be seen"]),
        ({"prompt": " \n"}, ["prompt", "can be seen"]),
        ({"prompt": "\u200b\u2060\ufeff\u00ad\u3000\ufe0f\u3164\u2800"}, ["prompt", "can be seen"]),
        ({"prompt": "x" * 2001}, ["prompt", "2001", "2000"]),
        ({"prompt": "🎬" * 1000 + "x"}, ["prompt", "has 2001", "2000", "an emoji counts as two"]),
        ({"prompt": None}, ["prompt", "None", "must be text"]),
        ({"prompt": " None "}, ["prompt", "a template that renders to None"]),
        ({"prompt": True}, ["prompt", "True", "string"]),
        ({"prompt": ["x"]}, ["prompt", "string"]),
        ({"prompt": "a sun\0rise"}, ["prompt", "U+0000 at position 5"]),
        ({"prompt": "🎬\ud800"}, ["prompt", "U+D800 at position 1"]),
        ({"model": "hailuo-01"}, ["model", "'hailuo-01'", "'hailuo-02'"]),
        ({"resolution": "4k"}, ["resolution", "'4k'", "'768p' or '1080p'"]),
        ({"duration": 7}, ["duration", "7", "6 or 10"]),
        ({"duration": "six"}, ["duration", "'six'", "integer"]),
        ({"duration": True}, ["duration", "True", "6 or 10"]),
        ({"duration": 10, "resolution": "1080p"}, ["duration", "10", "1080p renders 6 seconds only"]),
        ({"prompt_optimizer": "perhaps"}, ["prompt_optimizer", "'perhaps'", "boolean"]),
        ({"end_image": "https://a.b/c.png", "model": "hailuo-03"}, ["end_image", "only hailuo-02"]),
        ({"webhook_events": []}, ["webhook_events", "at least 1"]),
        ({"webhook_events": "completed"}, ["webhook_events", "'completed'", "list"]),
        ({"webhook_events": ["completed", ""]}, ["webhook_events.1", "''"]),
        ({"seed": ""}, ["seed", "not permitted"]),
        ({"webhook_events": ["done"]}, ["webhook_events.0", "'done'", "'progress', 'completed' or 'failed'"]),
        ({"seed": 1}, ["seed", "not permitted"]),
    ],
)
def test_bad_input_is_refused_with_field_value_and_remedy(fields: dict, told: list[str]):
    with pytest.raises(InvalidInputError) as refused:
        VideoRequest(**{"prompt": "x", **fields})

    for part in told:
        assert part in str(refused.value)


@pytest.mark.parametrize("field", ["image", "end_image", "webhook_url"])
@pytest.mark.parametrize(
    "url",
    [
        "first.jpg",
        "/tmp/first.jpg",
        "ftp://a.b/c.png",
        "https://",
        "https://a.b/c\r\nX-Evil: 1",
        "https://[a.b/c",
        "https://[a.b]/c",
        "https://[v1.a]/c",
        "https://a.b:99999/c",
        "javascript:alert(1)",
        "\u200bhttps://a.b/c.png",
        "https://a.b\0/c.png",
    ],
)
def test_only_http_urls_are_accepted(field: str, url: str):
    with pytest.raises(InvalidInputError, match=rf"{field}: .*(https?://|URL|address)"):
        VideoRequest(prompt="x", **{field: url})


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://a.b/서울.png", "'서' at position 12 .*percent-encode it, as %EC%84%9C"),
        ("https://bücher.example/c.png", "'ü' at position 9 .*percent-encode it"),
        ("https://a.b/c d.png", "' ' at position 13 .*as %20"),
        (" https://a.b/c.png", "' ' at position 0 .*as %20"),
        ("https://a.b/100%.png", "'%' at position 15 .*as %25"),
        ("https://a.b/%zz.png", "'%' at position 12 .*as %25"),
        ("https://a.b/c?d=\n", r"'\\n' at position 16 .*as %0A"),
        *((f"https://a.b/c{odd}d", "position 13 .*percent-encode it") for odd in '\\|{}^"<>`'),
        ("https://a.b/c[1].png", "percent-encode them, as %5B"),
        ("https://a.b/c?d[]=1", "percent-encode them, as %5B"),
        ("https://a.b/c#d#e", "percent-encode them, as .*%23"),
    ],
)
def test_a_url_that_is_not_percent_encoded_says_what_to_do(url: str, told: str):
    with pytest.raises(InvalidInputError, match=f"image: .*{told}"):
        VideoRequest(prompt="x", image=url)


@pytest.mark.parametrize(
    "url",
    [
        "https://a.b",
        "HTTPS://A.B/c.png",
        "http://[::1]:8080/c.png?d=e&f=%5B1%5D#g",
        "https://user@a.b:443/a;b=c/~d/(e)!$&'*+,=@:?/?#/?",
        "https://xn--bcher-kva.example/%EC%84%9C.png",
        "https://a_b.example/c.png",
    ],
)
def test_a_url_of_rfc_3986_is_accepted_as_it_is(url: str):
    assert VideoRequest(prompt="x", webhook_url=url).webhook_url == url


def test_all_problems_are_told_at_once_and_a_long_value_is_cut():
    with pytest.raises(InvalidInputError) as refused:
        VideoRequest(prompt="x" * 5000, resolution="4k")

    assert "prompt" in str(refused.value)
    assert "resolution" in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("result", "url"),
    [
        ({"videoUrl": "https://cdn.example/v.mp4"}, "https://cdn.example/v.mp4"),
        ("https://cdn.example/v.mp4", "https://cdn.example/v.mp4"),
        ({"videos": ["https://cdn.example/v.mp4"]}, "https://cdn.example/v.mp4"),
        ({"videos": [{"url": "https://cdn.example/v.mp4"}]}, "https://cdn.example/v.mp4"),
        ({"videos": []}, None),
        ({"videos": "https://cdn.example/v.mp4"}, "https://cdn.example/v.mp4"),
        ({"video_url": "https://cdn.example/v.mp4"}, "https://cdn.example/v.mp4"),
        ({"url": "https://cdn.example/v.mp4"}, "https://cdn.example/v.mp4"),
        ({"output": ["https://cdn.example/v.mp4"]}, "https://cdn.example/v.mp4"),
        ({"output": {"videos": [{"video_url": "https://cdn.example/v.mp4"}]}}, "https://cdn.example/v.mp4"),
        ({"video": {"url": "https://cdn.example/v.mp4"}}, "https://cdn.example/v.mp4"),
        ({"videoUrl": None, "videos": [None, {}, {"url": "https://cdn.example/v.mp4"}]}, "https://cdn.example/v.mp4"),
        ([["https://cdn.example/1.mp4", "https://cdn.example/2.mp4"]], "https://cdn.example/1.mp4"),
        ({"videoUrl": " https://cdn.example/v.mp4 \n"}, "https://cdn.example/v.mp4"),
        ({"videoUrl": "https://cdn.example/my video.mp4"}, "https://cdn.example/my%20video.mp4"),
        ({"videoUrl": "https://cdn.example/a\n\u00a0b.mp4"}, "https://cdn.example/a%0A%C2%A0b.mp4"),
        ({"videoUrl": "https://cdn.example/서울|{1}[2].mp4"}, "https://cdn.example/서울|{1}[2].mp4"),
        ({"videoUrl": "/v.mp4"}, None),
        ([[[[["https://cdn.example/too-deep.mp4"]]]]], None),
        ({"thumbnail": "https://cdn.example/v.png"}, None),
        ({"videoUrl": ""}, None),
        ({"videoUrl": 7}, None),
        ({"videoUrl": "javascript:alert(1)"}, None),
        (["https://cdn.example/v.mp4"], "https://cdn.example/v.mp4"),
        ({}, None),
        (None, None),
    ],
)
def test_the_url_is_found_in_each_shape_that_was_met(result: object, url: str | None):
    assert Job.model_validate({"id": JOB_ID, "status": "COMPLETED", "result": result}).video_url == url


def test_a_job_is_read_in_full():
    job = Job.model_validate(
        {
            "id": JOB_ID,
            "status": "COMPLETED",
            "model": "hailuo-02",
            "progress": 100,
            "result": None,
            "error": None,
            "creditCost": 5,
            "webhookStatus": "sent",
            "input": {"prompt": "x"},
            "expired": False,
            "createdAt": "2026-03-15T10:00:00.000Z",
            "completedAt": "2026-03-15T10:03:02.500Z",
            "aFieldOfNextYear": 1,
        }
    )

    assert (job.model, job.progress, job.credit_cost) == ("hailuo-02", 100, 5)
    assert job.created_at == datetime(2026, 3, 15, 10, tzinfo=timezone.utc)
    assert job.seconds == 182.5


def test_a_paid_video_is_not_lost_to_an_odd_field_that_only_informs():
    job = Job.model_validate(
        {
            "id": JOB_ID,
            "status": "COMPLETED",
            "result": {"videoUrl": "https://cdn.example/v.mp4"},
            "progress": "done",
            "creditCost": "five",
            "createdAt": "yesterday",
            "completedAt": 7,
            "input": [],
            "expired": "perhaps",
            "error": {"code": 1},
        }
    )

    assert job.video_url == "https://cdn.example/v.mp4"
    assert (job.progress, job.credit_cost, job.created_at, job.seconds, job.expired) == (None, None, None, None, None)


@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("QUEUED", False),
        ("PROCESSING", False),
        ("COMPLETED", True),
        ("FAILED", True),
        ("CANCELLED", True),
        ("PAUSED", False),
    ],
)
def test_three_statuses_are_final(status: str, final: bool):
    assert Job.model_validate({"id": JOB_ID, "status": status}).is_final is final


@pytest.mark.parametrize(
    ("told", "status"), [("completed", "COMPLETED"), (" Queued ", "QUEUED"), ("Paused", "Paused"), ("", "")]
)
def test_a_status_is_known_in_any_case_and_an_unknown_one_stays_as_it_is(told: str, status: str):
    assert Job.model_validate({"id": JOB_ID, "status": told}).status == status
    assert Submission.model_validate({"jobId": JOB_ID, "status": told}).status == status


@pytest.mark.parametrize(
    ("told", "known"),
    [("job_01HZX00000001", "job_01HZX00000001"), (7, "7"), ("a/b?c#d%2F", "a/b?c#d%2F"), ("x" * 255, "x" * 255)],
)
def test_a_job_id_of_any_form_is_accepted(told: object, known: str):
    assert Job.model_validate({"id": told, "status": "QUEUED"}).id == known
    assert Submission.model_validate({"jobId": told, "status": "QUEUED"}).job_id == known


@pytest.mark.parametrize("told", ["", ".", "..", "a\nb", "a\u2028", "x" * 256, None, True, ["x"]])
def test_what_cannot_be_a_job_id_is_refused(told: object):
    with pytest.raises(ValidationError):
        Job.model_validate({"id": told, "status": "QUEUED"})
    with pytest.raises(ValidationError):
        Submission.model_validate({"jobId": told, "status": "QUEUED"})


@pytest.mark.parametrize("status", [None, {}, 1])
def test_a_status_that_is_no_text_is_refused(status: object):
    with pytest.raises(ValidationError):
        Job.model_validate({"id": JOB_ID, "status": status})
