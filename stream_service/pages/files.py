"""Files and pages that are the same for everybody, and what browsers are told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp.typedefs import Handler

# aiohttp's own guess at a type depends on the version of Python.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Everything comes from this service; no page may be framed, and none runs a script written into it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

REVALIDATED = "no-cache"
"""Kept by the browser, but asked for again each time.

A page and what it loads must be of one version, also while several versions serve side by side. A
304 costs less than names with digests in them would: somebody would have to write those into pages.
"""

NOT_KEPT = "no-store"
"""For pages into which an operator types what nobody else may find in the browser later."""

FOR_AN_HOUR = "public, max-age=3600"
"""For what many browsers load from the same place; a cache between may keep it too."""

_NOT_COMPRESSED = frozenset(
    {
        hdrs.IF_MATCH,
        hdrs.IF_MODIFIED_SINCE,
        hdrs.IF_NONE_MATCH,
        hdrs.IF_RANGE,
        hdrs.IF_UNMODIFIED_SINCE,
        hdrs.RANGE,
    }
)


def static_file(path: Path, cache_control: str = REVALIDATED) -> Handler:
    """A handler that answers with the file at this path.

    Args:
        path: Its suffix is one of `TYPES`.
        cache_control: How long it may be kept.
    """
    headers = _headers(TYPES[path.suffix], cache_control)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.FileResponse(path, headers=headers)
        # aiohttp 3.14 would send the end of a compressed body behind a 304 and a HEAD, too.
        if request.method == hdrs.METH_GET and _NOT_COMPRESSED.isdisjoint(request.headers):
            response.enable_compression()
        return response

    return answer


def html_page(text: str) -> web.Response:
    """The answer with a page that was put together."""
    response = web.Response(text=text, headers=_headers(TYPES[".html"], REVALIDATED))
    response.enable_compression()
    return response


def _headers(content_type: str, cache_control: str) -> dict[str, str]:
    return {
        **PAGE_HEADERS,
        hdrs.CONTENT_TYPE: content_type,
        hdrs.CACHE_CONTROL: cache_control,
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
    }
