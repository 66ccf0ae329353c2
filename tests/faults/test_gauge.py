"""The gauge of active streams, of a database that is full already when the service starts."""

from __future__ import annotations

import re
import time
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bench.engines import MadeUp, fill
from stream_service.store import MongoStore
from stream_service.streams import utc_now

if TYPE_CHECKING:
    from tests.faults.conftest import Serve
    from tests.support.database import Database

STREAMS = 10_000


def _gauge(url: str, token: str) -> float:
    asked = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(r"^stream_service_active_streams (\S+)$", text, re.MULTILINE)
    return float("nan") if found is None else float(found[1])


async def test_it_is_there_within_a_minute_and_within_two_percent(
    database: Database, serve: Serve, token: str
) -> None:
    store = MongoStore.connect(database.url, database.name, timedelta(minutes=5))
    await store.prepare(None)
    store.close()
    made_up = MadeUp("word", utc_now(), utc_now() + timedelta(hours=1))
    with database.client() as client:
        for _ in fill(client[database.name]["streams"], made_up, range(STREAMS)):
            pass

    with serve(database.url, GATEWAY_TOKEN="", OPERATOR_TOKEN=token) as service:
        began = time.monotonic()
        # Not counted yet: NaN, or 0 before the first look.
        while not (gauge := _gauge(service.url, token)) > 0:
            assert time.monotonic() - began < 60

    assert gauge == pytest.approx(STREAMS, rel=0.02)
