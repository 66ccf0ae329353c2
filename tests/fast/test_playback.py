"""Playback tokens: what a content server can check, and what nobody can forge."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import subprocess
import sys
import tempfile
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import hypothesis
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

from stream_service.api import playback_tokens
from stream_service.api.digests import Digests
from stream_service.api.inputs import MAX_LABEL_LENGTH
from stream_service.api.playback import PLAYBACK
from stream_service.api.playback_claims import Playback, PlaybackRefusedError
from stream_service.api.playback_tokens import MAX_TOKEN_LENGTH, PlaybackTokens
from stream_service.app import create_app
from stream_service.settings import Settings, SettingsError
from stream_service.streams import StoreUnavailableError, Stream, utc_now
from tests.support.http_api import SESSION, Api, open_api
from tests.support.playback import KINDS, write_key, write_public_key
from tests.support.processes import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore
    from tests.conftest import Commands

CHECK = "/playback/check"
KEYS = "/.well-known/jwks.json"
TTL = 60


@pytest.fixture(params=KINDS)
def key(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A key of each kind in turn."""
    return write_key(tmp_path / f"{request.param}.pem", request.param)


@pytest.fixture
def any_key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "any.pem")


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, double_store: MongoStore, any_key: Path) -> Api:
    return await open_api(aiohttp_client, double_store, playback_keys=(any_key,))


async def _check(api: Api, token: str | None, **how: Any) -> Any:
    headers = dict(how.pop("headers", {}))
    if token is not None:
        headers["Playback-Token"] = token
    return await api.ask("GET", how.pop("path", CHECK), session=None, headers=headers, **how)


async def _reason(api: Api, token: str | None, **how: Any) -> str:
    answer = await _check(api, token, **how)
    assert answer.status == 401
    assert answer.body["type"].endswith(":playback-refused")
    assert "Stream-Id" not in answer.headers
    reason: str = answer.body["reason"]
    return reason


