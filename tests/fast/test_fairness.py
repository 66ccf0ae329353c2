"""What one session may have of the commands that all sessions share."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from stream_service.admission import OLDEST, Start
from stream_service.group_commit import MAX_SHARE
from stream_service.limiter import Limiter, Observer
from stream_service.streams import LimitReachedError, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stream_service.store import MongoStore

AT_ONCE = 3 * MAX_SHARE


def _ask(limiter: Limiter, kind: str, place: Place) -> Awaitable[object]:
    match kind:
        case "start":
            return limiter.start(Start(place.session, 3, replace=(OLDEST,)))
        case "heartbeat":
            return limiter.heartbeat(place)
        case "stop":
            return limiter.stop(place)
        case "list":
            return limiter.active(place.session)
    return limiter.get(place)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("kind", ["start", "heartbeat", "stop", "list", "look"])
async def test_no_session_has_more_than_its_share_of_a_command(
    store: MongoStore, kind: str
) -> None:
    batches: list[tuple[str, int]] = []

    class Batches(Observer):
        def on_batch(self, kind: str, size: int, waited_seconds: float) -> None:  # noqa: ARG002
            batches.append((kind, size))

    limiter = Limiter(store, lease=timedelta(seconds=60), observer=Batches())
    playing = [
        (await limiter.start(Start(session, 3))).stream.place for session in ("theirs", "ours")
    ]
    del batches[:]
    theirs = [asyncio.ensure_future(_ask(limiter, kind, playing[0])) for _ in range(AT_ONCE)]
    await _ask(limiter, kind, playing[1])
    # Ours went with the first of theirs, not after the last.
    assert next(size for name, size in batches if name == kind) == MAX_SHARE + 1
    outcomes = await asyncio.gather(*theirs, return_exceptions=True)
    assert {type(o) for o in outcomes if isinstance(o, Exception)} <= {LimitReachedError}
    await limiter.finish()
    assert max(size for name, size in batches[1:] if name == kind) <= MAX_SHARE
