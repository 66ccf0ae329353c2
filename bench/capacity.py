"""What so many streams need, reckoned from what the database at hand shows of fewer.

Fills a database with streams as starts leave them (labels, a key, a device id), and asks it for the
bytes of the data and of each index; renews, starts and ends some as the service does, and counts
the index entries that it changes. The last column predicts the largest number from the smaller
ones: how far to trust what is then predicted of --streams. What is not measured here is assumed,
and has an option.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, inf, log10
from statistics import fmean
from typing import TYPE_CHECKING, Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from bench.engines import ENGINES, MONGO, RETENTION, Engine, MadeUp, engine_named, entries, fill
from bench.processes import CannotStartError, usage
from stream_service.connection import Connection
from stream_service.documents import FORGET_STEP, forget_at, id_of
from stream_service.process.embedded import PROGRAM
from stream_service.store import MongoStore, Put
from stream_service.streams import StoreUnavailableError, utc_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from stream_service.streams import Place, Stream

BATCH = 128
"""What group commit sends at once, at most."""
BATCHES = 20
SWEEP = timedelta(minutes=1)
"""How often a TTL index deletes."""
BUSY = 0.6
"""Of a core, what a process of the service should use at most."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a database showed of some number of streams.

    Attributes:
        streams: Their number.
        sizes: Bytes of `data` and of each `index ...`.
        costs: By change: microseconds of the server's CPU for each; of a server that is not ours,
            how many it carries out in a second for one process.
        entries: Index entries that each change of a stream writes and removes.
    """

    streams: int
    sizes: Mapping[str, float]
    costs: Mapping[str, float]
    entries: Mapping[str, float]


@dataclass(frozen=True)
class Asked:
    """What is asked for, and what is taken as it is said. `_HELP` explains each."""

    streams: float = 1_000_000
    lease: float = 60
    minutes: float = 45
    heartbeat_us: float = 100
    start_us: float = 990
    shard_updates: float = 10_000


_HELP = {
    "streams": "how many play at once",
    "lease": "seconds without a heartbeat that a stream survives, STREAM_TTL_SECONDS",
    "minutes": "how long a stream plays",
    "heartbeat_us": "CPU of the service for a heartbeat, as `make bench` shows it",
    "start_us": "its CPU for a start and its stop: 22 requests of `mixed` less 20 heartbeats",
    "shard_updates": "updates a second that one shard of yours sustains",
}

Points = Sequence[tuple[int, float]]
"""A figure by number of streams, ascending."""


def by_line(points: Points, streams: float) -> float:
    """What the line through the last two shows of so many; of one, in proportion."""
    (count, figure), (before, lower) = points[-1], points[-2] if points[1:] else (0, 0.0)
    return figure + (figure - lower) / (count - before) * (streams - count)


def by_depth(points: Points, streams: float) -> float:
    """As `by_line`, of a cost that grows as the depth of a tree does; of one, the same."""
    (count, figure), (before, lower) = points[-1], points[-2] if points[1:] else (1, points[-1][1])
    return figure + (figure - lower) / log10(count / before) * log10(streams / count)


def table(measured: Sequence[Measured]) -> list[str]:
    """What was measured, and how well the smaller numbers predict the largest."""
    last = measured[-1]
    lines = [_line("streams", *(f"{one.streams:,}" for one in measured), "predicted")]
    for part, predict in (("sizes", by_line), ("costs", by_depth)):
        for name in getattr(last, part):
            points = [(one.streams, getattr(one, part)[name]) for one in measured]
            off = ""
            if points[1:] and points[-1][1]:
                off = f"{predict(points[:-1], last.streams) / points[-1][1] - 1:+.1%}"
            lines.append(_line(name, *(f"{figure:,.0f}" for _, figure in points), off))
    changes = (f"{name} {number:g}" for name, number in last.entries.items())
    return [*lines, f"index entries changed by each: {', '.join(changes)}"]


def _line(name: str, *columns: str) -> str:
    return f"{name:26}" + "".join(f"{column:>15}" for column in columns)


def needs(measured: Sequence[Measured], asked: Asked) -> list[tuple[str, str, str]]:
    """What the streams that are asked for need: what, how much, and what that rests on."""
    beats = asked.streams / (asked.lease / 3)
    starts = asked.streams / (asked.minutes * 60)
    kept = (RETENTION + FORGET_STEP + SWEEP).total_seconds()
    documents = asked.streams + starts * kept
    sizes = {
        # A stream that ended holds no place.
        name: by_line(
            [(one.streams, one.sizes[name]) for one in measured],
            asked.streams if name == "index places" else documents,
        )
        for name in measured[-1].sizes
    }
    indexes = sum(sizes.values()) - sizes["data"]
    working = sizes["data"] * asked.streams / documents + indexes
    updates = beats + 2 * starts
    changes = measured[-1].entries
    # The rest of a life: its start, its stop, and the TTL index.
    past_a_step = min(1, asked.lease / 3 / FORGET_STEP.total_seconds())
    moved = beats * past_a_step * changes["renewals past a step"]
    moved += starts * (changes["starts"] + changes["stops"] + changes["deletions"])
    cores = (asked.heartbeat_us * beats + asked.start_us * starts) / 1e6
    shards = ceil(updates / asked.shard_updates)
    return [
        ("heartbeats a second", f"{beats:,.0f}", f"lease of {asked.lease:g} s (--lease)"),
        ("starts, stops a second", f"{starts:,.0f}", f"{asked.minutes:g} minutes each (--minutes)"),
        ("documents", f"{documents:,.0f}", f"also of those that ended {kept:.0f} s ago"),
        *((name, _gb(size), "") for name, size in sizes.items()),
        ("working set", _gb(working), "documents of active streams, all indexes"),
        ("updates a second", f"{updates:,.0f}", f"and {starts:,.0f} deletions"),
        ("index entries a second", f"{moved:,.0f}", "written or removed"),
        ("heartbeats", f"{asked.heartbeat_us:g} us", "of the service: ASSUMED (--heartbeat-us)"),
        ("start and stop", f"{asked.start_us:g} us", "ASSUMED (--start-us)"),
        ("cores of the service", f"{cores:,.1f}", ""),
        ("processes", f"{max(2, ceil(cores / BUSY)):,}", f"{BUSY:.0%} busy, two at least"),
        ("updates of a shard", f"{asked.shard_updates:,.0f}", "ASSUMED (--shard-updates)"),
        ("shards", f"{shards:,}", ""),
        (
            "memory of each member",
            _gb(2 * working / shards + 1e9),
            "twice its working set, and 1 GB",
        ),
    ]


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


async def measure(
    engine: Engine, database: str, numbers: Sequence[int], say: Callable[[str], None]
) -> list[Measured]:
    """Fill an empty database with these numbers of streams in turn, and measure at each.

    Args:
        engine: Which server.
        database: Name of the database; it is not dropped.
        numbers: Ascending.
        say: Takes lines about the progress.

    Raises:
        StoreUnavailableError: The server does not keep up.
        PyMongoError: It failed.
    """
    now = utc_now()
    # Longer than this may take, and in the middle between two steps of `forget_at`.
    expires_at = forget_at(now + timedelta(days=1), RETENTION)
    made_up = MadeUp(secrets.token_hex(6), now, expires_at)
    # The service's own gives up after a moment.
    patient = AsyncIOMotorClient[Any](engine.url, tz_aware=True)
    store = MongoStore(Connection(patient, database), RETENTION)
    found, first, began = [], 0, time.monotonic()
    with MongoClient[dict[str, Any]](engine.url) as client:
        try:
            await store.prepare(None)
            for turn, number in enumerate(numbers, 1):
                for filled in fill(client[database].streams, made_up, range(first, number)):
                    left = (time.monotonic() - began) / filled * (numbers[-1] - filled)
                    say(f"{filled:,} of {numbers[-1]:,} streams, {left / 60:.1f} min left")
                first = number
                say(f"measuring at {number:,} streams")
                sizes = await asyncio.to_thread(_sizes, client[database])
                changes = _Changes(engine, store, client[database].streams)
                found.append(await changes.measure(turn, number, sizes, made_up))
        finally:
            store.close()
    return found


def _sizes(database: Any) -> dict[str, float]:
    """Bytes of data and of each index; where a server does not tell, of the documents' BSON."""
    try:
        told = database.command("collStats", "streams")
    except OperationFailure:
        size = {"$group": {"_id": None, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}}
        return {"data": next(database.streams.aggregate([size]))["bytes"]}
    indexes = {f"index {name}": size for name, size in sorted(told["indexSizes"].items())}
    return {"data": told["size"], **indexes}


