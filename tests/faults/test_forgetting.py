"""The database forgets by itself: its TTL index works while no process of the service runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import TALLY

if TYPE_CHECKING:
    from tests.faults.conftest import Serve
    from tests.support.database import Database


@pytest.mark.timeout(400)
def test_streams_that_are_over_are_deleted_though_no_process_runs(
    database: Database, serve: Serve, token: str
) -> None:
    headers = {"Session-Id": "s", "Authorization": f"Bearer {token}"}
    lease = {"STREAM_TTL_SECONDS": "10", "STREAM_RETENTION_SECONDS": "0"}
    with serve(database.url, "forget-step=1", **lease) as service:
        for _ in range(3):
            assert service.ask("POST", "/streams", headers)[0] == 201
        stopped = time.monotonic()
    assert len(database.documents(database.name)) == 3
    # Nobody tells. The server looks once a minute.
    while database.documents(database.name):
        time.sleep(0.5)
    TALLY.measured["forgotten"] = f"{time.monotonic() - stopped:.0f} s after the service had ended"
