"""What is measured, and on which database."""

from __future__ import annotations

import secrets
import shutil
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from bench.processes import free_port, running
from bench.tokens import ED25519, P256, write_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import psutil

LIMIT = 3
LEASE_SECONDS = 3600
"""Longer than a run: nothing that is meant to beat later may expire before."""

MANY = {"heartbeats-100": 100, "heartbeats-1000": 1000}
"""Heartbeats of so many streams in each request; all figures are for each stream."""

SERVICE_SCENARIOS = ("starts", "refusals", "heartbeats", *MANY, "mixed")
CHECKS = ("checks", "new-checks", "live-checks")
"""Checks of playback tokens: of some in turn, of each but once, and of some with `live=1`."""

NULL_SCENARIOS = (*SERVICE_SCENARIOS, "unseen", *CHECKS)
"""Unseen: heartbeats of streams that the process has not met, and so has to read once each."""
GROUPED, ALONE, PAIR, PEER = "grouped", "alone", "grouped x2", "fastapi-stream-lease"
ASYNCIO = "asyncio"
"""Grouped, on asyncio's event loop in place of uvloop."""
SIGNING = {f"grouped + {kind}": kind for kind in (ED25519, P256)}
"""Grouped, with playback tokens by such a key."""
LIMITED = "grouped + limits"
"""Grouped, under three limits by attribute, each of which applies to each start."""
ATTRIBUTES = 'quality=uhd, place=away, title="a film"'
_POLICY = """
[plans.default]
streams = 3
limits.uhd = { when = { quality = "uhd" }, streams = 1 }
limits.away = { when = { place = "away" }, streams = 1 }
limits.same-title = { each = "title", streams = 1 }
"""
YARDSTICK, CEILING = "aiohttp", "wrk"
NO_DATABASE, NULL, EMBEDDED, RUST = "-", "null", "embedded", "secantusd-rs"
MONGO, REDIS = "MONGO_URL", "redis"
DATABASES = (NULL, EMBEDDED, RUST, MONGO, REDIS)


class UnavailableError(Exception):
    """Something that could be measured is not there. The message says what would be needed."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database that runs.

    Attributes:
        name: One of `DATABASES`.
        url: For the service.
        processes: Its processes, if they are ours to look at.
        admin: A client, if it can be asked what commands it has answered.
    """

    name: str
    url: str
    processes: Sequence[psutil.Process] = ()
    admin: MongoClient[dict[str, Any]] | None = None

    def commands(self) -> int | None:
        """How many commands it has answered since it was last asked; None if it cannot tell."""
        if self.admin is None:
            return None
        counters: dict[str, list[int]] = self.admin.admin.command("nullCounters")["counters"]
        return sum(commands for commands, _ in counters.values())

    def show_active(self, streams: int) -> None:
        """Let the null database show so many active streams in every session."""
        if self.admin is not None:
            self.admin.admin.command("nullActive", streams)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """Something that answers HTTP.

    Attributes:
        name: What it is.
        database: What it runs on; None if on nothing.
        port: Where it listens.
        processes: Its own processes.
        scenarios: What it is asked for.
        directory: Where the streams of a scenario are written.
        key: What its playback tokens are signed by, if it gives any.
    """

    name: str
    database: Database
    port: int
    processes: Sequence[psutil.Process]
    scenarios: Sequence[str]
    directory: Path
    key: Path | None = None


@contextmanager
def subjects_on(name: str, url: str | None, directory: Path) -> Iterator[list[Subject]]:
    """Run everything that is measured on one database.

    Args:
        name: One of `DATABASES`, or `NO_DATABASE` for what needs none.
        url: For `MONGO_URL`.
        directory: For data and streams; must be there.

    Raises:
        UnavailableError: It cannot be measured here.
        CannotStartError: A process did not come up.
    """
    with ExitStack() as stack:
        match name:
            case "-":
                yield _on_nothing(stack, directory)
            case "redis":
                yield [_peer(stack, directory)]
            case "embedded":
                yield [_embedded(stack, how, directory) for how in (GROUPED, ALONE)]
            case _:
                database = _DATABASES[name](stack, url, directory)
                services = [_service(stack, how, database, directory) for how in (GROUPED, ALONE)]
                if name == NULL:
                    services.append(_service(stack, ASYNCIO, database, directory))
                    services.append(_pair(stack, database, directory))
                    services.append(_limited(stack, database, directory))
                    services += [_signing(stack, how, database, directory) for how in SIGNING]
                yield services


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _on_nothing(stack: ExitStack, directory: Path) -> list[Subject]:
    subjects = []
    for subject, module in ((CEILING, "bench.ceiling"), (YARDSTICK, "bench.bare")):
        port = free_port()
        process = stack.enter_context(running(_python(module, str(port)), port))
        subjects.append(
            Subject(subject, Database(NO_DATABASE, ""), port, [process], ["plain"], directory)
        )
    return subjects


