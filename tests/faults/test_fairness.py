"""One session that asks for everything at once, beside others that ask as usual."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import TALLY, Tally, new_secret
from tests.faults.viewers import LIMIT, Viewers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.conftest import Serve
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(120)

OLDEST = {"replace": "oldest"}
AT_ONCE = 200
SECONDS = 2.5
EVERY_SECONDS = 0.025
MAY_GROW = 3.0
"""How many times as long others may wait, by their median."""
FLOOR_SECONDS = 0.15
"""What nobody would call slow: a start on a quick machine takes a tenth of it."""


async def _starts_of_others(viewers: Viewers) -> list[float]:
    """How long others wait who start a stream one after the other, answered or not."""

    async def start() -> float:
        answer = await viewers.ask("POST", "/streams", new_secret())
        assert answer is not None
        return answer.took

    starts = []
    for _ in range(int(SECONDS / EVERY_SECONDS)):
        starts.append(asyncio.create_task(start()))
        await asyncio.sleep(EVERY_SECONDS)
    return await asyncio.gather(*starts)


async def _beside(viewers: Viewers, ask: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """The median of what others wait, undisturbed and while `AT_ONCE` keep asking."""
    calm = await _starts_of_others(viewers)
    over = asyncio.Event()

    async def keep_asking() -> None:
        while not over.is_set():
            await ask()

    flood = [asyncio.create_task(keep_asking()) for _ in range(AT_ONCE)]
    await asyncio.sleep(0.5)
    disturbed = await _starts_of_others(viewers)
    over.set()
    await asyncio.gather(*flood)
    return median(calm), median(disturbed)


@pytest.mark.parametrize("change", ["", "unfair"])
async def test_two_hundred_replacements_of_one_session_at_once_slow_others_no_more_than_threefold(
    database: Database, serve: Serve, token: str, change: str
) -> None:
    tally = Tally() if change else TALLY
    with serve(database.url, *filter(None, [change])) as service:
        async with Viewers([service.url], token=token, tally=tally) as viewers:
            [family] = viewers.families
            for _ in range(LIMIT):
                assert await viewers.start(family) is not None
            calm, disturbed = await _beside(
                viewers,
                lambda: viewers.ask("POST", "/streams", family.session, body=OLDEST),
            )
    TALLY.measured[f"fair {change}"] = (
        f"others' median start {calm * 1000:.0f} ms, {disturbed * 1000:.0f} ms beside "
        f"{AT_ONCE} replacements of one session at once"
    )
    assert (disturbed > max(MAY_GROW * calm, FLOOR_SECONDS)) == bool(change)
    assert [v for v in tally.violations if "took" not in v] == []
