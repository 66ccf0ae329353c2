"""What tests of every kind share: a real database server, and a store on each backend."""

from __future__ import annotations

import functools
import os
import secrets
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import mongomock.collection
import mongomock.database
import pytest
from hypothesis import HealthCheck, settings
from mongomock_motor import AsyncMongoMockClient
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel, MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from stream_service.connection import Connection
from stream_service.group_commit import GroupCommit
from stream_service.store import MongoStore
from stream_service.streams import utc_now
from tests.support.database import Database
from tests.support.router import router_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ENGINE = os.environ.get("ENGINE", "this server")
"""What the tests call the server that they run on; `make test-engines` sets it."""

RETENTION = timedelta(seconds=300)

# A shell's background job ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example runs says more about the machine than about the example.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")

# mongomock 4.3 does not know the argument `sort`, which PyMongo 4.11 and later pass on.
_builder: Any = mongomock.collection.BulkOperationBuilder
_add_update = _builder.add_update


def _add_update_without_sort(*args: Any, sort: None = None, **kwargs: Any) -> Any:  # noqa: ARG001
    return _add_update(*args, **kwargs)


_builder.add_update = _add_update_without_sort


# It makes an index of all documents of what shall be one of some.
def _create_indexes(collection: Any, indexes: list[IndexModel]) -> list[str]:
    return [
        collection.create_index(list(options.pop("key").items()), **options)
        for options in (dict(index.document) for index in indexes)
    ]


_collection: Any = mongomock.collection.Collection
_collection.create_indexes = _create_indexes

# And it knows no command but ping.
_database: Any = mongomock.database.Database
_command = _database.command


def _command_or_hello(database: Any, command: Any, **kwargs: Any) -> Any:
    if command == "hello":
        return {"ok": 1.0, "localTime": utc_now()}
    return _command(database, command, **kwargs)


_database.command = _command_or_hello


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server: the one that MONGO_URL names, else an embedded one for the session."""
    given = os.environ.get("MONGO_URL")
    if given:
        yield given
    else:
        # The option is for the fixture `failing`.
        directory = tmp_path_factory.mktemp("database")
        with Database(directory, "--enable-test-commands") as database:
            yield database.url


@pytest.fixture(scope="session")
def mongo(mongo_url: str) -> Iterator[MongoClient[Any]]:
    """A client of the driver itself, to look at what is in the database."""
    client: MongoClient[Any] = MongoClient(mongo_url, tz_aware=True)
    with client:
        yield client


@pytest.fixture
def failing(mongo: MongoClient[Any]) -> Iterator[Callable[..., None]]:
    """Lets the next commands of stores fail, by MongoDB's own test command.

    Takes the names of the commands, how many `times` they fail, and the `code` of the error; or for
    how many seconds they `block` instead.
    """

    def fail(*commands: str, code: int = 0, times: int = 1, block: float = 0) -> None:
        data: dict[str, Any] = {"failCommands": commands, "appName": "stream-service"}
        if block:
            data |= {"blockConnection": True, "blockTimeMS": int(block * 1000)}
        else:
            data["errorCode"] = code
        _fail_point(mongo, {"times": times}, data)

    try:
        _fail_point(mongo, "off", {})
    except OperationFailure:
        pytest.skip(f"{ENGINE} has no configureFailPoint")
    yield fail
    _fail_point(mongo, "off", {})


def _fail_point(mongo: MongoClient[Any], mode: object, data: dict[str, Any]) -> None:
    mongo.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)


@pytest.fixture
def database(mongo: MongoClient[Any]) -> Iterator[str]:
    """Name of a fresh database on the real server, dropped after the test."""
    name = f"stream_service_test_{secrets.token_hex(6)}"
    yield name
    mongo.drop_database(name)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands and requests take long: a test that is not about time has none to lose."""
    monkeypatch.setattr("stream_service.connection.COMMAND_TIMEOUT", timedelta(seconds=25))
    defaults = GroupCommit.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "deadline_seconds", 30.0)


@pytest.fixture
def connect(
    mongo_url: str,
    database: str,
    patient: None,  # noqa: ARG001
) -> Iterator[Callable[..., MongoStore]]:
    """Makes stores on the real server, each with a client of its own, as processes have.

    Takes `options` for the URL, which win over those that it has, `retention`, and another `url`.
    """
    stores: list[MongoStore] = []

    def make(
        *, options: str = "", retention: timedelta = RETENTION, url: str = mongo_url
    ) -> MongoStore:
        url = _with_options(url, options)
        stores.append(MongoStore.connect(url, database, retention))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def _with_options(url: str, options: str) -> str:
    if not options:
        return url
    base, _, given = url.partition("?")
    named = f"{given}&{options}".strip("&").split("&")
    merged = dict(option.split("=", 1) for option in named)
    slash = "" if base.count("/") > 2 else "/"
    return f"{base}{slash}?" + "&".join(f"{name}={value}" for name, value in merged.items())


class Commands(CommandListener):
    """The commands that a client sent, as (name, document) in their order."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []
        self.router = False

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append((event.command_name, event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Records the commands of every store that is connected after it was asked for."""
    recorder = Commands()
    recording = functools.partial(AsyncIOMotorClient, event_listeners=[recorder])
    monkeypatch.setattr("stream_service.connection.AsyncIOMotorClient", recording)
    return recorder


@pytest.fixture(scope="session")
def frees_removed_keys(mongo: MongoClient[Any]) -> None:
    """Asks of the server that a partial unique index lets go of a field that is removed."""
    name = f"stream_service_test_{secrets.token_hex(6)}"
    try:
        probe = mongo[name].probe
        probe.create_index("key", unique=True, partialFilterExpression={"key": {"$exists": True}})
        probe.insert_one({"_id": 1, "key": "k"})
        probe.update_one({"_id": 1}, {"$unset": {"key": ""}})
        probe.insert_one({"_id": 2, "key": "k"})
    except DuplicateKeyError:
        pytest.skip(f"{ENGINE} keeps the key of a removed field in a partial unique index")
    finally:
        mongo.drop_database(name)


@pytest.fixture
def wire_store(connect: Callable[..., MongoStore]) -> MongoStore:
    """A store on a fresh database of the real server."""
    return connect()


@pytest.fixture
def router_store(mongo_url: str, request: pytest.FixtureRequest) -> Iterator[MongoStore]:
    """A store on a fresh database of the real server, which it takes for a router."""
    if not mongo_url.startswith("mongodb://127.0.0.1:"):
        pytest.skip(f"{ENGINE}: a faked router stands before servers of this machine alone")
    port = int(mongo_url.removeprefix("mongodb://127.0.0.1:").partition("/")[0])
    with router_before(("127.0.0.1", port)) as (host, router):
        connect: Callable[..., MongoStore] = request.getfixturevalue("connect")
        made = connect(url=f"mongodb://{host}:{router}/?directConnection=true")
        yield made
        made.close()


@pytest.fixture
def double_store() -> MongoStore:
    """A store on the test double, which proves no atomicity."""
    return MongoStore(Connection(AsyncMongoMockClient(tz_aware=True), "test"), RETENTION)


@pytest.fixture(params=["double", "wire"])
def store(request: pytest.FixtureRequest) -> MongoStore:
    """A store without streams, on each backend in turn."""
    made: MongoStore = request.getfixturevalue(f"{request.param}_store")
    return made
