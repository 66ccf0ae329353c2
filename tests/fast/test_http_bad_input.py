"""Bad input over HTTP: a clear 4xx that names the field, and nothing is changed by it."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api import inputs
from tests.support.http_api import SESSION, Api, open_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

KIB = 1024
ROUTES = [
    ("GET", "/watch"),
    ("POST", "/streams"),
    ("GET", "/streams"),
    ("DELETE", "/streams"),
    ("GET", "/streams/{stream_id}"),
    ("DELETE", "/streams/{stream_id}"),
    ("POST", "/streams/{stream_id}/stop"),
]
OF_ONE_STREAM = ROUTES[4:]


@pytest.fixture
async def api(aiohttp_client: AiohttpClient, double_store: MongoStore) -> Api:
    return await open_api(aiohttp_client, double_store)


@pytest.fixture
async def playing(api: Api) -> AsyncIterator[list[Any]]:
    """What plays before a test, and must play in the same way after it."""
    await api.started(device="TV")
    before = await api.playing()
    # A heartbeat by mistake would show in the lease.
    api.clock.move_on(1)
    yield before
    assert await api.playing() == before


@pytest.fixture
def stream_id(playing: list[Any]) -> str:
    found: str = playing[0]["stream_id"]
    return found


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_request_without_a_session_is_refused(
    api: Api, stream_id: str, method: str, path: str
) -> None:
    refused = await api.ask(method, path.format(stream_id=stream_id), session=None)
    assert (refused.status, refused.body["field"]) == (400, "Session-Id")
    assert refused.body["type"].endswith(":no-session")


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize(
    "session",
    [
        "",
        "   ",
        "a" * 257,
        "a" * 4000,
        "tab\tinside",
        "caf\u00e9",
        "\u2603",
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/watch"), ("POST", "/streams")])
async def test_a_session_that_is_empty_over_long_or_not_printable_is_refused(
    api: Api, method: str, path: str, session: str
) -> None:
    refused = await api.ask(method, path, session=session)
    assert (refused.status, refused.body["field"]) == (400, "Session-Id")
    assert "Session-Id" not in refused.headers


@pytest.mark.parametrize("length", [1, 256])
async def test_a_session_may_have_1_to_256_characters(api: Api, length: int) -> None:
    session = "~" * length
    assert (await api.start(session=session)).status == 201
    assert len(await api.playing(session=session)) == 1


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("second", [SESSION, "another"])
async def test_two_sessions_in_one_request_are_refused(
    api: Api, stream_id: str, method: str, path: str, second: str
) -> None:
    headers = [("Session-Id", second)]
    refused = await api.ask(method, path.format(stream_id=stream_id), headers=headers)
    assert (refused.status, refused.body["field"]) == (400, "Session-Id")
    assert await api.playing(session="another") == []


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"device": "TV", "device": "Phone"}', "device"),
        ('{"device": "TV", "content": "a", "device": null}', "device"),
        ('{"replace": "oldest", "content": null, "replace": "stalest"}', "replace"),
        (r'{"content": "a", "\u0063ontent": "a"}', "content"),
    ],
)
async def test_a_body_that_names_a_member_twice_is_refused(api: Api, body: str, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused = await api.ask("POST", "/streams", data=body, headers=headers)
    assert (refused.status, refused.body["field"]) == (400, name)
    assert refused.body["detail"] == f"{name} must be named once."


async def test_a_label_may_look_like_members_that_are_named_twice(api: Api) -> None:
    label = '{"device": "TV", "device": "TV"}: "device":'
    assert (await api.started(device=label, content=None))["device"] == label


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize("key", ["", "a" * 257, "caf\u00e9", "tab\tinside"])
async def test_an_idempotency_key_that_cannot_be_one_is_refused(api: Api, key: str) -> None:
    refused = await api.start(key=key)
    assert (refused.status, refused.body["field"]) == (400, "Idempotency-Key")


@pytest.mark.usefixtures("playing")
async def test_two_idempotency_keys_are_refused(api: Api) -> None:
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    refused = await api.ask("POST", "/streams", headers=headers)
    assert (refused.status, refused.body["field"]) == (400, "Idempotency-Key")


BODIES: list[tuple[str, bytes, str]] = [
    ("no JSON", b"device=TV", "body"),
    ("cut off", b'{"device": "TV"', "body"),
    ("two values", b"{} {}", "body"),
    ("blanks alone", b"  ", "body"),
    ("NaN", b"NaN", "body"),
    ("NaN inside", b'{"device": NaN}', "body"),
    ("Infinity", b'{"device": -Infinity}', "body"),
    ("bad UTF-8", b'{"device": "\xff\xfe"}', "body"),
    ("UTF-8 surrogates", b'{"device": "\xed\xa0\x80"}', "body"),
    ("UTF-16", '{"device": "TV"}'.encode("utf-16"), "body"),
    ("byte order mark", b"\xef\xbb\xbf{}", "body"),
    ("control character", b'{"device": "a\x00b"}', "body"),
    ("array", b"[]", "body"),
    ("array of objects", b'[{"device": "TV"}]', "body"),
    ("null", b"null", "body"),
    ("string", b'"TV"', "body"),
    ("number", b"3", "body"),
    ("deep arrays", b"[" * 8000, "body"),
    ("deep objects", b'{"device":' * 1600, "device"),
    ("closed deep arrays", b"[" * 8000 + b"]" * 8000, "body"),
    ("huge integer", b"9" * 8000, "body"),
    ("huge integer inside", b'{"device": ' + b"9" * 8000 + b"}", "device"),
    ("huge exponent", b'{"device": 1e999999}', "device"),
    ("unknown field", b'{"replaces": "oldest"}', "replaces"),
    ("other case", b'{"Device": "TV"}', "Device"),
    ("empty field", b'{"": 1}', ""),
    ("surrogate in a name", b'{"\\ud800": 1}', "body"),
    ("device number", b'{"device": 1}', "device"),
    ("device boolean", b'{"device": true}', "device"),
    ("device object", b'{"device": {"$gt": ""}}', "device"),
    ("content array", b'{"content": []}', "content"),
    ("replace number", b'{"replace": 0}', "replace"),
    ("replace object", b'{"replace": {"$ne": null}}', "replace"),
    ("replace boolean", b'{"replace": false}', "replace"),
    ("replace word", b'{"replace": "newest"}', "replace"),
    ("replace empty", b'{"replace": ""}', "replace"),
    ("replace over-long", b'{"replace": "%s"}' % (b"0" * 65), "replace"),
    ("replace list of a number", b'{"replace": ["oldest", 0]}', "replace"),
    ("replace list of a list", b'{"replace": [["oldest"]]}', "replace"),
    ("replace list of null", b'{"replace": [null]}', "replace"),
    ("replace list of a word", b'{"replace": ["oldest", "newest"]}', "replace"),
    ("replace over-long list", b'{"replace": [%s"oldest"]}' % (b'"oldest", ' * 8), "replace"),
    ("platform number", b'{"platform": 1}', "platform"),
    ("platform empty", b'{"platform": ""}', "platform"),
    ("platform of three words", b'{"platform": "web 3 beta"}', "platform"),
    ("platform with a line break", b'{"platform": "web 3\\n"}', "platform"),
    ("platform over-long", b'{"platform": "%s"}' % (b"a" * 41), "platform"),
    ("device_id number", b'{"device_id": 1}', "device_id"),
    ("device_id object", b'{"device_id": {"$gt": ""}}', "device_id"),
    ("device_id empty", b'{"device_id": ""}', "device_id"),
    ("device_id over-long", b'{"device_id": "%s"}' % (b"a" * 129), "device_id"),
    ("same-device of no device", b'{"replace": "same-device"}', "device_id"),
    ("same-device of no device", b'{"replace": ["oldest", "same-device"]}', "device_id"),
    ("device over-long", b'{"device": "%s"}' % (b"a" * 201), "device"),
    ("content over-long", b'{"content": "%s"}' % (b"a" * 201), "content"),
    ("lone surrogate", b'{"device": "\\ud800"}', "device"),
    ("lone surrogate in replace", b'{"replace": "\\udfff"}', "replace"),
]


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize(
    ("body", "field"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
async def test_a_body_that_says_no_start_is_refused_naming_the_field(
    api: Api, body: bytes, field: str
) -> None:
    headers = {"Content-Type": "application/json"}
    refused = await api.ask("POST", "/streams", data=body, headers=headers)
    assert (refused.status, refused.body["field"]) == (400, field)


async def test_labels_may_have_200_characters_of_any_script(api: Api) -> None:
    label = "\U0001f4fa\u0000\u00e9\u4e2d" * 50
    stream = await api.started(device=label, content=None, replace=None)
    assert stream["device"] == label
    assert (await api.playing())[0]["device"] == label


async def test_a_device_id_may_have_128_characters_and_replace_eight_choices_or_none(
    api: Api,
) -> None:
    device_id = "\U0001f4fa\u0000\u00e9\u4e2d" * 32
    choices = ["same-device", *["0-" + "a" * 22] * 6, "oldest"]
    first = await api.started(device_id=device_id, replace=choices)
    second = await api.started(device_id=device_id, replace=[])
    assert [stream["stream_id"] for stream in await api.playing()] == [
        first["stream_id"],
        second["stream_id"],
    ]
    assert (await api.started(device_id=None, replace=None))["active"] == 3


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize("size", [16 * KIB + 1, 20 * KIB])
async def test_a_body_of_more_than_16_kib_is_refused(api: Api, size: int) -> None:
    refused = await api.ask("POST", "/streams", data=b"{}".ljust(size))
    assert refused.status == 413


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity", "gzip, gzip", "x", ""])
async def test_a_content_encoding_is_refused_where_a_body_is_read_whatever_it_is(
    api: Api, coding: str
) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    refused = await api.ask("POST", "/streams", data=gzip.compress(b"{}"), headers=headers)
    assert (refused.status, refused.body["field"]) == (415, "Content-Encoding")
    assert refused.headers["Accept-Encoding"] == "identity"


async def test_a_body_in_small_chunks_is_taken(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in b'{"device": "TV"}'.ljust(4 * KIB):
            yield bytes([byte])

    headers = {"Content-Type": "application/json"}
    answer = await api.ask("POST", "/streams", data=chunks(), headers=headers)
    assert (answer.status, answer.body["device"]) == (201, "TV")


async def test_a_body_of_16_kib_is_taken(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"device": "TV"}'.ljust(16 * KIB)
    answer = await api.ask("POST", "/streams", data=body, headers=headers)
    assert (answer.status, answer.body["device"]) == (201, "TV")


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "nonsense",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/json; charset=no-such",
        'application/json; charset="\\"',
    ],
)
async def test_a_body_that_is_not_sent_as_json_in_utf_8_is_refused(
    api: Api, content_type: str
) -> None:
    headers = {"Content-Type": content_type}
    refused = await api.ask("POST", "/streams", data=b"{}", headers=headers)
    assert (refused.status, refused.body["field"]) == (415, "Content-Type")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=UTF-8", "Application/JSON"]
)
async def test_json_in_utf_8_is_taken(api: Api, content_type: str) -> None:
    answer = await api.ask(
        "POST",
        "/streams",
        data='{"device": "caf\u00e9"}'.encode(),
        headers={"Content-Type": content_type},
    )
    assert (answer.status, answer.body["device"]) == (201, "caf\u00e9")


@pytest.mark.usefixtures("playing")
async def test_a_body_that_comes_too_slowly_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BODY_DEADLINE_SECONDS", 0.05)
    answered = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await answered.wait()

    try:
        assert (await api.ask("POST", "/streams", data=drip())).status == 408
    finally:
        answered.set()


@pytest.mark.parametrize(("method", "path"), OF_ONE_STREAM)
async def test_a_stream_of_another_session_is_not_found_as_if_it_did_not_exist(
    api: Api, stream_id: str, method: str, path: str
) -> None:
    stranger = await api.ask(method, path.format(stream_id=stream_id), session="stranger")
    unknown = await api.ask(method, path.format(stream_id=f"0-{'A' * 22}"), session="stranger")
    assert stranger.status == unknown.status == 404
    assert stranger.body == unknown.body


async def test_a_stream_of_another_session_cannot_be_replaced(api: Api, stream_id: str) -> None:
    for _ in range(3):
        await api.started(session="stranger")
    refused = await api.start(session="stranger", replace=stream_id)
    assert refused.status == 409
    assert stream_id not in json.dumps(refused.body)


@pytest.mark.parametrize(("method", "path"), OF_ONE_STREAM)
@pytest.mark.parametrize("slot", ["1", "2", "99", "100", "-1", "00", "0.0", "\u0660", "0/0", "%00"])
async def test_a_stream_id_with_a_forged_slot_is_not_found(
    api: Api, stream_id: str, method: str, path: str, slot: str
) -> None:
    forged = stream_id.replace("0-", f"{slot}-", 1)
    assert (await api.ask(method, path.format(stream_id=forged))).status == 404


@pytest.mark.parametrize(("method", "path"), OF_ONE_STREAM)
@pytest.mark.parametrize(
    "forged",
    ["0", "0-", "{}-", "{}x", "0-{}", "$where", "%00", "%0d%0a", "%ff", "a" * 4000, "%F0%9F%93%BA"],
)
async def test_what_is_no_stream_id_is_not_found(
    api: Api, stream_id: str, method: str, path: str, forged: str
) -> None:
    asked = path.format(stream_id=forged.format(stream_id))
    assert (await api.ask(method, asked)).status == 404


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain;charset=UTF-8", "application/json", "multipart/form-data", "nonsense"],
)
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"a" * 20 * KIB])
async def test_a_stop_takes_whatever_a_beacon_sends(
    api: Api, content_type: str | None, body: bytes
) -> None:
    stream = await api.started()
    headers = {} if content_type is None else {"Content-Type": content_type}
    path = f"/streams/{stream['stream_id']}/stop"
    assert (await api.ask("POST", path, data=body, headers=headers)).status == 204
    assert await api.playing() == []


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", "/watch", {"GET"}),
        ("POST", "/watch", {"GET"}),
        ("OPTIONS", "/watch", {"GET"}),
        ("OPTIONS", "/streams", {"GET", "HEAD", "POST", "DELETE"}),
        ("PUT", "/streams", {"GET", "HEAD", "POST", "DELETE"}),
        ("PATCH", "/streams/{stream_id}", {"GET", "HEAD", "DELETE"}),
        ("GET", "/streams/{stream_id}/stop", {"POST"}),
        ("GET", "/streams/{stream_id}/heartbeat", {"POST"}),
        ("HEAD", "/streams/{stream_id}/heartbeat", {"POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_a_path_does_not_take_is_refused_with_those_it_takes(
    api: Api, stream_id: str, method: str, path: str, allowed: set[str]
) -> None:
    refused = await api.ask(method, path.format(stream_id=stream_id))
    assert refused.status == 405
    assert set(refused.headers["Allow"].split(",")) == allowed


@pytest.mark.usefixtures("playing")
@pytest.mark.parametrize(
    "path",
    [
        *("/nowhere", "/watch/", "/Watch", "/streams/", "/streams/a/b/c", "/watch/../nowhere"),
        "/%2e%2e/nowhere",
    ],
)
async def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    # DELETE too: a client that has no stream id must not end all streams.
    for method in ("GET", "DELETE") if path != "/" else ("GET",):
        assert (await api.ask(method, path)).status == 404
