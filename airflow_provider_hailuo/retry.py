"""`hailuo_retry_policy`: when Airflow is to retry what, for Airflow 3.3 and later."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_hailuo import exceptions

if TYPE_CHECKING:
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy

RETRY_DELAYS: dict[type[exceptions.HailuoException], tuple[timedelta | None, str]] = {
    exceptions.HailuoJobTimeoutException: (timedelta(seconds=1), "the job renders on: take it up again at once"),
    exceptions.HailuoJobFailedException: (timedelta(seconds=30), "render it anew"),
    exceptions.HailuoUnavailableException: (None, "wait for what is out to come back, as long as the task says"),
    exceptions.HailuoRateLimitException: (timedelta(minutes=2), "let the rate limit pass"),
}
"""How long to wait before the next try, by what the task failed with, and why."""


def hailuo_retry_policy() -> ExceptionRetryPolicy:
    """Return a policy for `HailuoGenerateOperator(retry_policy=...)`: each failure is retried after its own delay.

    A timeout is retried after 1 s, a failed render after 30 s, a rate limit after 2 minutes; what no retry can mend
    fails at once, and an outage, like anything else, follows `retry_delay`. `retries` still says how often.

    :return: the policy.
    :raises ImportError: this Airflow is older than 3.3, and has no retry policies.
    """
    try:
        from airflow.sdk.definitions.retry_policy import (  # noqa: PLC0415
            ExceptionRetryPolicy,
            RetryAction,
            RetryRule,
        )
    except ImportError as error:
        raise ImportError("hailuo_retry_policy() needs Airflow 3.3 or later: use retries and retry_delay") from error
    rules = [
        RetryRule(exception=kind, action=RetryAction.RETRY, retry_delay=delay, reason=reason)
        for kind, (delay, reason) in RETRY_DELAYS.items()
    ]
    never = RetryRule(
        exception=exceptions.HailuoFailException, action=RetryAction.FAIL, reason="no retry can mend it"
    )
    return ExceptionRetryPolicy(rules=[*rules, never])
