"""Four processes, a thousand sessions, twenty thousand starts, stops and replaces at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import TALLY, Tally
from tests.faults.viewers import LIMIT, Viewers

if TYPE_CHECKING:
    from tests.faults.conftest import Serve
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(1200)


async def _race(
    database: Database, serve: Serve, viewers: Viewers, actions: int, *changes: str
) -> None:
    """Have all processes start at once, then race; keeps account of violations."""
    with ExitStack() as stack:
        four = [
            stack.enter_context(serve(database.url, *changes, keep_log=not changes))
            for _ in range(4)
        ]
        viewers.urls = [service.url for service in four]
        left = actions

        async def play() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                if left % 4000 == 0:
                    print(f"    {left} to go", flush=True)
                await viewers.act()

        async with viewers:
            await asyncio.gather(*(play() for _ in range(64)))
            await viewers.all_sure_ones_beat()
        counted = await asyncio.to_thread(database.active, database.name)
        assert len(counted) > len(viewers.families) / 2
        too_many = [n for n in counted.values() if n > LIMIT]
        viewers.tally.violations += [f"{n} active in the database" for n in too_many]


async def test_twenty_thousand_that_race_for_a_thousand_sessions_break_no_promise(
    database: Database, serve: Serve, token: str
) -> None:
    viewers = Viewers([], 1000, token=token)
    began = time.monotonic()
    await _race(database, serve, viewers, 20_000)
    assert TALLY.violations == []
    took = time.monotonic() - began
    TALLY.measured["race"] = f"20000 actions, 4 processes, 1000 sessions, in {took:.0f} s"


@pytest.mark.parametrize("change", ["claim-overwrites", "claim-beside"])
async def test_the_same_race_without_the_guard_of_the_claim_shows_violations(
    database: Database, serve: Serve, token: str, change: str
) -> None:
    tally = Tally()
    await _race(database, serve, Viewers([], 20, tally=tally, token=token), 2000, change)
    assert tally.violations != []
    TALLY.measured[change] = f"{len(tally.violations)} violations, as there should be"
