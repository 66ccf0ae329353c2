"""What each request costs the database, and whom it asks: counted on the wire."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.admission import OLDEST, Start
from stream_service.group_commit import MAX_BATCH
from stream_service.limiter import Limiter, Renewed
from stream_service.streams import LimitReachedError, StreamEndedError, utc_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    from stream_service.store import MongoStore
    from tests.conftest import Commands

SESSION = "digest-of-a-session"
LIMIT = 3


@pytest.fixture(params=["wire", "router"])
async def store(commands: Commands, request: pytest.FixtureRequest) -> MongoStore:
    """A store that is ready, and of whose commands none has been counted."""
    made: MongoStore = request.getfixturevalue(f"{request.param}_store")
    await made.prepare()
    commands.sent.clear()
    commands.router = request.param == "router"
    return made


@pytest.fixture
def limiter(store: MongoStore) -> Limiter:
    return Limiter(store, lease=timedelta(seconds=60))


def _filters(name: str, command: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    match name:
        case "find":
            yield command["filter"]
        case "update":
            yield from (update["q"] for update in command["updates"])
        case _:
            raise AssertionError(f"nobody expects {name}")


def names_of(commands: Commands, *sessions: str) -> list[str]:
    """Names of what was sent since the last call, each checked to ask for these sessions alone."""
    for name, command in commands.sent:
        asked = set()
        for where in _filters(name, command):
            named = where["_id" if "_id" in where else "session"]
            ids = named["$in"] if isinstance(named, dict) else [named]
            asked |= {one.partition("/")[0] for one in ids}
            if commands.router or "session" in where:
                # At the top, as a shard key has to be for a router to ask one shard.
                shards = where["session"]
                assert asked >= (set(shards["$in"]) if isinstance(shards, dict) else {shards})
            else:
                # A renewal: an id is enough, its session is a part of it.
                assert name == "update"
        assert asked == set(sessions)
    names = [name for name, _ in commands.sent]
    commands.sent.clear()
    return names


async def test_a_start_costs_two_commands_that_name_its_session(
    commands: Commands, limiter: Limiter
) -> None:
    for _ in range(LIMIT):
        await limiter.start(Start(SESSION, LIMIT))
        assert names_of(commands, SESSION) == ["find", "update"]


async def test_a_start_with_a_key_costs_two_commands_and_so_does_its_replay(
    commands: Commands, limiter: Limiter
) -> None:
    await limiter.start(Start(SESSION, LIMIT, idempotency_key="k"))
    assert names_of(commands, SESSION) == ["find", "update"]

    assert (await limiter.start(Start(SESSION, LIMIT, idempotency_key="k"))).replay
    assert names_of(commands, SESSION) == ["find", "update"]


async def test_a_refusal_costs_one_command_and_a_replacement_two(
    commands: Commands, limiter: Limiter
) -> None:
    await limiter.start(Start(SESSION, 1))
    commands.sent.clear()

    with pytest.raises(LimitReachedError):
        await limiter.start(Start(SESSION, 1))
    assert names_of(commands, SESSION) == ["find"]

    await limiter.start(Start(SESSION, 1, replace=(OLDEST,)))
    assert names_of(commands, SESSION) == ["find", "update"]


async def test_a_heartbeat_costs_one_command_that_names_its_session(
    commands: Commands, limiter: Limiter
) -> None:
    stream = (await limiter.start(Start(SESSION, LIMIT))).stream
    commands.sent.clear()

    for _ in range(2):
        await limiter.heartbeat(stream.place)
        assert names_of(commands, SESSION) == ["update"]


async def test_with_labels_a_heartbeat_at_another_process_costs_one_command_more_the_first_time(
    commands: Commands, limiter: Limiter, store: MongoStore
) -> None:
    stream = (await limiter.start(Start(SESSION, LIMIT))).stream
    other = Limiter(store, lease=timedelta(seconds=60), with_labels=True)
    commands.sent.clear()

    await other.heartbeat(stream.place)
    assert names_of(commands, SESSION) == ["update", "find"]

    await other.heartbeat(stream.place)
    assert names_of(commands, SESSION) == ["update"]


async def test_a_stop_of_all_costs_three_commands_and_one_if_there_are_none(
    commands: Commands, limiter: Limiter
) -> None:
    for _ in range(LIMIT):
        await limiter.start(Start(SESSION, LIMIT))
    commands.sent.clear()

    assert await limiter.stop_all(SESSION) == LIMIT
    assert names_of(commands, SESSION) == ["find", "find", "update"]

    assert await limiter.stop_all(SESSION) == 0
    assert names_of(commands, SESSION) == ["find"]


async def test_a_stop_costs_two_commands_that_name_its_session(
    commands: Commands, limiter: Limiter
) -> None:
    stream = (await limiter.start(Start(SESSION, LIMIT))).stream
    commands.sent.clear()

    await limiter.stop(stream.place)

    assert names_of(commands, SESSION) == ["find", "update"]


async def test_a_list_and_a_look_cost_one_command_that_names_their_session(
    commands: Commands, limiter: Limiter
) -> None:
    stream = (await limiter.start(Start(SESSION, LIMIT))).stream
    commands.sent.clear()

    await limiter.active(SESSION)
    assert names_of(commands, SESSION) == ["find"]

    await limiter.get(stream.place)
    assert names_of(commands, SESSION) == ["find"]


async def test_starts_of_many_sessions_that_come_at_once_share_two_commands(
    commands: Commands, limiter: Limiter
) -> None:
    sessions = [f"s{n}" for n in range(20)]

    await asyncio.gather(*(limiter.start(Start(session, LIMIT)) for session in sessions))

    assert names_of(commands, *sessions) == ["find", "update"]


async def test_starts_whose_keys_have_to_be_freed_first_share_two_commands_more(
    commands: Commands, store: MongoStore
) -> None:
    now = utc_now()
    limiter = Limiter(store, lease=timedelta(seconds=60), clock=lambda: now)
    sessions = [f"s{n}" for n in range(MAX_BATCH)]

    def starts(key: str | None = None) -> list[Awaitable[object]]:
        return [limiter.start(Start(s, LIMIT, idempotency_key=key)) for s in sessions]

    # The key's stream is in the second slot, and over; the first slot is free.
    await asyncio.gather(*starts())
    await asyncio.gather(*starts("k"))
    now += timedelta(seconds=60)
    commands.sent.clear()

    await asyncio.gather(*starts("k"))

    assert names_of(commands, *sessions) == ["find", "update"] * 2


async def test_heartbeats_that_come_at_once_are_one_statement_or_through_a_router_one_each(
    commands: Commands, limiter: Limiter
) -> None:
    sessions = [f"s{n}" for n in range(20)]
    started = await asyncio.gather(*(limiter.start(Start(s, LIMIT)) for s in sessions))
    commands.sent.clear()

    await asyncio.gather(*(limiter.heartbeat(s.stream.place) for s in started))

    [(_, update)] = commands.sent
    assert len(update["updates"]) == (20 if commands.router else 1)
    assert names_of(commands, *sessions) == ["update"]


async def test_each_heartbeat_of_a_batch_gets_its_own_answer(limiter: Limiter) -> None:
    streams = [(await limiter.start(Start(SESSION, LIMIT))).stream for _ in range(LIMIT)]
    await limiter.stop(streams[1].place)

    outcomes = await asyncio.gather(
        *(limiter.heartbeat(s.place) for s in streams), return_exceptions=True
    )

    renewed, over, other = outcomes
    assert isinstance(over, StreamEndedError)
    for outcome, stream in ((renewed, streams[0]), (other, streams[2])):
        assert isinstance(outcome, Renewed)
        assert outcome.stream_id == stream.stream_id


async def test_a_heartbeat_waits_for_one_machine_and_whatever_gives_or_ends_a_stream_for_most(
    commands: Commands, limiter: Limiter
) -> None:
    stream = (await limiter.start(Start(SESSION, LIMIT, idempotency_key="k"))).stream
    await limiter.start(Start(SESSION, LIMIT, idempotency_key="k"))
    await limiter.start(Start(SESSION, LIMIT, replace=(stream.stream_id,)))
    await limiter.stop((await limiter.start(Start(SESSION, LIMIT))).stream.place)
    concerns = [sent["writeConcern"] for name, sent in commands.sent if name == "update"]
    assert concerns == [{"w": "majority", "j": True}] * 5
    [other] = await limiter.active(SESSION)
    commands.sent.clear()

    await limiter.heartbeat(other.place)

    assert commands.sent[0][1]["writeConcern"] == {"w": 1, "j": False}


async def test_what_is_remembered_of_labels_is_bounded_in_bytes(
    commands: Commands, limiter: Limiter, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_service.limiter.LABEL_BYTES", 1500)
    remembering = Limiter(store, lease=timedelta(seconds=60), with_labels=True)
    long, short = [
        (await limiter.start(Start(SESSION, LIMIT, content=content))).stream
        for content in ("\U0001f4fa" * 200, "film")
    ]
    for stream, label in ((long, "\U0001f4fa" * 200), (short, "film")):
        assert (await remembering.heartbeat(stream.place)).content == label
    commands.sent.clear()

    # The long one takes 1,310 bytes: it had to go for the other, and is read again.
    await remembering.heartbeat(short.place)
    assert names_of(commands, SESSION) == ["update"]
    await remembering.heartbeat(long.place)
    assert names_of(commands, SESSION) == ["update", "find"]
