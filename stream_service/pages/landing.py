"""`/`: what this is, the state in one line, and the way to everything else."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from stream_service import __version__
from stream_service.api.keys import SETTINGS
from stream_service.api.representation import json_response, timestamp
from stream_service.pages.files import PAGE_HEADERS
from stream_service.pages.guides import GUIDES, SHELVES
from stream_service.telemetry.history import HISTORY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_service.settings import Settings

ABOUT = (
    "Limits concurrent streams: decides, when somebody presses play, whether this account may "
    "watch one more video."
)

_PAGE = Template((Path(__file__).parent / "static" / "landing.html").read_text(encoding="utf-8"))


async def landing(request: web.Request) -> web.Response:
    """`GET /`: a page for browsers, which name HTML in `Accept`; the same as JSON for the rest."""
    settings = request.app[SETTINGS]
    answers = await request.app[HISTORY].ask_database()
    status = "UP" if answers else "DOWN"
    since = request.app[HISTORY].unreachable_since
    state = _state(settings, None if since is None else timestamp(since))
    headers: dict[str, str] = {hdrs.VARY: hdrs.ACCEPT}
    if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        guides = {f"{shelf.lower()}_guides": _links(names) for shelf, names in SHELVES.items()}
        page = _PAGE.substitute(
            about=ABOUT,
            status=status,
            state=state if since is None else _state(settings, _time(timestamp(since))),
            **guides,
        )
        return web.Response(
            text=page, content_type="text/html", headers={**PAGE_HEADERS, **headers}
        )
    links = {
        "api": "/docs",
        "description": "/openapi.json",
        "console": "/console",
        "metrics": "/metrics",
        "health": "/health",
        "client": "/client.js",
    }
    return json_response(
        {
            "service": "stream-service",
            "version": __version__,
            "about": ABOUT,
            "status": status,
            "state": state,
            "links": links,
            "guides": {name: f"/docs/{name}" for name in GUIDES},
        },
        headers=headers,
    )


def _links(names: Iterable[str]) -> str:
    named = ((name, GUIDES[name].title) for name in names if name in GUIDES)
    return "".join(f'<li><a href="docs/{name}">{title}</a></li>' for name, title in named)


def _time(moment: str) -> str:
    """A time that the page's script shows as the visitor's clock has it."""
    return f'<time datetime="{moment}">{moment}</time>'


def _state(settings: Settings, unreachable_since: str | None) -> str:
    if unreachable_since is None:
        database = "Ready: the database answers."
    else:
        database = f"Not ready: database unreachable since {unreachable_since}."
    streams = "stream" if settings.stream_limit == 1 else "streams"
    return (
        f"{database} Limit {settings.stream_limit} {streams} per account"
        f"{'' if settings.enforce else ' (counted, not enforced: shadow mode)'}, "
        f"lease {settings.stream_ttl_seconds} s, version {__version__}."
    )
