from __future__ import annotations

import asyncio

import pytest

from stream_service.group_commit import AGAIN, Again, GroupCommit
from stream_service.streams import (
    StoreConflictError,
    StoreUnavailableError,
    TooManyRequestsError,
)

Group = GroupCommit[int, int]


class Database:
    """A commit that notes its batches and answers when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Semaphore(0)
        self._answers: asyncio.Queue[Exception | None] = asyncio.Queue()

    def answer(self, error: Exception | None = None) -> None:
        self._answers.put_nowait(error)

    async def __call__(self, items: list[int]) -> list[int | Again]:
        self.batches.append(items)
        self.begun.release()
        error = await self._answers.get()
        if error is not None:
            raise error
        return [item * 10 for item in items]


@pytest.fixture
def database() -> Database:
    return Database()


async def test_a_lone_item_goes_at_once(database: Database) -> None:
    group: Group = GroupCommit(database)
    database.answer()
    assert await group(1) == 10
    assert database.batches == [[1]]


async def test_what_arrives_while_a_command_is_in_flight_goes_together_as_the_next(
    database: Database,
) -> None:
    group: Group = GroupCommit(database)
    first = asyncio.ensure_future(group(1))
    await database.begun.acquire()
    others = [asyncio.ensure_future(group(n)) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    assert database.batches == [[1]]
    database.answer()
    database.answer()
    assert await first == 10
    assert await asyncio.gather(*others) == [20, 30, 40]
    assert database.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_at_most_max_batch_items_in_order_of_arrival(database: Database) -> None:
    group: Group = GroupCommit(database, max_batch=2)
    tasks = [asyncio.ensure_future(group(n)) for n in range(5)]
    for _ in range(3):
        database.answer()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40]
    assert database.batches == [[0, 1], [2, 3], [4]]


async def test_a_failing_command_fails_exactly_its_members(database: Database) -> None:
    group: Group = GroupCommit(database, max_batch=2)
    tasks = [asyncio.ensure_future(group(n)) for n in range(4)]
    database.answer(StoreUnavailableError("away"))
    database.answer()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [repr(outcome) for outcome in outcomes] == [
        "StoreUnavailableError('away')",
        "StoreUnavailableError('away')",
        "20",
        "30",
    ]
    # One exception each: they are raised in different tasks.
    assert outcomes[0] is not outcomes[1]


async def test_a_caller_that_gives_up_in_flight_hurts_nobody_else(database: Database) -> None:
    group: Group = GroupCommit(database)
    tasks = [asyncio.ensure_future(group(n)) for n in (1, 2)]
    await database.begun.acquire()
    tasks[0].cancel()
    await asyncio.sleep(0)
    database.answer()
    assert await tasks[1] == 20
    assert tasks[0].cancelled()
    assert database.batches == [[1, 2]]


async def test_a_caller_that_gives_up_while_it_waits_is_not_carried_out(
    database: Database,
) -> None:
    group: Group = GroupCommit(database)
    first = asyncio.ensure_future(group(1))
    await database.begun.acquire()
    tasks = [asyncio.ensure_future(group(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    database.answer()
    database.answer()
    assert await first == 10
    assert await tasks[1] == 30
    assert database.batches == [[1], [3]]


async def test_past_the_bound_a_caller_is_refused_at_once(database: Database) -> None:
    group: Group = GroupCommit(database, max_waiting=2)
    first = asyncio.ensure_future(group(1))
    await database.begun.acquire()
    waiting = [asyncio.ensure_future(group(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequestsError):
        await group(4)
    database.answer()
    database.answer()
    assert await first == 10
    assert await asyncio.gather(*waiting) == [20, 30]
    assert database.batches == [[1], [2, 3]]
    database.answer()
    assert await group(5) == 50


async def test_finish_returns_when_what_was_accepted_has_been_carried_out(
    database: Database,
) -> None:
    group: Group = GroupCommit(database, max_batch=1)
    tasks = [asyncio.ensure_future(group(n)) for n in (1, 2)]
    await database.begun.acquire()
    finishing = asyncio.create_task(group.finish())
    database.answer()
    await asyncio.wait(tasks[:1])
    assert not finishing.done()
    database.answer()
    await finishing
    assert [task.result() for task in tasks] == [10, 20]


async def test_finish_returns_at_once_when_idle(database: Database) -> None:
    group: Group = GroupCommit(database)
    await group.finish()


async def test_a_command_that_answers_for_too_few_fails_its_members(database: Database) -> None:
    async def forgetful(items: list[int]) -> list[int]:
        await database([*items])
        return []

    group: Group = GroupCommit(forgetful)
    database.answer()
    with pytest.raises(ValueError, match="shorter"):
        await group(1)


async def test_an_item_that_has_to_go_again_goes_at_once() -> None:
    batches: list[list[int]] = []

    async def reluctant(items: list[int]) -> list[int | Again]:
        batches.append(items)
        return [AGAIN if len(batches) == 1 and item != 1 else item for item in items]

    group: Group = GroupCommit(reluctant, max_batch=3)
    assert await asyncio.gather(*(group(n) for n in (1, 2, 3, 4))) == [1, 2, 3, 4]
    assert batches == [[1, 2, 3], [2, 3], [4]]


def _tens(item: int) -> int:
    """The account of an item: 12 and 17 are of one, 20 is of another."""
    return item // 10


async def test_an_account_has_no_more_than_its_share_of_a_batch_and_keeps_its_order(
    database: Database,
) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=2)
    tasks = [asyncio.ensure_future(group(n)) for n in (10, 11, 12, 13, 14, 20, 21)]
    for _ in range(3):
        database.answer()
    await asyncio.gather(*tasks)
    assert database.batches == [[10, 11, 20, 21], [12, 13], [14]]


async def test_whatever_one_account_sends_only_its_share_is_ahead_of_anybody_else(
    database: Database,
) -> None:
    group: Group = GroupCommit(database, account=_tens, max_batch=4, max_share=2)
    first = asyncio.ensure_future(group(70))
    await database.begun.acquire()
    flood = [asyncio.ensure_future(group(10 + n % 10)) for n in range(100)]
    late = asyncio.ensure_future(group(20))
    for _ in range(2):
        database.answer()
    assert await first == 700
    assert await late == 200
    assert database.batches == [[70], [10, 11, 20]]
    for _ in range(49):
        database.answer()
    await asyncio.gather(*flood)


async def test_of_one_account_those_who_go_again_are_served_in_order_of_arrival() -> None:
    """As starts that replace the oldest: of all who try at once, one succeeds."""
    batches: list[list[int]] = []

    async def one_at_a_time(items: list[int]) -> list[int | Again]:
        batches.append(items)
        return [items[0], *[AGAIN] * (len(items) - 1)]

    group: Group = GroupCommit(one_at_a_time, account=_tens, max_share=5)
    done: list[int] = []

    async def ask(item: int) -> None:
        done.append(await group(item))

    await asyncio.gather(*(ask(n) for n in range(10, 16)))
    assert done == [10, 11, 12, 13, 14, 15]
    # At once, but not for ever: then those have their turn who came meanwhile.
    assert batches[:3] == [[10, 11, 12, 13, 14], [11, 12, 13, 14], [12, 13, 14]]
    assert batches[3:] == [[13, 14, 15], [14, 15], [15]]


async def test_an_account_that_asks_for_too_much_is_refused_alone(database: Database) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=1, max_aside=2)
    tasks = [asyncio.ensure_future(group(n)) for n in (10, 11, 12)]
    with pytest.raises(TooManyRequestsError):
        await group(13)
    other = asyncio.ensure_future(group(20))
    for _ in range(3):
        database.answer()
    assert await asyncio.gather(*tasks, other) == [100, 110, 120, 200]


async def test_who_stands_aside_counts_towards_the_bound_of_all(database: Database) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=1, max_waiting=3)
    tasks = [asyncio.ensure_future(group(n)) for n in (10, 11, 12)]
    with pytest.raises(TooManyRequestsError):
        await group(20)
    for _ in range(3):
        database.answer()
    assert await asyncio.gather(*tasks) == [100, 110, 120]


async def test_an_account_has_its_whole_share_again_after_failures_deadlines_and_cancellations(
    database: Database,
) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=2, deadline_seconds=0.3)
    failing = [asyncio.ensure_future(group(n)) for n in (10, 11, 12)]
    await database.begun.acquire()
    failing[2].cancel()
    database.answer(StoreUnavailableError("away"))
    outcomes = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        StoreUnavailableError,
        StoreUnavailableError,
        asyncio.CancelledError,
    ]
    late = [asyncio.ensure_future(group(n)) for n in range(13, 18)]
    outcomes = await asyncio.gather(*late, return_exceptions=True)
    assert {repr(outcome) for outcome in outcomes} == {"StoreUnavailableError('deadline')"}
    database.answer()
    await group.finish()
    assert database.batches == [[10, 11], [13, 14]]
    tasks = [asyncio.ensure_future(group(n)) for n in (18, 19)]
    database.answer()
    assert await asyncio.gather(*tasks) == [180, 190]
    assert database.batches[2:] == [[18, 19]]


async def test_finish_waits_for_those_who_stand_aside(database: Database) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=1)
    tasks = [asyncio.ensure_future(group(n)) for n in (10, 11, 12)]
    for _ in range(3):
        database.answer()
    await group.finish()
    assert [task.result() for task in tasks] == [100, 110, 120]


async def test_a_caller_gets_an_answer_within_the_deadline(database: Database) -> None:
    group: Group = GroupCommit(database, deadline_seconds=0.05)
    in_flight = asyncio.ensure_future(group(1))
    await database.begun.acquire()
    waiting = asyncio.ensure_future(group(2))
    outcomes = await asyncio.gather(in_flight, waiting, return_exceptions=True)
    assert [repr(outcome) for outcome in outcomes] == ["StoreUnavailableError('deadline')"] * 2
    database.answer()
    database.answer()
    assert await group(3) == 30
    assert database.batches == [[1], [3]]


async def test_the_deadline_holds_for_later_callers_after_earlier_ones_were_answered(
    database: Database,
) -> None:
    group: Group = GroupCommit(database, deadline_seconds=0.05)
    database.answer()
    assert await group(1) == 10
    with pytest.raises(StoreUnavailableError, match="deadline"):
        await group(2)
    database.answer()
    await group.finish()


async def test_a_command_that_gave_way_to_another_goes_again_with_all_its_members(
    database: Database,
) -> None:
    group: Group = GroupCommit(database)
    tasks = [asyncio.ensure_future(group(n)) for n in (1, 2)]
    database.answer(StoreConflictError("112"))
    database.answer()
    assert await asyncio.gather(*tasks) == [10, 20]
    assert database.batches == [[1, 2], [1, 2]]


async def test_what_keeps_giving_way_is_answered_by_the_deadline() -> None:
    async def give_way(_: list[int]) -> list[int | Again]:
        await asyncio.sleep(0)
        raise StoreConflictError("112")

    group: Group = GroupCommit(give_way, deadline_seconds=0.05)
    with pytest.raises(TooManyRequestsError, match="deadline"):
        await group(1)
    await group.finish()


async def test_who_stands_aside_until_the_deadline_has_asked_for_too_much(
    database: Database,
) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=1, deadline_seconds=1)
    asked = [asyncio.ensure_future(group(n)) for n in (10, 11, 12, 13)]
    for _ in range(2):
        database.answer()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert outcomes[:2] == [100, 110]
    # The one in flight had stood aside too.
    assert {type(outcome) for outcome in outcomes[2:]} == {TooManyRequestsError}
    database.answer()
    await group.finish()


async def test_who_stands_aside_while_the_database_is_away_is_told_so(database: Database) -> None:
    group: Group = GroupCommit(database, account=_tens, max_share=1, deadline_seconds=0.05)
    asked = [asyncio.ensure_future(group(n)) for n in (10, 11, 12)]
    database.answer(StoreUnavailableError("away"))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailableError}
    database.answer()
    await group.finish()
