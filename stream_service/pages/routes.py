"""What is served around the API: its description, its documentation, the console, the metrics."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST

from stream_service.api.openapi import openapi_document
from stream_service.api.representation import encode
from stream_service.pages.console_account import console_account
from stream_service.pages.console_state import console_state
from stream_service.pages.docs_page import docs_routes
from stream_service.pages.files import FOR_AN_HOUR, NOT_KEPT, static_file
from stream_service.pages.guides import PICTURES
from stream_service.pages.landing import landing
from stream_service.telemetry.metrics import METRICS, SAMPLER

if TYPE_CHECKING:
    from stream_service.settings import Settings

_STATIC = Path(__file__).parent / "static"
# Of this package only these two files of Swagger UI are wanted.
_SWAGGER_UI = Path(str(files("mkdocs_swagger_ui_tag"))) / "swagger-ui"
_ASSETS = {
    path.name: path
    for path in (
        *_STATIC.iterdir(),
        _SWAGGER_UI / "javascripts" / "swagger-ui-bundle.js",
        _SWAGGER_UI / "stylesheets" / "swagger-ui.css",
    )
    if path.suffix in {".css", ".js", ".svg"}
}


def page_routes(settings: Settings) -> list[web.RouteDef]:
    """Routes for the pages that the settings want, and for what they load."""
    document = encode(openapi_document(settings))

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    assets = {name: static_file(path) for name, path in {**_ASSETS, **PICTURES}.items()}

    async def asset(request: web.Request) -> web.StreamResponse:
        file = assets.get(request.match_info["file"])
        if file is None:
            raise web.HTTPNotFound
        return await file(request)

    routes = [
        web.get("/openapi.json", openapi),
        web.get("/", landing),
        *docs_routes(settings),
        web.get("/client.js", static_file(_STATIC / "stream-client.js", FOR_AN_HOUR)),
        web.get("/client.tv.js", static_file(_STATIC / "stream-client.tv.js", FOR_AN_HOUR)),
        web.get("/static/{file}", asset),
        # What is no page, such as /metrics, names no icon, and browsers ask here.
        web.get("/favicon.ico", assets["icon.svg"]),
        web.get("/metrics", _metrics),
    ]
    pages = ["/docs", "/console"]
    routes = [*routes, *(web.get(f"{page}/", _without_slash) for page in pages)]
    console = static_file(_STATIC / "console.html", NOT_KEPT)
    routes += [
        web.get("/console", console),
        web.get("/console/state", console_state),
        web.get("/console/account", console_account),
    ]
    return routes


async def _without_slash(request: web.Request) -> web.Response:
    """The page is without the slash at its end, and names what it loads relative to that."""
    return web.Response(status=308, headers={hdrs.LOCATION: f"..{request.path.rstrip('/')}"})


async def _metrics(request: web.Request) -> web.Response:
    await request.app[SAMPLER].sample()
    body = await request.app[METRICS].expose()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