class _Changes:
    """Changes streams as the service does, and looks at what that does."""

    def __init__(self, engine: Engine, store: MongoStore, streams: Any) -> None:
        self._engine = engine
        self._store = store
        self._streams = streams
        self._indexes = streams.index_information()

    async def measure(
        self, turn: int, number: int, sizes: Mapping[str, float], made_up: MadeUp
    ) -> Measured:
        """Measure at so many streams, in this turn of several, and leave as many."""
        chosen = random.sample(range(number), min(number, BATCH * BATCHES))
        old = [made_up.stream(one) for one in chosen]
        new = [made_up.stream(number + one) for one in range(len(old))]
        now, end = utc_now(), made_up.expires_at
        costs: dict[str, float] = {}
        changed: dict[str, float] = {}

        async def timed(
            name: str, streams: Sequence[Stream], change: Callable[[list[Stream]], Awaitable[Any]]
        ) -> None:
            head = [id_of(stream.place) for stream in streams[:BATCH]]
            there, took = self._entries(head), []
            for first in range(0, len(streams), BATCH):
                batch = list(streams[first : first + BATCH])
                began = self._clock()
                await change(batch)
                took.append((self._clock() - began) / len(batch))
            # The middle half: some met the embedded server as it looked for what to delete.
            cost = fmean(sorted(took)[len(took) // 4 : len(took) - len(took) // 4])
            if self._engine.processes:
                costs[f"CPU us, {name}"] = cost * 1e6
            else:
                costs[f"{name} a second"] = 1 / cost
            changed[name] = len(self._entries(head) ^ there) / len(head)

        def beat(some: list[Stream], until: datetime) -> Awaitable[Any]:
            return self._store.renew(_places(some), now, until)

        # Beyond what the turns before have set.
        soon, step = (end + turn * more for more in (timedelta(seconds=1), FORGET_STEP))
        await timed("renewals", old, lambda some: beat(some, soon))
        await timed("renewals past a step", old, lambda some: beat(some, step))
        await timed("starts", new, lambda some: self._store.write(list(map(Put, some)), now))
        await timed("stops", new, lambda some: self._store.end(_places(some), now))
        gone = [id_of(stream.place) for stream in new]
        changed["deletions"] = len(self._entries(gone[:BATCH])) / len(gone[:BATCH])
        self._streams.delete_many({"_id": {"$in": gone}})
        return Measured(number, sizes, costs, changed)

    def _entries(self, ids: list[str]) -> set[tuple[str, str, object]]:
        return entries(self._indexes, self._streams.find({"_id": {"$in": ids}}))

    def _clock(self) -> float:
        """Seconds of the server's CPU; of a server that is not ours, seconds."""
        processes = self._engine.processes
        return usage(processes).cpu if processes else time.perf_counter()


def _places(streams: Sequence[Stream]) -> list[Place]:
    return [stream.place for stream in streams]


def main(arguments: list[str] | None = None) -> int:
    """Measure and reckon; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    name, numbers = options.pop("engine"), options.pop("measure")
    try:
        with ExitStack() as stack:
            engine = engine_named(stack, name)
            if engine is None:
                _say(f"error: {name} is not here: see --help")
                return 1
            database = f"stream_service_bench_{secrets.token_hex(4)}"
            if name == MONGO:
                stack.callback(_drop, engine.url, database)
            measured = asyncio.run(measure(engine, database, numbers, _say))
    except CannotStartError as error:
        _say(f"error: {error}")
        return 1
    except (PyMongoError, StoreUnavailableError) as error:
        # Not the driver's own words: they may quote a password.
        _say(f"error: the database gave no answer ({type(error).__name__})")
        return 1
    asked = Asked(**options)
    told = "its collStats" if measured[0].sizes.keys() - {"data"} else "the BSON of its documents"
    print("\n".join([f"Measured on {name}, sizes by {told}:", *table(measured)]))
    print(f"\n{asked.streams:,.0f} streams (--streams) need:")
    for row in needs(measured, asked):
        print("{:26}{:>15}  {}".format(*row).rstrip())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Takes a minute or two; with 1e6 among --measure, half an hour and 3 GB of $TMPDIR. "
        "MONGO_URL in the environment names a server that you can spare: a database "
        "stream_service_bench_* is made there and dropped. Progress goes to standard error.",
    )
    for name, text in _HELP.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=_positive, default=getattr(Asked, name), help=text)
    parser.add_argument(
        "--measure",
        type=lambda text: sorted({int(_positive(part)) for part in text.split(",")}),
        default="10000,100000",
        help="numbers of streams to measure at, with commas",
    )
    parser.add_argument("--engine", choices=ENGINES, default=PROGRAM, help="what to measure on")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 1 <= number < inf:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _drop(url: str, database: str) -> None:
    with MongoClient[dict[str, Any]](url) as client:
        client.drop_database(database)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # What was started ends with this, as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
