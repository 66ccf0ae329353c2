"""Commands that meet others of another process: in one order, and again after a conflict."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import BulkWriteError

from stream_service.admission import Start
from stream_service.limiter import Limiter
from stream_service.store import MongoStore, Put
from stream_service.streams import (
    StoreConflictError,
    StoreUnavailableError,
    Stream,
    new_secret,
    stream_id_of,
    token_of,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.conftest import Commands

WRITE_CONFLICT = 112
LEASE = timedelta(seconds=60)
SESSIONS = [f"s{n}" for n in (4, 0, 3, 1, 2)]


@pytest.fixture
async def limiter(commands: Commands, wire_store: MongoStore) -> Limiter:
    """A limiter whose store is ready, and of whose commands none has been counted."""
    await wire_store.prepare()
    commands.sent.clear()
    return Limiter(wire_store, lease=LEASE)


def _named(value: Any) -> list[Any]:
    return value["$in"] if isinstance(value, dict) else [value]


def _orders(name: str, command: Mapping[str, Any]) -> list[list[Any]]:
    """Each list of ids or sessions that a command names, in the order in which it does."""
    if name == "find":
        return [
            _named(command["filter"][key]) for key in ("_id", "session") if key in command["filter"]
        ]
    filters = [update["q"] for update in command["updates"]]
    if len(filters) == 1:
        [only] = filters
        return [_named(value) for key, value in only.items() if key in ("_id", "session")]
    return [[where["_id"] for where in filters]]


async def test_whatever_a_command_names_is_in_order(commands: Commands, limiter: Limiter) -> None:
    started = await asyncio.gather(
        *(limiter.start(Start(session, 3)) for session in SESSIONS for _ in range(2))
    )
    streams = [start.stream for start in started]
    await asyncio.gather(*(limiter.heartbeat(s.place) for s in streams))
    await asyncio.gather(*(limiter.get(s.place) for s in streams))
    await asyncio.gather(*(limiter.active(session) for session in SESSIONS))
    await asyncio.gather(*(limiter.stop(s.place) for s in streams))

    orders = [order for name, sent in commands.sent for order in _orders(name, sent)]
    assert [len(order) for order in orders if len(order) > 1]
    assert orders == [sorted(order) for order in orders]
    assert {name for name, _ in commands.sent} == {"find", "update"}


def streaming(session: str, slot: int = 0) -> Stream:
    now = utc_now()
    return Stream(session, stream_id_of(slot, token_of(new_secret())), now, now + LEASE)


async def test_each_answer_goes_to_the_write_that_it_is_about_whatever_their_order(
    store: MongoStore,
) -> None:
    now = utc_now()
    for taken in ("s0", "s3"):
        assert await store.write([Put(streaming(taken))], now) == [True]

    done = await store.write([Put(streaming(session)) for session in SESSIONS], now)

    assert dict(zip(SESSIONS, done, strict=True)) == {
        "s0": False,
        "s1": True,
        "s2": True,
        "s3": False,
        "s4": True,
    }


async def test_a_command_that_met_another_is_carried_out_again_and_is_no_503(
    limiter: Limiter, failing: Callable[..., None]
) -> None:
    for _ in range(2):
        failing("update", code=WRITE_CONFLICT)
        stream = (await limiter.start(Start("s", 3))).stream
    failing("update", code=WRITE_CONFLICT, times=3)
    await limiter.heartbeat(stream.place)
    failing("find", code=WRITE_CONFLICT)
    assert len(await limiter.active("s")) == 2
    failing("update", code=WRITE_CONFLICT)
    assert await limiter.stop(stream.place)
    assert len(await limiter.active("s")) == 1


async def test_an_error_that_is_no_conflict_is_not_tried_again(
    commands: Commands, limiter: Limiter, failing: Callable[..., None]
) -> None:
    failing("update", code=8000)
    with pytest.raises(StoreUnavailableError, match="8000"):
        await limiter.start(Start("s", 3))
    assert [name for name, _ in commands.sent] == ["find", "update"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((112,), [False, True]),
        ((11000, 112), [False, False]),
        ((8000,), StoreUnavailableError),
        ((112, 8000), StoreUnavailableError),
    ],
)
async def test_a_conflict_of_one_statement_has_that_one_look_again(
    double_store: MongoStore,
    monkeypatch: pytest.MonkeyPatch,
    codes: tuple[int, ...],
    expected: Any,
) -> None:
    # No server here can be told to let one statement of several fail.
    async def bulk_write(*_: Any, **__: Any) -> None:
        errors = [{"index": index, "code": code} for index, code in enumerate(codes)]
        raise BulkWriteError(
            {
                "writeErrors": errors,
                "writeConcernErrors": [],
                "nMatched": 0,
                "nUpserted": 2 - len(codes),
            }
        )

    await double_store.prepare()
    monkeypatch.setattr(double_store._streams, "bulk_write", bulk_write)  # noqa: SLF001
    writes = [Put(streaming("s0")), Put(streaming("s1"))]

    if isinstance(expected, list):
        assert await double_store.write(writes, utc_now()) == expected
    else:
        with pytest.raises(expected) as caught:
            await double_store.write(writes, utc_now())
        assert not isinstance(caught.value, StoreConflictError)
