"""Group commit: requests that wait at the same moment share one command.

While a command is in flight, new work gathers; when it returns, all of it goes as the next one.
There is no timer: an idle service adds no delay, and the busier it is, the more requests share the
fixed price of a command. Databases have written their logs like this since the 1980s (DeWitt et
al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).

Batches are fair: an account (a key) has at most `MAX_SHARE` places in the queue at a time. What it
asks for beyond that waits aside, in order, until one of its places is free. So at most `MAX_SHARE`
items of one account are ahead of any other account's.

What has to be carried out again was outrun: by others of its batch, or while its command was on the
way. So it goes at once, without those who are done: in a short command it is hardly outrun again.
After `AT_ONCE` times it keeps its place but goes to the back of the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from stream_service.streams import (
    StoreConflictError,
    StoreUnavailableError,
    TooManyRequestsError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")
_Entry: TypeAlias = "tuple[Item, asyncio.Future[Result], Hashable]"

MAX_BATCH = 128
"""How many items may share a command."""

MAX_SHARE = 8
"""How many of one account's items may share a command with others'."""

MAX_WAITING = 8192
"""How many items may wait for the next command. More would only wait to time out."""

MAX_ASIDE = MAX_WAITING // 8
"""How many items of one account may stand aside, so that it cannot use up the room of all."""

AT_ONCE = 2
"""How often what has to be carried out again goes at once, before all that waits."""

DEADLINE_SECONDS = 2.0
"""How long a caller waits for an answer at most; a command in flight then still finishes."""


class Again(Enum):
    """Stands for the result of an item that has to be carried out once more, in its turn."""

    AGAIN = 1


AGAIN: Final = Again.AGAIN


def late(answered: int) -> StoreUnavailableError | TooManyRequestsError:
    """Whose fault it is that something was not answered in time.

    Args:
        answered: How many commands the store has answered since it was asked for. One was under way
            then, perhaps, and the next could have been this one. After two it was the queue.
    """
    if answered < 2:  # noqa: PLR2004
        return StoreUnavailableError("deadline")
    return TooManyRequestsError("deadline")


class GroupCommit(Generic[Item, Result]):
    """Gathers single items into batches for `commit`, one batch at a time, in order of arrival.

    Of each account only `max_share` items are in the queue or in flight at a time.

    Attributes:
        deadline_seconds: How long a caller waits at most.
        answered: How many commands the store has answered.
    """

    def __init__(  # noqa: PLR0913 - bounds, which tests set
        self,
        commit: Callable[[list[Item]], Awaitable[Sequence[Result | Exception | Again]]],
        *,
        account: Callable[[Item], Hashable] | None = None,
        max_batch: int = MAX_BATCH,
        max_share: int = MAX_SHARE,
        max_waiting: int = MAX_WAITING,
        max_aside: int = MAX_ASIDE,
        deadline_seconds: float = DEADLINE_SECONDS,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        """Make a group.

        Args:
            commit: Carries out a batch: one result per item, in order; an exception among them is
                raised for its item alone. What it raises fails this batch's members and no others;
                after `StoreConflictError` all of them go again.
            account: Tells whose item it is. None if that does not matter: then nobody's share is
                bounded.
            max_batch: How many items a batch may have.
            max_share: How many of them may be one account's.
            max_waiting: How many items may wait while a batch is in flight.
            max_aside: How many of them may be one account's beyond its share.
            deadline_seconds: How long a caller waits at most.
            observe: Told of each batch that goes: its size, and for how many seconds the first of
                it waited.
        """
        self._commit = commit
        self._account = account
        self._max_batch = max_batch
        self._max_share = max_share
        self._max_waiting = max_waiting
        self._max_aside = max_aside
        self.deadline_seconds = deadline_seconds
        self.answered = 0
        self._observe = observe
        self._first_waits_since = 0.0
        self._waiting: deque[_Entry[Item, Result]] = deque()
        # How many places in the queue and in flight each account has, and who stands aside for one.
        self._places: dict[Hashable, int] = {}
        self._aside: dict[Hashable, deque[_Entry[Item, Result]]] = {}
        self._standing_aside = 0
        self._worker: asyncio.Task[None] | None = None
        # All wait equally long, so one timer, for the oldest, serves them all.
        self._deadlines: deque[tuple[float, asyncio.Future[Result], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, item: Item) -> asyncio.Future[Result]:
        """Have the item carried out in the next batch.

        A caller that is cancelled leaves the others alone: an item that still waited is dropped,
        one in flight is finished.

        Returns:
            The result to be; what `late` says if it takes longer than the deadline.

        Raises:
            TooManyRequestsError: `max_waiting` items wait already, or `max_aside` of this account.
                Nothing was done.
        """
        if len(self._waiting) + self._standing_aside >= self._max_waiting:
            raise TooManyRequestsError("queue")
        account = None if self._account is None else self._account(item)
        places = 0 if account is None else self._places.get(account, 0)
        if places >= self._max_share and len(self._aside.get(account, ())) >= self._max_aside:
            raise TooManyRequestsError("queue")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        now = loop.time()
        if not self._waiting:
            self._first_waits_since = now
        if places >= self._max_share:
            self._aside.setdefault(account, deque()).append((item, future, account))
            self._standing_aside += 1
        else:
            self._waiting.append((item, future, account))
            if account is not None:
                self._places[account] = places + 1
        deadlines = self._deadlines
        while deadlines and deadlines[0][1].done():
            deadlines.popleft()
        deadlines.append((now + self.deadline_seconds, future, self.answered))
        if self._timer is None:
            self._timer = loop.call_later(self.deadline_seconds, self._expire)
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
            _, future, answered = deadlines.popleft()
            if not future.done():
                future.set_exception(late(self.answered - answered))
        self._timer = loop.call_at(deadlines[0][0], self._expire) if deadlines else None

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                batch: list[_Entry[Item, Result]] = []
                while self._waiting and len(batch) < self._max_batch:
                    entry = self._waiting.popleft()
                    if entry[1].done():
                        self._leave((entry,))
                    else:
                        batch.append(entry)
                if batch:
                    if self._observe is not None:
                        now = asyncio.get_running_loop().time()
                        self._observe(len(batch), now - self._first_waits_since)
                        self._first_waits_since = now
                    again = await self._carry_out(batch)
                    for _ in range(AT_ONCE):
                        if again:
                            again = await self._carry_out(again)
                    # Those who go again were there before those who stand aside.
                    self._waiting.extend(again)
                    self._leave([entry for entry in batch if entry[1].done()] if again else batch)
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

    async def _carry_out(self, batch: list[_Entry[Item, Result]]) -> list[_Entry[Item, Result]]:
        """Those of the batch that have to be carried out again."""
        again: list[_Entry[Item, Result]] = []
        try:
            results = await self._commit([item for item, _, _ in batch])
            self.answered += 1
            for entry, result in zip(batch, results, strict=True):
                future = entry[1]
                if future.done():
                    continue
                if result is AGAIN:
                    again.append(entry)
                elif isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        except StoreConflictError:
            self.answered += 1
            again = [entry for entry in batch if not entry[1].done()]
        except Exception as error:  # noqa: BLE001 - it is raised again, in every member
            for _, future, _ in batch:
                if not future.done():
                    # One each: an exception collects the traceback of whoever it is raised in.
                    future.set_exception(copy(error))
            again.clear()
        return again

    def _leave(self, entries: Iterable[_Entry[Item, Result]]) -> None:
        """Give their places back, each to the first of its account who stands aside, if any."""
        places, aside = self._places, self._aside
        for _, _, account in entries:
            if account is None:
                return
            if aside and account in aside:
                line = aside[account]
                self._waiting.append(line.popleft())
                self._standing_aside -= 1
                if not line:
                    del aside[account]
            elif places[account] == 1:
                del places[account]
            else:
                places[account] -= 1
