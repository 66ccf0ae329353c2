"""Viewers who press play, beat, stop and replace, and who keep account of what they were told.

From the answers alone they know of each session which streams must be active (`sure`) and how many
may be (`possible`). More sure ones than the limit is a violation, and so is a refusal at a time
when fewer than the limit were possible: nobody watches a fourth, nobody is refused wrongly.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from stream_service.group_commit import DEADLINE_SECONDS
from tests.faults.tally import TALLY, Tally, new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LIMIT = 3
MARGIN_SECONDS = 1.0
"""For a busy machine, on top of the deadline."""
HANGS_SECONDS = 20.0

GOOD = {200, 201, 204, 401, 404, 409, 410}
"""What only a service with its store can answer."""

UNSURE = {429, 503}
"""After these it is unknown whether something was done."""


@dataclass
class Family:
    """One session, as its viewers know it."""

    session: str
    sure: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    possible: int = 0
    asking: list[list[int]] = field(default_factory=list)
    vague: int = 0
    vague_ever: int = 0
    unanswered_keys: list[str] = field(default_factory=list)

    def one_more(self) -> list[int]:
        self.possible += 1
        mine = [self.possible]
        self.asking.append(mine)
        for peak in self.asking:
            peak[0] = max(peak[0], self.possible)
        return mine


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Any
    took: float


class Viewers:
    """Clients of one or more service processes."""

    def __init__(
        self, urls: Sequence[str], sessions: int = 1, *, tally: Tally = TALLY, token: str = ""
    ) -> None:
        self.urls = list(urls)
        self.families = [Family(new_secret()) for _ in range(sessions)]
        self.tally = tally
        self.may_lose = False
        self.last_good = 0.0
        self._leases: dict[str, str] = {}
        """The lease id of each stream that was started, by its stream_id."""
        self._token = token
        self._good = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=HANGS_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def ask(
        self,
        method: str,
        path: str,
        session: str | None,
        *,
        key: str | None = None,
        body: Any = None,
    ) -> Answer | None:
        """One request, held to what every answer promises; None if the connection was lost."""
        headers = {} if session is None else {"Session-Id": session}
        if key is not None:
            headers["Idempotency-Key"] = key
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        began = time.monotonic()
        url = random.choice(self.urls)
        try:
            async with self.client.request(
                method, url + path, headers=headers, json=body
            ) as response:
                raw = await response.read()
                told = await response.json(content_type=None) if raw else None
                answer = Answer(response.status, told, response.headers, time.monotonic() - began)
        except TimeoutError:
            self.tally.violations.append(f"{method} hangs")
            return None
        except aiohttp.ClientError as error:
            self.tally.lost += 1
            if not self.may_lose:
                self.tally.violations.append(f"{method}: connection lost ({error!r})")
            return None
        if answer.status in (200, 201) and "lease_id" in answer.body:
            self._leases[answer.body["stream_id"]] = answer.body["lease_id"]
        self._hold_to_promises(method, answer)
        return answer

    def _hold_to_promises(self, method: str, answer: Answer) -> None:
        tally, status = self.tally, answer.status
        tally.statuses[status] += 1
        tally.longest = max(tally.longest, answer.took)
        if status not in GOOD and status not in UNSURE:
            tally.violations.append(f"{method} answered {status}")
        if status in UNSURE and "Retry-After" not in answer.headers:
            tally.violations.append(f"{status} without Retry-After")
        if answer.took > DEADLINE_SECONDS + MARGIN_SECONDS:
            tally.violations.append(f"{method} took {answer.took:.2f} s ({status})")
        if status in GOOD:
            self.last_good = time.monotonic()
            self._good.set()

    async def next_good(self, since: float) -> float:
        """Seconds from `since` until the first good answer after it, waited for."""
        while self.last_good < since:
            self._good.clear()
            await asyncio.wait_for(self._good.wait(), HANGS_SECONDS)
        return max(self.last_good - since, 0.0)

    async def start(
        self, family: Family, *, replace: str | None = None, key: str | None = None
    ) -> Answer | None:
        """Start a stream, and keep account."""
        picks = replace in ("stalest", "oldest")
        if picks:
            # Any of them may be the victim: of none is it sure any longer.
            family.sure.clear()
            family.vague += 1
            family.vague_ever += 1
        elif replace is not None:
            family.sure.discard(replace)
        vague_before = family.vague_ever
        mine = family.one_more()
        body = None if replace is None else {"replace": replace}
        answer = await self.ask("POST", "/streams", family.session, key=key, body=body)
        family.asking = [peak for peak in family.asking if peak is not mine]
        if answer is None or answer.status in UNSURE:
            if key is not None:
                family.unanswered_keys.append(key)
            return answer
        if picks:
            family.vague -= 1
        if answer.status in (200, 201):
            is_sure = family.vague == 0 and family.vague_ever == vague_before
            self._admitted(family, answer, replace, is_sure=is_sure)
        else:
            family.possible -= 1
            if answer.status == 409:
                self._refused(answer, mine[0] - 1)
        return answer

    def _admitted(
        self, family: Family, answer: Answer, replace: str | None, *, is_sure: bool
    ) -> None:
        stream_id = answer.body["stream_id"]
        if answer.status == 200:
            family.possible -= 1  # The unanswered try was counted.
        family.counted.add(stream_id)
        if replace in family.counted:
            family.counted.discard(replace)
            family.possible -= 1
        if is_sure:
            family.sure.add(stream_id)
        if len(family.sure) > LIMIT:
            self.tally.violations.append(f"{len(family.sure)} streams were admitted at once")
            family.sure.discard(stream_id)

    def _refused(self, answer: Answer, possible: int) -> None:
        if possible < LIMIT:
            self.tally.violations.append(f"refused with {possible} possible streams")
        if answer.body["active"] != LIMIT:
            self.tally.violations.append("refused with another count than the limit")

    async def beat(self, family: Family, stream_id: str) -> Answer | None:
        """Beat for a stream; one that must be active has to answer."""
        path = f"/streams/{self._leases[stream_id]}/heartbeat"
        answer = await self.ask("POST", path, family.session)
        if answer is not None and answer.status not in {200, *UNSURE} and stream_id in family.sure:
            self.tally.violations.append(f"a heartbeat of an active stream got {answer.status}")
            family.sure.discard(stream_id)
        return answer

    async def stop(self, family: Family, stream_id: str) -> Answer | None:
        """Stop a stream, and keep account."""
        family.sure.discard(stream_id)
        # By either id: both end it.
        known = random.choice([stream_id, self._leases[stream_id]])
        answer = await self.ask("DELETE", f"/streams/{known}", family.session)
        if answer is not None and answer.status == 204 and stream_id in family.counted:
            family.counted.discard(stream_id)
            family.possible -= 1
        return answer

    async def act(self) -> Answer | None:
        """Do something that viewers do."""
        family = random.choice(self.families)
        known = random.choice(sorted(family.sure)) if family.sure else None
        what = random.random()
        if known is None or what < 0.4:
            if family.unanswered_keys:
                return await self.start(family, key=family.unanswered_keys.pop())
            return await self.start(family, key=new_secret() if what < 0.3 else None)
        if what < 0.65:
            return await self.beat(family, known)
        if what < 0.85:
            return await self.stop(family, known)
        return await self.start(family, replace=known if what < 0.97 else "stalest")

    @asynccontextmanager
    async def playing(self, viewers: int = 16, pause: float = 0.02) -> AsyncIterator[None]:
        """Have that many viewers act, over and over, until the context ends."""
        stopped = asyncio.Event()

        async def play() -> None:
            while not stopped.is_set():
                answer = await self.act()
                lost = answer is None or answer.status in UNSURE
                await asyncio.sleep(0.1 if lost else random.uniform(0, 2 * pause))

        tasks = [asyncio.create_task(play()) for _ in range(viewers)]
        try:
            yield
        finally:
            stopped.set()
            await asyncio.gather(*tasks)

    async def all_sure_ones_beat(self) -> int:
        """Beat for every stream that must be active; how many those were."""
        places = [(family, one) for family in self.families for one in family.sure]
        gate = asyncio.Semaphore(32)

        async def beat(family: Family, stream_id: str) -> None:
            async with gate:
                answer = await self.beat(family, stream_id)
            if answer is not None and answer.status == 503:
                self.tally.violations.append("503 after the fault was over")

        await asyncio.gather(*(beat(*place) for place in places))
        return len(places)
