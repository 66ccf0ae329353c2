"""Database servers that are here, and streams to fill them with."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.processes import free_port, running
from stream_service.api.digests import Digests
from stream_service.api.lease_ids import LeaseIds
from stream_service.documents import holding, id_of
from stream_service.process.embedded import PROGRAM
from stream_service.streams import SECRET_BYTES, Stream, key_place, stream_id_of, token_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import ExitStack

    import psutil

RUST, MONGO = "secantusd-rs", "MONGO_URL"
ENGINES = (PROGRAM, RUST, MONGO)
RETENTION = timedelta(minutes=5)
AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Engine:
    """A database server that runs.

    Attributes:
        name: One of `ENGINES`, or `null`.
        url: Of the server.
        processes: Its processes, if they are ours to look at.
    """

    name: str
    url: str
    processes: Sequence[psutil.Process]


def engine_named(stack: ExitStack, name: str) -> Engine | None:
    """Run this engine until the stack unwinds, or take the server of MONGO_URL; None: not here."""
    if name == MONGO:
        url = os.environ.get("MONGO_URL")
        return Engine(name, url, ()) if url else None
    program = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if program is None:
        return None
    data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    port = free_port()
    command = [program, "--port", str(port), "--storage-path", str(data), "--sync-on-commit"]
    process = stack.enter_context(running(command, port))
    return Engine(name, f"mongodb://127.0.0.1:{port}/?directConnection=true", [process])


@dataclass(frozen=True, slots=True)
class MadeUp:
    """Numbered streams of as many accounts, as starts with all that a player may say leave them.

    Attributes:
        word: Two with different words have no account in common.
        started_at: Of all of them.
        expires_at: Of all of them.
    """

    word: str
    started_at: datetime
    expires_at: datetime

    def login(self, number: int) -> str:
        """The session id of an account."""
        return f"{self.word}-{number}"

    def stream(self, number: int) -> Stream:
        """An account's stream."""
        digests = Digests()
        session = digests(self.login(number))
        key = digests("an idempotency key", session)
        secret = self._secret(number)
        return Stream(
            session=session,
            stream_id=stream_id_of(0, token_of(secret)),
            started_at=self.started_at,
            expires_at=self.expires_at,
            device="living-room-tv",
            content="film-42-episode",
            platform="tizen 7.0",
            device_id=digests("a device", session),
            places=(key_place(key),),
            fingerprint=digests("what the start said", key),
            salt=urlsafe_b64encode(secret)[:22].decode(),
            limit=3,
        )

    def lease_id(self, number: int) -> str:
        """What renews an account's stream."""
        return LeaseIds(Digests()).lease_id(self.stream(number).place, self._secret(number))

    def _secret(self, number: int) -> bytes:
        return blake2b(self.login(number).encode(), digest_size=SECRET_BYTES).digest()


def documents_of(streams: Iterable[Stream]) -> list[dict[str, Any]]:
    """What the database has once these streams were started."""
    return [
        {"_id": id_of(one.place), "session": one.session, **holding(one, RETENTION)["$set"]}
        for one in streams
    ]


def fill(collection: Any, made_up: MadeUp, numbers: range) -> Iterator[int]:
    """Put the streams with these numbers there; tells after each batch how many are."""
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        batch = range(first, min(first + AT_ONCE, numbers.stop))
        collection.insert_many(documents_of(map(made_up.stream, batch)), ordered=False)
        yield batch.stop


def entries(
    indexes: Mapping[str, Mapping[str, Any]], documents: Iterable[Mapping[str, Any]]
) -> set[tuple[str, str, object]]:
    """The entries that these documents have in indexes.

    Args:
        indexes: As the driver's `index_information` tells.
        documents: Of the collection.
    """
    return {
        (name, repr([document.get(field) for field, _ in index["key"]]), document["_id"])
        for document in documents
        for name, index in indexes.items()
        if all(field in document for field in index.get("partialFilterExpression", {}))
    }