async def _published(api: Api) -> dict[str, Any]:
    async with api.client.get(KEYS) as answer:
        assert answer.status == 200
        keys: dict[str, Any] = await answer.json()
        return keys


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, claims = (json.loads(urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return head, claims


def _encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


# What is issued.


async def test_starts_and_heartbeats_and_their_replays_give_a_token_and_nothing_else_does(
    api: Api,
) -> None:
    first = await api.start(key="k")
    replay = await api.start(key="k")
    watched = await api.ask("GET", "/watch")
    path = f"/streams/{first.body['stream_id']}"
    beat = await api.ask("POST", f"/streams/{first.body['lease_id']}/heartbeat")
    assert (first.status, replay.status, watched.status, beat.status) == (201, 200, 200, 200)
    for answer in (first, replay, watched, beat):
        assert (await _check(api, answer.body["playback_token"])).status == 204
    assert "playback_token" not in (await api.ask("GET", path)).body
    assert "playback_token" not in (await api.ask("GET", "/streams")).raw.decode()


async def test_another_library_verifies_the_tokens_by_the_published_keys(
    aiohttp_client: AiohttpClient, double_store: MongoStore, key: Path
) -> None:
    api = await open_api(
        aiohttp_client, double_store, playback_keys=(key,), playback_audience="https://cdn.example"
    )
    started = await api.started(content="Evening news")
    keys = KeySet.import_key_set(await _published(api))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        # Of RFC 9864, which renames EdDSA; what content servers know today is the old name.
        warnings.filterwarnings("ignore", "EdDSA is deprecated")
        token = joserfc_jwt.decode(started["playback_token"], keys, algorithms=["ES256", "EdDSA"])
    assert token.claims.pop("ref")
    now = api.clock.now.timestamp()
    assert token.claims == {
        "iss": "stream-service",
        "sub": started["stream_id"],
        "iat": int(now),
        "exp": -int(-(now + TTL) // 1),
        "aud": "https://cdn.example",
        "content": "Evening news",
    }
    assert token.claims["exp"] - 1 < now + TTL <= token.claims["exp"]


async def test_what_was_not_given_is_no_claim(api: Api) -> None:
    _, claims = _parts((await api.started())["playback_token"])
    assert claims.keys() == {"iss", "sub", "iat", "exp", "ref"}


async def test_a_lease_that_ends_on_a_second_is_not_rounded_further(api: Api) -> None:
    api.clock.now = api.clock.now.replace(microsecond=0)
    _, claims = _parts((await api.started())["playback_token"])
    assert claims["exp"] == api.clock.now.timestamp() + TTL


async def test_a_token_tells_nothing_of_whose_it_is(api: Api) -> None:
    first, second = [(await api.started())["playback_token"] for _ in range(2)]
    other = (await api.started(session="somebody else"))["playback_token"]
    kept = Digests()(SESSION)
    for token in (first, second):
        told = json.dumps(_parts(token)) + repr(urlsafe_b64decode(_parts(token)[1]["ref"] + "=="))
        assert SESSION not in told
        assert kept not in told
        assert repr(bytes.fromhex(kept))[2:-1] not in told
    # Not even that two are of the same account.
    assert len({_parts(token)[1]["ref"] for token in (first, second, other)}) == 3


async def test_the_published_keys_are_public_stable_and_may_be_kept(
    aiohttp_client: AiohttpClient, double_store: MongoStore, tmp_path: Path
) -> None:
    paths = tuple(write_key(tmp_path / kind, kind) for kind in KINDS)
    settings: dict[str, Any] = {
        "playback_keys": paths,
        "gateway_tokens": ("t" * 16,),
        "operator_tokens": ("o" * 16,),
    }
    api = await open_api(aiohttp_client, double_store, **settings)
    published = await _published(api)
    for jwk in published["keys"]:
        assert jwk.keys() - {"y"} == {"kty", "crv", "x", "kid", "alg", "use"}
    assert [jwk["alg"] for jwk in published["keys"]] == ["EdDSA", "ES256"]
    imported = KeySet.import_key_set(published)  # type: ignore[arg-type]
    assert [jwk["kid"] for jwk in published["keys"]] == [one.thumbprint() for one in imported.keys]
    again = await open_api(aiohttp_client, double_store, **settings)
    assert await _published(again) == published
    async with api.client.get(KEYS) as answer:
        assert answer.headers["Cache-Control"] == "public, max-age=300"


async def test_a_key_is_rotated_by_adding_swapping_and_removing(
    aiohttp_client: AiohttpClient, double_store: MongoStore, tmp_path: Path
) -> None:
    old, new = write_key(tmp_path / "old", "p256"), write_key(tmp_path / "new")

    async def served(*paths: Path) -> Api:
        return await open_api(aiohttp_client, double_store, playback_keys=paths)

    before, added, swapped = [await served(*paths) for paths in ((old,), (old, new), (new, old))]
    removed = await served(new)
    by_old = (await added.started())["playback_token"]
    by_new = (await swapped.started())["playback_token"]
    assert _parts(by_old)[0]["alg"] == "ES256"
    assert _parts(by_new)[0]["alg"] == "EdDSA"
    for served_by in (before, added, swapped):
        assert (await _check(served_by, by_old)).status == 204
    for served_by in (added, swapped, removed):
        assert (await _check(served_by, by_new)).status == 204
    assert await _reason(removed, by_old) == "invalid"
    # A key that has not been added everywhere before it signs: what the order is for.
    assert await _reason(before, by_new) == "invalid"


async def test_without_keys_there_is_nothing_of_it(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store)
    started = await api.started()
    beat = await api.ask("POST", f"/streams/{started['lease_id']}/heartbeat")
    assert "playback_token" not in started
    assert "playback_token" not in beat.body
    for path in (CHECK, KEYS):
        assert (await api.ask("GET", path)).status == 404


def test_without_keys_not_even_what_signs_them_is_loaded() -> None:
    program = (
        "import sys; from stream_service import __main__; "
        "from stream_service.app import create_app; from stream_service.settings import Settings; "
        "create_app(Settings()); print([m for m in ('jwt',) if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# What is checked.


@pytest.mark.parametrize(
    "content",
    [
        "film-42",
        "Grüße, 世界 🎬",
        ".",
        "..",
        "...",
        "../secret",
        "a\r\nSet-Cookie: stolen=1",
        "100% of it/and?more#than;that,\x00\x7f",
        "",
        "é" * MAX_LABEL_LENGTH,
        "🎬" * (MAX_LABEL_LENGTH // 2),
    ],
)
async def test_a_good_token_gives_the_stream_and_its_content_in_a_harmless_form(
    api: Api, content: str
) -> None:
    started = await api.started(content=content)
    assert len(started["playback_token"]) <= MAX_TOKEN_LENGTH
    answer = await _check(api, started["playback_token"])
    assert (answer.status, answer.raw) == (204, b"")
    assert answer.headers["Stream-Id"] == started["stream_id"]
    told = answer.headers["Stream-Content"]
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*", told)
    assert told not in (".", "..")  # as a part of a path these are no name
    assert unquote(told) == content
    assert "Set-Cookie" not in answer.headers


async def test_without_content_none_is_told(api: Api) -> None:
    answer = await _check(api, (await api.started())["playback_token"])
    assert "Stream-Content" not in answer.headers


async def test_the_token_may_come_in_the_query_of_the_address_that_was_asked_for(api: Api) -> None:
    token = (await api.started())["playback_token"]
    for uri in (
        f"/film/1.m4s?playback_token={token}",
        f"/film/1.m4s?a=b&playback_token={token}&c=d",
    ):
        assert (await _check(api, None, headers={"X-Original-URI": uri})).status == 204
        # What the player sends as a header is what counts.
        assert await _reason(api, "x", headers={"X-Original-URI": uri}) == "invalid"


@pytest.mark.parametrize("spelt", ["%2E", "%2e", ".%", ".#", "%252E"])
async def test_a_token_in_the_query_is_spelt_in_one_way(api: Api, spelt: str) -> None:
    """For a cache that knows it by its spelling: each other one would be asked about anew."""
    token = (await api.started())["playback_token"]
    uri = f"/film/1.m4s?playback_token={token}"
    other = uri.replace(".", spelt) if spelt.startswith("%") else uri + spelt[1:]
    assert await _reason(api, None, headers={"X-Original-URI": other}) == "invalid"


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "",
        "/film/1.m4s",
        "/film/1.m4s?",
        "/film/1.m4s?playback_token",
        "/film/1.m4s?playback_token=",
        "/playback_token=TOKEN",
        "/film/1.m4s?other_playback_token=TOKEN",
        "/film/1.m4s?playback_token=TOKEN&playback_token=TOKEN",
    ],
)
async def test_no_token_or_more_than_one_is_refused_as_missing(api: Api, uri: str | None) -> None:
    token = (await api.started())["playback_token"]
    headers = {} if uri is None else {"X-Original-URI": uri.replace("TOKEN", token)}
    assert await _reason(api, None, headers=headers) == "missing"


async def test_two_headers_with_a_token_are_refused(api: Api) -> None:
    token = (await api.started())["playback_token"]
    twice = [("Playback-Token", token), ("Playback-Token", token)]
    answer = await api.ask("GET", CHECK, headers=twice)
    assert (answer.status, answer.body["reason"]) == (401, "missing")


async def test_a_token_is_good_until_its_last_second_and_no_longer(api: Api) -> None:
    token = (await api.started())["playback_token"]
    end = _parts(token)[1]["exp"]
    api.clock.move_on(end - api.clock.now.timestamp() - 0.001)
    assert (await _check(api, token)).status == 204
    api.clock.move_on(0.002)
    for _ in range(2):  # Also once it has been found good, and when it is new here.
        assert await _reason(api, token) == "expired"


async def test_each_heartbeat_gives_a_token_for_its_own_lease(api: Api) -> None:
    started = await api.started()
    api.clock.move_on(20)
    beat = await api.ask("POST", f"/streams/{started['lease_id']}/heartbeat")
    api.clock.move_on(TTL - 10)
    assert await _reason(api, started["playback_token"]) == "expired"
    assert (await _check(api, beat.body["playback_token"])).status == 204


async def test_asked_live_a_stream_is_refused_from_the_moment_that_it_is_over(
    aiohttp_client: AiohttpClient, store: MongoStore, any_key: Path
) -> None:
    api = await open_api(aiohttp_client, store, playback_keys=(any_key,))
    tokens = [await api.started(content="x") for _ in range(3)]
    replaced, stopped, playing = tokens
    live = f"{CHECK}?live=1"
    for one in tokens:
        assert (await _check(api, one["playback_token"], path=live)).status == 204
    await api.started(replace=replaced["stream_id"])
    await api.ask("DELETE", f"/streams/{stopped['stream_id']}")
    assert await _reason(api, replaced["playback_token"], path=live) == "replaced"
    assert await _reason(api, stopped["playback_token"], path=live) == "stopped"
    answer = await _check(api, playing["playback_token"], path=live)
    assert answer.headers["Stream-Id"] == playing["stream_id"]
    # Who does not ask live is told at the end of the lease.
    for one in tokens:
        for path in (CHECK, f"{CHECK}?live=0"):
            assert (await _check(api, one["playback_token"], path=path)).status == 204


async def test_asked_live_the_store_knows_better_than_the_token_when_its_stream_is_over(
    api: Api,
) -> None:
    started = await api.started()
    token, live = started["playback_token"], f"{CHECK}?live=1"
    api.clock.move_on(TTL - 1)
    await api.ask("POST", f"/streams/{started['lease_id']}/heartbeat")
    api.clock.move_on(TTL - 1)
    assert await _reason(api, token) == "expired"
    assert (await _check(api, token, path=live)).status == 204
    assert await _reason(api, token) == "expired"
    api.clock.move_on(TTL)
    assert await _reason(api, token, path=live) == "expired"


async def test_a_database_that_gives_no_answer_is_told_apart_from_a_token_that_is_not_good(
    aiohttp_client: AiohttpClient, double_store: MongoStore, any_key: Path
) -> None:
    api = await open_api(aiohttp_client, double_store, playback_keys=(any_key,))
    token, live = (await api.started())["playback_token"], f"{CHECK}?live=1"

    async def no_answer(*_: object, **__: object) -> None:
        raise StoreUnavailableError("NetworkTimeout")

    double_store.slots = double_store.renew = no_answer  # type: ignore[assignment, method-assign]
    # By its time alone it would be over: only the store could tell.
    api.clock.move_on(2 * TTL)
    for path in (live, f"{CHECK}?renew=1"):
        answer = await _check(api, token, path=path)
        assert (answer.status, answer.headers["Stream-Id"][0]) == (503, "0")
    signed, _, signature = token.rpartition(".")
    assert await _reason(api, f"{signed}.{signature[::-1]}", path=live) == "invalid"


async def test_an_outage_lets_in_only_what_was_good_shortly_before_it(
    api: Api, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = f"{CHECK}?live=1"

    async def no_answer(*_: object, **__: object) -> None:
        raise StoreUnavailableError("NetworkTimeout")

    old = (await api.started())["playback_token"]
    api.clock.move_on(TTL + 2)
    recent = (await api.started())["playback_token"]
    api.clock.move_on(TTL)
    with monkeypatch.context() as outage:
        outage.setattr(double_store, "slots", no_answer)
        outage.setattr(double_store, "renew", no_answer)
        for _ in range(2):
            assert await _reason(api, old, path=live) == "expired"
            assert (await _check(api, recent, path=live)).status == 503
            # What fetches a film keeps the token of its start: no outage ends that film.
            assert (await _check(api, old, path=f"{CHECK}?renew=1")).status == 503
            # However long it takes.
            api.clock.move_on(10 * TTL)
    assert await api.playing() == []
    with monkeypatch.context() as another:
        another.setattr(double_store, "slots", no_answer)
        assert await _reason(api, recent, path=live) == "expired"


async def test_asked_live_a_stream_that_is_forgotten_is_unknown(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, double_store: MongoStore, any_key: Path
) -> None:
    there = await open_api(aiohttp_client, double_store, playback_keys=(any_key,))
    here = await open_api(aiohttp_client, wire_store, playback_keys=(any_key,))
    token = (await there.started())["playback_token"]
    assert await _reason(here, token, path=f"{CHECK}?live=1") == "unknown"


async def test_live_checks_that_wait_at_the_same_moment_share_commands(
    aiohttp_client: AiohttpClient, commands: Commands, wire_store: MongoStore, any_key: Path
) -> None:
    api = await open_api(aiohttp_client, wire_store, playback_keys=(any_key,), stream_limit=50)
    tokens = [(await api.started(session=str(n)))["playback_token"] for n in range(40)]
    commands.sent.clear()
    answers = await asyncio.gather(
        *(_check(api, token, path=f"{CHECK}?live=1") for token in tokens)
    )
    assert {answer.status for answer in answers} == {204}
    assert 1 <= len(commands.sent) < 20
    commands.sent.clear()
    await asyncio.gather(*(_check(api, token) for token in tokens))
    assert commands.sent == []


@pytest.mark.parametrize("query", ["LIVE=1", "Live=1", "live=1&x=", "l%C3%AFve=1"])
async def test_a_parameter_that_is_not_known_is_refused_by_its_name(api: Api, query: str) -> None:
    token = (await api.started())["playback_token"]
    answer = await _check(api, token, path=f"{CHECK}?{query}")
    name = {"live=1&x=": "x", "l%C3%AFve=1": "l\\xefve"}.get(query, query[:4])
    assert (answer.status, answer.body["field"]) == (400, name)
    assert answer.body["detail"] == f"The query may have live and renew; {name} is unknown."


@pytest.mark.parametrize("name", ["live", "renew"])
@pytest.mark.parametrize("value", ["2", "", "true", "1&{}=x"])
async def test_a_switch_that_is_neither_0_nor_1_is_refused(api: Api, name: str, value: str) -> None:
    token = (await api.started())["playback_token"]
    answer = await _check(api, token, path=f"{CHECK}?{name}={value.format(name)}")
    assert (answer.status, answer.body["field"]) == (400, name)


# What fetches the film renews the lease.

RENEW = f"{CHECK}?renew=1"


@pytest.fixture
async def fetched(aiohttp_client: AiohttpClient, store: MongoStore, any_key: Path) -> Api:
    return await open_api(
        aiohttp_client, store, playback_keys=(any_key,), stream_limit_header="Stream-Limit"
    )


async def _ends_at(api: Api) -> dict[str, str]:
    return {stream["stream_id"]: stream["expires_at"] for stream in await api.playing()}


async def test_a_fetch_renews_the_lease_and_nothing_else_of_a_check_does(fetched: Api) -> None:
    started = await fetched.started(content="film")
    for path in (CHECK, f"{CHECK}?live=1", f"{CHECK}?renew=0", RENEW):
        fetched.clock.move_on(TTL / 4)
        answer = await _check(fetched, started["playback_token"], path=path)
        assert (answer.status, answer.raw) == (204, b"")
        assert answer.headers["Stream-Id"] == started["stream_id"]
        assert answer.headers["Stream-Content"] == "film"
        ends = (await _ends_at(fetched)).get(started["stream_id"])
        assert (ends == started["expires_at"]) == (path != RENEW)
    # With the token of the start, for as long as the film is fetched.
    for _ in range(5):
        fetched.clock.move_on(TTL - 1)
        answer = await _check(fetched, started["playback_token"], path=f"{RENEW}&live=1")
        assert answer.status == 204
    assert len(await fetched.playing()) == 1


async def test_a_fetch_brings_back_a_stream_whose_lease_ran_out(fetched: Api) -> None:
    started = await fetched.started()
    beat = f"/streams/{started['lease_id']}/heartbeat"
    fetched.clock.move_on(2 * TTL)
    assert await _reason(fetched, started["playback_token"], path=f"{CHECK}?live=1") == "expired"
    assert await fetched.playing() == []

    assert (await _check(fetched, started["playback_token"], path=RENEW)).status == 204

    assert (await _ends_at(fetched)).keys() == {started["stream_id"]}
    assert (await fetched.ask("POST", beat)).status == 200


async def test_a_player_that_was_told_by_a_late_heartbeat_that_it_is_over_is_not_brought_back(
    fetched: Api,
) -> None:
    started = await fetched.started()
    fetched.clock.move_on(2 * TTL)
    late = await fetched.ask("POST", f"/streams/{started['lease_id']}/heartbeat")
    assert (late.status, late.body["reason"]) == (410, "expired")

    # It starts anew, and what it still fetches with the old token must not take a second slot.
    assert await _reason(fetched, started["playback_token"], path=RENEW) == "expired"
    assert await fetched.playing() == []


async def test_a_fetch_never_brings_back_what_was_ended_or_lost_its_slot(fetched: Api) -> None:
    stopped, replaced, overwritten = [await fetched.started(session=name) for name in "abc"]
    closed = [await fetched.started(session="d") for _ in range(3)][2]
    await fetched.ask("DELETE", f"/streams/{stopped['lease_id']}", session=None)
    await fetched.started(session="b", replace=replaced["stream_id"])
    fetched.clock.move_on(2 * TTL)
    await fetched.started(session="c")
    # A start with a lowered limit has the lapsed ones closed that would be too many.
    headers = {"Stream-Limit": "1"}
    lowered = await fetched.ask("POST", "/streams", session="d", headers=headers)
    assert (lowered.status, lowered.body["active"]) == (201, 1)

    for started, reason in (
        (stopped, "stopped"),
        (replaced, "replaced"),
        (overwritten, "expired"),
        (closed, "expired"),
    ):
        assert await _reason(fetched, started["playback_token"], path=RENEW) == reason
    assert [len(await fetched.playing(session=name)) for name in "abcd"] == [0, 0, 1, 1]


@pytest.mark.parametrize("which", ["one", "all"])
async def test_what_is_ended_while_its_lease_has_run_out_stays_ended(
    fetched: Api, which: str
) -> None:
    started = await fetched.started()
    fetched.clock.move_on(2 * TTL)

    path = f"/streams/{started['stream_id']}" if which == "one" else "/streams"
    ended = await fetched.ask("DELETE", path)

    assert (ended.status, ended.body) == ((204, None) if which == "one" else (200, {"ended": 0}))
    assert await _reason(fetched, started["playback_token"], path=RENEW) == "stopped"
    beat = await fetched.ask("POST", f"/streams/{started['lease_id']}/heartbeat")
    assert (beat.status, beat.body["reason"]) == (410, "stopped")


async def test_a_fetch_of_a_stream_that_is_forgotten_is_unknown(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, double_store: MongoStore, any_key: Path
) -> None:
    there = await open_api(aiohttp_client, double_store, playback_keys=(any_key,))
    here = await open_api(aiohttp_client, wire_store, playback_keys=(any_key,))
    token = (await there.started())["playback_token"]
    assert await _reason(here, token, path=RENEW) == "unknown"


async def test_fetches_and_heartbeats_that_wait_at_the_same_moment_share_commands(
    aiohttp_client: AiohttpClient, commands: Commands, wire_store: MongoStore, any_key: Path
) -> None:
    api = await open_api(aiohttp_client, wire_store, playback_keys=(any_key,))
    streams = [await api.started(session=str(n)) for n in range(40)]
    fetching, beating = streams[:20], streams[20:]
    api.clock.move_on(TTL)
    lapsed = beating.pop()
    for one in beating:
        # Those that are to send heartbeats are active again.
        assert (await _check(api, one["playback_token"], path=RENEW)).status == 204
    commands.sent.clear()
    answers = await asyncio.gather(
        *(_check(api, one["playback_token"], path=RENEW) for one in fetching),
        *(
            api.ask("POST", f"/streams/{one['lease_id']}/heartbeat", session=None)
            for one in (*beating, lapsed)
        ),
    )
    assert [answer.status for answer in answers] == [204] * 20 + [200] * 19 + [410]
    assert 1 <= len(commands.sent) < 20


async def test_a_start_answers_the_films_address_where_there_is_a_template(
    aiohttp_client: AiohttpClient, double_store: MongoStore, any_key: Path
) -> None:
    url = "https://cdn.example/film/{playback_token}/index.m3u8"
    api = await open_api(aiohttp_client, double_store, playback_keys=(any_key,), film_url=url)
    for answer in (await api.start(), await api.start(key="k"), await api.start(key="k")):
        assert answer.body["film"] == url.format(**answer.body)
    beat = await api.ask("POST", f"/streams/{answer.body['lease_id']}/heartbeat")
    assert "film" not in beat.body


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/film/index.m3u8",
        "https://cdn.example/{playback_token}/{playback_token}",
        "https://cdn.example/{playback_token}/{content}",
        "cdn.example/{playback_token}",
        "https://cdn.example/a b/{playback_token}",
    ],
)
def test_a_template_without_one_token_in_an_address_is_refused(url: str, any_key: Path) -> None:
    with pytest.raises(SettingsError, match="FILM_URL must be an address with"):
        Settings.from_environment({"PLAYBACK_KEYS": str(any_key), "FILM_URL": url})


def test_a_template_without_keys_is_refused() -> None:
    with pytest.raises(SettingsError, match="FILM_URL needs PLAYBACK_KEYS"):
        create_app(Settings(film_url="/film/{playback_token}/index.m3u8"))


# What is no token of ours.


def _private(path: Path) -> Any:
    return load_pem_private_key(path.read_bytes(), None)


def _signed(path: Path, claims: dict[str, Any], **head: Any) -> str:
    """A token by this key, as whoever holds it could write one."""
    tokens = PlaybackTokens.load([path], None, utc_now)
    [jwk] = tokens.published()["keys"]
    return jwt.encode(claims, _private(path), jwk["alg"], headers={"kid": jwk["kid"], **head})


async def _forgeries(api: Api, path: Path, tmp_path: Path) -> dict[str, str]:
    token = (await api.started())["playback_token"]
    head, claims = _parts(token)
    signature = token.split(".")[2]
    [jwk] = (await _published(api))["keys"]
    public = _private(path).public_key()
    other_kind = "p256" if jwk["alg"] == "EdDSA" else "ed25519"
    another = {kind: write_key(tmp_path / f"another {kind}", kind) for kind in KINDS}
    own = jwk["alg"] == "EdDSA"
    same_kind = another["ed25519" if own else "p256"]

    def put(head: object, claims: object = claims, signature: str = signature) -> str:
        return f"{_encoded(head)}.{_encoded(claims)}.{signature}"

    def keyed_with_the_public_key(secret: bytes) -> str:
        signed = f"{_encoded({**head, 'alg': 'HS256'})}.{_encoded(claims)}"
        made = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_encoded(made)}"

    def padded(token: str) -> str:
        """With a signature of the length that a good one has."""
        signed, _, made = token.rpartition(".")
        return f"{signed}.{made.ljust(86, 'A')}"

    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    raw = urlsafe_b64decode(jwk["x"] + "==")
    deep = b'{"kid":"%s","alg":"%s","x":%s%s}' % (
        jwk["kid"].encode(),
        jwk["alg"].encode(),
        b"[" * 1000,
        b"]" * 1000,
    )
    return {
        "none": put({**head, "alg": "none"}),
        "none without signature": put({**head, "alg": "none"}, signature=""),
        "hmac by the public key in PEM": padded(keyed_with_the_public_key(pem)),
        "hmac by the public key": padded(keyed_with_the_public_key(raw)),
        "swapped algorithm": put(
            {**head, "alg": {"EdDSA": "ES256", "ES256": "EdDSA"}[head["alg"]]}
        ),
        "algorithm in another case": put({**head, "alg": head["alg"].lower()}),
        "unknown kid": put({**head, "kid": "x" * 43}),
        "no kid": put({"alg": head["alg"], "typ": "JWT"}),
        "kid that is a list": put({**head, "kid": [head["kid"]]}),
        "key in the head": put({**head, "kid": "mine", "jwk": jwk}),
        "head that is a list": put([head]),
        "head that is deep": f"{_encoded(deep)}.{_encoded(claims)}.{signature}",
        "claims that are a list": put(head, [claims]),
        "claims that are null": put(head, None),
        "head that is no JSON": f"{_encoded(b'{')}.{_encoded(claims)}.{signature}",
        "another end": put(head, {**claims, "exp": claims["exp"] + 3600}),
        "another stream": put(head, {**claims, "sub": "1" + claims["sub"][1:]}),
        "the other last character": token[:-1]
        + {"A": "B", "Q": "R", "g": "h", "w": "x"}[token[-1]],
        "another signature": put(head, signature="A" * 86),
        "another key's signature": _signed(same_kind, claims, kid=head["kid"]),
        "another kind of key": _signed(another[other_kind], claims, kid=head["kid"]),
        "too long": _signed(path, {**claims, "content": "x" * MAX_TOKEN_LENGTH}),
        "with more behind it": token + "A" * MAX_TOKEN_LENGTH,
        "one part": token.replace(".", ""),
        "four parts": token + ".A",
        "blank": token[:9] + " " + token[9:],
        "padding": token + "=",
        "cut": token[:-1],
        "twice": token + token,
        "no ASCII": token[:-1] + "é",
        "empty parts": "..",
        # By our own key: what another program that has it may sign for itself.
        "for another audience": _signed(path, {**claims, "aud": "elsewhere"}),
        "of another issuer": _signed(path, {**claims, "iss": "elsewhere"}),
        "no issuer": _signed(path, {k: v for k, v in claims.items() if k != "iss"}),
        "no end": _signed(path, {k: v for k, v in claims.items() if k != "exp"}),
        "end that is text": _signed(path, {**claims, "exp": str(claims["exp"])}),
        "end that is a fraction of nothing": _signed(path, {**claims, "exp": None}),
        "no stream": _signed(path, {k: v for k, v in claims.items() if k != "sub"}),
        "no reference": _signed(path, {k: v for k, v in claims.items() if k != "ref"}),
        "reference that is a number": _signed(path, {**claims, "ref": 7}),
        "reference that is garbled": _signed(path, {**claims, "ref": "A" * 46}),
        "reference of another stream": _signed(path, {**claims, "sub": "1-" + "a" * 22}),
        "content that is no text": _signed(path, {**claims, "content": {"a": 1}}),
        "content that is half a character": _signed(path, {**claims, "content": "\ud83c"}),
    }


async def test_what_is_not_exactly_a_token_of_ours_is_refused_as_invalid(
    aiohttp_client: AiohttpClient, double_store: MongoStore, key: Path, tmp_path: Path
) -> None:
    api = await open_api(aiohttp_client, double_store, playback_keys=(key,))
    for name, forged in (await _forgeries(api, key, tmp_path)).items():
        assert await _reason(api, forged) == "invalid", name
        assert await _reason(api, forged, path=f"{CHECK}?live=1") == "invalid", name


CHEAP = {
    *("none", "none without signature", "swapped algorithm", "algorithm in another case"),
    *("unknown kid", "no kid", "kid that is a list", "key in the head", "head that is a list"),
    *("head that is deep", "claims that are a list", "claims that are null"),
    *("hmac by the public key in PEM", "hmac by the public key", "head that is no JSON"),
    *(
        "too long",
        "with more behind it",
        "one part",
        "four parts",
        "blank",
        "padding",
        "cut",
        "twice",
        "no ASCII",
    ),
    *("empty parts", "for another audience", "of another issuer", "no issuer", "no end"),
    *("another kind of key",),
}


async def test_what_can_be_seen_without_the_signature_costs_no_verification(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    any_key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = await open_api(aiohttp_client, double_store, playback_keys=(any_key,))
    old = (await api.started())["playback_token"]
    api.clock.move_on(TTL + 1)
    forgeries = await _forgeries(api, any_key, tmp_path)
    new = (await api.started(session="another"))["playback_token"]
    verified: list[str] = []
    decode = jwt.decode

    def counted(token: str, *args: Any, **kwargs: Any) -> Any:
        verified.append(token)
        return decode(token, *args, **kwargs)

    monkeypatch.setattr("jwt.decode", counted)
    for name in CHEAP:
        assert await _reason(api, forgeries[name]) == "invalid", name
        assert verified == [], name
    assert await _reason(api, old) == "expired"
    assert verified == []
    for _ in range(3):
        assert (await _check(api, new)).status == 204
    assert verified == [new]


def test_what_is_remembered_of_tokens_is_bounded(
    any_key: Path, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = playback_tokens._size(Playback("", "", None, 0))  # noqa: SLF001
    monkeypatch.setattr(playback_tokens, "CHECKED_BYTES", 3 * size)
    app = create_app(Settings(playback_keys=(any_key,)), store=double_store)
    tokens = app[PLAYBACK]
    issued = [tokens.issue(_stream(slot)) for slot in range(9)]
    for token in issued:
        assert tokens.check(token).session == "ab" * 18
    assert len(tokens._checked) == 3  # noqa: SLF001 - what is promised is memory
    for _ in range(9):
        with pytest.raises(PlaybackRefusedError):
            tokens.check(issued[0] + "x")
    assert len(tokens._checked) == 3  # noqa: SLF001


@pytest.mark.parametrize("text", ["", "\udcff", "a.b.c", "\x00", "é"])
def test_text_that_is_nothing_like_a_token_is_refused(text: str) -> None:
    for tokens in _TOKENS:
        with pytest.raises(PlaybackRefusedError, match="invalid"):
            tokens.check(text)


def _stream(slot: int = 0) -> Any:
    now = utc_now()
    return Stream("ab" * 18, f"{slot}-" + "a" * 22, now, now + timedelta(seconds=TTL))


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.data())
@hypothesis.settings(max_examples=300)
def test_no_change_of_a_token_is_taken_for_it(data: st.DataObject) -> None:
    for tokens in _TOKENS:
        token = tokens.issue(_stream())
        at = data.draw(st.integers(0, len(token) - 1))
        instead = data.draw(st.sampled_from(ALPHABET + "=. é\n"))
        hypothesis.assume(token[at] != instead)
        with pytest.raises(PlaybackRefusedError, match=r"invalid|expired"):
            tokens.check(token[:at] + instead + token[at + 1 :])


def test_of_the_two_signatures_of_es256_one_is_made_and_taken(
    tmp_path: Path, double_store: MongoStore
) -> None:
    key = write_key(tmp_path / "key.pem", "p256")
    tokens = create_app(Settings(playback_keys=(key,)), store=double_store)[PLAYBACK]
    public: Any = load_pem_private_key(key.read_bytes(), None).public_key()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for _ in range(20):
        token = tokens.issue(_stream())
        assert tokens.check(token).session == "ab" * 18
        head, claims, signature = token.split(".")
        pair = urlsafe_b64decode(signature + "==")
        other = pair[:32] + (order - int.from_bytes(pair[32:])).to_bytes(32)
        twin = f"{head}.{claims}.{_encoded(other)}"
        # It is right, and would be good wherever nothing but the signature is verified.
        assert jwt.decode(twin, public, ["ES256"], options={"verify_aud": False})
        with pytest.raises(PlaybackRefusedError, match="invalid"):
            tokens.check(twin)


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,200}(\.[A-Za-z0-9_-]{0,90}){2}"))
def test_no_text_is_a_token_and_none_is_more_than_refused(text: str) -> None:
    for tokens in _TOKENS:
        with pytest.raises(PlaybackRefusedError, match=r"invalid|expired"):
            tokens.check(text)


def _made_once() -> list[PlaybackTokens]:
    with tempfile.TemporaryDirectory() as directory:
        return [
            PlaybackTokens.load([write_key(Path(directory) / kind, kind)], None, utc_now)
            for kind in KINDS
        ]


_TOKENS = _made_once()


# Keys that cannot be used.


def _of_everybody(path: Path) -> Path:
    write_key(path).chmod(0o644)
    return path


def _writable_by_everybody(path: Path) -> Path:
    write_key(path).chmod(0o602)
    return path


def _holding(path: Path, raw: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(raw)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


BAD_KEYS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda path: path, "cannot be read: No such file or directory"),
    "a folder": (_folder, "is no file"),
    "world-readable": (_of_everybody, "chmod 600"),
    "world-writable": (_writable_by_everybody, "chmod 600"),
    "encrypted": (lambda path: write_key(path, passphrase=b"secret"), "without a passphrase"),
    "public": (write_public_key, "holds no private key in PEM"),
    "garbage": (lambda path: _holding(path, b"s3cret garbage"), "holds no private key in PEM"),
    "empty": (lambda path: _holding(path, b""), "holds no private key in PEM"),
    "rsa": (lambda path: write_key(path, "rsa"), "P-256 or Ed25519"),
    "p384": (lambda path: write_key(path, "p384"), "P-256 or Ed25519"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_that_cannot_be_used_ends_the_start_naming_its_file(
    name: str, tmp_path: Path, double_store: MongoStore, any_key: Path
) -> None:
    make, said = BAD_KEYS[name]
    path = make(tmp_path / "bad.pem")
    with pytest.raises(SettingsError, match=r"^PLAYBACK_KEYS: ") as refused:
        create_app(Settings(playback_keys=(any_key, path)), store=double_store)
    message = str(refused.value)
    assert str(path) in message
    assert said in message
    assert "\n" not in message
    assert "s3cret" not in message


def test_a_key_that_a_group_may_read_is_used(any_key: Path, double_store: MongoStore) -> None:
    any_key.chmod(0o640)
    create_app(Settings(playback_keys=(any_key,)), store=double_store)


def test_the_same_key_twice_is_a_mistake(any_key: Path, double_store: MongoStore) -> None:
    with pytest.raises(SettingsError, match="same key twice"):
        create_app(Settings(playback_keys=(any_key, any_key)), store=double_store)


def test_a_bad_key_ends_the_process_with_one_line(
    tmp_path: Path, mongo_url: str, database: str
) -> None:
    path = _of_everybody(tmp_path / "key.pem")
    with Service(MONGO_URL=mongo_url, MONGO_DB=database, PLAYBACK_KEYS=str(path)) as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith(f"stream-service: PLAYBACK_KEYS: {path} can be read")


# Who may ask, and what is told of it.


async def test_the_check_needs_a_token_of_the_viewers_api_and_the_keys_need_none(
    aiohttp_client: AiohttpClient, double_store: MongoStore, any_key: Path
) -> None:
    api = await open_api(
        aiohttp_client,
        double_store,
        playback_keys=(any_key,),
        gateway_tokens=("g" * 16,),
        operator_tokens=("o" * 16,),
    )
    as_gateway = {"Authorization": f"Bearer {'g' * 16}"}
    started = await api.ask("POST", "/streams", headers=as_gateway)
    token = started.body["playback_token"]
    unauthorized = await _check(api, token)
    assert unauthorized.status == 401
    assert unauthorized.body["type"].endswith(":unauthorized")
    for bearer in ("g" * 16, "o" * 16):
        headers = {"Authorization": f"Bearer {bearer}"}
        assert (await _check(api, token, headers=headers)).status == 204
    assert (await _published(api))["keys"]


async def test_no_refusal_asks_the_viewers_browser_for_a_password(api: Api) -> None:
    answer = await _check(api, "x")
    assert answer.headers["WWW-Authenticate"].partition(" ")[0] == "Playback-Token"


async def test_a_request_id_that_is_part_of_a_token_is_not_taken(api: Api) -> None:
    token = (await api.started())["playback_token"]
    piece = token.split(".")[2][:60]
    for headers in ({"Playback-Token": token}, {"X-Original-URI": f"/?playback_token={token}"}):
        sent = {**headers, "X-Request-Id": piece}
        answer = await api.ask("GET", CHECK, headers=sent)
        assert answer.headers["X-Request-Id"] != piece
