from __future__ import annotations

from datetime import datetime, timezone

import pytest

from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.apiframe.models import Job, VideoRequest

JOB_ID = "b2c3d4e5-f6a7-8901-bcde-f23456789012"


def test_only_what_was_set_is_sent():
    assert VideoRequest(prompt="a sunrise").to_wire() == {"prompt": "a sunrise", "model": "hailuo-02"}


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


def test_the_longest_prompt_is_accepted():
    assert len(VideoRequest(prompt="가" * 2000).prompt) == 2000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": ""}, ["prompt", "''", "at least 1"]),
        ({"prompt": " \n"}, ["prompt", "blanks"]),
        ({"prompt": "x" * 2001}, ["prompt", "2000"]),
        ({"prompt": None}, ["prompt", "None"]),
        ({"prompt": "\ud800"}, ["prompt", "unicode"]),
        ({"model": "hailuo-01"}, ["model", "'hailuo-01'", "'hailuo-02'"]),
        ({"resolution": "4k"}, ["resolution", "'4k'", "'768p' or '1080p'"]),
        ({"duration": 7}, ["duration", "7", "6 or 10"]),
        ({"duration": "six"}, ["duration", "'six'", "integer"]),
        ({"duration": True}, ["duration", "True", "6 or 10"]),
        ({"duration": 10, "resolution": "1080p"}, ["duration", "10", "1080p renders 6 seconds only"]),
        ({"prompt_optimizer": "perhaps"}, ["prompt_optimizer", "'perhaps'", "boolean"]),
        ({"end_image": "https://a.b/c.png", "model": "hailuo-03"}, ["end_image", "only hailuo-02"]),
        ({"webhook_events": []}, ["webhook_events", "at least 1"]),
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
        "",
        "None",
        "first.jpg",
        "/tmp/first.jpg",
        "ftp://a.b/c.png",
        "https://",
        "https://a.b/c d.png",
        "https://a.b/c\r\nX-Evil: 1",
        "https://[a.b/c",
        "https://a.b:99999/c",
        "javascript:alert(1)",
    ],
)
def test_only_http_urls_are_accepted(field: str, url: str):
    with pytest.raises(InvalidInputError, match=rf"{field}: .*(https?://|URL)"):
        VideoRequest(prompt="x", **{field: url})


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
        ({"videos": "https://cdn.example/v.mp4"}, None),
        ({"videoUrl": ""}, None),
        ({"videoUrl": 7}, None),
        ({"videoUrl": "javascript:alert(1)"}, None),
        (["https://cdn.example/v.mp4"], None),
        ({}, None),
        (None, None),
    ],
)
def test_the_url_is_found_in_each_documented_shape(result: object, url: str | None):
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

    assert (job.id, job.status, job.model, job.progress, job.credit_cost) == (
        JOB_ID,
        "COMPLETED",
        "hailuo-02",
        100,
        5,
    )
    assert job.created_at == datetime(2026, 3, 15, 10, tzinfo=timezone.utc)
    assert job.seconds == 182.5
    assert job.is_final


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
