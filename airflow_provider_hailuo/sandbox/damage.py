"""What faults make of answers. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.client import responses
from typing import Final

from starlette.responses import HTMLResponse, JSONResponse, Response

from airflow_provider_hailuo.apiframe.models import FINAL_STATUSES
from airflow_provider_hailuo.sandbox.faults import (
    BodyRule,
    ErrorRule,
    InProgressRule,
    JobRule,
    LateUrlRule,
    OtherCaseRule,
    RetellingRule,
    Rule,
    SummaryRule,
    TypesRule,
)
from airflow_provider_hailuo.sandbox.studio import PRICES
from airflow_provider_hailuo.sandbox.wire import Json, error_json

UNKNOWN_STATUS: Final = "PAUSED"
"""A status that no page of Apiframe mentions."""

_PRICE: Final = min(PRICES["hailuo-02"].values())
_TOLD: Final[Mapping[int, Json]] = {
    401: error_json("Invalid API key"),
    402: error_json("Insufficient credits", creditsRequired=_PRICE, creditsAvailable=0),
    403: error_json("API key is inactive"),
}


def fits(rule: Rule, answer: Response | None, *, keyed: bool, now: datetime) -> bool:
    """Tell whether a rule could change anything about a request.

    :param rule: the rule.
    :param answer: what the request is to be answered with; None when it has not been carried out, and is not about
        jobs.
    :param keyed: whether the request has an idempotency key.
    :param now: the present moment, in UTC.
    :return: whether it could.
    """
    if isinstance(rule, InProgressRule):
        return keyed
    if not isinstance(rule, RetellingRule):
        return True
    if answer is None or answer.status_code != 200:
        return False
    told: Json = json.loads(bytes(answer.body))
    return _retold(rule, told, now) != told


def error_answer(rule: ErrorRule, now: datetime) -> Response:
    """Return the error that a rule asks for.

    :param rule: the rule.
    :param now: what a date in the answer counts from, in UTC.
    :return: the answer.
    """
    reason = responses.get(rule.status, "Unknown")
    headers = {}
    if rule.retry_after is not None:
        date = format_datetime(now + timedelta(seconds=rule.retry_after), usegmt=True)
        headers["Retry-After"] = date if rule.http_date else str(rule.retry_after)
    if rule.status == 304:  # which never has a body
        return Response(None, rule.status, headers)
    if rule.html:
        return HTMLResponse(_page(f"{rule.status} {reason}"), rule.status, headers)
    return JSONResponse(_TOLD.get(rule.status, error_json(reason)), rule.status, headers)


def in_progress_answer(answer: Response) -> Response:
    """Return what a submission is told while another with its idempotency key is going on.

    :param answer: what it is to be answered with.
    :return: that it has to wait; `answer` itself when it was refused.
    """
    if answer.status_code != 202:
        return answer
    return JSONResponse(error_json("A request with this Idempotency-Key is still in progress"), 409)


def damaged(rule: BodyRule | TypesRule | RetellingRule, answer: Response, now: datetime) -> Response:
    """Return what a rule makes of an answer.

    :param rule: the rule.
    :param answer: the answer.
    :param now: the present moment, in UTC.
    :return: the other answer.
    """
    body = bytes(answer.body)
    match rule:
        case BodyRule(fault="truncated"):
            return _with_body(answer, body[: len(body) // 2])
        case BodyRule(fault="empty"):
            return _with_body(answer, b"")
        case BodyRule():
            return HTMLResponse(_page("Please log in"))
        case TypesRule():
            odd = {name: 7 if isinstance(value, str) else "7" for name, value in json.loads(body).items()}
            return JSONResponse(odd, answer.status_code)
        case _:
            told = _retold(rule, json.loads(body), now)
            return JSONResponse(error_json("Job not found"), 404) if told is None else JSONResponse(told)


def _retold(rule: RetellingRule, told: Json, now: datetime) -> Json | None:
    """Return what `rule` makes of a job, None when it makes it vanish, or of a page of jobs."""
    if "jobs" in told:
        jobs = (_retold(rule, job, now) for job in told["jobs"])
        return {**told, "jobs": [job for job in jobs if job is not None]}
    changes: Json = {}
    match rule:
        case JobRule(fault="vanished"):
            return None
        case JobRule(fault="unknown-status"):
            changes = {"status": UNKNOWN_STATUS}
        case JobRule(fault="no-url"):
            changes = {"result": None}
        case JobRule():
            # Only what has a video can lose it.
            changes = {"expired": told["expired"] or told["result"] is not None}
        case LateUrlRule():
            if told["result"] and _seconds_since(told["completedAt"], now) < rule.delay:
                changes = {"result": None}
        case SummaryRule():
            told = {name: value for name, value in told.items() if name != "result"}
        case OtherCaseRule():
            changes = {"status": _other_case(told["status"]), "result": _renamed(told["result"], rule.shape)}
    return {**told, **changes}


def _seconds_since(timestamp: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds()


def _other_case(status: str) -> str:
    return status.lower() if status in FINAL_STATUSES else status.capitalize()


def _renamed(result: Json | None, name: str) -> Json | None:
    if result is None:
        return None
    url = f" {result['videoUrl']}\n"
    return {name: [url] if name == "output" else url}


def _with_body(answer: Response, body: bytes) -> Response:
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(body, answer.status_code, headers)


def _page(title: str) -> str:
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body>\r\n</html>\r\n"
