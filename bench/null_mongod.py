"""A database that answers the MongoDB wire protocol at once and stores nothing.

It shows what the service itself costs when its database costs next to nothing. It is no test
double: every update says that it matched; a find of slots by `_id` shows an active stream in each,
the one that was last started there if it is among the newest; any other find comes back empty, or
full if it was told so. It looks into a message only as far as its answer depends on it, so that one
core of it serves many times the commands that one service process can send.

    python -m bench.null_mongod PORT

Two commands of its own, on any database:

- `{nullCounters: 1}` gives the commands and statements by command name since the last time, and in
  `bytes` the size of the messages that brought them.
- `{nullActive: n}` lets every find on sessions show `n` active streams in each of them.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import bson
import uvloop
from cachetools import LRUCache

from stream_service.streams import SECRET_BYTES, stream_id_of, token_of

SECRET = bytes(SECRET_BYTES)
"""Of the leases of all streams that it knows without their start."""

STARTED = 10_000
"""Of so many starts, the newest, it keeps the stream's id: a stop looks for it."""

OP_QUERY = 2004
OP_REPLY = 1
OP_MSG = 2013

_HELLO = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "minWireVersion": 0,
    "maxWireVersion": 25,
    "maxBsonObjectSize": 16_777_216,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "ok": 1,
}
_GREETINGS = ("hello", "isMaster", "ismaster")
# What keeps a connection alive is nobody's request.
_UNCOUNTED = {*_GREETINGS, "ping", "endSessions", "nullCounters", "nullActive"}
_LIST_IN_FILTER = b"$in\0"
_UPSERT = b"upsert\0"

_HEADER = struct.Struct("<iiii")
_INT = struct.Struct("<i")
_OP_REPLY_FIELDS = struct.Struct("<iqii")

_NOTHING_FOUND = bson.encode(
    {"cursor": {"id": bson.Int64(0), "ns": "null.null", "firstBatch": []}, "ok": 1}
)
_OK = bson.encode({"ok": 1})


class Database:
    """What all connections share: the counters, and how many streams a find shows."""

    def __init__(self) -> None:
        self.counters: dict[str, list[int]] = {}
        self.bytes = 0
        self.active = 0
        self.started: LRUCache[str, str] = LRUCache(STARTED)

    def answer(  # noqa: PLR0911
        self, body: dict[str, Any], documents: list[bytes], size: int = 0
    ) -> bytes:
        """The answer to one command, in BSON: a table, one row per command.

        Args:
            body: The command.
            documents: The statements that came beside it, each in BSON.
            size: Of the message that brought it, in bytes.
        """
        name = next(iter(body))
        if name not in _UNCOUNTED:
            counter = self.counters.setdefault(name, [0, 0])
            counter[0] += 1
            counter[1] += len(documents) or 1
            self.bytes += size
        match name:
            case "update":
                statements = body.get("updates")
                n = (
                    sum(_matched(statement["q"]) for statement in statements)
                    if statements is not None
                    else sum(self._updated(document) for document in documents)
                )
                return bson.encode({"n": n, "nModified": n, "ok": 1})
            case "find":
                return self._found(body)
            case "listIndexes":
                return _NOTHING_FOUND
            case "insert" | "delete":
                return bson.encode({"n": len(documents) or 1, "ok": 1})
            case "nullCounters":
                counters, self.counters = self.counters, {}
                size, self.bytes = self.bytes, 0
                return bson.encode({"counters": counters, "bytes": size, "ok": 1})
            case "nullActive":
                self.active = body[name]
                return _OK
            case _ if name in _GREETINGS:
                return bson.encode(_HELLO | {"localTime": datetime.now(UTC)})
        return _OK

    def _updated(self, document: bytes) -> int:
        if _LIST_IN_FILTER in document:
            return _matched(bson.decode(document)["q"])
        if _UPSERT in document:
            statement = bson.decode(document)
            if (started := statement["u"].get("$set", {}).get("stream_id")) is not None:
                self.started[statement["q"]["_id"]] = started
        return 1

    def _found(self, body: dict[str, Any]) -> bytes:
        query = body["filter"]
        if body["find"] != "streams":
            return _NOTHING_FOUND
        if "_id" in query:
            places = [key.partition("/")[::2] for key in _listed(query["_id"])]
        else:
            sessions = _listed(query.get("session", [])) if self.active else []
            places = [(session, slot) for session in sessions for slot in range(self.active)]
        if not places:
            return _NOTHING_FOUND
        now = datetime.now(UTC)
        streams = [
            {
                "_id": f"{session}/{slot}",
                "session": session,
                "stream_id": self.started.get(f"{session}/{slot}") or stream_id_in(slot),
                "started_at": now,
                # Whatever a heartbeat wanted: it is told of one that was not renewed.
                "expires_at": now + timedelta(days=1),
            }
            for session, slot in places
        ]
        cursor = {"id": bson.Int64(0), "ns": "null.null", "firstBatch": streams}
        return bson.encode({"cursor": cursor, "ok": 1})


def stream_id_in(slot: int | str) -> str:
    """The id of the one stream that the null database knows in this slot of any session."""
    return stream_id_of(slot, token_of(SECRET))


def _listed(condition: Any) -> list[Any]:
    return condition["$in"] if isinstance(condition, dict) else [condition]


def _matched(query: dict[str, Any]) -> int:
    """How many documents a filter names: as many as its longest list."""
    lists = [len(v["$in"]) for v in query.values() if isinstance(v, dict) and "$in" in v]
    return max(lists, default=1)


class Connection(asyncio.Protocol):
    """One client: cuts what arrives into messages and answers each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every message that is complete."""
        pending = self._pending
        pending += data
        while len(pending) >= _HEADER.size:
            size, request_id, _, opcode = _HEADER.unpack_from(pending)
            if len(pending) < size:
                return
            message = bytes(pending[:size])
            del pending[:size]
            if opcode == OP_MSG:
                flags_and_kind = b"\0\0\0\0\0"
                document = self._database.answer(*_parse(message), size)
                head = _HEADER.pack(21 + len(document), 0, request_id, OP_MSG) + flags_and_kind
            elif opcode == OP_QUERY:
                start = message.index(b"\0", 20) + 9
                (length,) = _INT.unpack_from(message, start)
                document = self._database.answer(bson.decode(message[start : start + length]), [])
                head = _HEADER.pack(36 + len(document), 0, request_id, OP_REPLY)
                head += _OP_REPLY_FIELDS.pack(8, 0, 0, 1)
            else:
                self._transport.close()
                return
            self._transport.write(head + document)


def _parse(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The body of an OP_MSG, and the documents of its sequence sections in BSON."""
    body: dict[str, Any] = {}
    documents: list[bytes] = []
    at = 20
    while at < len(message):
        kind = message[at]
        (size,) = _INT.unpack_from(message, at + 1)
        end = at + 1 + size
        if kind == 0:
            body = bson.decode(message[at + 1 : end])
        else:
            position = message.index(b"\0", at + 5) + 1
            while position < end:
                (length,) = _INT.unpack_from(message, position)
                documents.append(message[position : position + length])
                position += length
        at = end
    return body, documents


async def _serve(port: int) -> None:
    database = Database()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(database), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m bench.null_mongod", description=__doc__)
    parser.add_argument("port", type=int)
    uvloop.run(_serve(parser.parse_args().port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
