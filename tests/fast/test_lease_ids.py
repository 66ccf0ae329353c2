"""Lease ids: what was not made here is told apart before the database is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream_service.api.digests import Digests
from stream_service.api.lease_ids import LeaseIds
from stream_service.streams import Place, new_secret, stream_id_of, token_of
from tests.support.http_api import SESSION, a_lease_id, open_api

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore
    from tests.conftest import Commands

KEY = "a key of this deployment's"
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _made(key: str | None, slot: int = 7) -> tuple[LeaseIds, Place, str]:
    digests = Digests(key)
    secret = new_secret()
    place = Place(digests(SESSION), stream_id_of(slot, token_of(secret)))
    lease_ids = LeaseIds(digests)
    return lease_ids, place, lease_ids.lease_id(place, secret)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("slot", [0, 9, 10, 99])
def test_a_lease_id_leads_to_its_stream_in_every_process_with_the_same_key(
    key: str | None, slot: int
) -> None:
    _, place, lease_id = _made(key, slot)

    assert LeaseIds(Digests(key)).place_of(lease_id) == place
    assert LeaseIds(Digests("another key of another one")).place_of(lease_id) is None


@pytest.mark.parametrize("key", [None, KEY])
def test_a_lease_id_of_which_any_character_is_another_one_is_none_of_ours(key: str | None) -> None:
    lease_ids, _, lease_id = _made(key)

    for at in range(len(lease_id)):
        for character in CHARACTERS:
            mangled = lease_id[:at] + character + lease_id[at + 1 :]
            assert mangled == lease_id or lease_ids.place_of(mangled) is None
    for other in ("", "0-", lease_id[:-1], lease_id + "A", f"0{lease_id}", f" {lease_id}"):
        assert lease_ids.place_of(other) is None


async def test_a_made_up_lease_id_costs_no_command(
    aiohttp_client: AiohttpClient, commands: Commands, wire_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, wire_store, digest_key=KEY)
    started = await api.started()
    _, _, of_another_key = _made(None)
    commands.sent.clear()

    for made_up in (of_another_key, "0-" + "a" * 56, started["lease_id"][:-1] + "!", "nothing"):
        for session in (SESSION, None):
            for verb in ("heartbeat", "stop"):
                answer = await api.ask("POST", f"/streams/{made_up}/{verb}", session=session)
                assert answer.status == 404
    assert commands.sent == []


def test_a_lease_id_has_one_spelling() -> None:
    lease_ids = LeaseIds(Digests())
    spelt = {a_lease_id(f"session {number}") for number in range(50)}
    assert all(map(lease_ids.place_of, spelt))
    for lease_id in spelt:
        slot, _, rest = lease_id.partition("-")
        other = f"{slot}-{rest.replace('-', '+').replace('_', '/')}"
        assert other in spelt or lease_ids.place_of(other) is None
