"""Secrets in the logs of the whole run. By its name, this comes last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.faults.tally import MARK, TALLY, new_secret

if TYPE_CHECKING:
    import pytest

    from tests.faults.conftest import Serve
    from tests.faults.database import Database


def test_no_line_of_any_log_holds_a_session_id_a_token_a_key_or_a_device_id(
    request: pytest.FixtureRequest,
) -> None:
    assert [line for line in TALLY.log if MARK in line] == []
    if request.session.testscollected > 10:
        assert len(TALLY.log) > 1000


def test_a_session_id_that_is_logged_would_be_found(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url, "tells", keep_log=False) as service:
        service.ask(
            "GET", "/watch", {"Session-Id": new_secret(), "Authorization": f"Bearer {token}"}
        )
    assert [line for line in service.log if MARK in line] != []


def test_the_database_holds_no_session_id_no_key_and_no_device_id(
    database: Database, serve: Serve, token: str
) -> None:
    with serve(database.url) as service:
        headers = {"Session-Id": new_secret(), "Idempotency-Key": new_secret()}
        headers["Authorization"] = f"Bearer {token}"
        body = json.dumps({"device_id": new_secret()})
        assert service.ask("POST", "/streams", headers, body)[0] == 201
    [document] = database.documents(database.name)
    assert document["idempotency_key"]
    assert document["start"]["device_id"]
    assert MARK not in repr(document)
