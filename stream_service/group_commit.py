"""Group commit: what waits at the same moment shares one command.

While a command is in flight, new work gathers; when it returns, all of it goes as the next one.
There is no timer: an idle service adds no delay, and the busier it is, the more requests share the
fixed price of a command. Databases have written their logs like this since the 1980s (DeWitt et
al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from stream_service.streams import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 128
"""How many items may share a command."""

MAX_WAITING = 8192
"""How many items may wait for the next command. More would only wait to time out."""


DEADLINE_SECONDS = 2.0
"""How long a caller waits for an answer at most; a command in flight then still finishes."""


class Again(Enum):
    """Stands for the result of an item that has to be carried out once more, in the next batch."""

    AGAIN = 1


AGAIN: Final = Again.AGAIN


class OverloadedError(StoreUnavailableError):
    """So much waits already that this would not be answered in time; nothing was done."""


class GroupCommit(Generic[Item, Result]):
    """Gathers single items into batches for `commit`, one batch at a time, in order of arrival."""

    def __init__(
        self,
        commit: Callable[[list[Item]], Awaitable[Sequence[Result | Again]]],
        *,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        deadline_seconds: float = DEADLINE_SECONDS,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Make a group.

        Args:
            commit: Carries out a batch: one result per item, in order. What it raises fails this
                batch's members and nobody else.
            max_batch: How many items a batch may have.
            max_waiting: How many items may wait while a batch is in flight.
            deadline_seconds: How long a caller waits at most.
            observe: Told of each batch that goes: its size, and for how many seconds the first of
                it waited.
        """
        self._commit = commit
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._deadline = deadline_seconds
        self._observe = observe
        self._first_waits_since = 0.0
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        # All wait equally long, so one timer, for the oldest, serves them all.
        self._deadlines: deque[tuple[float, asyncio.Future[Result]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, item: Item) -> asyncio.Future[Result]:
        """Have the item carried out in the next batch.

        A caller that is cancelled leaves the others alone: an item that still waited is dropped,
        one in flight is finished.

        Returns:
            The result to be; `StoreUnavailableError` if it takes longer than the deadline.

        Raises:
            OverloadedError: `max_waiting` items wait already.
        """
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError("overloaded")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        now = loop.time()
        if not self._waiting:
            self._first_waits_since = now
        self._waiting.append((item, future))
        deadlines = self._deadlines
        while deadlines and deadlines[0][1].done():
            deadlines.popleft()
        deadlines.append((now + self._deadline, future))
        if self._timer is None:
            self._timer = loop.call_later(self._deadline, self._expire)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return future

    async def finish(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        while self._worker is not None:
            await asyncio.wait((self._worker,))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadlines = self._deadlines
        while deadlines and (deadlines[0][1].done() or deadlines[0][0] <= now):
            _, future = deadlines.popleft()
            if not future.done():
                future.set_exception(StoreUnavailableError("deadline"))
        self._timer = loop.call_at(deadlines[0][0], self._expire) if deadlines else None

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                items: list[Item] = []
                futures: list[asyncio.Future[Result]] = []
                while self._waiting and len(items) < self._max_batch:
                    item, future = self._waiting.popleft()
                    if not future.done():
                        items.append(item)
                        futures.append(future)
                if items:
                    if self._observe is not None:
                        now = asyncio.get_running_loop().time()
                        self._observe(len(items), now - self._first_waits_since)
                        self._first_waits_since = now
                    await self._carry_out(items, futures)
        finally:
            self._worker = None

    async def _gather(self) -> None:
        """Take along what has arrived but is not parsed yet: until two turns bring nothing new.

        A command sent sooner would only compete with that parsing for the processor.
        """
        idle_turns = 0
        while idle_turns < 2 and len(self._waiting) < self._max_batch:  # noqa: PLR2004
            before = len(self._waiting)
            await asyncio.sleep(0)
            idle_turns = idle_turns + 1 if len(self._waiting) == before else 0

    async def _carry_out(self, items: list[Item], futures: list[asyncio.Future[Result]]) -> None:
        try:
            results = await self._commit(items)
            answers = list(zip(items, futures, results, strict=True))
        except Exception as error:  # noqa: BLE001 - it is raised again, in every member
            for future in futures:
                if not future.done():
                    # One each: an exception collects the traceback of whoever it is raised in.
                    future.set_exception(copy(error))
            return
        again: list[tuple[Item, asyncio.Future[Result]]] = []
        for item, future, result in answers:
            if result is AGAIN:
                again.append((item, future))
            elif not future.done():
                future.set_result(result)
        self._waiting.extendleft(reversed(again))
