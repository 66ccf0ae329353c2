"""Many heartbeats in one request: each as if it had come alone, and none harmed by another."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api.heartbeats import MAX_BYTES, MOST_HEARTBEATS
from stream_service.streams import StoreUnavailableError
from tests.support.http_api import Api, a_lease_id, open_api
from tests.support.playback import write_key

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore
    from tests.conftest import Commands

TTL = 60
DIGEST_KEY = "k" * 32


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path]:
    return (write_key(tmp_path / "key.pem"),)


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, store: MongoStore, keys: tuple[Path]) -> Api:
    return await open_api(aiohttp_client, store, playback_keys=keys, digest_key=DIGEST_KEY)


async def _many(api: Api, *items: Any, **body: Any) -> Any:
    answer = await api.ask(
        "POST", "/heartbeats", session=None, json={"heartbeats": list(items), **body}
    )
    assert answer.status == 200, answer
    assert TTL / 3 * 0.9 <= answer.body["heartbeat_in"] <= TTL / 3 * 1.1
    assert len(answer.body["results"]) == len(items)
    return answer.body["results"]


def _lease(started: Any) -> dict[str, str]:
    return {"lease_id": started["lease_id"]}


def _token(started: Any) -> dict[str, str]:
    return {"playback_token": started["playback_token"]}


async def test_each_is_renewed_and_told_in_order_whatever_becomes_of_the_others(api: Api) -> None:
    playing, fetched, stopped, replaced, lapsed, late = [
        await api.started(session=name) for name in "abcdef"
    ]
    await api.ask("DELETE", f"/streams/{stopped['lease_id']}", session=None)
    await api.started(session="d", replace=replaced["stream_id"])
    api.clock.move_on(TTL)
    told = await _many(api, _lease(late), _token(fetched), _lease(lapsed))
    assert [result.get("problem", {}).get("reason") for result in told] == [
        "expired",
        None,
        "expired",
    ]
    back = await _many(api, _token(playing), _token(stopped), _token(replaced))
    assert [result.get("problem", {}).get("reason") for result in back] == [
        None,
        "stopped",
        "replaced",
    ]
    api.clock.move_on(TTL / 2)

    items: list[Any] = [
        _lease(playing),
        _lease(stopped),
        _token(stopped),
        _lease(replaced),
        {"lease_id": playing["stream_id"]},
        {"lease_id": a_lease_id(key="another key of digests")},
        {"lease_id": a_lease_id(key=DIGEST_KEY)},
        {"playback_token": playing["playback_token"][:-4] + "AAAA"},
        {"lease_id": "é" * 58},
        {},
        {**_lease(playing), **_token(playing)},
        {"lease_id": 5},
        {"lease_id": None, "playback_token": None, "more": 1},
        "text",
        _token(fetched),
    ]
    results = await _many(api, *items)

    renewed, *others, fetch = results
    for result, started in ((renewed, playing), (fetch, fetched)):
        # The lease ends one from now.
        [listed] = await api.playing(session="a" if started is playing else "b")
        assert result == {k: listed[k] for k in ("stream_id", "expires_at")}
        assert result["stream_id"] == started["stream_id"]
    problems = [
        (one["problem"]["status"], one["problem"]["type"].rpartition(":")[2]) for one in others
    ]
    assert problems == [
        (410, "stream-ended"),
        (401, "playback-refused"),
        (410, "stream-ended"),
        (404, "stream-not-found"),
        (404, "stream-not-found"),
        (404, "stream-not-found"),
        (401, "playback-refused"),
        (404, "stream-not-found"),
        *[(400, "invalid-request")] * 5,
    ]
    assert "stream_id" in others[3]["problem"]["detail"]
    assert others[2]["problem"]["reason"] == "replaced"
    # As the single ones are answered.
    for item, result in zip(items[1:4], others[:3], strict=True):
        if "lease_id" in item:
            alone = await api.ask("POST", f"/streams/{item['lease_id']}/heartbeat", session=None)
        else:
            alone = await api.ask(
                "GET",
                "/playback/check?renew=1",
                session=None,
                headers={"Playback-Token": item["playback_token"]},
            )
        assert alone.body == result["problem"]


async def test_a_new_token_is_told_on_request_alone(api: Api) -> None:
    started = await api.started(content="film")
    api.clock.move_on(TTL / 2)
    [without], [renewed] = (
        await _many(api, _lease(started)),
        await _many(api, _lease(started), tokens=True),
    )
    assert without.keys() == {"stream_id", "expires_at"}
    api.clock.move_on(TTL - 1)
    answer = await api.ask(
        "GET", "/playback/check", headers={"Playback-Token": renewed["playback_token"]}
    )
    assert (answer.status, answer.headers["Stream-Content"]) == (204, "film")


async def test_without_keys_a_token_is_none_of_ours(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store)
    started = await api.started()
    renewed, refused = await _many(api, _lease(started), {"playback_token": "a.b.c"}, tokens=True)
    assert renewed.keys() == {"stream_id", "expires_at"}
    assert (refused["problem"]["status"], refused["problem"]["reason"]) == (401, "invalid")


async def test_a_thousand_are_renewed_by_few_commands_and_one_stream_twice_by_one(
    aiohttp_client: AiohttpClient,
    commands: Commands,
    wire_store: MongoStore,
    keys: tuple[Path],
) -> None:
    api = await open_api(aiohttp_client, wire_store, playback_keys=keys)
    started = [await api.started(session=str(n)) for n in range(3)]
    api.clock.move_on(TTL / 2)
    commands.sent.clear()

    results = await _many(
        api, *[_lease(started[n % 2]) for n in range(MOST_HEARTBEATS - 1)], _token(started[2])
    )

    assert {result["stream_id"] for result in results} == {one["stream_id"] for one in started}
    [(_, beat), (_, fetch)] = commands.sent
    assert len(beat["updates"][0]["q"]["_id"]["$in"]) == 2
    assert len(fetch["updates"][0]["q"]["_id"]["$in"]) == 1


async def test_none_are_none(api: Api) -> None:
    assert await _many(api) == []


async def test_without_the_database_it_is_503_as_a_whole_but_bad_ones_alone_need_none(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store, digest_key=DIGEST_KEY)
    started = await api.started()

    async def no_answer(*_: object, **__: object) -> None:
        raise StoreUnavailableError("NetworkTimeout")

    double_store.renew = no_answer  # type: ignore[assignment, method-assign]
    items = [_lease(started), {}]
    answer = await api.ask("POST", "/heartbeats", session=None, json={"heartbeats": items})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "Send the heartbeats again" in answer.body["detail"]
    made_up = {"lease_id": a_lease_id(key="another key of digests")}
    assert len(await _many(api, made_up, {})) == 2


async def test_what_takes_longer_than_the_deadline_is_503_as_a_whole(
    aiohttp_client: AiohttpClient, double_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await open_api(aiohttp_client, double_store)
    started = await api.started()
    renew, never = double_store.renew, asyncio.Event()

    async def no_answer(*args: Any, **options: Any) -> bool:
        await never.wait()
        return await renew(*args, **options)

    monkeypatch.setattr(double_store, "renew", no_answer)
    began = asyncio.get_running_loop().time()
    items = {"heartbeats": [_lease(started)]}
    answer = await api.ask("POST", "/heartbeats", session=None, json=items)
    assert answer.status == 503
    assert asyncio.get_running_loop().time() - began >= 1.9
    never.set()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "heartbeats"),
        ([], "heartbeats"),
        ({"heartbeats": {}}, "heartbeats"),
        ({"heartbeats": [{}] * (MOST_HEARTBEATS + 1)}, "heartbeats"),
        ({"heartbeats": [], "tokens": 1}, "tokens"),
        ({"heartbeats": [], "more": 1}, "heartbeats"),
    ],
)
async def test_a_body_of_another_form_is_refused_as_a_whole(
    aiohttp_client: AiohttpClient, double_store: MongoStore, body: Any, field: str
) -> None:
    api = await open_api(aiohttp_client, double_store)
    answer = await api.ask("POST", "/heartbeats", session=None, json=body)
    assert (answer.status, answer.body["field"]) == (400, field)


async def test_what_is_no_json_or_too_long_is_refused(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store)
    for data, status in ((b"{", 400), (b'{"a": "\\ud800"}', 400), (b" " * (MAX_BYTES + 1), 413)):
        headers = {"Content-Type": "application/json"}
        answer = await api.ask(
            "POST", "/heartbeats", session=None, data=BytesIO(data), headers=headers
        )
        assert answer.status == status


async def test_the_gateways_token_opens_it(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(
        aiohttp_client, double_store, gateway_tokens=("t" * 16,), operator_tokens=("o" * 16,)
    )
    body: dict[str, Any] = {"heartbeats": []}
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {'t' * 16}"}, 200)):
        answer = await api.ask("POST", "/heartbeats", session=None, json=body, headers=headers)
        assert answer.status == status


async def test_an_item_with_half_a_character_or_no_number_at_all_harms_no_other(api: Api) -> None:
    started = await api.started()
    good = json.dumps(_lease(started))
    as_json = {"Content-Type": "application/json"}
    bad = ['{"lease_id":"\\ud800"}', '{"playback_token":"\\ud800"}', '{"lease_id":1e999}', "NaN"]
    body = f'{{"heartbeats":[{",".join([*bad, good])}]}}'
    answer = await api.ask("POST", "/heartbeats", session=None, headers=as_json, data=body)
    assert answer.status == 200
    *problems, renewed = answer.body["results"]
    assert [one["problem"]["status"] for one in problems] == [404, 401, 400, 400]
    assert renewed["stream_id"] == started["stream_id"]
