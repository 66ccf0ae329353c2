"""The limit switched on and off under load, in processes side by side."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from stream_service.streams import utc_now
from tests.faults.conftest import served
from tests.faults.tally import TALLY, new_secret
from tests.faults.viewers import UNSURE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.conftest import Serve
    from tests.support.database import Database

LIMIT = 3
PLAYERS = 12
"""Of each account: four times what it may have."""

pytestmark = pytest.mark.timeout(400)


@dataclass
class Players:
    """Players of many accounts. Each knows its own stream, which nobody else ends."""

    token: str
    accounts: list[str] = field(default_factory=lambda: [new_secret() for _ in range(8)])
    counting: list[str] = field(default_factory=list)
    enforcing: list[str] = field(default_factory=list)
    """URLs of the processes that only count, and of those that enforce the limit."""
    playing: dict[str, set[str]] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    beyond: int = 0
    unknown: int = 0
    asked: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[None]:
        stopped = asyncio.Event()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            self.client = client
            tasks = [
                asyncio.create_task(self._play(account, stopped))
                for account in self.accounts
                for _ in range(PLAYERS)
            ]
            try:
                yield
            finally:
                stopped.set()
                await asyncio.gather(*tasks)

    async def ask(self, method: str, path: str, account: str) -> tuple[int, Any, bool]:
        """Status, body, and whether the process that answered enforces the limit."""
        headers = {"Session-Id": account, "Authorization": f"Bearer {self.token}"}
        headers["Idempotency-Key"] = new_secret()
        while True:
            url = random.choice(self.counting + self.enforcing)
            enforces = url in self.enforcing
            self.asked[url] += 1
            async with self.client.request(method, url + path, headers=headers) as response:
                TALLY.statuses[response.status] += 1
                raw = await response.read()
                body = await response.json(content_type=None) if raw else None
                self.asked[url] -= 1
                if response.status not in UNSURE:
                    return response.status, body, enforces
                # On a busy machine. It may still be done, after another process has refused it.
                self.unknown += 1
            await asyncio.sleep(0.1)

    async def answered(self, url: str) -> None:
        """Return when nobody waits for an answer of this process, which nobody asks any more."""
        assert url not in self.counting + self.enforcing
        while self.asked[url]:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.05)

    async def _play(self, account: str, stopped: asyncio.Event) -> None:
        mine = self.playing.setdefault(account, set())
        own: str | None = None
        while not stopped.is_set():
            await asyncio.sleep(random.uniform(0, 0.2))
            if own is None:
                own = await self._start(account)
                if own is not None:
                    mine.add(own)
            elif random.random() < 0.7:
                status, _, _ = await self.ask(
                    "POST", f"/streams/{self.leases[own]}/heartbeat", account
                )
                self._expect(status == 200, f"a heartbeat of an active stream got {status}")
            else:
                mine.discard(own)
                status, _, _ = await self.ask("DELETE", f"/streams/{own}", account)
                self._expect(status == 204, f"a stop of an active stream got {status}")
                own = None

    async def _start(self, account: str) -> str | None:
        status, body, enforces = await self.ask("POST", "/streams", account)
        if status in (200, 201):
            # Of a start that was answered 503 nobody knows which process admitted it.
            enforces = enforces and status == 201
            self.beyond += status == 201 and body["active"] > LIMIT
            within = body["active"] <= LIMIT
            self._expect(within or not enforces, f"{body['active']} where it is enforced")
            stream_id: str = body["stream_id"]
            self.leases[stream_id] = body["lease_id"]
            return stream_id
        self._expect(status == 409 and enforces, f"a start got {status}, enforced: {enforces}")
        self._expect(body["active"] >= LIMIT, "refused below the limit")
        return None

    @staticmethod
    def _expect(right: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
        if not right:
            TALLY.violations.append(otherwise)


async def test_a_limit_switched_on_and_off_under_load_ends_no_stream_and_refuses_nobody_wrongly(
    database: Database, serve: Serve, token: str
) -> None:
    players = Players(token)
    async with served(serve(database.url, ENFORCE="0")) as counts:
        players.counting.append(counts.url)
        async with players.acting():
            await asyncio.sleep(2.0)
            assert players.beyond > 0
            async with served(serve(database.url, ENFORCE="1")) as enforces:
                TALLY.fault("limit switched on")
                players.enforcing.append(enforces.url)
                await asyncio.sleep(3.0)
                players.counting.remove(counts.url)
                await players.answered(counts.url)
                beyond = players.beyond
                await asyncio.sleep(3.0)
                assert players.beyond == beyond
                players.counting.append(counts.url)
                TALLY.fault("limit switched off")
                players.enforcing.remove(enforces.url)
                await players.answered(enforces.url)
                await asyncio.sleep(2.0)
                assert players.beyond > beyond
    now = utc_now()
    documents = database.documents(database.name)
    active = {held["stream_id"] for held in documents if held["expires_at"] > now}
    known = set[str]().union(*players.playing.values())
    assert known <= active
    assert len(active - known) <= players.unknown
    assert max(len(mine) for mine in players.playing.values()) > LIMIT
    assert TALLY.violations == []
