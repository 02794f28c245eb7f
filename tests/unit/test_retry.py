from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.exceptions import HailuoFailException, Situation, explained
from airflow_provider_hailuo.retry import hailuo_retry_policy


@pytest.mark.parametrize(
    ("error", "action", "seconds"),
    [
        (errors.JobTimeoutError("x"), "retry", 1),
        (errors.JobFailedError("x"), "retry", 30),
        (errors.JobExpiredError("x"), "fail", None),
        (errors.ServerError("x"), "retry", None),
        (errors.RequestTimeoutError("x"), "retry", None),
        (errors.UnreadableAnswerError("x"), "retry", None),
        (errors.RateLimitError("x"), "retry", 120),
        (errors.AuthenticationError("x"), "fail", None),
        (errors.InsufficientCreditsError("x"), "fail", None),
        (errors.InvalidInputError("x"), "fail", None),
        (errors.JobWithoutVideoError("x"), "retry", 30),
        (errors.CredentialsUnavailableError("x"), "retry", None),
        (errors.UnexpectedStatusError("x", in_doubt=True), "retry", None),
        (errors.ConflictError("x", in_doubt=True), "retry", None),
    ],
)
def test_each_failure_is_retried_after_its_own_delay(error: errors.ApiframeError, action: str, seconds: int | None):
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="retry policies came with Airflow 3.3")

    failed_with = explained(error, Situation(conn_id="hailuo_default"))
    decision = hailuo_retry_policy().evaluate(failed_with, try_number=1, max_tries=3)

    assert decision.action.value == action
    assert decision.retry_delay == (seconds and timedelta(seconds=seconds))


def test_anything_else_follows_the_task():
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="retry policies came with Airflow 3.3")

    assert hailuo_retry_policy().evaluate(ValueError("x"), try_number=1, max_tries=3).action.value == "default"


def test_an_older_airflow_says_what_to_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "airflow.sdk.definitions.retry_policy", None)

    with pytest.raises(ImportError, match=r"needs Airflow 3\.3 or later"):
        hailuo_retry_policy()


@pytest.mark.parametrize(
    "error",
    [
        errors.BadRequestError,
        errors.AuthenticationError,
        errors.InsufficientCreditsError,
        errors.PermissionDeniedError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.InvalidInputError,
        errors.UnexpectedStatusError,
    ],
)
@pytest.mark.parametrize("known", [{"job_id": "job_1"}, {"in_doubt": True}])
def test_a_refusal_is_final_only_while_nothing_can_have_been_paid(
    error: type[errors.ApiframeError], known: dict[str, object]
):
    assert isinstance(explained(error("x"), Situation("conn")), HailuoFailException)
    assert not isinstance(explained(error("x"), Situation("conn", **known)), HailuoFailException)
