"""The HTTP side: Apiframe's endpoints over the state of the sandbox, as an ASGI application."""

from __future__ import annotations

import json
import logging
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import anyio
import httpx
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.disturbance import Disturbance
from airflow_provider_hailuo.sandbox.faults import Faults, parse_rules
from airflow_provider_hailuo.sandbox.files import Files
from airflow_provider_hailuo.sandbox.studio import (
    Event,
    InsufficientCreditsError,
    KeyConflictError,
    SettingError,
    Studio,
)
from airflow_provider_hailuo.sandbox.uploads import SNIFFED_BYTES, RefusedUploadError, Uploads
from airflow_provider_hailuo.sandbox.webhooks import deliver, webhook_client
from airflow_provider_hailuo.sandbox.wire import (
    InvalidRequestError,
    account_json,
    error_json,
    event_json,
    job_json,
    page_json,
    parse_idempotency_key,
    parse_job_id,
    parse_job_query,
    parse_order,
    submission_json,
    upload_json,
)

_LOG: Final = logging.getLogger(__name__)

_Endpoint = Callable[[Request], Awaitable[Response]]

_TICK_SECONDS: Final = 0.05


def create_app(
    *, studio: Studio, uploads: Uploads, files: Files, faults: Faults, api_key: str, base_url: str
) -> ASGIApp:
    """Return the sandbox as an ASGI application. Its server puts a `Connection` as `connection` into the state.

    :param studio: its jobs.
    :param uploads: its uploads.
    :param files: the files of both.
    :param faults: what goes wrong.
    :param api_key: the one key it accepts.
    :param base_url: what the URLs in its answers begin with (given, and not taken from the `Host` header, which is
        the client's to choose).
    :return: the application.
    """
    api = _Api(studio=studio, uploads=uploads, files=files, faults=faults, api_key=api_key, base_url=base_url)
    app = Starlette(
        routes=[
            *api.routes,
            Route("/sandbox/stats", api.stats),
            Route("/sandbox/jobs", api.jobs),
            Route("/sandbox/release", api.release, methods=["POST"]),
            Route("/sandbox/faults", api.faults, methods=["GET", "PUT"]),
            Route("/", api.about),
        ],
        exception_handlers=dict.fromkeys(
            (HTTPException, InvalidRequestError, InsufficientCreditsError, KeyConflictError, Exception), _on_error
        ),
        lifespan=api.lifespan,
    )
    app.router.redirect_slashes = False
    return _Reception(Disturbance(_calm(app), faults), api.routes, api.requests)


