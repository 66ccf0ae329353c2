"""The page on data protection: what it lists is what is stored, and its command deletes it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING, Any

from stream_service.api.digests import Digests
from tests.support.http_api import open_api
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

PAGE = (ROOT / "docs" / "data-protection.md").read_text()
KEY = "a key of the deployment"


OPERATOR, GATEWAY = "the-token-of-an-operator", "the-token-of-the-gateway"


async def test_the_command_on_the_page_deletes_all_of_one_account_and_nothing_else(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    tokens: Any = {"operator_tokens": (OPERATOR,), "gateway_tokens": (GATEWAY,)}
    api = await open_api(aiohttp_client, wire_store, **tokens)
    gateway = {"Authorization": f"Bearer {GATEWAY}"}
    for session in ("somebody", "another"):
        for _ in range(3):
            started = await api.ask("POST", "/streams", session=session, headers=gateway)
        await api.ask(
            "DELETE",
            f"/streams/{started.body['stream_id']}",
            session=session,
            headers=gateway,
        )
    refused = await api.ask("DELETE", "/streams?forget=1", session="somebody", headers=gateway)
    assert (refused.status, refused.body["title"]) == (403, "Operators only")
    assert mongo[database]["streams"].count_documents({}) == 6
    [command] = re.findall(r"```sh\n +(curl .*?)\n", PAGE)
    url = str(api.client.make_url("")).rstrip("/")
    done = await asyncio.create_subprocess_exec(
        *("sh", "-c", command.replace("https://streams.example", url)),
        env=os.environ | {"ACCOUNT": "somebody", "OPERATOR_TOKEN": OPERATOR},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert json.loads((await done.communicate())[0]) == {"ended": 2, "forgotten": 3}
    assert mongo[database]["streams"].distinct("session") == [Digests()("another")]


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
