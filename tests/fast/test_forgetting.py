"""The TTL index deletes what has been over for the retention, and never what plays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from stream_service.admission import Start
from stream_service.documents import FORGET_STEP, TOLERATED_SKEW
from stream_service.limiter import Limiter
from stream_service.streams import LimitReachedError, Place, StreamEndedError, StreamNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo import MongoClient

    from stream_service.store import MongoStore

SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND
PROCESSES = [(0 * SECOND, -5 * SECOND), (300 * SECOND, 0 * SECOND), (3600 * SECOND, 4 * SECOND)]
"""The retention of each, and how far its clock is off."""


VERBS = ("start", "replay", "replace", "beat", "beat", "beat", "stop", "all")


async def test_whatever_is_done_by_whom_no_stream_is_forgotten_before_its_retention_is_over(  # noqa: C901 - a table of verbs
    connect: Callable[..., MongoStore], mongo: MongoClient[Any], database: str
) -> None:
    # Far ahead, so that the database deletes nothing meanwhile.
    now = datetime(2100, 1, 1, tzinfo=UTC)
    dice = Random(12)  # The same course each time.

    def limiter_of(kept: timedelta, off: timedelta) -> Limiter:
        return Limiter(connect(retention=kept), lease=LEASE, clock=lambda: now + off)

    limiters = [limiter_of(*process) for process in PROCESSES]
    before: dict[str, Any] = {}
    started: list[Place] = []
    moved = 0
    for _ in range(400):
        process = dice.randrange(len(PROCESSES))
        limiter = limiters[process]
        now += dice.choice([0, 1, 7, 20, 61]) * SECOND
        stream = dice.choice(started) if started else Place("a", "0-" + "a" * 22)
        try:
            match dice.choice(VERBS):
                case "start":
                    start = Start(dice.choice("ab"), 3)
                case "replay":
                    start = Start(dice.choice("ab"), 3, idempotency_key="k")
                case "replace":
                    start = Start(stream.session, 3, replace=(stream.stream_id, "oldest"))
                case "beat":
                    await limiter.heartbeat(stream)
                    continue
                case "stop":
                    await limiter.stop(stream)
                    continue
                case _:
                    await limiter.stop_all(dice.choice("ab"))
                    continue
            started.append((await limiter.start(start)).stream.place)
        except (LimitReachedError, StreamEndedError, StreamNotFoundError):
            pass
        finally:
            after = {document["_id"]: document for document in mongo[database]["streams"].find()}
            for slot, document in after.items():
                expires_at, forget_at = document["expires_at"], document["forget_at"]
                was = before.get(slot, {}).get("expires_at")
                kept = TOLERATED_SKEW
                if was is None or expires_at > was:
                    kept = max(kept, PROCESSES[process][0])
                    moved += 1
                assert forget_at >= expires_at + kept
                assert not forget_at.timestamp() % FORGET_STEP.total_seconds()
            before = after
    assert moved > 100
