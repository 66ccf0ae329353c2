"""Files that browsers keep: each is read once, compressed once, and sent once to each browser."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
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
"""Kept by the browser, but asked for again each time, by its tag.

A page and what it loads must be of one version, also while several versions serve side by side. A
304 costs less than names with digests in them would: somebody would have to write those into pages.
"""

NOT_KEPT = "no-store"
"""For pages into which an operator types what nobody else may find in the browser later."""

FOR_AN_HOUR = "public, max-age=3600"
"""For what many browsers load from the same place; a cache between may keep it too."""


class StaticFile:
    """A file that is the same for everybody."""

    def __init__(self, body: bytes, suffix: str, *, cache_control: str = REVALIDATED) -> None:
        """Prepare an answer.

        Args:
            body: The file.
            suffix: Its kind, one of `TYPES`.
            cache_control: How long it may be kept.
        """
        self._plain = body
        self._gzipped: bytes | None = None
        self._tag = hashlib.sha256(body).hexdigest()[:20]
        self._type = TYPES[suffix]
        self._headers = {
            **PAGE_HEADERS,
            hdrs.CACHE_CONTROL: cache_control,
            hdrs.VARY: hdrs.ACCEPT_ENCODING,
        }

    async def answer(self, request: web.Request) -> web.Response:
        """The file, compressed if the client takes that; 304 if it has it already."""
        body, tag = self._plain, self._tag
        if _takes_gzip(request.headers):
            body, tag = await self._compressed(), f"{tag}-gzip"
        headers = {**self._headers, hdrs.ETAG: f'"{tag}"'}
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        if body is not self._plain:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=body, content_type=self._type, charset="utf-8", headers=headers)

    async def _compressed(self) -> bytes:
        if self._gzipped is None:
            # In a thread: the API page's 1.5 MB take as long as some hundred heartbeats.
            self._gzipped = await asyncio.to_thread(gzip.compress, self._plain, mtime=0)
            if len(self._gzipped) >= len(self._plain):
                self._gzipped = self._plain
        return self._gzipped


@cache
def static_file(path: Path, cache_control: str = REVALIDATED) -> StaticFile:
    """The file at this path, read and compressed once per process."""
    return StaticFile(path.read_bytes(), path.suffix, cache_control=cache_control)


def _takes_gzip(headers: Mapping[str, str]) -> bool:
    """Whether `Accept-Encoding` allows gzip (RFC 9110, 12.5.3)."""
    weights = {}
    for part in headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        weights[coding] = parameters[:1]
    weight = weights.get("gzip", weights.get("*"))
    return weight is not None and weight not in (["q=0"], ["q=0.0"], ["q=0.00"], ["q=0.000"])
