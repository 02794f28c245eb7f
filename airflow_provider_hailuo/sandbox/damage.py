"""What faults make of answers. No I/O."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.client import responses
from typing import Final

from starlette.responses import HTMLResponse, JSONResponse, Response

from airflow_provider_hailuo.sandbox.faults import BodyRule, ErrorRule, JobRule, Rule, TypesRule
from airflow_provider_hailuo.sandbox.studio import PRICES
from airflow_provider_hailuo.sandbox.wire import Json, error_json

UNKNOWN_STATUS: Final = "PAUSED"
"""A status that no page of Apiframe mentions."""

_NO_CREDITS: Final = error_json("Insufficient credits", creditsRequired=min(PRICES.values()), creditsAvailable=0)


def fits(rule: Rule, answer: Response | None) -> bool:
    """Tell whether `rule` could change anything about a request.

    `answer` is what it is to be answered with; None when it has not been carried out, and is not about jobs.
    """
    if not isinstance(rule, JobRule):
        return True
    if answer is None or answer.status_code != 200:
        return False
    told: Json = json.loads(bytes(answer.body))
    return _retold(rule.fault, told) != told


def error_answer(rule: ErrorRule, now: datetime) -> Response:
    """Return the error that `rule` asks for; `now` is what a date in it counts from, in UTC."""
    reason = responses.get(rule.status, "Unknown")
    headers = {}
    if rule.retry_after is not None:
        date = format_datetime(now + timedelta(seconds=rule.retry_after), usegmt=True)
        headers["Retry-After"] = date if rule.http_date else str(rule.retry_after)
    if rule.html:
        return HTMLResponse(_page(f"{rule.status} {reason}"), rule.status, headers)
    return JSONResponse(_NO_CREDITS if rule.status == 402 else error_json(reason), rule.status, headers)


def damaged(rule: BodyRule | TypesRule | JobRule, answer: Response) -> Response:
    """Return what `rule` makes of `answer`."""
    body = bytes(answer.body)
    match rule.fault:
        case "truncated":
            return _with_body(answer, body[: len(body) // 2])
        case "empty":
            return _with_body(answer, b"")
        case "not-json":
            return HTMLResponse(_page("Please log in"))
        case "wrong-types":
            odd = {name: 7 if isinstance(value, str) else "7" for name, value in json.loads(body).items()}
            return JSONResponse(odd, answer.status_code)
        case fault:
            told = _retold(fault, json.loads(body))
            return JSONResponse(error_json("Job not found"), 404) if told is None else JSONResponse(told)


def _retold(fault: str, told: Json) -> Json | None:
    """Return what `fault` makes of a job, None when it makes it vanish, or of a page of jobs."""
    if "jobs" in told:
        jobs = (_retold(fault, job) for job in told["jobs"])
        return {**told, "jobs": [job for job in jobs if job is not None]}
    match fault:
        case "vanished":
            return None
        case "unknown-status":
            return {**told, "status": UNKNOWN_STATUS}
        case "no-url":
            return {**told, "result": None}
        case _:
            # Only what has a video can lose it.
            return {**told, "expired": told["expired"] or told["result"] is not None}


def _with_body(answer: Response, body: bytes) -> Response:
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(body, answer.status_code, headers)


def _page(title: str) -> str:
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body>\r\n</html>\r\n"
