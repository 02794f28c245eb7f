"""What the API server serves below `/hailuo`: two static pages, which read Airflow's REST API, and the receiver."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_hailuo.plugins import webhooks

STATIC = Path(__file__).parent / "static"

HEADERS = {
    # Videos lie wherever the API or the user's storage has them; all else is from here.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "media-src https: http:; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _WithHeaders:
    """Puts `HEADERS` on every answer, also on those of files and of errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


app = FastAPI(title="Hailuo", docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(_WithHeaders)
app.include_router(webhooks.router)
app.mount("/static", StaticFiles(directory=STATIC))


@app.get("/gallery")
def gallery() -> FileResponse:
    """Return the page with all videos; what it shows is up to the REST API and the user's rights there.

    :return: the page.
    """
    return FileResponse(STATIC / "gallery.html")


@app.get("/video")
def video() -> FileResponse:
    """Return the page of one task's video or videos, which its query names.

    :return: the page.
    """
    return FileResponse(STATIC / "video.html")
