"""What faults make of answers. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.client import responses
from typing import Any, Final

from starlette.responses import HTMLResponse, JSONResponse, Response

from airflow_provider_hailuo.apiframe.models import FINAL_STATUSES
from airflow_provider_hailuo.sandbox.faults.rules import (
    AlteredJobsRule,
    BodyRule,
    ErrorRule,
    InProgressRule,
    JobRule,
    LateUrlRule,
    OtherCaseRule,
    Rule,
    SummaryRule,
    TypesRule,
)

_Json = dict[str, Any]

UNKNOWN_STATUS: Final = "PAUSED"
"""A status that no page of Apiframe mentions."""

_ERRORS: Final[Mapping[int, _Json]] = {
    401: {"error": "Invalid API key"},
    402: {"error": "Insufficient credits", "creditsRequired": 5, "creditsAvailable": 0},
    403: {"error": "API key is inactive"},
}


def applies(rule: Rule, answer: Response | None, *, keyed: bool, now: datetime) -> bool:
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
    if not isinstance(rule, AlteredJobsRule):
        return True
    if answer is None or answer.status_code != 200:
        return False
    content: _Json = json.loads(bytes(answer.body))
    return _altered(rule, content, now) != content


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
    return JSONResponse(_ERRORS.get(rule.status, {"error": reason}), rule.status, headers)


def altered_answer(
    rule: BodyRule | TypesRule | AlteredJobsRule | InProgressRule, answer: Response, now: datetime
) -> Response:
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
        case InProgressRule():
            told = {"error": "A request with this Idempotency-Key is still in progress"}
            return JSONResponse(told, 409) if answer.status_code == 202 else answer
        case _:
            content = _altered(rule, json.loads(body), now)
            return JSONResponse({"error": "Job not found"}, 404) if content is None else JSONResponse(content)


def _altered(rule: AlteredJobsRule, content: _Json, now: datetime) -> _Json | None:
    """Return what `rule` makes of a job, None when it makes it vanish, or of a page of jobs."""
    if "jobs" in content:
        jobs = (_altered(rule, job, now) for job in content["jobs"])
        return {**content, "jobs": [job for job in jobs if job is not None]}
    changes: _Json = {}
    match rule:
        case JobRule(fault="vanished"):
            return None
        case JobRule(fault="unknown-status"):
            changes = {"status": UNKNOWN_STATUS}
        case JobRule(fault="no-url"):
            changes = {"result": None}
        case JobRule():
            # Only what has a video can lose it.
            changes = {"expired": content["expired"] or content["result"] is not None}
        case LateUrlRule():
            if content["result"] and _seconds_since(content["completedAt"], now) < rule.delay:
                changes = {"result": None}
        case SummaryRule():
            content = {name: value for name, value in content.items() if name != "result"}
        case OtherCaseRule():
            changes = {"status": _other_case(content["status"]), "result": _renamed(content["result"], rule.shape)}
    return {**content, **changes}


def _seconds_since(timestamp: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds()


def _other_case(status: str) -> str:
    return status.lower() if status in FINAL_STATUSES else status.capitalize()


def _renamed(result: _Json | None, name: str) -> _Json | None:
    if result is None:
        return None
    url = f" {result['videoUrl']}\n"
    return {name: [url] if name == "output" else url}


def _with_body(answer: Response, body: bytes) -> Response:
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(body, answer.status_code, headers)


def _page(title: str) -> str:
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body>\r\n</html>\r\n"
