"""Two audiences: the gateway's token opens the viewers' API, an operator's everything."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from stream_service.api import access
from stream_service.api.access import OPEN, VIEWERS_API
from stream_service.app import create_app
from stream_service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

    Client = TestClient[web.Request, web.Application]

GATEWAYS = ("gate-new-0123456789", "gate-old-0123456789")
OPERATORS = ("op-new-0123456789", "op-old-0123456789")
PAGES = {
    *("/", "/docs", "/docs/", "/docs/{guide}", "/console", "/console/", "/console/state"),
    "/console/account",
    *("/metrics", "/static/{file}", "/favicon.ico"),
}
FOR_VIEWERS = [
    ("GET", "/watch"),
    ("GET", "/streams"),
    ("GET", "/client.js"),
    ("GET", "/client.tv.js"),
]
FOR_VIEWERS += [("POST", "/streams"), ("GET", "/openapi.json")]
FOR_VIEWERS += [("DELETE", "/streams"), ("DELETE", "/streams/x"), ("POST", "/streams/x/stop")]
FOR_OPERATORS = ["/", "/docs", "/docs/integration", "/console", "/console/state", "/metrics"]
FOR_OPERATORS += ["/static/icon.svg", "/console/account"]
SESSION = {"Session-Id": "me"}
SHARED = "shared-token-0123"


async def _served(
    aiohttp_client: AiohttpClient,
    store: MongoStore,
    gateways: tuple[str, ...] = (),
    operators: tuple[str, ...] = (),
) -> Client:
    settings = Settings(gateway_tokens=gateways, operator_tokens=operators, stream_limit=20)
    return await aiohttp_client(create_app(settings, store=store))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "GUESS_SECONDS", 0)


@pytest.fixture
async def both(aiohttp_client: AiohttpClient, double_store: MongoStore) -> Client:
    return await _served(aiohttp_client, double_store, GATEWAYS, OPERATORS)


async def _status(client: Client, method: str, path: str | URL, authorization: str | None) -> int:
    headers = dict(SESSION)
    if authorization is not None:
        headers["Authorization"] = authorization
    async with client.request(method, path, headers=headers) as response:
        await response.read()
        return response.status


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_every_route_is_open_or_of_the_viewers_or_known_to_be_for_operators(
    double_store: MongoStore,
) -> None:
    router = create_app(Settings(), store=double_store).router
    routes = {route.resource.canonical for route in router.routes() if route.resource is not None}
    assert routes - OPEN - VIEWERS_API == PAGES
    assert not OPEN & VIEWERS_API


@pytest.mark.parametrize(("method", "path"), FOR_VIEWERS)
async def test_the_viewers_api_takes_the_gateways_token_and_the_operators(
    both: Client, method: str, path: str
) -> None:
    for token in (*GATEWAYS, *OPERATORS):
        assert await _status(both, method, path, f"Bearer {token}") != 401
    for wrong in (
        None,
        "Bearer other",
        "Bearer gate-new-012345678",
        _basic("me", "gate-new-0123456789"),
        "gate-new-0123456789",
    ):
        assert await _status(both, method, path, wrong) == 401


@pytest.mark.parametrize("path", FOR_OPERATORS)
async def test_pages_and_metrics_take_the_operators_token_alone(both: Client, path: str) -> None:
    for token in OPERATORS:
        assert await _status(both, "GET", path, f"Bearer {token}") == 200
        assert await _status(both, "GET", path, _basic("anybody", token)) == 200
        assert await _status(both, "GET", path, _basic("", token)) == 200
    for token in (*GATEWAYS, "other"):
        assert await _status(both, "GET", path, f"Bearer {token}") == 401
        assert await _status(both, "GET", path, _basic("me", token)) == 401
    assert await _status(both, "GET", path, None) == 401


@pytest.mark.parametrize(
    "spelling",
    [
        "Basic",
        "Basic ",
        "Basic !",
        "Basic b3A",
        "Basic " + b64encode(b"op-new-0123456789").decode(),
        "Basic é",
    ],
)
async def test_what_is_no_password_opens_nothing(both: Client, spelling: str) -> None:
    assert await _status(both, "GET", "/metrics", spelling) == 401


async def test_the_scheme_may_be_spelt_in_any_case(both: Client) -> None:
    for scheme in ("bearer", "BEARER", "Bearer  "):
        assert await _status(both, "GET", "/streams", f"{scheme} gate-new-0123456789") == 200
    credentials = _basic("me", "op-new-0123456789").partition(" ")[2]
    assert await _status(both, "GET", "/metrics", f"basic {credentials}") == 200


async def test_a_browser_asks_for_a_password_on_pages_and_never_on_the_viewers_api(
    both: Client,
) -> None:
    async with both.get("/console") as page:
        assert page.headers["WWW-Authenticate"].startswith("Basic ")
    for _, path in FOR_VIEWERS:
        async with both.get(path) as refused:
            assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    async with both.get("/nowhere") as refused:
        assert refused.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    "path", ["/%6detrics", "/metrics?/streams", "/./metrics", "/streams/../metrics"]
)
async def test_no_spelling_of_a_path_opens_a_page_to_the_gateway(both: Client, path: str) -> None:
    sent = URL(path, encoded=True)
    assert await _status(both, "GET", sent, "Bearer gate-new-0123456789") in (401, 404)


async def test_whoever_has_a_token_is_told_that_a_path_or_method_is_not_there(
    both: Client,
) -> None:
    for token in ("gate-new-0123456789", "op-new-0123456789"):
        assert await _status(both, "GET", "/nowhere", f"Bearer {token}") == 404
        assert await _status(both, "PUT", "/watch", f"Bearer {token}") == 405
    assert await _status(both, "GET", "/nowhere", None) == 401


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
async def test_health_is_open_with_any_tokens(both: Client, path: str) -> None:
    assert await _status(both, "GET", path, None) != 401


async def test_with_the_gateways_token_alone_it_opens_the_pages_too(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await _served(aiohttp_client, double_store, gateways=GATEWAYS)
    for path in (*FOR_OPERATORS, "/streams"):
        assert await _status(client, "GET", path, "Bearer gate-old-0123456789") == 200
        assert await _status(client, "GET", path, None) == 401
        assert await _status(client, "GET", path, _basic("me", "gate-new-0123456789")) == 401


async def test_with_the_operators_token_alone_it_is_needed_everywhere(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await _served(aiohttp_client, double_store, operators=OPERATORS)
    for path in (*FOR_OPERATORS, "/streams", "/client.js"):
        assert await _status(client, "GET", path, "Bearer op-old-0123456789") == 200
        assert await _status(client, "GET", path, None) == 401


async def test_without_tokens_nothing_is_closed_whatever_is_sent(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await _served(aiohttp_client, double_store)
    for path in (*FOR_OPERATORS, "/streams", "/client.js"):
        for authorization in (None, "Bearer x", _basic("me", "x")):
            assert await _status(client, "GET", path, authorization) == 200


@pytest.mark.parametrize("operators", [SHARED, f"{'o' * 16},{SHARED}"])
def test_the_operator_and_the_gateway_cannot_have_the_same_token(operators: str) -> None:
    environment: dict[str, Any] = {
        "GATEWAY_TOKEN": f"{SHARED},{'t' * 16}",
        "OPERATOR_TOKEN": operators,
    }
    with pytest.raises(SettingsError, match="OPERATOR_TOKEN must not be the same") as refused:
        Settings.from_environment(environment)
    assert SHARED not in str(refused.value)


async def _audit_lines(
    client: Client, caplog: pytest.LogCaptureFixture, authorization: str | None
) -> list[tuple[str, str, int]]:
    """By whom, which and how many: what is logged when one and then all streams are ended."""
    caplog.set_level("INFO", "stream_service.audit")
    caplog.clear()
    headers = SESSION | ({} if authorization is None else {"Authorization": authorization})
    ids = []
    for _ in range(3):
        async with client.post("/streams", headers=headers) as response:
            ids.append((await response.json())["stream_id"])
    for path in (f"/streams/{ids[0]}", f"/streams/{ids[0]}", "/streams"):
        await (await client.delete(path, headers=headers)).read()
    lines: list[Any] = [r for r in caplog.records if r.name == "stream_service.audit"]
    user = "ann" if authorization == _basic("ann", "op-new-0123456789") else None
    assert {getattr(line, "user", None) for line in lines} == {user}
    assert len({line.account for line in lines}) == 1
    return [(line.by, line.which, line.ended) for line in lines]


async def test_what_an_operator_ends_is_logged_as_the_operators_each_time(
    both: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for authorization in ("Bearer op-old-0123456789", _basic("ann", "op-new-0123456789")):
        assert await _audit_lines(both, caplog, authorization) == [
            ("operator", "one", 1),
            ("operator", "one", 0),
            ("operator", "all", 2),
        ]


async def test_what_the_gateway_ends_is_logged_only_when_it_is_all(
    both: Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert await _audit_lines(both, caplog, "Bearer gate-new-0123456789") == [("gateway", "all", 2)]


async def test_where_there_are_no_tokens_nobody_is_named(
    aiohttp_client: AiohttpClient, double_store: MongoStore, caplog: pytest.LogCaptureFixture
) -> None:
    client = await _served(aiohttp_client, double_store)
    for authorization in (None, "Bearer made-up"):
        assert await _audit_lines(client, caplog, authorization) == [("anybody", "all", 2)]


async def test_who_guesses_the_operators_token_is_slowed_and_nobody_else(
    both: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "GUESS_SECONDS", 60)
    guesses = [
        asyncio.ensure_future(_status(both, "GET", "/metrics", f"Bearer guess-{n}"))
        for n in range(access.MAX_GUESSES + 5)
    ]
    # Those beyond what may wait are refused; the others wait for the first.
    for _ in range(5):
        done, guesses_left = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
        guesses = list(guesses_left)
        assert {task.result() for task in done} == {429}
        if len(guesses) == access.MAX_GUESSES:
            break
    # From the same address, as of all behind one proxy, even the right one is not read now.
    assert await _status(both, "GET", "/metrics", f"Bearer {OPERATORS[0]}") == 429
    assert await _status(both, "GET", "/streams", f"Bearer {GATEWAYS[0]}") == 200
    assert await _status(both, "GET", "/metrics", None) == 401
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    ) as elsewhere:
        headers = {"Authorization": f"Bearer {OPERATORS[0]}"}
        async with elsewhere.get(both.make_url("/metrics"), headers=headers) as answer:
            assert answer.status == 200
    for guess in guesses:
        guess.cancel()
    await asyncio.gather(*guesses, return_exceptions=True)


async def test_tokens_that_are_tried_one_after_the_other_wait_for_each_other(
    both: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "GUESS_SECONDS", 0.1)
    began = time.monotonic()
    tries = (_status(both, "GET", "/metrics", f"Bearer guess-{n}") for n in range(5))
    assert await asyncio.gather(*tries) == [401] * 5
    assert time.monotonic() - began >= 0.5
    assert await _status(both, "GET", "/metrics", f"Bearer {OPERATORS[0]}") == 200
