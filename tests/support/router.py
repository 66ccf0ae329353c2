"""A way to a database that makes it look like a router of a sharded cluster (`mongos`)."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import bson

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_MSG = 1, 2013
_DOCUMENT_AT = {_OP_REPLY: 36, _OP_MSG: 21}
_OF_A_REPLICA_SET = ("setName", "setVersion", "hosts", "primary", "me", "secondary", "electionId")


@contextmanager
def router_before(address: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Pass everything on to the database, and have its `hello` say what a router says."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sockets: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def start(target: Any, *args: Any) -> None:
            threads.append(threading.Thread(target=target, args=args))
            threads[-1].start()

        def accept() -> None:
            while True:
                try:
                    client = server.accept()[0]
                except OSError:
                    return
                database = socket.create_connection(address)
                sockets.extend((client, database))
                start(_pass_on, client, database)
                start(_pass_back, database, client)

        start(accept)
        try:
            yield server.getsockname()[:2]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for one in sockets:
                _end(one)
            for thread in threads:
                thread.join()
            for one in sockets:
                one.close()


def _pass_on(client: socket.socket, database: socket.socket) -> None:
    try:
        while data := client.recv(1 << 16):
            database.sendall(data)
    except OSError:
        pass
    _end(database)


def _pass_back(database: socket.socket, client: socket.socket) -> None:
    try:
        with database.makefile("rb") as answers:
            while head := answers.read(_HEADER.size):
                size, *_ = _HEADER.unpack(head)
                client.sendall(_rewritten(head + answers.read(size - _HEADER.size)))
    except OSError:
        pass
    _end(client)


def _rewritten(message: bytes) -> bytes:
    _, request, to, opcode = _HEADER.unpack_from(message)
    at = _DOCUMENT_AT[opcode]
    if b"isWritablePrimary" not in message and b"ismaster" not in message:
        return message
    hello = bson.decode(message[at:])
    for name in _OF_A_REPLICA_SET:
        hello.pop(name, None)
    document = bson.encode(hello | {"msg": "isdbgrid"})
    head = _HEADER.pack(at + len(document), request, to, opcode)
    return head + message[_HEADER.size : at] + document


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
