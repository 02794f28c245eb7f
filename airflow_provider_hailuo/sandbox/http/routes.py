"""The routes: Apiframe's endpoints over the state of the sandbox, and those that control the sandbox itself."""

from __future__ import annotations

import json
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import httpx
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.errors import SettingError
from airflow_provider_hailuo.sandbox.faults.rules import Faults, parse_rules
from airflow_provider_hailuo.sandbox.http.schemas import (
    InvalidRequestError,
    account_json,
    event_json,
    job_json,
    page_json,
    parse_generate_request,
    parse_idempotency_key,
    parse_job_id,
    parse_job_query,
    upload_json,
)
from airflow_provider_hailuo.sandbox.http.webhooks import deliver, webhook_client
from airflow_provider_hailuo.sandbox.state.account import Account
from airflow_provider_hailuo.sandbox.state.files import Files
from airflow_provider_hailuo.sandbox.state.jobs import Event
from airflow_provider_hailuo.sandbox.state.uploads import SNIFFED_BYTES, RefusedUploadError, Uploads

_Endpoint = Callable[[Request], Awaitable[Response]]

_TICK_SECONDS: Final = 0.05


class Api:
    """The endpoints, and what goes on between requests.

    `routes` are those of the real API and of its files, `control_routes` those of the sandbox itself; `requests`
    counts how often each of `routes` was called.

    :param account: the jobs and credits.
    :param uploads: the uploads.
    :param files: the files of both.
    :param faults: the rules in force.
    :param api_key: the one key that is accepted.
    :param base_url: what the URLs in answers begin with: given, and not taken from the header `Host`, which is the
        client's to choose.
    """

    def __init__(
        self, *, account: Account, uploads: Uploads, files: Files, faults: Faults, api_key: str, base_url: str
    ) -> None:
        self._account = account
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
        self.control_routes = [
            Route("/sandbox/stats", self._stats),
            Route("/sandbox/jobs", self._all_jobs),
            Route("/sandbox/release", self._release, methods=["POST"]),
            Route("/sandbox/faults", self._set_or_get_faults, methods=["GET", "PUT"]),
            Route("/", self._about),
        ]

    async def _about(self, _: Request) -> Response:
        return JSONResponse(
            {
                "name": "hailuo-sandbox",
                "about": "A local stand-in for the Apiframe API, for tests: no key, no credits, no AI.",
                "base_url": self._base_url,
                **{name: f"{self._base_url}/sandbox/{name}" for name in ("stats", "jobs", "release", "faults")},
            }
        )

    async def _stats(self, _: Request) -> Response:
        statuses = self._account.statuses()
        return JSONResponse(
            {
                "requests": dict(self.requests),
                "faults": dict(self._faults.struck),
                "jobs": {status.value: count for status, count in statuses.items()},
                "jobsCreated": sum(statuses.values()),
                "idempotentReplays": self._account.replays,
                "credits": self._account.credits,
                "creditsCharged": self._account.credits_charged,
            }
        )

    async def _all_jobs(self, _: Request) -> Response:
        jobs, _has_more = self._account.page(limit=sys.maxsize)
        return JSONResponse([job_json(job, now=self._account.now, base_url=self._base_url) for job in jobs])

    async def _release(self, request: Request) -> Response:
        return JSONResponse(self._account.release(request.query_params.get("words", "")))

    async def _set_or_get_faults(self, request: Request) -> Response:
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
        """Let time drive the jobs, and send webhooks, as long as the application runs.

        :return: a context manager.
        """
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
        job = self._account.submit(parse_generate_request(await request.body()), key)
        return JSONResponse({"jobId": job.id, "status": job.status.value}, 202)

    async def _job(self, request: Request) -> Response:
        job = self._account.job(parse_job_id(request.path_params["id"]))
        if job is None:
            raise HTTPException(404, "Job not found")
        return JSONResponse(job_json(job, now=self._account.now, base_url=self._base_url))

    async def _jobs(self, request: Request) -> Response:
        query = parse_job_query(request.query_params.multi_items())
        jobs, has_more = self._account.page(
            limit=query.limit, before=query.before, status=query.status, model=query.model, search=query.search
        )
        models = self._account.models() if query.include_models == "true" else None
        page = page_json(jobs, has_more=has_more, now=self._account.now, base_url=self._base_url, models=models)
        return JSONResponse(page)

    async def _me(self, _: Request) -> Response:
        self._account.advance()
        return JSONResponse(account_json(api_key=self._api_key, credits=self._account.credits))

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
        job = self._account.job(request.path_params["id"])
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
            self._account.advance()
            for event in self._account.take_events():
                tasks.start_soon(self._send_webhook, client, event)
            for job_id in self._account.take_expired():
                self._files.discard_video(job_id)
            for upload_id in self._uploads.take_expired():
                self._files.discard_upload(upload_id)
            await anyio.sleep(_TICK_SECONDS)

    async def _send_webhook(self, client: httpx.AsyncClient, event: Event) -> None:
        payload = event_json(event, base_url=self._base_url)
        delivered = await deliver(client, event, payload, api_key=self._api_key)
        self._account.record_delivery(event, delivered=delivered)
