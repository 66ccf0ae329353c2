"""Playback: the token of an active stream, its check for content servers, and the public keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from msgspec import UNSET, UnsetType

from stream_service.api.inputs import shown
from stream_service.api.keys import LIMITER, SETTINGS
from stream_service.api.playback_claims import PlaybackRefusedError
from stream_service.api.problems import NO_ANSWER, Problem, invalid, unavailable
from stream_service.api.representation import encode
from stream_service.streams import (
    Place,
    StoreUnavailableError,
    StreamEndedError,
    StreamNotFoundError,
)

if TYPE_CHECKING:
    from stream_service.api.playback_claims import Playback, Refused
    from stream_service.api.playback_tokens import PlaybackTokens
    from stream_service.limiter import Renewed
    from stream_service.streams import Stream

# Absent where there are no keys for it; so what it is made of is not imported here either.
PLAYBACK: web.AppKey[PlaybackTokens] = web.AppKey("playback")

TOKEN_HEADER = "Playback-Token"  # noqa: S105 - a name
URI_HEADER = "X-Original-URI"
CONTENT_HEADER = "Stream-Content"
STREAM_HEADER = "Stream-Id"

KEYS_MAX_AGE_SECONDS = 300
"""How long the published keys may be kept: for so long a new one is published before it signs."""

# As it stands there, not decoded: a gateway's cache knows a token by the way it is spelt.
_IN_QUERY = re.compile(r"[?&]playback_token=([^&]*)")

_DETAILS: dict[Refused, str] = {
    "missing": f"Send one token, as {TOKEN_HEADER}, or as playback_token in the query of the "
    f"address that the gateway passes on as {URI_HEADER}.",
    "invalid": "The playback token is not one of this service, or not for this audience.",
    "expired": "The lease that the playback token was for is over.",
    "stopped": "The stream was stopped.",
    "replaced": "Another stream took this one's place.",
    "unknown": "There is no such stream any more.",
}


def playback_routes(tokens: PlaybackTokens | None) -> list[web.RouteDef]:
    """The routes of a service that has keys; without, there are none."""
    if tokens is None:
        return []
    body = encode(tokens.published())
    headers = {hdrs.CACHE_CONTROL: f"public, max-age={KEYS_MAX_AGE_SECONDS}"}

    async def published_keys(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json", headers=headers)

    return [
        web.get("/playback/check", check),
        web.get("/.well-known/jwks.json", published_keys),
    ]


def playback_token(request: web.Request, stream: Stream | Renewed) -> str | UnsetType:
    """The playback token of an answer, where the service has keys."""
    tokens = request.app.get(PLAYBACK)
    return UNSET if tokens is None else tokens.issue(stream)


def fetched(request: web.Request, token: str) -> Place:
    """The stream whose token something that sends the film has seen; its time may be over.

    Raises:
        Problem: It is no token of ours.
    """
    tokens = request.app.get(PLAYBACK)
    if tokens is None:
        raise refused("invalid")
    try:
        playback = tokens.check(token, even_expired=True)
    except PlaybackRefusedError as error:
        raise refused(error.reason) from None
    return Place(playback.session, playback.stream_id)


async def check(request: web.Request) -> web.Response:
    """`GET /playback/check`: is this token good; by `live=1` or `renew=1`, is its stream active."""
    switches = _switches(request)
    # Asked live, the store knows better than the token when its stream is over. So no film stops
    # for want of a new token while the database is unreachable: then this is 503, not 401.
    playback = _checked(request, even_expired=bool(switches))
    if switches:
        limiter, place = request.app[LIMITER], Place(playback.session, playback.stream_id)
        try:
            if "renew" in switches:
                await limiter.heartbeat(place, returning=True)
            else:
                await limiter.get(place)
        except StreamEndedError as ended:
            raise refused(ended.reason) from None
        except StreamNotFoundError:
            raise refused("unknown") from None
        except StoreUnavailableError as error:
            settings, since = request.app[SETTINGS], limiter.away_since()
            # Over a lease or more before the outage; within one, it may have been renewed since.
            # What fetches a film has the token of its start for as long as it plays.
            if (
                "renew" not in switches
                and playback.expires_at < since.timestamp() - settings.stream_ttl_seconds
            ):
                raise refused("expired") from error
            # The token is genuine: a gateway that lets it pass has to know for which film.
            raise unavailable(NO_ANSWER, headers=_about(playback)) from error
    return web.Response(status=204, headers=_about(playback))


def _about(playback: Playback) -> dict[str, str]:
    headers = {STREAM_HEADER: playback.stream_id}
    if playback.content is not None:
        headers[CONTENT_HEADER] = playback.content
    return headers


def _switches(request: web.Request) -> set[str]:
    """Which of `live` and `renew` the query has on."""
    if not request.query_string:
        return set()
    for name, value in request.query.items():
        if name not in ("live", "renew"):
            said = f"The query may have live and renew; {shown(name)} is unknown."
            raise invalid(shown(name), said)
        if value not in ("0", "1"):
            raise invalid(name, f"{name} must be 0 or 1.")
    return {name for name, value in request.query.items() if value == "1"}


def _checked(request: web.Request, *, even_expired: bool) -> Playback:
    try:
        return request.app[PLAYBACK].check(_token_of(request), even_expired=even_expired)
    except PlaybackRefusedError as error:
        raise refused(error.reason) from None


def _token_of(request: web.Request) -> str:
    sent = request.headers.getall(TOKEN_HEADER, ())
    if not sent:
        address = ",".join(request.headers.getall(URI_HEADER, ()))
        sent = _IN_QUERY.findall(address)
    # Of two, another program on the way may have judged the other one.
    if len(sent) != 1 or not sent[0]:
        raise PlaybackRefusedError("missing")
    return sent[0]


def refused(reason: Refused) -> Problem:
    """A token that is not good, or whose stream is not active: 401."""
    return Problem(
        401,
        "playback-refused",
        "Playback refused",
        _DETAILS[reason],
        fields={"reason": reason},
        # A scheme that no browser knows: it must not ask the viewer for a password.
        headers={hdrs.WWW_AUTHENTICATE: f'{TOKEN_HEADER} realm="stream-service"'},
    )
