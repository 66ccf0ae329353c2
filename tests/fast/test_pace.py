"""Requests with many heartbeats on a database that is slow: how much goes in one command, and when.

In virtual time, on a stand-in for the store that takes as long as it is told to.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from stream_service.limiter import MANY_WAITING, SHORT_SECONDS, Limiter
from stream_service.streams import (
    Place,
    StoreUnavailableError,
    TooManyRequestsError,
    stream_id_of,
    token_of,
)
from tests.support.virtual_time import run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SLOW = 0.001
"""Seconds for each stream, as the embedded database takes."""


class SlowStore:
    """Renews all that it is asked to, in so many seconds for each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.commands: list[int] = []

    async def renew(self, places: Collection[Place], *_: object, **__: object) -> bool:
        self.commands.append(len(places))
        await asyncio.sleep(min(len(places) * self.seconds, 1.5))
        if len(places) * self.seconds > 1.5:
            raise StoreUnavailableError("NetworkTimeout")
        return True


def _places(count: int, of: str = "") -> list[Place]:
    made = stream_id_of(0, token_of(bytes(32)))
    return [Place(f"{of}{number}", made) for number in range(count)]


def _in_virtual_time(store: SlowStore, work: Callable[[Limiter], Any]) -> Any:
    async def run() -> Any:
        return await work(Limiter(cast("Any", store), lease=timedelta(seconds=60)))

    return run_in_virtual_time(run())


async def _ask(limiter: Limiter, count: int, of: str = "") -> bool:
    """Whether so many were renewed in time."""
    try:
        assert len(await limiter.heartbeats(_places(count, of), with_labels=False)) == count
    except (TooManyRequestsError, StoreUnavailableError):
        return False
    return True


def test_of_large_requests_at_a_time_the_first_is_in_time_instead_of_none() -> None:
    async def work(limiter: Limiter) -> list[bool]:
        return await asyncio.gather(*(_ask(limiter, 1000, of) for of in "abcd"))

    store = SlowStore(SLOW)
    assert _in_virtual_time(store, work) == [True, False, False, False]
    assert max(store.commands) * SLOW <= SHORT_SECONDS


def test_that_few_are_renewed_quickly_makes_no_command_of_many_long() -> None:
    async def work(limiter: Limiter) -> bool:
        for _ in range(50):
            assert await _ask(limiter, 1)
        return await _ask(limiter, 1000)

    store = SlowStore(SLOW)
    assert _in_virtual_time(store, work)
    assert max(store.commands) * SLOW <= SHORT_SECONDS


def test_a_quick_database_gets_a_thousand_at_once_until_it_is_slow() -> None:
    async def work(limiter: Limiter) -> list[bool]:
        while store.commands[-1:] != [1000]:
            assert await _ask(limiter, 1000)
        store.seconds = 2 * SLOW
        return [await _ask(limiter, 800) for _ in range(4)]

    store = SlowStore(SLOW / 1000)
    # 800 of them take it 1.6 s, and a command may take 1.5 s.
    assert _in_virtual_time(store, work) == [False, True, True, True]
    assert store.commands[-1] * store.seconds <= 2 * SHORT_SECONDS


def test_small_requests_share_commands_and_wait_for_no_large_one() -> None:
    async def work(limiter: Limiter) -> float:
        assert await _ask(limiter, 1000)
        store.commands.clear()
        assert all(await asyncio.gather(*(_ask(limiter, 5, of) for of in "abcdefgh")))
        assert store.commands == [40]
        store.seconds = SLOW
        assert await _ask(limiter, 1000)
        large = asyncio.create_task(_ask(limiter, 1000))
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        assert await _ask(limiter, 1)
        took = asyncio.get_running_loop().time() - began
        assert not large.done()
        await large
        return took

    store = SlowStore(SLOW / 1000)
    assert _in_virtual_time(store, work) <= 4 * SHORT_SECONDS


def test_more_than_may_be_under_way_are_refused_at_once() -> None:
    async def work(limiter: Limiter) -> list[bool]:
        asked = [_ask(limiter, 10, f"{n} ") for n in range(MANY_WAITING + 1)]
        answers = await asyncio.gather(*asked)
        # Once they are answered there is room again.
        return [*answers, await _ask(limiter, 10)]

    expected = [True] * MANY_WAITING + [False, True]
    assert _in_virtual_time(SlowStore(SLOW), work) == expected
