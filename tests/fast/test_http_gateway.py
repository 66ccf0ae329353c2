"""What a trusted gateway says: its token, and the limit of a viewer's plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_api import Api, open_api

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

PLAN = "X-Plan-Streams"


@pytest.fixture
async def planned(aiohttp_client: AiohttpClient, double_store: MongoStore) -> Api:
    return await open_api(aiohttp_client, double_store, stream_limit_header=PLAN)


async def test_the_limit_is_that_of_the_settings_by_default(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store, stream_limit=1)
    assert (await api.started())["limit"] == 1
    assert (await api.start()).status == 409
    refused = await api.ask("GET", "/watch", headers={PLAN: "5"})
    assert (refused.status, refused.body["limit"]) == (401, 1)


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_the_header_of_a_plan_sets_the_limit_of_its_viewer(planned: Api, limit: int) -> None:
    headers = {PLAN: str(limit)}
    for count in range(1, limit + 1):
        answer = await planned.ask("POST", "/streams", headers=headers)
        assert (answer.status, answer.body["active"]) == (201, count)
        assert answer.body["limit"] == limit
    refused = await planned.ask("POST", "/streams", headers=headers)
    assert (refused.status, refused.body["limit"]) == (409, limit)
    assert (await planned.ask("GET", "/watch", headers=headers)).status == 401
    assert (await planned.ask("GET", "/streams", headers=headers)).body["limit"] == limit


async def test_a_plan_may_have_a_hundred_streams(planned: Api) -> None:
    for _ in range(99):
        await planned.ask("POST", "/streams", headers={PLAN: "100"})
    last = await planned.ask("POST", "/streams", headers={PLAN: "100"})
    assert (last.status, last.body["active"]) == (201, 100)
    assert (await planned.ask("POST", "/streams", headers={PLAN: "100"})).status == 409
    beat = await planned.ask("POST", f"/streams/{last.body['lease_id']}/heartbeat")
    assert beat.status == 200


async def test_a_viewer_without_a_plan_has_the_limit_of_the_settings(planned: Api) -> None:
    assert (await planned.started())["limit"] == 3


async def test_who_does_not_know_the_plan_is_told_the_limit_of_the_newest_stream(
    planned: Api,
) -> None:
    async def limit(**headers: str) -> int:
        listed = (await planned.ask("GET", "/streams", headers=headers)).body
        assert "plan" not in listed
        return int(listed["limit"])

    assert await limit() == 3
    first = await planned.ask("POST", "/streams", headers={PLAN: "5"})
    assert await limit() == 5
    planned.clock.move_on(1)
    await planned.ask("POST", "/streams", headers={PLAN: "2"})
    assert await limit() == 2
    assert await limit(**{PLAN: ""}) == 2
    assert await limit(**{PLAN: "4"}) == 4
    # A stream in the same slot that said nothing else has the default, not what was there before.
    planned.clock.move_on(1)
    await planned.started(replace=first.body["stream_id"])
    assert await limit() == 3
    await planned.ask("DELETE", "/streams")
    assert await limit() == 3


async def test_where_no_account_has_a_limit_of_its_own_all_are_told_that_of_today(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    before = await open_api(aiohttp_client, double_store, stream_limit=5)
    await before.started()
    lowered = await open_api(aiohttp_client, double_store, stream_limit=2)
    assert (await lowered.ask("GET", "/streams")).body["limit"] == 2


async def test_a_lowered_plan_refuses_without_ending_what_plays(planned: Api) -> None:
    for _ in range(3):
        await planned.started()
    refused = await planned.ask("POST", "/streams", headers={PLAN: "2"})
    assert (refused.status, refused.body["limit"], refused.body["active"]) == (409, 2, 3)
    assert len(await planned.playing()) == 3


async def test_above_a_lowered_plan_a_refusal_says_how_many_streams_have_to_be_stopped(
    planned: Api,
) -> None:
    streams = [await planned.started() for _ in range(3)]
    refused = await planned.ask("POST", "/streams", headers={PLAN: "1"}, json={"replace": "oldest"})
    assert refused.status == 409
    # To replace one would still be too many, so it is not advised.
    assert refused.body["detail"] == (
        "This session already has 3 active streams and may have 1: stop 3 of them."
    )
    for stream in streams[:2]:
        await planned.ask("DELETE", f"/streams/{stream['stream_id']}")
    at_the_limit = (await planned.ask("POST", "/streams", headers={PLAN: "1"})).body["detail"]
    assert at_the_limit.endswith('stop one, or start with "replace" to take one\'s place.')
    await planned.ask("DELETE", f"/streams/{streams[2]['stream_id']}")
    assert (await planned.ask("POST", "/streams", headers={PLAN: "1"})).status == 201


@pytest.mark.parametrize("value", ["101", "abc", "-1", "+3", "3.0", "9" * 200, "٣"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/watch"), ("POST", "/streams")])
async def test_a_plan_that_is_no_whole_number_from_0_to_100_is_refused(
    planned: Api, method: str, path: str, value: str
) -> None:
    refused = await planned.ask(method, path, headers={PLAN: value})
    assert (refused.status, refused.body["field"]) == (400, PLAN)
    assert await planned.playing() == []


async def test_an_empty_plan_is_none(planned: Api) -> None:
    answer = await planned.ask("POST", "/streams", headers={PLAN: ""})
    assert (answer.status, answer.body["limit"]) == (201, 3)


async def test_a_plan_of_0_is_refused_without_naming_the_header(planned: Api) -> None:
    for method, path, status in (("POST", "/streams", 409), ("GET", "/watch", 401)):
        refused = await planned.ask(method, path, headers={PLAN: "0"})
        assert (refused.status, refused.body["limit"], refused.body["active"]) == (status, 0, 0)
        assert PLAN.encode() not in refused.raw
        assert refused.body["detail"].endswith("may have 0: its plan has no streams.")
    assert await planned.playing() == []


async def test_two_plans_are_refused(planned: Api) -> None:
    refused = await planned.ask("GET", "/watch", headers=[(PLAN, "3"), (PLAN, "9")])
    assert (refused.status, refused.body["field"]) == (400, PLAN)
    assert await planned.playing() == []


NEW, OLD = "new-0123456789abc", "old-0123456789abc"


@pytest.fixture
async def guarded(aiohttp_client: AiohttpClient, double_store: MongoStore) -> Api:
    return await open_api(aiohttp_client, double_store, gateway_tokens=(NEW, OLD))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {NEW[:-1]}",
        f"Bearer {NEW},{OLD}",
        NEW,
        f"Basic {NEW}",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/watch"),
        ("POST", "/streams"),
        ("GET", "/streams"),
        ("GET", "/nowhere"),
        ("GET", "/health/else"),
        ("PUT", "/watch"),
    ],
)
async def test_nothing_is_done_or_told_without_the_token(
    guarded: Api, method: str, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    refused = await guarded.ask(method, path, headers=headers)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert refused.body["type"].endswith(":unauthorized")
    seen = await guarded.ask("GET", "/streams", headers={"Authorization": f"Bearer {NEW}"})
    assert seen.body["streams"] == []


@pytest.mark.parametrize("token", [NEW, OLD])
async def test_each_token_lets_its_gateway_in_while_one_is_rotated_out(
    guarded: Api, token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    assert (await guarded.ask("GET", "/watch", headers=headers)).status == 200


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
async def test_health_needs_no_token(guarded: Api, path: str) -> None:
    assert (await guarded.ask("GET", path, session=None)).status != 401


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Sec-Purpose", "prefetch"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Purpose", "prefetch"),
        ("X-Moz", "Prefetch"),
        ("X-Purpose", "preview"),
    ],
)
async def test_a_prefetch_starts_nothing(
    aiohttp_client: AiohttpClient, double_store: MongoStore, name: str, value: str
) -> None:
    api = await open_api(aiohttp_client, double_store)
    for method, path in (("GET", "/watch"), ("POST", "/streams")):
        answer = await api.ask(method, path, headers={name: value})
        assert (answer.status, answer.body["title"]) == (403, "Prefetch refused")
    assert await api.playing() == []


async def test_another_purpose_than_a_prefetch_starts_a_stream(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store)
    assert (await api.ask("GET", "/watch", headers={"Sec-Purpose": "navigate"})).status == 200


async def test_the_401_of_the_limit_has_a_challenge_that_no_browser_asks_a_password_for(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, double_store, stream_limit=1)
    await api.started()
    refused = await api.ask("GET", "/watch")
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'StreamLimit realm="stream-service"'
    assert "WWW-Authenticate" not in (await api.start()).headers
