"""The page on data protection: what it lists is what is stored, and its command deletes it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api.digests import Digests
from stream_service.settings import VARIABLES
from tests.support.http_api import open_api
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

PAGE = (ROOT / "docs" / "data-protection.md").read_text()
KEY = "a key of the deployment"


@pytest.mark.parametrize("digest_key", [None, KEY])
async def test_the_command_on_the_page_deletes_all_of_one_account_and_nothing_else(  # noqa: PLR0913, PLR0917 - fixtures
    aiohttp_client: AiohttpClient,
    wire_store: MongoStore,
    mongo: MongoClient[Any],
    mongo_url: str,
    database: str,
    digest_key: str | None,
) -> None:
    api = await open_api(aiohttp_client, wire_store, digest_key=digest_key)
    for session in ("somebody", "another"):
        over = await api.started(session=session, device_id="d")
        await api.ask("DELETE", f"/streams/{over['stream_id']}", session=session)
        for _ in range(2):
            await api.started(session=session, device_id="d")
    [command] = re.findall(
        r"```sh\n +ACCOUNT=\.\.\. \.venv/bin/python -c '\n(.*?)'\n", PAGE, re.DOTALL
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"MONGO_URL": mongo_url, "MONGO_DB": database, "ACCOUNT": "somebody"}
    if digest_key is not None:
        environment["DIGEST_KEY"] = digest_key
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", re.sub("^   ", "", command, flags=re.MULTILINE)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    digests = Digests(digest_key)
    assert done.stdout == f"2 deleted of {digests('somebody')}\n"
    left = mongo[database]["streams"].distinct("session")
    assert left == [digests("another")]
    assert await api.playing(session="somebody") == []


async def test_the_page_lists_every_field_that_is_stored_and_says_which_are_in_clear(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    api = await open_api(aiohttp_client, wire_store)
    said = {"device": "my-device", "content": "my-film", "device_id": "my-id"}
    first = await api.start(session="my-session", key="my-key", **said)
    replacing = {**said, "replace": first.body["stream_id"]}
    await api.start(session="my-session", key="my-other-key", **replacing)
    await api.ask("DELETE", "/streams", session="my-session")
    for _ in ("start", "replay"):
        await api.start(session="my-session", key="my-key", **said)
    stored: set[str] = set()
    for document in mongo[database]["streams"].find():
        stored |= document.keys()
        shown = json.dumps(document, default=str)
        assert set(re.findall(r"my-[a-z]+", shown)) <= {"my-device", "my-film"}
    listed = set(re.findall(r"`([a-z_.]+)`", PAGE.partition("## For how long")[0]))
    # The primary key is made of the session's digest and the slot's number.
    assert stored - {"_id"} <= listed
