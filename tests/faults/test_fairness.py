"""One who asks for everything at once, beside others that ask as usual."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import pytest

from stream_service.limiter import SHORT_SECONDS
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
SHORT_FLOOR_SECONDS = 4 * SHORT_SECONDS
"""On a machine that takes a few milliseconds for each: twice the longest command of many."""


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


async def _start(viewers: Viewers) -> str:
    """The lease id of a new stream of a session of its own."""
    while True:
        answer = await viewers.ask("POST", "/streams", new_secret())
        assert answer is not None
        if answer.status == 201:
            return str(answer.body["lease_id"])


async def _start_many(viewers: Viewers, count: int) -> list[str]:
    turns = asyncio.Semaphore(32)

    async def start() -> str:
        async with turns:
            return await _start(viewers)

    return await asyncio.gather(*(start() for _ in range(count)))


@dataclass
class Waits:
    """How long others wait."""

    beats: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    async def measure(self, viewers: Viewers, lease_id: str, times: int) -> None:
        for _ in range(times):
            beat = await viewers.ask("POST", f"/streams/{lease_id}/heartbeat", None)
            start = await viewers.ask("POST", "/streams", new_secret())
            assert beat is not None
            assert start is not None
            self.beats.append(beat.took)
            self.starts.append(start.took)


@pytest.mark.parametrize("change", ["", "batches-whole"])
async def test_a_thousand_heartbeats_at_a_time_without_pause_slow_others_no_more_than_threefold(
    database: Database, serve: Serve, token: str, change: str
) -> None:
    tally = Tally() if change else TALLY
    rounds, times = (1, 5) if change else (5, 40)
    with serve(database.url, *filter(None, [change])) as service:
        async with Viewers([service.url], token=token, tally=tally) as viewers:
            lease_id, *leases = await _start_many(viewers, 1001)
            body = json.dumps({"heartbeats": [{"lease_id": one} for one in leases]}).encode()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            over = asyncio.Event()

            async def keep_beating() -> None:
                while not over.is_set():
                    async with viewers.client.post(
                        f"{service.url}/heartbeats", data=body, headers=headers
                    ) as answer:
                        await answer.read()
                        assert answer.status in (200, 429, 503)

            calm, disturbed = Waits(), Waits()
            for _ in range(rounds):
                await calm.measure(viewers, lease_id, times)
                over.clear()
                flood = asyncio.create_task(keep_beating())
                await asyncio.sleep(0.3)
                await disturbed.measure(viewers, lease_id, times)
                over.set()
                await flood
    for what in ("beats", "starts"):
        before, beside = (median(getattr(waits, what)) for waits in (calm, disturbed))
        TALLY.measured[f"{what} {change}"] = (
            f"others' median {before * 1000:.1f} ms, {beside * 1000:.1f} ms beside one who renews "
            "1,000 streams in each request"
        )
        assert (beside > max(MAY_GROW * before, SHORT_FLOOR_SECONDS)) == bool(change)
    assert [v for v in tally.violations if "took" not in v] == []
