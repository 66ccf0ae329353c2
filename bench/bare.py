"""The yardstick: an aiohttp handler that answers {"status":"UP"} and does nothing else.

On uvloop, as the service is.

python -m bench.bare PORT
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


async def up(_: web.Request) -> web.Response:
    """Answer what GET /health answers when all is well."""
    return web.Response(body=b'{"status":"UP"}', content_type="application/json")


def main() -> int:
    """Serve until a signal."""
    app = web.Application()
    app.add_routes([web.get("/", up)])
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        backlog=1024,
        loop=uvloop.new_event_loop(),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
