"""The least that can answer HTTP from Python: fixed bytes for every request head.

It shows what the load generator can do, and so that it is not the load generator that is measured.

    python -m bench.ceiling PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_END_OF_HEAD = b"\r\n\r\n"
_BODY = b'{"status":"UP"}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_BODY),
    _BODY,
)


class Connection(asyncio.Protocol):
    """Answers once per blank line; requests must have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer what arrived; wrk sends a head in one piece."""
        self._transport.write(_ANSWER * data.count(_END_OF_HEAD))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


def main() -> int:
    """Serve until a signal."""
    uvloop.run(_serve(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
