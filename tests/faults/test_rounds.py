"""How often a start looks at its account until it has its answer, whatever is beside it."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import TALLY, Tally
from tests.faults.viewers import Viewers

if TYPE_CHECKING:
    from tests.faults.conftest import Serve
    from tests.faults.viewers import Family
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(120)

ACCOUNTS = 100
CLIENTS = 128
SECONDS = 7.0
MOST = 10
"""How often a start may look. Without contention it does once."""


async def _act(viewers: Viewers, family: Family) -> None:
    """A third starts, most of them in another stream's place; stops, and ends of all."""
    known = sorted(family.counted)
    what = random.random()
    if what < 1 / 3:
        replace = random.choice([None, "oldest", "stalest", *known[:2]])
        await viewers.start(family, replace=replace)
    elif what < 0.4:
        await viewers.ask("DELETE", "/streams", family.session)
        family.sure.clear()
    elif known and what < 0.7:
        await viewers.stop(family, random.choice(known))
    elif known:
        await viewers.beat(family, random.choice(known))


async def test_no_start_goes_in_circles_whatever_is_beside_it(
    database: Database, serve: Serve, token: str
) -> None:
    tally = Tally()
    with ExitStack() as stack:
        two = [stack.enter_context(serve(database.url, "patient", "looks")) for _ in range(2)]
        urls = [service.url for service in two]
        async with Viewers(urls, ACCOUNTS, token=token, tally=tally) as viewers:
            until = time.monotonic() + SECONDS

            async def play() -> None:
                while time.monotonic() < until:
                    await _act(viewers, random.choice(viewers.families))

            await asyncio.gather(*(play() for _ in range(CLIENTS)))
        looks = max(e["looks"] for one in two for e in one.events if e["event"] == "looks")
    TALLY.measured["looks"] = (
        f"{looks} at most, of {tally.statuses[201]} starts beside stops and ends of all"
    )
    assert tally.statuses[429] + tally.statuses[503] == 0
    assert looks <= MOST
