"""Secrets in the logs of the whole run. By its name, this comes last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import MARK, TALLY, new_secret
from tests.support.playback import write_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.conftest import Serve
    from tests.support.database import Database


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


@pytest.mark.parametrize("changes", [(), ("tells",)], ids=["as it is", "told on purpose"])
def test_no_log_metric_error_or_document_holds_a_playback_token_or_its_key(
    database: Database, serve: Serve, token: str, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    path = write_key(tmp_path / "key.pem", "p256")
    told: list[str] = []
    with serve(database.url, *changes, keep_log=False, PLAYBACK_KEYS=str(path)) as service:
        gateway = {"Authorization": f"Bearer {token}"}
        started = service.ask("POST", "/streams", {**gateway, "Session-Id": new_secret()})[1]
        playback: str = started["playback_token"]
        head, claims, signature = playback.split(".")
        for query in ("", "?live=1", "?live=2"):
            for sent in (
                playback,
                playback[:-9],
                f"{head}.{claims}.{signature[::-1]}",
                ".".join("a" * 86),
            ):
                for header in (
                    {"Playback-Token": sent},
                    {"X-Original-URI": f"/film?playback_token={sent}"},
                    {"Playback-Token": sent, "X-Request-Id": sent[-60:]},
                ):
                    answer = service.ask("GET", f"/playback/check{query}", {**gateway, **header})
                    told.append(repr(answer))
        for page in ("/metrics", "/console/state"):
            with service.connect() as connection:
                connection.sendall(
                    f"GET {page} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
                )
                told.append(b"".join(iter(lambda: connection.recv(65_536), b"")).decode())
    secret = path.read_text().splitlines()[1]
    told += [*service.log, *service.output, *map(repr, database.documents(database.name))]
    assert len(told) > 50
    found = [line for line in told if claims[20:60] in line or signature[:40] in line]
    assert bool(found) == bool(changes)
    assert [line for line in told if secret[:20] in line] == []