def _null(stack: ExitStack, _url: str | None, _directory: Path) -> Database:
    port = free_port()
    process = stack.enter_context(running(_python("bench.null_mongod", str(port)), port))
    url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
    return Database(NULL, url, [process], stack.enter_context(MongoClient(url)))


def _secantusd_rs(stack: ExitStack, _url: str | None, directory: Path) -> Database:
    program = shutil.which("secantusd-rs")
    if program is None:
        raise UnavailableError(
            "not found in PATH; a Rust toolchain builds it: "
            "cargo install secantus-mdb --version 0.5.3-beta.196"
        )
    port, data = free_port(), directory / "wiredtiger"
    data.mkdir()
    command = [program, "--port", str(port), "--storage-path", str(data), "--sync-on-commit"]
    process = stack.enter_context(running(command, port))
    return Database(RUST, f"mongodb://127.0.0.1:{port}/?directConnection=true", [process])


def _mongo_url(_stack: ExitStack, url: str | None, _directory: Path) -> Database:
    if url is None:
        raise UnavailableError("the variable is not set")
    try:
        with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=3000) as client:
            client.admin.command("ping")
    except PyMongoError as error:
        # Not the driver's own words: they may quote a password.
        raise UnavailableError(f"no answer ({type(error).__name__})") from None
    return Database(MONGO, url)


_DATABASES = {NULL: _null, RUST: _secantusd_rs, MONGO: _mongo_url}


def _environment(port: int, url: str) -> dict[str, str]:
    return {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MONGO_URL": url,
        "STREAM_LIMIT": str(LIMIT),
        "STREAM_TTL_SECONDS": str(LEASE_SECONDS),
    }


def _service(stack: ExitStack, how: str, database: Database, directory: Path) -> Subject:
    port = free_port()
    mongo_db = f"stream_service_bench_{secrets.token_hex(4)}"
    environment = _environment(port, database.url) | {"MONGO_DB": mongo_db}
    if database.name != NULL:
        stack.callback(_drop, database.url, mongo_db)
    process = stack.enter_context(running(_python("bench.service", how), port, environment))
    scenarios: Sequence[str] = SERVICE_SCENARIOS
    if how == ASYNCIO:
        scenarios = ("starts", "heartbeats")
    elif database.name == NULL:
        scenarios = (*SERVICE_SCENARIOS, "unseen")
    return Subject(how, database, port, [process], scenarios, directory)


def _drop(url: str, mongo_db: str) -> None:
    with MongoClient[dict[str, Any]](url) as client:
        client.drop_database(mongo_db)


def _embedded(stack: ExitStack, how: str, directory: Path) -> Subject:
    port = free_port()
    data = directory / how
    command = _python("bench.service", how, "--embedded", "--data-dir", str(data))
    process = stack.enter_context(running(command, port, _environment(port, "")))
    database = Database(EMBEDDED, "", process.children())
    return Subject(how, database, port, [process], SERVICE_SCENARIOS, directory)


def _pair(stack: ExitStack, database: Database, directory: Path) -> Subject:
    """Two processes on one port: a heartbeat can reach one that did not start its stream."""
    port = free_port()
    environment = _environment(port, database.url) | {"LISTENER_DIR": str(directory / PAIR)}
    command = _python("bench.service", GROUPED)
    processes = [stack.enter_context(running(command, port, environment)) for _ in range(2)]
    return Subject(PAIR, database, port, processes, ["starts", "unseen"], directory)


def _limited(stack: ExitStack, database: Database, directory: Path) -> Subject:
    port, policy = free_port(), directory / "policy.toml"
    policy.write_text(_POLICY)
    environment = _environment(port, database.url) | {"POLICY_FILE": str(policy)}
    process = stack.enter_context(running(_python("bench.service", GROUPED), port, environment))
    return Subject(LIMITED, database, port, [process], ("starts", "heartbeats"), directory)


def _signing(stack: ExitStack, how: str, database: Database, directory: Path) -> Subject:
    port, key = free_port(), directory / f"{how}.pem"
    write_key(key, SIGNING[how])
    environment = _environment(port, database.url) | {"PLAYBACK_KEYS": str(key)}
    process = stack.enter_context(running(_python("bench.service", GROUPED), port, environment))
    return Subject(how, database, port, [process], ("heartbeats", *CHECKS), directory, key)


def _peer(stack: ExitStack, directory: Path) -> Subject:
    program = shutil.which("redis-server")
    if program is None:
        raise UnavailableError("redis-server not found in PATH: apt-get install redis-server")
    redis_port, port = free_port(), free_port()
    # Without a file, as its quick start has it: nothing is faster, and nothing survives a crash.
    command = [program, "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "no"]
    redis = stack.enter_context(running(command, redis_port))
    url = f"redis://127.0.0.1:{redis_port}/0"
    uvicorn = _python("uvicorn", "bench.peer:app", "--port", str(port), "--no-access-log")
    process = stack.enter_context(running(uvicorn, port, {"REDIS_URL": url}))
    return Subject(PEER, Database(REDIS, url, [redis]), port, [process], ["starts"], directory)
