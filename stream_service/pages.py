"""What is served around the API: its description, its documentation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from stream_service.openapi import openapi_document
from stream_service.representation import encode

if TYPE_CHECKING:
    from stream_service.settings import Settings

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
ASSETS = frozenset(
    path.name for path in _STATIC.iterdir() if path.suffix in {".css", ".js", ".svg"}
)

# Everything comes from this service; no page may be framed, and none runs a script written into it.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page_routes(settings: Settings) -> list[web.RouteDef]:
    """Routes for `/openapi.json`, `/docs` and the files that the pages load."""
    document = encode(openapi_document(settings))

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    return [
        web.get("/openapi.json", openapi),
        web.get("/docs", _docs),
        web.get("/static/{file}", _asset),
    ]


async def _docs(_: web.Request) -> web.Response:
    return _file("docs.html")


async def _asset(request: web.Request) -> web.Response:
    name = request.match_info["file"]
    if name not in ASSETS:
        raise web.HTTPNotFound
    return _file(name)


def _file(name: str) -> web.Response:
    return web.Response(
        body=_read(name),
        content_type=_TYPES[Path(name).suffix],
        charset="utf-8",
        headers=_PAGE_HEADERS,
    )


@cache
def _read(name: str) -> bytes:
    return (_STATIC / name).read_bytes()
