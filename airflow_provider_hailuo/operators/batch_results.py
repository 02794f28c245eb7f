"""What became of the items of a batch, and what the task makes of that. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.compat import AirflowException
from airflow_provider_hailuo.exceptions import HailuoException, HailuoFailException, Situation, explained
from airflow_provider_hailuo.storage import Stored

MAX_XCOM_PROMPT_CHARACTERS = 100
"""How much of a prompt the XCom `items` tells, at most."""

MAX_ERRORS_TOLD = 5
"""Of how many items the log and a message tell the error, at most."""

_MAX_JOBS_TOLD = 3


@dataclass
class ItemResult:
    """What became of an item.

    :param index: its index.
    :param item: the fields of its request; None (default) if they are not known.
    :param job_id: its job, None (default) if there is none.
    :param job: the job as the API tells of it, None (default) while it is not seen.
    :param error: why it has no video, None (default) if it has one.
    :param stored: where its video is stored, None (default) if it is not.
    """

    index: int
    item: Mapping[str, Any] | None = None
    job_id: str | None = None
    job: Job | None = None
    error: errors.ApiframeError | None = None
    stored: Stored | None = None

    @property
    def as_dict(self) -> dict[str, Any]:
        """What the task returns of the item, or its manifest holds: what is known."""
        facts = {
            "index": self.index,
            "job_id": self.job_id,
            "status": self.job and self.job.status,
            "url": self.job and self.job.video_url,
            "credits": self.job and self.job.credit_cost,
            **(asdict(self.stored) if self.stored else {}),
            "error": self.error and str(self.error),
        }
        return {name: value for name, value in facts.items() if value is not None}

    @property
    def as_xcom(self) -> dict[str, Any]:
        """What the XCom `items` tells of the item."""
        prompt = {"prompt": errors.excerpt(self.item["prompt"], MAX_XCOM_PROMPT_CHARACTERS)} if self.item else {}
        return {**self.as_dict, **prompt}

    @property
    def is_refused(self) -> bool:
        """Whether the input was refused, here or by the API."""
        return isinstance(self.error, errors.InvalidInputError | errors.BadRequestError)

    @property
    def is_lost(self) -> bool:
        """Whether the item alone is to blame: refused, or its job is final and has no video. All else may be had."""
        is_dead = isinstance(self.error, errors.JobError) and not isinstance(self.error, errors.JobTimeoutError)
        return self.is_refused or is_dead

    def fail(self, error: errors.ApiframeError) -> None:
        """Fail with an error that concerns other items as well.

        :param error: the error.
        """
        self.error = copy(error)
        self.error.job_id = self.job_id


def summarize(results: Sequence[ItemResult]) -> dict[str, Any]:
    """Return the numbers of the XCom `summary`.

    :param results: of all items.
    :return: how many `items`, `completed`, `failed` and `refused`, and the `credits` paid.
    """
    return {
        "items": len(results),
        "completed": sum(result.error is None for result in results),
        "failed": sum(result.error is not None and not result.is_refused for result in results),
        "refused": sum(result.is_refused for result in results),
        "credits": sum(result.job.credit_cost or 0 for result in results if result.job),
    }


def failure(
    results: Sequence[ItemResult],
    missing: Sequence[ItemResult],
    told: str,
    manifest: str | None,
    *,
    conn_id: str,
    tries_left: bool,
    kept: bool,
) -> AirflowException:
    """Return what a task fails with: what happened, what is paid, what to do.

    :param results: of all items.
    :param missing: those whose errors fail the task.
    :param told: the summary in words.
    :param manifest: the URI of the manifest, None if there is none.
    :param conn_id: the Airflow connection.
    :param tries_left: whether Airflow is going to retry the task.
    :param kept: whether the task state store keeps what was submitted.
    :return: an exception that Airflow retries if that may mend any of it.
    """
    some_paid = any(result.job_id for result in results)
    kind = _kind(missing, conn_id, some_paid=some_paid)
    there = [result.job_id for result in results if result not in missing and result.job_id]
    unfinished = [result.job_id for result in missing if result.job_id and not result.is_lost]
    reasons = [f"item {result.index}: {result.error}" for result in missing]
    parts = [
        f"Batch: {told}. {abbreviate(reasons, MAX_ERRORS_TOLD, '; ')}",
        f"Videos that are there: jobs {abbreviate(there)}" if there else "",
        f"Not had yet, and paid if they complete: jobs {abbreviate(unfinished)}" if unfinished else "",
        f"The manifest is {manifest}" if manifest else "",
        _advice(kind, some_paid=some_paid, tries_left=tries_left, kept=kept),
    ]
    return kind(" ".join(f"{part.rstrip('. ')}." for part in parts if part))


def abbreviate(values: Sequence[str], at_most: int = _MAX_JOBS_TOLD, separator: str = ", ") -> str:
    """Return the first of many values as text, and how many more there are.

    :param values: all of them.
    :param at_most: how many of them to tell (default 3).
    :param separator: what stands between them (default a comma).
    :return: the text.
    """
    more = f"{separator}and {len(values) - at_most} more" if len(values) > at_most else ""
    return f"{separator.join(values[:at_most])}{more}"


def _kind(missing: Iterable[ItemResult], conn_id: str, *, some_paid: bool) -> type[AirflowException]:
    kinds = set()
    for result in missing:
        assert result.error is not None  # noqa: S101 - that is why it is missing
        paid = some_paid and not result.is_refused
        kinds.add(type(explained(result.error, Situation(conn_id, job_id=result.job_id, in_doubt=paid))))
    mendable = kinds - {HailuoFailException} or kinds
    return mendable.pop() if len(mendable) == 1 else HailuoException


def _advice(kind: type[AirflowException], *, some_paid: bool, tries_left: bool, kept: bool) -> str:
    if issubclass(kind, HailuoFailException):
        does = "makes only what is missing" if kept or not some_paid else "makes all videos anew, and pays for all"
        return f"No retry mends that: correct it, or set on_item_failure='skip'. Clearing the task {does}"
    if tries_left or kept or not some_paid:
        return f"{'A retry' if tries_left else 'Clearing the task'} makes what is missing and pays for nothing twice"
    return "Clearing the task would make all videos anew, and pay for all"
