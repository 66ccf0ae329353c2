"""Lets nobody but the gateway in, where it has a token."""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from stream_service.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.typedefs import Handler, Middleware

_OPEN_PATHS = ("/health", "/health/live")


def gateway_only(tokens: Sequence[str]) -> list[Middleware]:
    """Require `Authorization: Bearer` with one of these tokens, everywhere but under `/health`.

    Args:
        tokens: Any of them will do, so that one can be rotated out; with none, nothing is required.
    """
    wanted = [f"Bearer {token}".encode() for token in tokens]

    @web.middleware
    async def gateway_token(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in _OPEN_PATHS:
            sent = request.headers.get(hdrs.AUTHORIZATION, "").encode(errors="surrogateescape")
            # Every token is compared, so that the time tells nothing about which one was near.
            if sum(compare_digest(sent, one) for one in wanted) == 0:
                raise Problem(
                    401,
                    "unauthorized",
                    "Unauthorized",
                    "This service takes requests from its gateway only: send the gateway's token "
                    "as Authorization: Bearer.",
                    headers={hdrs.WWW_AUTHENTICATE: 'Bearer realm="stream-service"'},
                )
        return await handler(request)

    return [gateway_token] if wanted else []
