from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.exceptions import Situation, explained
from airflow_provider_hailuo.retry import hailuo_retry_policy


@pytest.mark.parametrize(
    ("error", "action", "seconds"),
    [
        (errors.JobTimeoutError("x"), "retry", 1),
        (errors.JobFailedError("x"), "retry", 30),
        (errors.JobExpiredError("x"), "fail", None),
        (errors.ServerError("x"), "retry", None),
        (errors.ConflictError("x", in_doubt=True), "retry", None),
        (errors.RateLimitError("x"), "retry", 120),
        (errors.InvalidInputError("x"), "fail", None),
        (ValueError("x"), "default", None),
    ],
)
def test_each_failure_is_retried_after_its_own_delay(error: Exception, action: str, seconds: int | None):
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="retry policies came with Airflow 3.3")

    if isinstance(error, errors.ApiframeError):
        error = explained(error, Situation(conn_id="hailuo_default"))
    decision = hailuo_retry_policy().evaluate(error, try_number=1, max_tries=3)

    assert decision.action.value == action
    assert decision.retry_delay == (seconds and timedelta(seconds=seconds))


def test_an_older_airflow_says_what_to_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "airflow.sdk.definitions.retry_policy", None)

    with pytest.raises(ImportError, match=r"needs Airflow 3\.3 or later"):
        hailuo_retry_policy()
