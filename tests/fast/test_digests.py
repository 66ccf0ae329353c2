"""What is kept of a secret, with a key and without."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api.digests import Digests
from tests.support.http_api import open_api

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

KEY = "a key of 16 characters or more"


def test_without_a_key_digests_are_what_they_have_always_been_so_that_streams_are_found() -> None:
    digest = Digests()
    session = blake2b(b"1001", digest_size=18).hexdigest()
    assert digest("1001") == session
    assert digest("key", session) == (
        blake2b(b"key", digest_size=18, key=session.encode()).hexdigest()
    )


@pytest.mark.parametrize("context", ["", Digests()("1001")])
def test_digests_differ_by_secret_by_context_and_by_key(context: str) -> None:
    digests = [
        Digests(KEY)("1001", context),
        Digests(KEY)("1002", context),
        Digests(KEY)("1001", context + "another"),
        Digests(KEY + "!")("1001", context),
        Digests()("1001", context),
    ]
    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {36}


async def test_with_a_key_nothing_in_the_database_is_found_by_trying_numbers(
    aiohttp_client: AiohttpClient,
    wire_store: MongoStore,
    mongo: MongoClient[Any],
    database: str,
) -> None:
    api = await open_api(aiohttp_client, wire_store, digest_key=KEY)
    await api.start(session="1001", key="17", device_id="5")

    [document] = mongo[database]["streams"].find()
    text, digest = repr(document), Digests()
    for tried in map(str, range(2000)):
        assert digest(tried) not in text
        # Whoever has the database has the digest of the session too.
        assert digest(tried, document["session"]) not in text
    assert len(await api.playing(session="1001")) == 1


async def test_streams_under_another_key_are_not_known(
    aiohttp_client: AiohttpClient, store: MongoStore
) -> None:
    before = await open_api(aiohttp_client, store)
    stream = await before.started()
    after = await open_api(aiohttp_client, store, digest_key=KEY)
    beat = await after.ask("POST", f"/streams/{stream['lease_id']}/heartbeat")
    assert beat.status == 404
    assert await after.playing() == []
    assert len(await before.playing()) == 1
