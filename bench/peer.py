"""The peer: fastapi-stream-lease, in the way its README shows it, with a lease per start.

Its README answers with the stream itself; a lease that outlives the request is `acquire` without
`release`. REDIS_URL names its Redis.

    uvicorn bench.peer:app
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Header
from fastapi_stream_lease import LeaseConfig, StreamLeaseManager
from redis import asyncio as redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# As its README advises: time-outs, and a pool for as many requests as can come at once.
client = redis.from_url(
    os.environ["REDIS_URL"], socket_timeout=5.0, socket_connect_timeout=1.0, max_connections=512
)
# No limit over all users: that would be one more thing to do than the service does.
manager = StreamLeaseManager(client, LeaseConfig(max_per_user=3, max_global=0, lease_seconds=3600))


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    await manager.verify_cluster_config(strict=True)
    yield
    await client.aclose()


app = FastAPI(lifespan=_lifespan)
manager.register_exception_handlers(app)


async def session_id(session_id: Annotated[str, Header()]) -> str:
    """Who is asking: the Session-Id header, set by a gateway."""
    return session_id


@app.get("/watch")
async def watch(user: Annotated[str, Depends(session_id)]) -> dict[str, str]:
    """Start a stream: take a lease and say which."""
    lease = await manager.acquire(user)
    return {"lease_id": lease.lease_id}
