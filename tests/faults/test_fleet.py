"""What plays goes on: players by the rules of docs/clients.md, all over one outage."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from examples.player import Player
from tests.faults.tally import TALLY, new_secret
from tests.faults.viewers import LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.conftest import Serve
    from tests.support.database import Database

pytestmark = pytest.mark.timeout(300)

ACCOUNTS = 60
LEASE_SECONDS = 6
LONG = 180.0
"""For a busy machine: far longer than anything here takes."""


class Fleet:
    """Players who take every slot of their accounts, and what they were told."""

    def __init__(self, client: aiohttp.ClientSession, url: str, token: str) -> None:
        self.told: defaultdict[str, set[int]] = defaultdict(set)
        self.requests: Counter[int] = Counter()
        self._everybody: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        sessions = [new_secret() for _ in range(ACCOUNTS)] * LIMIT
        self.players = [
            Player(
                client,
                url,
                tell=partial(self._tell, number),
                headers={"Session-Id": session, "Authorization": f"Bearer {token}"},
            )
            for number, session in enumerate(sessions)
        ]

    def _tell(self, number: int, event: str, _: Any) -> None:
        self.told[event].add(number)
        if len(self.told[event]) == len(self.players):
            self._everybody[event].set()

    async def until(self, event: str) -> None:
        """Return when each has been told so."""
        await asyncio.wait_for(self._everybody[event].wait(), LONG)


@asynccontextmanager
async def playing(url: str, token: str) -> AsyncIterator[Fleet]:
    trace = aiohttp.TraceConfig()
    fleet: Fleet

    async def count(*_: object) -> None:
        fleet.requests[int(time.monotonic())] += 1

    trace.on_request_start.append(count)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as client:
        fleet = Fleet(client, url, token)
        running = [asyncio.create_task(player.run()) for player in fleet.players]
        try:
            yield fleet
        finally:
            await asyncio.gather(*(player.stop() for player in fleet.players))
            await asyncio.gather(*running)


async def test_an_outage_of_two_leases_ends_no_film_of_a_fleet_and_brings_no_storm(
    database: Database, serve: Serve, token: str
) -> None:
    # No gateway stands between that would add its token to heartbeats, which carry no login.
    lease = {"STREAM_TTL_SECONDS": str(LEASE_SECONDS), "GATEWAY_TOKEN": ""}
    with serve(database.url, **lease) as service:
        async with playing(service.url, token) as fleet:
            await fleet.until("started")
            await fleet.until("beat")
            database.signal(signal.SIGSTOP)
            TALLY.fault("database stopped for two leases")
            await fleet.until("offline")
            await asyncio.sleep(2 * LEASE_SECONDS)
            database.signal(signal.SIGCONT)
            back = int(time.monotonic())
            await fleet.until("resumed")

            assert not fleet.told["refused"]
            assert not fleet.told["ended"]
            counted = await asyncio.to_thread(database.active, database.name)
            assert max(counted.values()) <= LIMIT
            usual = len(fleet.players) / (LEASE_SECONDS / 3)
            busiest = max(n for second, n in fleet.requests.items() if second >= back)
            print(
                f"\n    {len(fleet.players)} players: the busiest second after the outage had "
                f"{busiest / usual:.1f} times the usual requests"
            )
            assert busiest < len(fleet.players), "they all came back in one second"
