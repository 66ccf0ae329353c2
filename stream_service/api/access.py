"""Who may ask for what: the gateway for viewers, operators for everything."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from hmac import compare_digest
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from aiohttp import hdrs, web

from stream_service.api.problems import Problem, too_many_requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.typedefs import Handler, Middleware

    from stream_service.settings import Settings

OPEN = frozenset({"/health", "/health/ready", "/health/live", "/.well-known/jwks.json"})
"""Templates of the routes that need no token."""

VIEWERS_API = frozenset(
    {
        "/watch",
        "/streams",
        "/streams/{stream_id}",
        "/streams/{lease_id}/heartbeat",
        "/streams/{stream_id}/stop",
        "/heartbeats",
        "/playback/check",
        "/client.js",
        "/client.tv.js",
        "/openapi.json",
    }
)
"""Templates of the routes that the gateway's token opens. All others are for operators."""

MAX_USER_LENGTH = 64

GUESS_SECONDS = 1.0
"""How long an address waits for its next try after a wrong token."""

MAX_GUESSES = 16
"""How many tries of one address may wait; more are refused unread."""

_BEARER = 'Bearer realm="stream-service"'
_BASIC = 'Basic realm="stream-service", charset="UTF-8"'


class _Guesser:
    """An address from which tokens are tried, one after the other."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting = 0


def token_required(
    gateway_tokens: Sequence[str], operator_tokens: Sequence[str]
) -> list[Middleware]:
    """Require a token in `Authorization`, everywhere but on the open routes.

    The gateway's opens the viewers' API, as Bearer. An operator's opens everything, as Bearer or as
    the password of Basic, so that a browser can ask for it. Where there is none of an operator, the
    gateway's opens everything.

    Args:
        gateway_tokens: Any of them will do, so that one can be rotated out.
        operator_tokens: Likewise. With neither, nothing is required.
    """
    operators = [token.encode() for token in operator_tokens]
    gateways = [token.encode() for token in gateway_tokens]
    everybody = [*operators, *gateways]
    # Only those who wait: whoever is right leaves at once.
    guessers: WeakValueDictionary[str | None, _Guesser] = WeakValueDictionary()

    async def slow_guesses_down(request: web.Request) -> None:
        guesser = guessers.setdefault(request.remote, _Guesser())
        if guesser.waiting >= MAX_GUESSES:
            raise too_many_requests("Too many wrong tokens come from this address.")
        guesser.waiting += 1
        try:
            # The next is not even looked at before: who hangs up has learnt nothing sooner.
            async with guesser.turn:
                if not _has_token(request, operators, operators):
                    await asyncio.sleep(GUESS_SECONDS)
        finally:
            guesser.waiting -= 1

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        # By the route that was found, not by the path: one path can be spelt in many ways. Where
        # there is none, only 404 or 405 follows, and who has any token may be told so.
        resource = request.match_info.route.resource
        route = None if resource is None else resource.canonical
        if route not in OPEN:
            for_viewers = route is None or route in VIEWERS_API
            bearers = everybody if for_viewers else operators or everybody
            # Of what the gateway sends with its own token nothing has to wait.
            tries = operators and hdrs.AUTHORIZATION in request.headers
            if tries and not _has_token(request, gateways, []):
                await slow_guesses_down(request)
            if not _has_token(request, bearers, operators):
                raise _unauthorized(for_operators=bool(operators) and not for_viewers)
        return await handler(request)

    return [middleware] if everybody else []


def opened_by(
    request: web.Request, settings: Settings
) -> Literal["operator", "gateway", "anybody"]:
    """Whose token opened this request, which `token_required` let pass."""
    operators = [token.encode() for token in settings.operator_tokens]
    if _has_token(request, operators, operators):
        return "operator"
    return "gateway" if settings.gateway_tokens else "anybody"


def user_of(request: web.Request) -> str | None:
    """The user name that Basic came with, shortened; None without one. It proves nothing."""
    scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "basic":
        return None
    return _decoded(credentials).partition(b":")[0].decode(errors="replace")[:MAX_USER_LENGTH]


def _has_token(request: web.Request, bearers: list[bytes], passwords: list[bytes]) -> bool:
    scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    match scheme.lower():
        case "bearer":
            sent, wanted = credentials.strip(" ").encode(errors="surrogateescape"), bearers
        case "basic":
            sent, wanted = _password(credentials), passwords
        case _:
            return False
    # Every token is compared, so that the time tells nothing about which one was near.
    return sum(compare_digest(sent, token) for token in wanted) > 0


def _password(credentials: str) -> bytes:
    """What follows the first colon (RFC 7617); nothing if the credentials are not Base64."""
    return _decoded(credentials).partition(b":")[2]


def _decoded(credentials: str) -> bytes:
    try:
        return b64decode(credentials.strip(" "), validate=True)
    except ValueError:
        return b""


def _unauthorized(*, for_operators: bool) -> Problem:
    if for_operators:
        detail = (
            "This is for operators: send the operator's token as Authorization: Bearer, or as the "
            "password of Basic with any user name."
        )
    else:
        detail = (
            "This service takes requests from its gateway only: send the gateway's token as "
            "Authorization: Bearer."
        )
    return Problem(
        401,
        "unauthorized",
        "Unauthorized",
        detail,
        # Never Basic on the viewers' API: a viewer's browser would ask for a password.
        headers={hdrs.WWW_AUTHENTICATE: _BASIC if for_operators else _BEARER},
    )
