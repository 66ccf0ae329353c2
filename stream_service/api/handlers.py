"""The API: each handler reads what was asked, makes one call, and answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stream_service.admission import Start
from stream_service.api.access import opened_by
from stream_service.api.inputs import (
    device_of,
    fingerprint_of,
    key_of,
    limit_of,
    session_of,
    start_body_of,
)
from stream_service.api.playback import playback_token
from stream_service.api.problems import limit_reached
from stream_service.api.representation import describe, describe_all, json_response
from stream_service.keys import LIMITER, SETTINGS
from stream_service.streams import LimitReachedError, StoreUnavailableError

if TYPE_CHECKING:
    from stream_service.limiter import Limiter, Started


audit = logging.getLogger("stream_service.audit")

ACCOUNT_DIGITS = 12
"""How much of an account's digest an audit line tells: enough to find it in the database."""


async def watch(request: web.Request) -> web.Response:
    """`GET /watch`: start a stream, in the words of the service's first version."""
    enforced = request.app[SETTINGS].enforce
    start = Start(session_of(request), _limit(request), enforced=enforced)
    try:
        started = await request.app[LIMITER].start(start)
    except LimitReachedError as refused:
        raise limit_reached(refused, 401) from None
    return json_response(_started(request, started))


async def start(request: web.Request) -> web.Response:
    """`POST /streams`: start a stream, or take another one's place."""
    session = session_of(request)
    key, limit = key_of(request, session), _limit(request)
    body = await start_body_of(request)
    started = await request.app[LIMITER].start(
        Start(
            session,
            limit,
            device=body.device,
            content=body.content,
            device_id=device_of(request, body, session),
            replace=body.replace,
            idempotency_key=key,
            fingerprint=fingerprint_of(request, body, key),
            enforced=request.app[SETTINGS].enforce,
        )
    )
    return json_response(
        _started(request, started),
        status=200 if started.replay else 201,
        headers={"Location": f"/streams/{started.stream.stream_id}"},
    )


async def list_active(request: web.Request) -> web.Response:
    """`GET /streams`: what is playing."""
    session, limit = session_of(request), _limit(request)
    streams = await request.app[LIMITER].active(session)
    return json_response({"streams": describe_all(streams), "active": len(streams), "limit": limit})


async def show(request: web.Request) -> web.Response:
    """`GET /streams/{stream_id}`: one stream."""
    session = session_of(request)
    stream = await request.app[LIMITER].get(session, request.match_info["stream_id"])
    return json_response(describe(stream))


async def heartbeat(request: web.Request) -> web.Response:
    """`POST /streams/{stream_id}/heartbeat`: renew the lease."""
    session = session_of(request)
    limiter = request.app[LIMITER]
    stream = await limiter.heartbeat(session, request.match_info["stream_id"])
    return json_response(
        {
            **describe(stream),
            "heartbeat_in": limiter.heartbeat_in(),
            **playback_token(request, stream),
        }
    )


async def stop(request: web.Request) -> web.Response:
    """`DELETE /streams/{stream_id}` and `POST /streams/{stream_id}/stop`: end it.

    The body is not looked at: `navigator.sendBeacon` sends what it likes.
    """
    session = session_of(request)
    was_active = await request.app[LIMITER].stop(session, request.match_info["stream_id"])
    if opened_by(request, request.app[SETTINGS]) == "operator":
        _audit(request, session, "one", ended=int(was_active))
    return web.Response(status=204)


async def stop_all(request: web.Request) -> web.Response:
    """`DELETE /streams`: end everything that the account plays."""
    session = session_of(request)
    ended = await request.app[LIMITER].stop_all(session)
    _audit(request, session, "all", ended=ended)
    return json_response({"ended": ended})


async def health(request: web.Request) -> web.Response:
    """`GET /health`: ready to answer, the store included."""
    if await store_answers(request.app[LIMITER]):
        return json_response({"status": "UP"})
    return json_response({"status": "DOWN"}, status=503)


async def store_answers(limiter: Limiter) -> bool:
    """Whether the store answers in time."""
    try:
        await limiter.ping()
    except StoreUnavailableError:
        return False
    return True


async def live(_: web.Request) -> web.Response:
    """`GET /health/live`: the process runs, whatever the state of the database."""
    return json_response({"status": "UP"})


def _audit(request: web.Request, session: str, which: str, *, ended: int) -> None:
    """Log who ended streams of an account: by the beginning of its digest, never by its id."""
    who = opened_by(request, request.app[SETTINGS])
    fields = {"by": who, "which": which, "ended": ended, "account": session[:ACCOUNT_DIGITS]}
    audit.info("streams ended", extra=fields)


def _limit(request: web.Request) -> int:
    settings = request.app[SETTINGS]
    return limit_of(request, settings.stream_limit_header, settings.stream_limit)


def _started(request: web.Request, started: Started) -> dict[str, Any]:
    stream = started.stream
    # A replay renews nothing: its next heartbeat is wanted within what is left.
    expires_at = stream.expires_at if started.replay else None
    return {
        **describe(stream),
        "heartbeat_in": request.app[LIMITER].heartbeat_in(expires_at),
        **playback_token(request, stream),
        "active": started.active,
        "limit": started.limit,
    }
