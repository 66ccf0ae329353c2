"""Ghosts: streams whose player crashed, which hold a slot until their lease is over."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import TALLY
from tests.faults.viewers import LIMIT, Family, Viewers

if TYPE_CHECKING:
    from tests.faults.conftest import Serve
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(400)

LEASE_SECONDS = 6


async def _started(viewers: Viewers, family: Family) -> str:
    answer = await viewers.ask("POST", "/streams", family.session)
    assert answer is not None
    assert answer.status == 201
    return str(answer.body["stream_id"])


async def test_the_slot_of_a_crashed_player_is_free_again_when_its_lease_is_over(
    database: Database, serve: Serve, token: str
) -> None:
    lease = {"STREAM_TTL_SECONDS": str(LEASE_SECONDS)}
    with serve(database.url, **lease) as service:
        async with Viewers([service.url], token=token) as viewers:
            [family] = viewers.families
            playing = [await _started(viewers, family) for _ in range(LIMIT - 1)]
            ghost_began = time.monotonic()
            await _started(viewers, family)
            TALLY.fault("player crashed")
            while True:
                for one in playing:
                    beat = await viewers.beat(family, one)
                    assert beat is not None
                    assert beat.status == 200
                answer = await viewers.ask("POST", "/streams", family.session)
                took = time.monotonic() - ghost_began
                assert answer is not None
                if answer.status == 201:
                    break
                assert answer.status == 409
                await asyncio.sleep(0.05)
    assert LEASE_SECONDS - 0.1 < took < LEASE_SECONDS + 1
    TALLY.measured["ghost"] = f"slot free {took:.2f} s after a crash, lease {LEASE_SECONDS} s"


async def test_replacing_the_stalest_takes_the_slot_of_the_ghost_and_never_of_a_stream_that_beats(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url) as one, serve(database.url) as other:
        async with Viewers([one.url, other.url], 60, token=token) as viewers:
            longest = 0.0

            async def haunt(family: Family) -> None:
                nonlocal longest
                ghost = await _started(viewers, family)
                playing = [await _started(viewers, family) for _ in range(LIMIT - 1)]
                TALLY.fault("player crashed")

                async def beat(stream_id: str) -> None:
                    for _ in range(4):
                        answer = await viewers.beat(family, stream_id)
                        assert answer is not None
                        assert answer.status == 200

                async def replace() -> None:
                    nonlocal longest
                    answer = await viewers.ask(
                        "POST", "/streams", family.session, body={"replace": "stalest"}
                    )
                    assert answer is not None
                    assert answer.status == 201
                    longest = max(longest, answer.took)

                for stream_id in playing:
                    await viewers.beat(family, stream_id)
                await asyncio.gather(*map(beat, playing), replace())
                gone = await viewers.beat(family, ghost)
                assert gone is not None
                assert (gone.status, gone.body["reason"]) == (410, "replaced")

            for nth in range(0, 60, 10):
                await asyncio.gather(*map(haunt, viewers.families[nth : nth + 10]))
    TALLY.measured["stalest"] = f"60 of 60 took the ghost's slot, the longest in {longest:.2f} s"
    assert TALLY.violations == []
