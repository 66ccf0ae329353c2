"""The warning to whom listens to everybody without a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Serve
    from tests.support.database import Database


@pytest.mark.parametrize(
    ("host", "tokens", "warnings"),
    [("0.0.0.0", 0, 1), ("0.0.0.0", 2, 0), ("127.0.0.1", 0, 0)],
)
def test_who_listens_beyond_this_machine_without_a_token_is_warned(
    database: Database, serve: Serve, host: str, tokens: int, warnings: int
) -> None:
    token = {} if tokens else {"GATEWAY_TOKEN": ""}
    with serve(database.url, HOST=host, **token) as service:
        assert service.url
    found = [e for e in service.events if "GATEWAY_TOKEN" in e["event"]]
    assert len(found) == warnings


@pytest.mark.parametrize(
    ("host", "key", "warnings"),
    [("0.0.0.0", "", 1), ("0.0.0.0", "a key of 16 and more", 0), ("127.0.0.1", "", 0)],
)
def test_who_listens_beyond_this_machine_without_a_digest_key_is_warned(
    database: Database, serve: Serve, host: str, key: str, warnings: int
) -> None:
    with serve(database.url, HOST=host, DIGEST_KEY=key) as service:
        assert service.url
    found = [e for e in service.events if "DIGEST_KEY" in e["event"]]
    assert len(found) == warnings
    assert not any(key and key in line for line in service.log)
