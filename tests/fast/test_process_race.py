"""Two service processes on one database: admission is exact between them too."""

from __future__ import annotations

import asyncio
import functools
import secrets
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from stream_service.process.server import GRACE_SECONDS
from tests.support.processes import Service, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient


@pytest.fixture(scope="module")
def services(mongo_url: str, mongo: MongoClient[Any]) -> Iterator[list[Service]]:
    """Two that start at the same moment on a database that neither has prepared."""
    name = f"stream_service_test_{secrets.token_hex(6)}"
    # Who has to wait, for the machine is slow, gets 503: the race is about who is admitted.
    patient = functools.partial(Service, "patient", program=("-m", "tests.support.driver"))
    with (
        patient(MONGO_URL=mongo_url, MONGO_DB=name) as one,
        patient(MONGO_URL=mongo_url, MONGO_DB=name) as other,
    ):
        yield [one, other]
    mongo.drop_database(name)


def test_two_processes_that_start_at_once_do_not_quarrel(services: list[Service]) -> None:
    assert len({service.url for service in services}) == 2
    assert [e for service in services for e in service.events if e["level"] != "INFO"] == []


async def _race(services: list[Service], sessions: list[str], starts: int) -> list[list[int]]:
    """Statuses by session of as many starts of each, at once, in turn on each process."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:

        async def start(number: int, session: str) -> int:
            url = services[number % len(services)].url
            headers = {"Session-Id": session}
            # Both ways to start, and both refusals.
            if number % 4 < 2:
                request = client.get(f"{url}/watch", headers=headers)
            else:
                request = client.post(f"{url}/streams", headers=headers)
            async with request as response:
                return response.status

        async def starts_of(session: str) -> list[int]:
            return await asyncio.gather(*(start(number, session) for number in range(starts)))

        return await asyncio.gather(*(starts_of(session) for session in sessions))


async def test_of_200_racing_starts_on_one_session_exactly_3_are_admitted(
    services: list[Service],
) -> None:
    [statuses] = await _race(services, ["one session"], 200)
    counted = Counter(statuses)
    assert counted[200] + counted[201] == 3
    assert counted[401] + counted[409] == 197
    for service in services:
        _, body = service.ask("GET", "/streams", {"Session-Id": "one session"})
        assert body["active"] == 3


async def test_3_racing_starts_are_all_admitted_on_each_of_50_sessions_at_once(
    services: list[Service],
) -> None:
    sessions = [f"session {number}" for number in range(50)]
    for statuses in await _race(services, sessions, 3):
        assert sorted(statuses) == [200, 200, 201]


def test_what_one_process_starts_the_other_one_knows(services: list[Service]) -> None:
    one, other = services
    headers = {"Session-Id": "shared"}
    status, stream = one.ask("POST", "/streams", headers)
    assert status == 201
    path = f"/streams/{stream['stream_id']}"
    beat = f"/streams/{stream['lease_id']}/heartbeat"
    assert other.ask("POST", beat)[0] == 200
    assert other.ask("DELETE", path, headers)[0] == 204
    status, told = one.ask("POST", beat)
    assert (status, told["reason"]) == (410, "stopped")


def test_a_stop_signal_ends_an_idle_service_at_once_in_spite_of_a_kept_connection(
    mongo_url: str, database: str
) -> None:
    with Service(MONGO_URL=mongo_url, MONGO_DB=database) as service, service.connect() as kept:
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(kept)[0] == 200
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        assert service.status() == 0
        assert time.monotonic() - began < GRACE_SECONDS
        assert kept.recv(1) == b""


def test_ready_says_no_from_the_signal_on_while_requests_are_still_answered(
    mongo_url: str, database: str
) -> None:
    with (
        Service(MONGO_URL=mongo_url, MONGO_DB=database, DRAIN_SECONDS="60") as service,
        service.connect() as kept,
    ):
        service.wait_for(lambda event: event["event"] == "ready")
        ready = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
        kept.sendall(ready)
        assert read_answer(kept)[::2] == (200, {"status": "UP"})
        service.signal(signal.SIGTERM)
        service.wait_for(lambda event: event["event"] == "stopping")
        kept.sendall(ready)
        assert read_answer(kept)[::2] == (503, {"status": "DOWN"})
        assert service.status() == 0


SLOW = """
import asyncio, logging, sys
from stream_service import __main__
from stream_service.api import health
from stream_service.api.representation import json_response

async def live(_):
    logging.getLogger().info("under way")
    await asyncio.sleep(0.5)
    return json_response({"status": "UP"})

health.live = live
sys.exit(__main__.main())
"""


def test_a_request_under_way_is_answered_before_the_service_ends(
    mongo_url: str, database: str
) -> None:
    with (
        Service(program=("-c", SLOW), MONGO_URL=mongo_url, MONGO_DB=database) as service,
        service.connect() as client,
    ):
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        service.wait_for(lambda event: event["event"] == "under way")
        service.signal(signal.SIGTERM)
        assert read_answer(client)[::2] == (200, {"status": "UP"})
        assert service.status() == 0
