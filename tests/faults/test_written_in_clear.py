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
    from tests.support.processes import Service


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
    assert document["places"]
    assert document["device_id"]
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
        told += _pages(service, token)
    secret = path.read_text().splitlines()[1]
    told += [*service.log, *service.output, *map(repr, database.documents(database.name))]
    assert len(told) > 50
    found = [line for line in told if claims[20:60] in line or signature[:40] in line]
    assert bool(found) == bool(changes)
    assert [line for line in told if secret[:20] in line] == []


@pytest.mark.parametrize("changes", [(), ("tells",)], ids=["as it is", "told on purpose"])
def test_no_log_metric_error_or_document_holds_a_lease_id(
    database: Database, serve: Serve, token: str, changes: tuple[str, ...]
) -> None:
    told: list[str] = []
    with serve(database.url, *changes, keep_log=False, DIGEST_KEY=new_secret()) as service:
        gateway = {"Authorization": f"Bearer {token}"}
        viewer = {**gateway, "Session-Id": new_secret()}
        lease_id: str = service.ask("POST", "/streams", viewer)[1]["lease_id"]
        secret = lease_id.partition("-")[2]
        for sent in (lease_id, lease_id[:-9], f"{lease_id[:-1]}*", secret, f"7{lease_id}"):
            told += [
                repr(service.ask(method, path, headers))
                for method, path in (
                    ("POST", f"/streams/{sent}/heartbeat"),
                    ("GET", f"/streams/{sent}/heartbeat"),
                    ("GET", f"/streams/{sent}"),
                    ("POST", f"/{sent}"),
                    ("POST", f"/streams/{sent}/stop"),
                )
                for headers in (viewer, {**gateway, "X-Request-Id": sent[-60:]})
            ]
        told += _pages(service, token)
    told += [*service.log, *service.output, *map(repr, database.documents(database.name))]
    assert len(told) > 100
    # 20 characters of the secret; the digest of the account, which follows it, is in the database.
    found = [line for line in told if secret[:20] in line]
    assert bool(found) == bool(changes)


def _pages(service: Service, token: str) -> list[str]:
    """What the metrics and the console tell."""
    told = []
    for page in ("/metrics", "/console/state"):
        with service.connect() as connection:
            connection.sendall(
                f"GET {page} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            told.append(b"".join(iter(lambda: connection.recv(65_536), b"")).decode())
    return told
