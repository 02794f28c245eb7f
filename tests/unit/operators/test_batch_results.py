"""What a batch fails with: whether a retry may mend it, what is there, what is paid, what to do."""

from __future__ import annotations

import pytest

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.exceptions import (
    HailuoException,
    HailuoFailException,
    HailuoJobFailedException,
    HailuoRateLimitException,
)
from airflow_provider_hailuo.operators.batch_results import ItemResult, abbreviate, failure

DEAD = errors.JobFailedError("policy")
REFUSED = errors.InvalidInputError("no prompt")
LIMITED = errors.RateLimitError("slow down", status=429, from_api=True)


def failed(
    *given: errors.ApiframeError, paid: bool = True, tries_left: bool = False, kept: bool = False
) -> Exception:
    """Return the failure of a batch with one video that is there, if something is paid, and with these errors."""
    missing = [ItemResult(index, error=error) for index, error in enumerate(given)]
    results = [*missing, *([ItemResult(len(missing), job_id="job_1")] if paid else [])]
    return failure(results, missing, "so many", None, conn_id="hailuo", tries_left=tries_left, kept=kept)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([REFUSED], HailuoFailException),
        ([DEAD], HailuoJobFailedException),
        ([REFUSED, DEAD], HailuoJobFailedException),
        ([REFUSED, LIMITED], HailuoRateLimitException),
        ([DEAD, LIMITED], HailuoException),
    ],
)
def test_airflow_retries_it_if_that_may_mend_any_of_it(given: list[errors.ApiframeError], kind: type[Exception]):
    assert type(failed(*given)) is kind


CORRECT_IT = "No retry mends that: correct it, or set on_item_failure='skip'. "


@pytest.mark.parametrize(
    ("error", "circumstances", "advice"),
    [
        (DEAD, {"tries_left": True}, "A retry makes what is missing and pays for nothing twice."),
        (DEAD, {"kept": True}, "Clearing the task makes what is missing and pays for nothing twice."),
        (DEAD, {"paid": False}, "Clearing the task makes what is missing and pays for nothing twice."),
        (DEAD, {}, "Clearing the task would make all videos anew, and pay for all."),
        (REFUSED, {"kept": True}, f"{CORRECT_IT}Clearing the task makes only what is missing."),
        (REFUSED, {"paid": False}, f"{CORRECT_IT}Clearing the task makes only what is missing."),
        (REFUSED, {"tries_left": True}, f"{CORRECT_IT}Clearing the task makes all videos anew, and pays for all."),
    ],
)
def test_nothing_is_advised_that_pays_twice_unsaid(
    error: errors.ApiframeError, circumstances: dict[str, bool], advice: str
):
    assert str(failed(error, **circumstances)).endswith(advice)


def test_jobs_that_may_still_complete_are_named_apart_from_those_that_are_there():
    missing = [
        ItemResult(0, job_id="dead", error=DEAD),
        ItemResult(1, job_id="late", error=errors.JobTimeoutError("too late")),
    ]
    there = ItemResult(2, job_id="there")

    told = str(
        failure([*missing, there], missing, "so many", "m.jsonl", conn_id="hailuo", tries_left=False, kept=True)
    )

    assert "Videos that are there: jobs there." in told
    assert "Not had yet, and paid if they complete: jobs late." in told
    assert "The manifest is m.jsonl." in told


@pytest.mark.parametrize(
    ("many", "told"), [("abc", "a, b, c"), ("abcd", "a, b, c, and 1 more"), ("abcdefg", "a, b, c, and 4 more")]
)
def test_of_many_the_first_are_told_and_how_many_more_there_are(many: str, told: str):
    assert abbreviate(list(many)) == told
