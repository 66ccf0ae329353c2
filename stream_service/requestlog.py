"""One line per request, and the headers that every answer has."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import sys
from datetime import UTC, datetime
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from stream_service.inputs import SESSION, SESSION_HEADER

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_log() -> Middleware:
    """Log method, route, status, milliseconds and request id; nothing that a client chose freely.

    The route's template stands for the path, which could hold anything. A request id comes from the
    gateway if it sends one of a harmless form, unless it is the session id once more.
    """
    lines = _Lines()
    prefix, numbers = secrets.token_hex(6), count(1)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = perf_counter()
        headers = request.headers
        request_id = headers.get(REQUEST_ID_HEADER)
        if (
            request_id is None
            or not _REQUEST_ID.fullmatch(request_id)
            or request_id == headers.get(SESSION_HEADER)
        ):
            request_id = f"{prefix}-{next(numbers):x}"
        response = await handler(request)
        response.headers[REQUEST_ID_HEADER] = request_id
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        session = request.get(SESSION)
        if session is not None:
            response.headers[SESSION_HEADER] = session
        if log.isEnabledFor(logging.INFO):
            resource = request.match_info.route.resource
            lines.add(
                request.method if request.method in hdrs.METH_ALL else "other",
                "unmatched" if resource is None else resource.canonical,
                response.status,
                (perf_counter() - began) * 1000,
                request_id,
            )
        return response

    return middleware


class _Lines:
    """Lines in the form of the other logs, those of one turn of the event loop written together.

    Not through `logging`: a record and its JSON cost about as much as the whole heartbeat that they
    tell of (see docs/performance.md). None of the values needs escaping.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, method: str, route: str, status: int, ms: float, request_id: str) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._lines.append(
            f'{{"level": "INFO", "logger": "{__name__}", "event": "request", "method": "{method}", '
            f'"route": "{route}", "status": {status}, "ms": {ms:.3f}, '
            f'"request_id": "{request_id}", "time": "{now}"}}\n'
        )

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
