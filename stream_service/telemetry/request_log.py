"""One line and one count per request, and the headers that every answer has."""

from __future__ import annotations

import logging
import re
import secrets
from datetime import UTC, datetime
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from stream_service.telemetry.line_writer import Lines
from stream_service.telemetry.logs import OUTPUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from aiohttp.typedefs import Handler, Middleware

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
LEAST_STATUS = {"all": 0, "errors": 400, "off": 1000}
"""Below which status an answer is not logged, by the value of REQUEST_LOG."""

SERVER = "stream-service"
"""In place of the versions of Python and aiohttp, which aiohttp would tell."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_log(
    app: web.Application,
    observe: Callable[[str, str | None, int, float], None],
    *,
    secret_headers: Collection[str],
    least_status: int = 0,
) -> Middleware:
    """Log method, route, status, milliseconds and request id; nothing that a client chose freely.

    The route's template stands for the path, which could hold anything. A request id comes from the
    gateway if it sends one of a harmless form, unless it is a secret of the request once more.

    Args:
        app: Whose last lines are to be written when it ends.
        observe: Told of each answer: method, template of the route or None, status, seconds.
        secret_headers: Whose values are in no log.
        least_status: Answers below it are not logged.
    """
    lines = _RequestLines(OUTPUT)

    async def written_at_the_end(_: web.Application) -> AsyncIterator[None]:
        yield
        lines.write()

    app.cleanup_ctx.append(written_at_the_end)
    prefix, numbers = secrets.token_hex(6), count(1)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = perf_counter()
        headers = request.headers
        request_id = headers.get(REQUEST_ID_HEADER)
        if (
            request_id is None
            or not _REQUEST_ID.fullmatch(request_id)
            or request_id in request.raw_path  # A lease id is a secret.
            or any(
                request_id in secret
                for name in secret_headers
                for secret in headers.getall(name, ())
            )
        ):
            request_id = f"{prefix}-{next(numbers):x}"
        response = await handler(request)
        to_send = response.headers
        to_send[REQUEST_ID_HEADER] = request_id
        to_send[hdrs.SERVER] = SERVER
        to_send.setdefault(hdrs.CACHE_CONTROL, "no-store")
        resource = request.match_info.route.resource
        route = None if resource is None else resource.canonical
        seconds = perf_counter() - began
        observe(request.method, route, response.status, seconds)
        if response.status >= least_status and log.isEnabledFor(logging.INFO):
            lines.add_request(
                request.method if request.method in hdrs.METH_ALL else "other",
                route or "unmatched",
                response.status,
                seconds * 1000,
                request_id,
            )
        return response

    return middleware


class _RequestLines(Lines):
    """In the form of the other logs, but not through `logging`.

    A record and its JSON cost about as much as the whole heartbeat that they tell of (see
    bench/README.md). None of the values needs escaping.
    """

    _now = ""

    def add_request(self, method: str, route: str, status: int, ms: float, request_id: str) -> None:
        if not self:
            self._now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.add(
            f'{{"level": "INFO", "logger": "{__name__}", "event": "request", "method": "{method}", '
            f'"route": "{route}", "status": {status}, "ms": {ms:.3f}, '
            f'"request_id": "{request_id}", "time": "{self._now}"}}\n'
        )
