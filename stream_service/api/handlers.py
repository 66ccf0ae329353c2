"""The API: each handler reads what was asked, makes one call, and answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web
from msgspec import UNSET

from stream_service.api.access import opened_by, user_of
from stream_service.api.inputs import (
    StartRequest,
    account_stream_of,
    forget_of,
    lease_of,
    limit_of,
    plain_start_of,
    session_of,
    start_of,
    stream_of,
)
from stream_service.api.keys import LIMITER, SETTINGS
from stream_service.api.lease_ids import LEASE_IDS
from stream_service.api.playback import playback_token
from stream_service.api.problems import Problem, limit_reached
from stream_service.api.representation import (
    RenewedAnswer,
    StartedAnswer,
    describe,
    describe_all,
    json_response,
    timestamp,
)
from stream_service.streams import LimitReachedError, is_stream_id

if TYPE_CHECKING:
    from stream_service.limiter import Ender, Started


audit = logging.getLogger("stream_service.audit")
audit.setLevel(logging.INFO)  # Always written, whatever LOG_LEVEL says.

ACCOUNT_DIGITS = 12
"""How much of an account's digest an audit line tells: enough to find it in the database."""


async def watch(request: web.Request) -> web.Response:
    """`GET /watch`: start a stream, in the words of the service's first version."""
    asked = plain_start_of(request)
    try:
        started = await request.app[LIMITER].start(asked.start)
    except LimitReachedError as refused:
        raise limit_reached(refused, of_watch=True) from None
    return json_response(_started(request, asked, started))


async def start(request: web.Request) -> web.Response:
    """`POST /streams`: start a stream, or take another one's place."""
    asked = await start_of(request)
    started = await request.app[LIMITER].start(asked.start)
    return json_response(
        _started(request, asked, started),
        status=200 if started.replay else 201,
        headers={"Location": f"/streams/{started.stream.stream_id}"},
    )


async def list_active(request: web.Request) -> web.Response:
    """`GET /streams`: what is playing."""
    session, own = session_of(request), limit_of(request)
    streams = await request.app[LIMITER].active(session)
    limit, plan, _ = own.at_the_newest(streams)
    answer = {"streams": describe_all(streams), "active": len(streams), "limit": limit}
    return json_response(answer if plan is None else {**answer, "plan": plan})


async def show(request: web.Request) -> web.Response:
    """`GET /streams/{stream_id}`: one stream."""
    return json_response(describe(await request.app[LIMITER].get(account_stream_of(request))))


async def heartbeat(request: web.Request) -> web.Response:
    """`POST /streams/{lease_id}/heartbeat`: renew the lease."""
    limiter = request.app[LIMITER]
    renewed = await limiter.heartbeat(lease_of(request))
    return json_response(
        RenewedAnswer(
            renewed.stream_id,
            timestamp(renewed.expires_at),
            limiter.heartbeat_in(),
            playback_token(request, renewed),
        )
    )


async def stop(request: web.Request) -> web.Response:
    """`DELETE /streams/{stream_id}` and `POST /streams/{stream_id}/stop`: end it.

    The body is not looked at: `navigator.sendBeacon` sends what it likes.
    """
    place, by = stream_of(request), _ender(request)
    was_active = await request.app[LIMITER].stop(place, by=by)
    if by == "operator":
        _audit(request, place.session, "one", ended=int(was_active))
    return web.Response(status=204)


async def stop_all(request: web.Request) -> web.Response:
    """`DELETE /streams`: end everything that the account plays; forget it too, for an operator."""
    session, forget = session_of(request), forget_of(request)
    if forget and opened_by(request, request.app[SETTINGS]) != "operator":
        raise Problem(403, "operators-only", "Operators only", "forget=1 needs OPERATOR_TOKEN.")
    limiter = request.app[LIMITER]
    answer = {"ended": await limiter.stop_all(session, by=_ender(request))}
    try:
        if forget:
            answer["forgotten"] = await limiter.forget(session)
    finally:
        _audit(request, session, "all", **answer)
    return json_response(answer)


def _ender(request: web.Request) -> Ender:
    if opened_by(request, request.app[SETTINGS]) == "operator":
        return "operator"
    lease_id = request.match_info.get("stream_id")
    return "account" if lease_id is None or is_stream_id(lease_id) else "player"


def _audit(request: web.Request, session: str, which: str, **counts: int) -> None:
    """Log who ended streams of an account: by the beginning of its digest, never by its id."""
    who = opened_by(request, request.app[SETTINGS])
    fields = {"by": who, "which": which, **counts, "account": session[:ACCOUNT_DIGITS]}
    if who == "operator":
        fields["user"] = user_of(request)
    audit.info("streams ended", extra=fields)


def _started(request: web.Request, asked: StartRequest, started: Started) -> StartedAnswer:
    stream, secret = started.stream, asked.start.secret
    lease_ids, expires_at = request.app[LEASE_IDS], None
    if started.replay:
        # A replay renews nothing: its next heartbeat is wanted within what is left.
        expires_at = stream.expires_at
        if asked.key is not None and stream.salt is not None:
            secret = lease_ids.secret_of(asked.key, stream.salt)
    token, film = playback_token(request, stream), request.app[SETTINGS].film_url
    return StartedAnswer(
        stream.stream_id,
        stream.device,
        stream.content,
        timestamp(stream.started_at),
        timestamp(stream.expires_at),
        lease_id=lease_ids.lease_id(stream.place, secret),
        heartbeat_in=request.app[LIMITER].heartbeat_in(expires_at),
        playback_token=token,
        film=film.replace("{playback_token}", token) if film and token else UNSET,
        active=started.active,
        limit=started.limit,
    )