class _Reception:
    """Where every request comes in: it is counted by its route, and its answer gets an `x-request-id`."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route], requests: Counter[str]) -> None:
        self._app = app
        self._routes = routes
        self._requests = requests
        for route in routes:
            requests.update({f"{method} {route.path}": 0 for method in (route.methods or set()) - {"HEAD"}})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = next((route for route in self._routes if route.matches(scope)[0] is Match.FULL), None)
        if route:
            name = scope["state"]["route"] = f"{scope['method']} {route.path}"
            self._requests[name] += 1
        request_id = str(uuid4())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def _calm(app: ASGIApp) -> ASGIApp:
    """Return `app` such that it raises no error that it has answered; that is logged."""

    async def calm(scope: Scope, receive: Receive, send: Send) -> None:
        complete = False

        async def watched_send(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await app(scope, receive, watched_send)
        except Exception:
            # Starlette passes on what it has answered with 500, upon which uvicorn would cut the connection.
            if not complete:
                raise
            _LOG.exception("%s %s failed", scope["method"], scope["path"])

    return calm


class _Api:
    """The endpoints, and what goes on between requests."""

    def __init__(
        self, *, studio: Studio, uploads: Uploads, files: Files, faults: Faults, api_key: str, base_url: str
    ) -> None:
        self._studio = studio
        self._uploads = uploads
        self._files = files
        self._faults = faults
        self._api_key = api_key
        self._base_url = base_url
        self.requests: Counter[str] = Counter()
        self.routes = [
            Route("/v2/videos/generate", self._keyed(self._generate), methods=["POST"]),
            Route("/v2/jobs/{id}", self._keyed(self._job)),
            Route("/v2/jobs", self._keyed(self._jobs)),
            Route("/v2/me", self._keyed(self._me)),
            Route("/v2/uploads", self._keyed(self._upload), methods=["POST"]),
            Route("/videos/{id}.mp4", self._video),
            Route("/uploads/{id}", self._uploaded),
        ]

    async def about(self, _: Request) -> Response:
        return JSONResponse(
            {
                "name": "hailuo-sandbox",
                "about": "A local stand-in for the Apiframe API, for tests: no key, no credits, no AI.",
                "base_url": self._base_url,
                "stats": f"{self._base_url}/sandbox/stats",
                "jobs": f"{self._base_url}/sandbox/jobs",
                "release": f"{self._base_url}/sandbox/release",
                "faults": f"{self._base_url}/sandbox/faults",
            }
        )

    async def stats(self, _: Request) -> Response:
        statuses = self._studio.statuses()
        return JSONResponse(
            {
                "requests": dict(self.requests),
                "faults": dict(self._faults.struck),
                "jobs": {status.value: count for status, count in statuses.items()},
                "jobsCreated": sum(statuses.values()),
                "idempotentReplays": self._studio.replays,
                "credits": self._studio.credits,
                "creditsCharged": self._studio.credits_charged,
            }
        )

    async def jobs(self, _: Request) -> Response:
        jobs, _has_more = self._studio.page(limit=sys.maxsize)
        return JSONResponse([job_json(job, now=self._studio.now, base_url=self._base_url) for job in jobs])

    async def release(self, request: Request) -> Response:
        return JSONResponse(self._studio.release(request.query_params.get("words", "")))

    async def faults(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self._faults.set(parse_rules(json.loads(await request.body())))
            except SettingError as error:
                raise InvalidRequestError(str(error)) from None
            except (ValueError, RecursionError):
                raise InvalidRequestError("The body is not valid JSON") from None
        return JSONResponse(self._faults.report())

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with webhook_client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick, client, tasks)
            yield
            tasks.cancel_scope.cancel()

    def _keyed(self, endpoint: _Endpoint) -> _Endpoint:
        async def keyed(request: Request) -> Response:
            given = request.headers.get("x-api-key", "")
            if not given:
                raise HTTPException(401, "API key is required")
            if not secrets.compare_digest(given.encode(), self._api_key.encode()):
                raise HTTPException(401, "Invalid API key")
            return await endpoint(request)

        return keyed

    async def _generate(self, request: Request) -> Response:
        key = parse_idempotency_key(request.headers.get("idempotency-key"))
        job = self._studio.submit(parse_order(await request.body()), key)
        return JSONResponse(submission_json(job), 202)

    async def _job(self, request: Request) -> Response:
        job = self._studio.job(parse_job_id(request.path_params["id"]))
        if job is None:
            raise HTTPException(404, "Job not found")
        return JSONResponse(job_json(job, now=self._studio.now, base_url=self._base_url))

    async def _jobs(self, request: Request) -> Response:
        query = parse_job_query(request.query_params.multi_items())
        jobs, has_more = self._studio.page(
            limit=query.limit,
            before=query.before,
            status=query.status,
            model=query.model,
            search=query.search,
        )
        models = self._studio.models() if query.include_models == "true" else None
        page = page_json(jobs, has_more=has_more, now=self._studio.now, base_url=self._base_url, models=models)
        return JSONResponse(page)

    async def _me(self, _: Request) -> Response:
        self._studio.settle()
        return JSONResponse(account_json(api_key=self._api_key, credits=self._studio.credits))

    async def _upload(self, request: Request) -> Response:
        async with request.form() as form:
            # Text in other fields is ignored.
            names = {name for name, value in form.multi_items() if isinstance(value, UploadFile)} - {"file"}
            if names:
                raise InvalidRequestError("Invalid request", {name: ["Unknown field"] for name in names})
            files = form.getlist("file")
            if len(files) != 1 or not isinstance(files[0], UploadFile):
                raise InvalidRequestError.of_field("file", "Must be given once, as a file")
            content = await files[0].read()
        try:
            upload = self._uploads.add(content[:SNIFFED_BYTES], len(content))
        except RefusedUploadError as error:
            raise InvalidRequestError.of_field("file", str(error)) from None
        await self._files.store_upload(upload.id, content)
        return JSONResponse(upload_json(upload, base_url=self._base_url), 201)

    async def _video(self, request: Request) -> Response:
        job = self._studio.job(request.path_params["id"])
        if job is None or job.status is not JobStatus.COMPLETED or job.expired:
            raise HTTPException(404, "No such video")
        return FileResponse(await self._files.video(job), media_type="video/mp4")

    async def _uploaded(self, request: Request) -> Response:
        upload = self._uploads.get(request.path_params["id"])
        if upload is None:
            raise HTTPException(404, "No such upload")
        return FileResponse(
            self._files.upload_path(upload.id),
            media_type=upload.content_type,
            headers={"X-Content-Type-Options": "nosniff"},
        )

    async def _tick(self, client: httpx.AsyncClient, tasks: TaskGroup) -> None:
        while True:
            self._studio.settle()
            for event in self._studio.take_events():
                tasks.start_soon(self._tell, client, event)
            for job_id in self._studio.take_expired():
                self._files.discard_video(job_id)
            for upload_id in self._uploads.take_expired():
                self._files.discard_upload(upload_id)
            await anyio.sleep(_TICK_SECONDS)

    async def _tell(self, client: httpx.AsyncClient, event: Event) -> None:
        payload = event_json(event, base_url=self._base_url)
        delivered = await deliver(client, event, payload, api_key=self._api_key)
        self._studio.record_delivery(event, delivered=delivered)


async def _on_error(_: Request, error: Exception) -> Response:
    match error:
        case HTTPException():
            return JSONResponse(error_json(error.detail), error.status_code, error.headers)
        case InvalidRequestError():
            return JSONResponse(error_json(str(error), details=error.details), 400)
        case InsufficientCreditsError():
            needs = {"creditsRequired": error.required, "creditsAvailable": error.available}
            return JSONResponse(error_json("Insufficient credits", **needs), 402)
        case KeyConflictError():
            return JSONResponse(error_json("The Idempotency-Key was used with another request"), 409)
        case _:
            return JSONResponse(error_json("Internal server error"), 500)
