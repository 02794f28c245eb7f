"""What the tasks of this provider fail with: one class for each way in which a retry may mend it."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_hailuo.apiframe import errors


class HailuoFailException(AirflowFailException):
    """No retry can mend it: input, key, credits, rights, an unknown job (400, 401, 402, 403, 404, 409)."""


class HailuoException(AirflowException):
    """Base of what a retry may mend. A retry finds the job of the try before, and pays no second time."""


class HailuoRateLimitException(HailuoException):
    """The API wants fewer requests (429)."""


class HailuoUnavailableException(HailuoException):
    """The API could not be reached, was out of order (5xx), or gave an answer that cannot be read."""


class HailuoJobTimeoutException(HailuoException):
    """The video was not there in time; the job may still complete."""


class HailuoJobFailedException(HailuoException):
    """The job ended without a video; a retry renders it anew."""


def exception_for(error: errors.ApiframeError) -> type[AirflowException]:
    """Return the class of exception that a task fails with because of `error`."""
    if isinstance(error, errors.JobTimeoutError):
        return HailuoJobTimeoutException
    if isinstance(error, errors.JobError):
        return HailuoJobFailedException
    if isinstance(error, errors.RateLimitError):
        return HailuoRateLimitException
    return HailuoUnavailableException if error.transient else HailuoFailException
