"""Faults on their way to the client: answers that are wrong or late, connections that break."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_hailuo.sandbox.faults.answers import altered_answer, applies, error_answer
from airflow_provider_hailuo.sandbox.faults.rules import (
    JOB_ROUTES,
    DelayRule,
    ErrorRule,
    Faults,
    ResetRule,
    StallRule,
)

# Closing is then not the usual farewell but a reset.
_NO_LINGERING: Final = struct.pack("ii", 1, 0)


@dataclass
class Connection:
    """What requests come by.

    :param transport: the connection to the client.
    :param struck: whether a fault has struck the latest request, so that it may never end by itself.
    """

    transport: asyncio.Transport
    struck: bool = False

    def reset(self) -> None:
        """Break the connection, unless it is closing already."""
        if not self.transport.is_closing():
            peer = self.transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
            self.transport.abort()


class FaultMiddleware:
    """An ASGI application that lets faults strike requests to another one.

    The state in a scope has to tell the `connection` of the request, a `Connection`, and its `route`, as in rules. No
    fault strikes a request without a route.

    :param app: the other one.
    :param faults: the rules in force.
    """

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the request carried out and answered, as far as no fault strikes it."""
        route = scope["state"].get("route")
        if route is None:
            await self._app(scope, receive, send)
            return
        carry_out = partial(self._carry_out, scope, receive)
        # Whether a rule about jobs strikes depends on the jobs. To look at them first, or twice, changes nothing.
        answer = await carry_out() if route in JOB_ROUTES else None
        now = datetime.now(timezone.utc)
        keyed = bool(Headers(scope=scope).get("idempotency-key"))
        rule = self._faults.choose(route, partial(applies, answer=answer, keyed=keyed, now=now))
        connection: Connection = scope["state"]["connection"]
        connection.struck = rule is not None
        match rule:
            case None:
                await (answer or self._app)(scope, receive, send)
            case ErrorRule():
                if rule.after:
                    await carry_out()
                await error_answer(rule, now)(scope, receive, send)
            case ResetRule():
                if rule.after:
                    await carry_out()
                connection.reset()
                await _disconnect(receive)
            case DelayRule(fault="slow", delay=delay):
                answer = answer or await carry_out()
                if await _connected_for(receive, delay):
                    await answer(scope, receive, send)
            case DelayRule(delay=delay):
                await _drip(answer or await carry_out(), delay, receive, send)
            case StallRule():
                await _stall(answer or await carry_out(), receive, send)
            case _:
                await altered_answer(rule, answer or await carry_out(), now)(scope, receive, send)

    async def _carry_out(self, scope: Scope, receive: Receive) -> Response:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        # By version 2.4 it is for the server to notice that a client leaves: what is kept is whole in any case.
        asgi = {**scope["asgi"], "spec_version": "2.4"}
        await self._app({**scope, "asgi": asgi}, receive, keep)
        start, *parts = messages
        answer = Response(b"".join(part.get("body", b"") for part in parts), start["status"])
        answer.raw_headers = list(start["headers"])
        return answer


async def _drip(answer: Response, delay: float, receive: Receive, send: Send) -> None:
    await send(_start(answer))
    for byte in bytes(answer.body):
        if not await _connected_for(receive, delay):
            return
        await send(_part(bytes([byte])))
    await send({"type": "http.response.body"})


async def _stall(answer: Response, receive: Receive, send: Send) -> None:
    await send(_start(answer))
    await send(_part(bytes(answer.body[: len(answer.body) // 2])))
    await _disconnect(receive)


def _start(answer: Response) -> Message:
    return {"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers}


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _connected_for(receive: Receive, seconds: float) -> bool:
    """Let `seconds` pass; return whether the client is still there, False as soon as it is not."""
    with anyio.move_on_after(seconds):
        await _disconnect(receive)
        return False
    return True


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
