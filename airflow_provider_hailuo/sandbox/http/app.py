"""The ASGI application: the routes, what counts their requests, and how errors are answered."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_hailuo.sandbox.faults.middleware import FaultMiddleware
from airflow_provider_hailuo.sandbox.faults.rules import Faults
from airflow_provider_hailuo.sandbox.http.routes import Api
from airflow_provider_hailuo.sandbox.http.schemas import InvalidRequestError
from airflow_provider_hailuo.sandbox.state.account import InsufficientCreditsError, KeyConflictError

_LOG = logging.getLogger(__name__)


def create_app(api: Api, faults: Faults) -> ASGIApp:
    """Make the ASGI application. Its server has to put a `Connection` as `connection` into the state.

    :param api: its endpoints.
    :param faults: the rules in force.
    :return: the application.
    """
    app = Starlette(
        routes=[*api.routes, *api.control_routes],
        exception_handlers=dict.fromkeys(
            (HTTPException, InvalidRequestError, InsufficientCreditsError, KeyConflictError), _on_error
        ),
        # As a handler of the application, Starlette would answer and raise the error again: uvicorn then cuts the
        # connection.
        middleware=[Middleware(ExceptionMiddleware, handlers={Exception: _on_error})],
        lifespan=api.lifespan,
    )
    app.router.redirect_slashes = False
    return _CountingMiddleware(FaultMiddleware(app, faults), api.routes, api.requests)


class _CountingMiddleware:
    """Counts every request by its route, and gives its answer an `x-request-id`."""

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


async def _on_error(request: Request, error: Exception) -> Response:
    match error:
        case HTTPException():
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        case InvalidRequestError():
            return JSONResponse({"error": str(error), "details": error.details}, 400)
        case InsufficientCreditsError():
            needs = {"creditsRequired": error.required, "creditsAvailable": error.available}
            return JSONResponse({"error": "Insufficient credits", **needs}, 402)
        case KeyConflictError():
            return JSONResponse({"error": "The Idempotency-Key was used with another request"}, 409)
        case ClientDisconnect():
            return Response(status_code=400)  # which nobody reads any more
        case _:
            _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
            return JSONResponse({"error": "Internal server error"}, 500)
