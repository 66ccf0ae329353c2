"""One line and one count per request, and the headers that every answer has."""

from __future__ import annotations

import logging
import re
import secrets
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from stream_service.inputs import SESSION, SESSION_HEADER
from stream_service.keys import METRICS

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@web.middleware
async def request_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log method, route, status, milliseconds and request id; nothing that a client chose freely.

    The route's template stands for the path, which could hold anything. A request id comes from the
    gateway if it sends one of a harmless form, unless it is the session id once more.
    """
    began = perf_counter()
    request_id = request.headers.get(REQUEST_ID_HEADER, "")
    if not _REQUEST_ID.fullmatch(request_id) or request_id == request.headers.get(SESSION_HEADER):
        request_id = secrets.token_hex(8)
    response = await handler(request)
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    session = request.get(SESSION)
    if session is not None:
        response.headers[SESSION_HEADER] = session
    resource = request.match_info.route.resource
    route = None if resource is None else resource.canonical
    seconds = perf_counter() - began
    request.app[METRICS].on_request(request.method, route, response.status, seconds)
    log.info(
        "request",
        extra={
            "method": request.method,
            "route": route or "unmatched",
            "status": response.status,
            "ms": round(seconds * 1000, 3),
            "request_id": request_id,
        },
    )
    return response
