"""The API as tests see it: every answer is held to what all answers promise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stream_service.api.digests import Digests
from stream_service.api.lease_ids import LeaseIds
from stream_service.app import create_app
from stream_service.settings import Settings
from stream_service.streams import SECRET_BYTES, Place, stream_id_of, token_of, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.test_utils import TestClient
    from multidict import CIMultiDictProxy
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

SESSION = "a session of the gateway's"
PROBLEM = "application/problem+json"
HEALTH = ("/health", "/health/ready")


class Clock:
    """Stands still until it is moved on. It starts now, since the database forgets by its own."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def move_on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Answer:
    """An answer; `body` is its JSON, or None where there is none."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes
    body: Any


class Api:
    """Sends requests to the application, with a session unless told otherwise."""

    def __init__(self, client: TestClient[Any, Any], clock: Clock) -> None:
        self.client = client
        self.clock = clock

    async def ask(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        session: str | None = SESSION,
        headers: Mapping[str, str] | list[tuple[str, str]] = MappingProxyType({}),
        json: Any = None,
        data: Any = None,
    ) -> Answer:
        sent = list(headers if isinstance(headers, list) else headers.items())
        if session is not None:
            sent.append(("Session-Id", session))
        async with self.client.request(method, path, headers=sent, json=json, data=data) as got:
            raw = await got.read()
            answer = Answer(got.status, got.headers, raw, parse(raw))
        down = path in HEALTH and answer.status == 503
        keeps_the_promises(answer, of_health=down, of_head=method == "HEAD")
        return answer

    async def start(self, *, session: str = SESSION, key: str | None = None, **body: Any) -> Answer:
        """`POST /streams`."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.ask("POST", "/streams", session=session, headers=headers, json=body)

    async def started(self, *, session: str = SESSION, **body: Any) -> Any:
        """The stream of a start that is admitted."""
        answer = await self.start(session=session, **body)
        assert answer.status == 201, answer
        return answer.body

    async def playing(self, *, session: str = SESSION) -> list[Any]:
        """The session's active streams."""
        answer = await self.ask("GET", "/streams", session=session)
        assert answer.status == 200, answer
        assert answer.body["active"] == len(answer.body["streams"])
        streams: list[Any] = answer.body["streams"]
        return streams


async def open_api(
    aiohttp_client: AiohttpClient, store: MongoStore, clock: Clock | None = None, **settings: Any
) -> Api:
    """Serve the application over HTTP on this store, its clock standing still."""
    clock = clock or Clock()
    app = create_app(Settings(**settings), store=store, clock=clock)
    return Api(await aiohttp_client(app), clock)


def a_lease_id(session: str = SESSION, key: str | None = None) -> str:
    """A lease id as the service makes them, of a stream that was never started."""
    digests = Digests(key)
    place = Place(digests(session), stream_id_of(0, token_of(bytes(SECRET_BYTES))))
    return LeaseIds(digests).lease_id(place, bytes(SECRET_BYTES))


def parse(raw: bytes) -> Any:
    return json.loads(raw) if raw else None


def keeps_the_promises(answer: Answer, *, of_health: bool = False, of_head: bool = False) -> None:
    """Hold an answer to what all of them promise."""
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    if answer.status < 400 or of_health:
        assert answer.status == 204 or answer.headers["Content-Type"].startswith("application/json")
        return
    assert answer.headers["Content-Type"] == PROBLEM, answer
    if of_head:
        return
    assert answer.body["status"] == answer.status
    assert answer.body["type"].startswith("urn:stream-service:problem:")
    assert answer.body["title"]
    assert answer.body["detail"]
