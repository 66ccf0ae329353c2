"""The lifecycle of a stream over HTTP: every route, with every answer it can give."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_api import Api, open_api

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

UNKNOWN = "0-AAAAAAAAAAAAAAAAAAAAAA"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OF_A_STREAM = {"stream_id", "device", "content", "started_at", "expires_at"}
OF_A_BEAT = {"stream_id", "expires_at", "heartbeat_in"}
OF_A_START = OF_A_STREAM | {"lease_id", "heartbeat_in", "active", "limit"}


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, store: MongoStore) -> Api:
    return await open_api(aiohttp_client, store)


def _path(stream: Any, verb: str = "") -> str:
    path = f"/streams/{stream['lease_id' if verb == 'heartbeat' else 'stream_id']}"
    return f"{path}/{verb}" if verb else path


def _as_listed(stream: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stream.items() if name in OF_A_STREAM}


async def test_the_walk_of_the_first_version_answers_as_it_did(api: Api) -> None:
    answers = [await api.ask("GET", "/watch", session=None)]
    answers += [await api.ask("GET", "/watch") for _ in range(4)]
    assert [answer.status for answer in answers] == [400, 200, 200, 200, 401]
    assert [set(answer.body) for answer in answers[1:4]] == [OF_A_START] * 3
    assert [answer.body["active"] for answer in answers[1:4]] == [1, 2, 3]
    refused = answers[4].body
    assert (refused["limit"], refused["active"]) == (3, 3)
    assert refused["streams"] == [_as_listed(answer.body) for answer in answers[1:4]]


async def test_a_start_answers_with_its_stream_and_where_it_is(api: Api) -> None:
    answer = await api.start(device="Living-room TV", content="Episode 7")
    assert answer.status == 201
    assert set(answer.body) == OF_A_START
    assert (answer.body["device"], answer.body["content"]) == ("Living-room TV", "Episode 7")
    assert (answer.body["active"], answer.body["limit"]) == (1, 3)
    assert TIME.fullmatch(answer.body["started_at"])
    assert TIME.fullmatch(answer.body["expires_at"])
    shown = await api.ask("GET", answer.headers["Location"])
    assert shown.status == 200
    assert shown.body == _as_listed(answer.body)


async def test_a_start_needs_no_body(api: Api) -> None:
    answer = await api.ask("POST", "/streams")
    assert answer.status == 201
    assert (answer.body["device"], answer.body["content"]) == (None, None)


async def test_a_start_beyond_the_limit_is_refused_with_what_is_playing(api: Api) -> None:
    streams = [await api.started(device=f"TV {number}") for number in range(3)]
    refused = await api.start(device="phone")
    assert refused.status == 409
    assert (refused.body["limit"], refused.body["active"]) == (3, 3)
    assert refused.body["streams"] == [_as_listed(stream) for stream in streams]
    assert await api.playing() == refused.body["streams"]


@pytest.mark.parametrize(
    ("limit", "said"), [(1, "1 active stream and"), (2, "2 active streams and")]
)
async def test_a_refusal_counts_in_singular_and_plural(
    aiohttp_client: AiohttpClient, store: MongoStore, limit: int, said: str
) -> None:
    api = await open_api(aiohttp_client, store, stream_limit=limit)
    for _ in range(limit):
        await api.started()
    detail = (await api.start()).body["detail"]
    assert detail.startswith(f"This session already has {said} may have {limit}: ")


async def test_each_session_has_a_limit_of_its_own(api: Api) -> None:
    for _ in range(3):
        await api.started(session="one")
    assert (await api.start(session="another")).status == 201
    assert len(await api.playing(session="one")) == 3
    assert len(await api.playing(session="another")) == 1


async def test_a_replayed_start_gets_the_same_stream_and_no_second_slot(api: Api) -> None:
    first = await api.start(key="k1", device="TV")
    replay = await api.start(key="k1", device="TV")
    assert (first.status, replay.status) == (201, 200)
    assert replay.headers["Location"] == first.headers["Location"]
    assert _as_listed(replay.body) == _as_listed(first.body)
    assert len(await api.playing()) == 1
    assert (await api.start(key="k2")).status == 201
    assert (await api.start(key="k1", session="another")).status == 201


BODIES: list[dict[str, Any]] = [
    {},
    {"device": "TV"},
    {"content": "TV"},
    {"device": "TV", "content": "film"},
    {"device_id": "TV"},
    {"device": "TV", "device_id": "TV"},
    {"replace": "oldest"},
    {"replace": ["oldest", "stalest"]},
    {"replace": ["stalest", "oldest"]},
]


@pytest.mark.parametrize("first", BODIES, ids=str)
async def test_a_key_sent_again_with_another_body_is_refused_and_changes_nothing(
    api: Api, first: dict[str, Any]
) -> None:
    stream = await api.start(key="k", **first)
    before = await api.playing()
    api.clock.move_on(1)
    for body in BODIES:
        again = await api.start(key="k", **body)
        if body == first:
            assert (again.status, again.body["stream_id"]) == (200, stream.body["stream_id"])
            continue
        assert (again.status, again.body["field"]) == (422, "Idempotency-Key")
        assert again.body["type"].endswith(":idempotency-key-reused")
        assert "k" not in again.body["detail"].split()
    assert await api.playing() == before
    assert (await api.start(key="k", session="another", device="else")).status == 201


async def test_the_same_body_written_in_another_way_is_a_replay(api: Api) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    written = (
        b'{"device":"caf\xc3\xa9","replace":"oldest"}',
        b'{ "replace": ["oldest"],\n "content": null, "device": "caf\\u00e9", "device_id": null }',
    )
    answers = [await api.ask("POST", "/streams", headers=headers, data=raw) for raw in written]
    assert [answer.status for answer in answers] == [201, 200]


async def test_a_key_whose_stream_is_over_or_was_refused_may_come_with_another_body(
    api: Api,
) -> None:
    first = await api.start(key="k", device="TV")
    await api.ask("DELETE", _path(first.body))
    assert (await api.start(key="k", device="phone")).status == 201
    for _ in range(2):
        await api.started()
    assert (await api.start(key="l")).status == 409
    assert (await api.start(key="l", replace="oldest")).status == 201


async def test_starts_with_one_key_and_two_bodies_that_race_take_one_slot(api: Api) -> None:
    answers = await asyncio.gather(
        *(api.start(key="k", device=device) for device in ["TV", "phone"] * 5)
    )
    [admitted] = [answer.body for answer in answers if answer.status == 201]
    assert len(await api.playing()) == 1
    for number, answer in enumerate(answers):
        same = admitted["device"] == ["TV", "phone"][number % 2]
        assert answer.status in ({200, 201} if same else {422})


async def test_a_replay_at_the_limit_is_no_refusal(api: Api) -> None:
    first = await api.start(key="k1")
    for _ in range(2):
        await api.started()
    replay = await api.start(key="k1")
    assert replay.status == 200
    assert replay.body["stream_id"] == first.body["stream_id"]
    assert replay.body["active"] == 3


async def test_the_list_holds_the_active_streams_oldest_first(api: Api) -> None:
    assert (await api.ask("GET", "/streams")).body == {"streams": [], "active": 0, "limit": 3}
    first = await api.started()
    api.clock.move_on(1)
    second = await api.started()
    assert await api.playing() == [_as_listed(first), _as_listed(second)]
    api.clock.move_on(59.5)
    assert await api.playing() == [_as_listed(second)]


async def test_an_unknown_stream_is_not_found_on_every_route(api: Api) -> None:
    for method, path in (
        ("GET", f"/streams/{UNKNOWN}"),
        ("DELETE", f"/streams/{UNKNOWN}"),
        ("POST", f"/streams/{UNKNOWN}/stop"),
        ("POST", f"/streams/{UNKNOWN}/heartbeat"),
    ):
        assert (await api.ask(method, path)).status == 404


async def test_a_heartbeat_renews_the_lease_for_its_whole_length(api: Api) -> None:
    stream = await api.started(device="TV")
    for _ in range(3):
        api.clock.move_on(59)
        beat = await api.ask("POST", _path(stream, "heartbeat"))
        assert beat.status == 200
        assert set(beat.body) == OF_A_BEAT
        renewed = _as_listed(stream) | {"expires_at": beat.body["expires_at"]}
        assert beat.body["expires_at"] > stream["expires_at"]
    assert (await api.ask("GET", _path(stream))).body == renewed
    api.clock.move_on(59.999)
    assert await api.playing() == [renewed]
    api.clock.move_on(0.001)
    assert await api.playing() == []


@pytest.mark.parametrize("lease", [9, 60])
async def test_the_next_heartbeat_is_wanted_after_a_third_of_the_lease_with_jitter(
    aiohttp_client: AiohttpClient, double_store: MongoStore, lease: int
) -> None:
    api = await open_api(aiohttp_client, double_store, stream_ttl_seconds=lease)
    stream = await api.started()
    wanted = [stream["heartbeat_in"]]
    wanted += [(await api.ask("GET", "/watch")).body["heartbeat_in"]]
    for _ in range(20):
        wanted.append((await api.ask("POST", _path(stream, "heartbeat"))).body["heartbeat_in"])
    assert all(lease / 3 * 0.9 <= seconds <= lease / 3 * 1.1 for seconds in wanted)
    assert len(set(wanted)) > 1


@pytest.mark.parametrize(("method", "verb"), [("DELETE", ""), ("POST", "stop")])
async def test_a_stop_frees_the_slot_and_can_be_said_twice(
    api: Api, method: str, verb: str
) -> None:
    streams = [await api.started() for _ in range(3)]
    for _ in range(2):
        stopped = await api.ask(method, _path(streams[1], verb))
        assert (stopped.status, stopped.raw) == (204, b"")
    assert await api.playing() == [_as_listed(streams[0]), _as_listed(streams[2])]
    assert (await api.start()).status == 201
    assert (await api.start()).status == 409


async def _ended(api: Api, stream: Any) -> Any:
    """What a heartbeat and a look at an ended stream say, which is the same."""
    beat = await api.ask("POST", _path(stream, "heartbeat"))
    shown = await api.ask("GET", _path(stream))
    assert (beat.status, shown.status) == (410, 410)
    assert beat.body == shown.body
    return beat.body


async def test_a_stopped_stream_says_so_and_stays_stopped(api: Api) -> None:
    stream = await api.started()
    await api.ask("DELETE", _path(stream))
    told = await _ended(api, stream)
    assert told["reason"] == "stopped"
    assert "replaced_by" not in told
    assert await api.playing() == []


async def test_a_stream_without_heartbeats_has_expired_and_a_late_one_does_not_revive_it(
    api: Api,
) -> None:
    stream = await api.started()
    api.clock.move_on(60)
    told = await _ended(api, stream)
    assert told["reason"] == "expired"
    assert "replaced_by" not in told
    assert await api.playing() == []
    # It was told so, and stays so.
    assert (await api.ask("DELETE", _path(stream))).status == 204
    assert (await _ended(api, stream))["reason"] == "expired"


async def test_a_stop_ends_what_has_lapsed_so_that_no_fetch_brings_it_back(api: Api) -> None:
    stream = await api.started()
    api.clock.move_on(60)
    assert (await api.ask("DELETE", _path(stream))).status == 204
    assert (await _ended(api, stream))["reason"] == "stopped"


async def test_a_replaced_stream_says_by_which_device_and_when(api: Api) -> None:
    stream = await api.started(device="TV")
    api.clock.move_on(5)
    successor = await api.started(device="phone", replace=stream["stream_id"])
    told = await _ended(api, stream)
    assert told["reason"] == "replaced"
    assert told["replaced_by"] == {"device": "phone", "started_at": successor["started_at"]}
    assert (await api.ask("DELETE", _path(stream))).status == 204
    assert await api.playing() == [_as_listed(successor)]


@pytest.mark.parametrize("way", ["stop", "stop_all"])
async def test_a_stream_that_was_stopped_is_told_so_when_its_slot_is_used_again(
    api: Api, way: str
) -> None:
    stream = await api.started()
    await api.ask("DELETE", _path(stream) if way == "stop" else "/streams")
    await api.started()
    for method, path in (("POST", _path(stream, "heartbeat")), ("GET", _path(stream))):
        answer = await api.ask(method, path)
        assert (answer.status, answer.body["reason"]) == (410, "stopped")
        assert "replaced_by" not in answer.body
    assert (await api.ask("DELETE", _path(stream))).status == 204
    assert len(await api.playing()) == 1


async def test_a_stream_that_was_replaced_is_told_so_when_its_successor_was_too(api: Api) -> None:
    first = await api.started()
    second = await api.started(replace=first["stream_id"])
    await api.started(replace=second["stream_id"], device="Kitchen tablet")
    for stream in (first, second):
        answer = await api.ask("POST", _path(stream, "heartbeat"))
        assert (answer.status, answer.body["reason"]) == (410, "replaced")
        assert answer.body["replaced_by"]["device"] == "Kitchen tablet"


async def test_a_stream_whose_lease_ran_out_is_told_so_when_its_slot_is_used_again(
    api: Api,
) -> None:
    stream = await api.started()
    api.clock.move_on(61)
    await api.started()
    for method, path in (("POST", _path(stream, "heartbeat")), ("GET", _path(stream))):
        answer = await api.ask(method, path)
        assert (answer.status, answer.body["reason"]) == (410, "expired")
    assert (await api.ask("DELETE", _path(stream))).status == 204


async def test_the_lease_id_alone_renews_and_ends_its_stream(api: Api) -> None:
    stream = await api.started()
    path = f"/streams/{stream['lease_id']}"
    assert (await api.ask("POST", f"{path}/heartbeat", session=None)).status == 200
    # Whoever sends a session too means this account's stream.
    for verb in ("heartbeat", "stop"):
        assert (await api.ask("POST", f"{path}/{verb}", session="another")).status == 404
        assert (await api.ask("POST", f"{path}/{verb}", session="x" * 257)).status == 400
    assert len(await api.playing()) == 1
    assert (await api.ask("POST", f"{path}/stop", session=None)).status == 204
    assert await api.playing() == []
    told = await api.ask("POST", f"{path}/heartbeat", session=None)
    assert (told.status, told.body["reason"]) == (410, "stopped")


async def test_a_public_stream_id_renews_nothing_and_is_told_what_does(api: Api) -> None:
    stream = await api.started()
    api.clock.move_on(30)
    refused = await api.ask("POST", f"/streams/{stream['stream_id']}/heartbeat")
    assert refused.status == 404
    assert "lease_id" in refused.body["detail"]
    assert await api.playing() == [_as_listed(stream)]
    api.clock.move_on(30)
    assert await api.playing() == []


async def test_a_stop_by_the_public_id_needs_the_account(api: Api) -> None:
    stream = await api.started()
    path = f"/streams/{stream['stream_id']}/stop"
    assert (await api.ask("POST", path, session=None)).status == 400
    assert (await api.ask("POST", path, session="another")).status == 404
    assert len(await api.playing()) == 1


async def test_the_lease_id_is_in_the_answer_of_a_start_and_of_its_replay_and_nowhere_else(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    api = await open_api(aiohttp_client, wire_store)
    twin = await open_api(aiohttp_client, wire_store)
    first = await api.start(key="k", device="TV")
    lease_id = first.body["lease_id"]
    # At any process, for the secret is not in the database: it is made from the key.
    for replay in (await api.start(key="k", device="TV"), await twin.start(key="k", device="TV")):
        assert (replay.status, replay.body["lease_id"]) == (200, lease_id)
    plain = await api.started()
    third = await api.started(replace=plain["stream_id"])
    for _ in range(1):
        await api.started()
    refused = await api.start()
    replaced = await api.ask("POST", _path(plain, "heartbeat"))
    listed = await api.ask("GET", "/streams")
    beat = await api.ask("POST", _path(third, "heartbeat"))
    for answer in (refused, replaced, listed, beat):
        assert "lease_id" not in str(answer.body)
    stored = str(list(mongo[database]["streams"].find()))
    for stream in (first.body, plain, third):
        assert stream["lease_id"].partition("-")[2][:21] not in stored


async def test_a_key_gets_another_lease_once_its_stream_is_over(api: Api) -> None:
    first = await api.start(key="k")
    await api.ask("DELETE", _path(first.body))
    second = await api.start(key="k")
    assert second.status == 201
    assert second.body["lease_id"] != first.body["lease_id"]
    assert (await api.ask("POST", _path(first.body, "heartbeat"))).status == 410
    assert (await api.ask("POST", _path(second.body, "heartbeat"))).status == 200


async def test_a_named_stream_is_replaced_at_the_limit_and_below_it(api: Api) -> None:
    streams = [await api.started()]
    for count in (1, 2, 3):
        streams[0] = await api.started(replace=streams[0]["stream_id"])
        assert streams[0]["active"] == count
        if count < 3:
            streams.append(await api.started())
    assert {stream["stream_id"] for stream in await api.playing()} == {
        stream["stream_id"] for stream in streams
    }


async def test_oldest_replaces_the_stream_that_started_first_and_only_at_the_limit(
    api: Api,
) -> None:
    streams = []
    for _ in range(3):
        streams.append(await api.started(replace="oldest"))
        api.clock.move_on(1)
    await api.ask("POST", _path(streams[0], "heartbeat"))
    assert len(await api.playing()) == 3
    successor = await api.started(replace="oldest")
    assert await api.playing() == [_as_listed(s) for s in (*streams[1:], successor)]
    assert (await _ended(api, streams[0]))["reason"] == "replaced"


async def test_stalest_replaces_the_stream_that_has_gone_longest_without_a_heartbeat(
    api: Api,
) -> None:
    streams = []
    for _ in range(3):
        streams.append(await api.started(replace="stalest"))
        api.clock.move_on(1)
    await api.ask("POST", _path(streams[0], "heartbeat"))
    await api.started(replace="stalest")
    assert (await _ended(api, streams[1]))["reason"] == "replaced"
    left = {stream["stream_id"] for stream in await api.playing()}
    assert {streams[0]["stream_id"], streams[2]["stream_id"]} < left


async def test_all_streams_of_a_session_are_stopped_at_once_and_nobody_elses(api: Api) -> None:
    others = await api.started(session="another")
    await api.started()
    api.clock.move_on(59)
    assert (await api.ask("POST", _path(others, "heartbeat"), session="another")).status == 200
    api.clock.move_on(1)
    streams = [await api.started() for _ in range(2)]
    streams.append((await api.start(key="k")).body)
    ended = await api.ask("DELETE", "/streams")
    assert (ended.status, ended.body) == (200, {"ended": 3})
    assert await api.playing() == []
    for stream in streams:
        assert (await _ended(api, stream))["reason"] == "stopped"
    assert (await api.ask("DELETE", "/streams")).body == {"ended": 0}
    # All slots are free again, and a key starts anew.
    assert (await api.start(key="k")).status == 201
    assert len(await api.playing(session="another")) == 1


async def test_of_two_who_stop_all_at_once_each_stream_is_told_to_one(api: Api) -> None:
    for session in ("one", "another"):
        for _ in range(3):
            await api.started(session=session)
    answers = await asyncio.gather(
        *(
            api.ask("DELETE", "/streams", session=session)
            for session in ("one", "another", "one", "nobody")
        )
    )
    told = [answer.body["ended"] for answer in answers]
    assert told[0] + told[2] == 3
    assert (told[1], told[3]) == (3, 0)


async def test_starts_that_race_with_a_stop_of_all_are_ended_or_play_on(api: Api) -> None:
    before = [await api.started() for _ in range(3)]
    answers = await asyncio.gather(
        *(api.start() for _ in range(6)),
        api.ask("DELETE", "/streams"),
        *(api.start() for _ in range(6)),
    )
    left = {stream["stream_id"] for stream in await api.playing()}
    assert not left & {stream["stream_id"] for stream in before}
    admitted = {answer.body["stream_id"] for answer in answers if answer.status == 201}
    ended = sum(answer.body.get("ended", 0) for answer in answers)
    assert left <= admitted
    assert ended == 3 + len(admitted - left)


async def test_a_device_that_comes_back_takes_its_own_place_at_the_limit_and_below_it(
    api: Api,
) -> None:
    tv = {"device": "TV", "device_id": "t-1", "replace": "same-device"}
    ghost = await api.started(**tv)
    back = await api.started(**tv)
    assert (back["active"], back["stream_id"][0]) == (1, ghost["stream_id"][0])
    told = await _ended(api, ghost)
    assert (told["reason"], told["replaced_by"]["device"]) == ("replaced", "TV")
    for _ in range(2):
        await api.started(device_id="another")
    again = await api.started(**tv)
    assert again["active"] == 3
    assert (await _ended(api, back))["reason"] == "replaced"
    # A device that is not playing has no place of its own to take.
    assert (await api.start(device_id="t-2", replace="same-device")).status == 409


async def test_a_device_of_another_session_is_another_device(api: Api) -> None:
    tv = {"device_id": "t-1", "replace": "same-device"}
    ours = await api.started(session="ours", **tv)
    await api.started(session="theirs", **tv)
    assert await api.playing(session="ours") == [_as_listed(ours)]


async def test_choices_are_tried_in_their_order(api: Api) -> None:
    streams = []
    for device_id in ("a", "b", "c"):
        streams.append(await api.started(device_id=device_id))
        api.clock.move_on(1)
    choices = ["same-device", "stalest"]
    await api.started(device_id="b", replace=choices)
    assert (await _ended(api, streams[1]))["reason"] == "replaced"
    await api.started(device_id="new", replace=choices)
    assert (await _ended(api, streams[0]))["reason"] == "replaced"
    assert _as_listed(streams[2]) in await api.playing()


async def test_a_replayed_start_takes_no_place_of_its_own_device(api: Api) -> None:
    tv = {"device_id": "t-1", "replace": "same-device"}
    first = await api.start(key="k", **tv)
    replay = await api.start(key="k", **tv)
    assert (first.status, replay.status) == (201, 200)
    assert replay.body["stream_id"] == first.body["stream_id"]


async def test_no_answer_tells_a_device_id(api: Api) -> None:
    secret = "a-device-that-nobody-else-knows"
    for _ in range(3):
        started = await api.start(device_id=secret)
        assert secret not in started.raw.decode()
    refused = await api.start(device_id=secret)
    assert refused.status == 409
    for answer in (refused, await api.ask("GET", "/streams")):
        assert secret not in answer.raw.decode()
        assert "device_id" not in answer.raw.decode()


async def test_a_device_id_is_kept_as_a_digest_that_differs_between_sessions(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    secret = "a-device-that-nobody-else-knows"
    api = await open_api(aiohttp_client, wire_store)
    for session in ("one", "another"):
        await api.started(session=session, device_id=secret)
    documents = list(mongo[database]["streams"].find())
    assert secret not in repr(documents)
    assert len({document["device_id"] for document in documents}) == 2


async def test_starts_that_race_over_http_are_admitted_up_to_the_limit(api: Api) -> None:
    answers = await asyncio.gather(*(api.start() for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 3 + [409] * 17
    assert len(await api.playing()) == 3


async def test_no_answer_tells_the_session_back(api: Api) -> None:
    for method, path, status in (
        ("GET", "/watch", 200),
        ("POST", "/streams", 201),
        ("GET", "/streams", 200),
        ("GET", f"/streams/{UNKNOWN}", 404),
        ("GET", "/watch", 200),
        ("GET", "/watch", 401),
        ("POST", "/streams", 409),
    ):
        answer = await api.ask(method, path, session="a viewer")
        assert answer.status == status
        assert "Session-Id" not in answer.headers
        assert "a viewer" not in repr(answer)


async def test_a_request_id_of_the_gateway_is_kept_and_another_one_made_for_a_bad_one(
    api: Api,
) -> None:
    given = await api.ask("GET", "/health", headers={"X-Request-Id": "req-1.A_z"})
    assert given.headers["X-Request-Id"] == "req-1.A_z"
    bad = ("a b", "a" * 65, "é", "", "a;b")
    answers = [await api.ask("GET", "/health", headers={"X-Request-Id": id_}) for id_ in bad]
    made = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(made) == len(bad)
    assert all(re.fullmatch(r"[0-9a-f-]+", id_) for id_ in made)


async def test_a_heartbeat_tells_the_lease_that_the_store_has_after_a_clock_was_set_back(
    aiohttp_client: AiohttpClient, store: MongoStore
) -> None:
    api = await open_api(aiohttp_client, store)
    stream = await api.started()
    api.clock.move_on(-1800)
    beat = await api.ask("POST", f"/streams/{stream['lease_id']}/heartbeat", session=None)
    shown = await api.ask("GET", f"/streams/{stream['stream_id']}")
    assert beat.body["expires_at"] == shown.body["expires_at"] == stream["expires_at"]
    api.clock.move_on(1810)
    beat = await api.ask("POST", f"/streams/{stream['lease_id']}/heartbeat", session=None)
    assert beat.body["expires_at"] > stream["expires_at"]
