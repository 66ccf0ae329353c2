"""`POST /heartbeats`: many leases renewed by one request, for whoever holds many streams."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, DecodeError, Meta, Struct, UnsetType, ValidationError, convert
from msgspec.json import Decoder

from stream_service.api.inputs import no_lease, read_body, require_json
from stream_service.api.keys import LIMITER
from stream_service.api.lease_ids import LEASE_IDS
from stream_service.api.playback import fetched, playback_token, refused
from stream_service.api.problems import Problem, invalid, problem_of
from stream_service.api.representation import json_response, timestamp
from stream_service.limiter import Renewed
from stream_service.streams import Place, StreamEndedError, StreamNotFoundError

if TYPE_CHECKING:
    from aiohttp import web

MOST_HEARTBEATS = 1000
"""How many heartbeats one request may hold."""

MAX_BYTES = 1024 * 1024
"""How long its body may be: some 80 bytes are a lease id, some 600 a playback token."""

_AT_A_TIME = 50
"""After so many tokens others have a turn: to verify or sign one can take a tenth of a millisecond.
A lease id takes a fiftieth of that."""


class Heartbeat(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One of them: by the lease id, or by a token with which the film was fetched."""

    lease_id: str | None = None
    playback_token: str | None = None


class _Body(Struct, frozen=True, forbid_unknown_fields=True):
    heartbeats: Annotated[list[Heartbeat], Meta(max_length=MOST_HEARTBEATS)]
    tokens: bool = False


class _LooseBody(Struct, frozen=True, forbid_unknown_fields=True):
    heartbeats: Annotated[list[Any], Meta(max_length=MOST_HEARTBEATS)]
    tokens: bool = False


class _Result(Struct, gc=False):
    stream_id: str
    expires_at: str
    playback_token: str | UnsetType = UNSET


class _Failed(Struct):
    problem: dict[str, Any]


_NO_HEARTBEAT = invalid(
    "heartbeats",
    "Each of heartbeats must have lease_id or playback_token, a string, and nothing else.",
)
_BODY, _LOOSE_BODY = Decoder(_Body), Decoder(_LooseBody)


async def heartbeats(request: web.Request) -> web.Response:
    """Renew each, and tell what became of each, in order."""
    body = await _body_of(request)
    limiter, with_tokens = request.app[LIMITER], body.tokens
    place_of = request.app[LEASE_IDS].place_of
    asked: list[Place | Exception] = []
    fetches: set[int] = set()
    for first in range(0, len(body.heartbeats), _AT_A_TIME):
        await _turn_of_others(first, costly=bool(fetches))
        for item in body.heartbeats[first : first + _AT_A_TIME]:
            if isinstance(item, Heartbeat) and item.lease_id is not None is item.playback_token:
                asked.append(place_of(item.lease_id) or no_lease(item.lease_id))
            else:
                asked.append(_asked(request, item, fetches, len(asked)))
    # The same stream twice is renewed once.
    places = [*dict.fromkeys(place for place in asked if isinstance(place, Place))]
    returning = {place for i in fetches if isinstance(place := asked[i], Place)}
    outcomes = await limiter.heartbeats(places, returning, with_labels=with_tokens)
    results: list[_Result | _Failed] = []
    for first in range(0, len(asked), _AT_A_TIME):
        await _turn_of_others(first, costly=with_tokens)
        for place in asked[first : first + _AT_A_TIME]:
            outcome = outcomes[place] if isinstance(place, Place) else place
            if isinstance(outcome, Renewed):
                result = _Result(outcome.stream_id, timestamp(outcome.expires_at))
                if with_tokens:
                    result.playback_token = playback_token(request, outcome)
                results.append(result)
            else:
                results.append(_failed(outcome, is_fetch=len(results) in fetches))
    return json_response({"heartbeat_in": limiter.heartbeat_in(), "results": results})


async def _turn_of_others(first: int, *, costly: bool) -> None:
    if costly or first % (5 * _AT_A_TIME) == 0:
        await asyncio.sleep(0)


async def _body_of(request: web.Request) -> _Body | _LooseBody:
    raw = await read_body(request, MAX_BYTES)
    if raw:
        require_json(request)
    try:
        try:
            return _BODY.decode(raw)
        except ValidationError:
            # One item that is not of the right form harms no other.
            return _LOOSE_BODY.decode(raw)
        except DecodeError:
            # Nor does one with half of a character, or with a number beyond all bounds.
            return convert(json.loads(raw), _LooseBody)
    except ValidationError as error:
        field = "tokens" if str(error).endswith("`$.tokens`") else "heartbeats"
        raise invalid(
            field,
            f"The body must have heartbeats, a list of at most {MOST_HEARTBEATS}, and may have "
            "tokens, true or false.",
        ) from None
    except (ValueError, RecursionError):
        raise invalid("body", "The body is not JSON in UTF-8.") from None


def _asked(request: web.Request, item: Any, fetches: set[int], index: int) -> Place | Exception:
    """The stream that an item means, or the problem with it; notes who has a token to show."""
    try:
        beat = item if isinstance(item, Heartbeat) else convert(item, Heartbeat)
        if (beat.lease_id is None) == (beat.playback_token is None):
            return _NO_HEARTBEAT
        if beat.lease_id is not None:
            return request.app[LEASE_IDS].place_of(beat.lease_id) or no_lease(beat.lease_id)
        fetches.add(index)
        return fetched(request, beat.playback_token or "")
    except ValidationError:
        return _NO_HEARTBEAT
    except Problem as problem:
        return problem


def _failed(error: Exception, *, is_fetch: bool) -> _Failed:
    """What a single heartbeat would have been answered, or a check of the token."""
    if is_fetch and isinstance(error, StreamEndedError):
        error = refused(error.reason)
    elif is_fetch and isinstance(error, StreamNotFoundError):
        error = refused("unknown")
    problem = problem_of(error)
    if problem is None:
        raise error
    return _Failed(problem.body)
