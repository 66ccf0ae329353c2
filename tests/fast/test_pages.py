"""The pages: who may see them, what they may load, and that the console can be left out."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, TCPConnector

from stream_service.app import create_app
from stream_service.settings import Settings
from tests.support.processes import Service

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

PAGES = (
    "/",
    "/docs/integration",
    "/docs",
    "/docs/",
    "/console",
    "/console/",
    "/console/state",
    "/metrics",
    "/client.js",
    "/client.tv.js",
    "/openapi.json",
)


@pytest.mark.parametrize("path", [*PAGES, "/static/console.js"])
async def test_where_there_is_a_token_every_page_needs_it(
    aiohttp_client: AiohttpClient, double_store: MongoStore, path: str
) -> None:
    client = await aiohttp_client(
        create_app(Settings(gateway_tokens=("t" * 16,)), store=double_store)
    )
    assert (await client.get(path)).status == 401
    assert (await client.get(path, headers={"Authorization": f"Bearer {'t' * 16}"})).status == 200


@pytest.mark.parametrize("path", ["/docs", "/console"])
async def test_a_page_is_found_with_a_slash_at_its_end_too(
    aiohttp_client: AiohttpClient, double_store: MongoStore, path: str
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    response = await client.get(f"{path}/")
    assert response.status == 200
    assert response.url.path == path
    # Relative, since a proxy may serve it all under a prefix.
    [redirected] = response.history
    assert redirected.headers["Location"] == f"..{path}"


@pytest.mark.parametrize("path", ["/", "/docs", "/console"])
async def test_pages_run_no_script_but_the_services_own_and_cannot_be_framed(
    aiohttp_client: AiohttpClient, double_store: MongoStore, path: str
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    response = await client.get(path, headers={"Accept": "text/html"})
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    page = await response.text()
    assert "http://" not in page.replace("http://127.0.0.1:3001", "")
    assert "https://" not in page
    assert " style=" not in page


async def test_no_answer_tells_the_versions_of_what_it_is_made_with(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    for path in (*PAGES, "/watch", "/none", "/health", "/static/icon.svg"):
        assert (await client.get(path)).headers["Server"] == "stream-service", path


async def test_files_beside_those_of_the_pages_are_not_served(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    for name in ("..%2fapp.py", "%2e%2e/app.py", "docs.html", "LICENSE", "swagger.html", ""):
        assert (await client.get(f"/static/{name}")).status == 404


FILES = {
    "/client.js": "text/javascript",
    "/client.tv.js": "text/javascript",
    "/static/swagger-ui-bundle.js": "text/javascript",
    "/static/swagger-ui.css": "text/css",
    "/static/icon.svg": "image/svg+xml",
}


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("encoding", ["gzip, br", ""])
async def test_a_file_that_the_browser_has_is_not_sent_again(
    aiohttp_client: AiohttpClient, double_store: MongoStore, path: str, encoding: str
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    headers = {"Accept-Encoding": encoding}
    first = await client.get(path, headers=headers)
    assert first.status == 200
    assert first.content_type == FILES[path]
    tag = first.headers["ETag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = await client.get(path, headers={**headers, "If-None-Match": known})
        assert again.status == 304
        assert await again.read() == b""
        for header in ("ETag", "Cache-Control", "Vary", "Content-Security-Policy"):
            assert again.headers[header] == first.headers[header]
    other = await client.get(path, headers={**headers, "If-None-Match": '"other"'})
    assert other.status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/docs", "/docs/integration", *FILES])
async def test_nothing_is_left_on_the_connection_after_a_page_or_a_file(
    aiohttp_client: AiohttpClient, double_store: MongoStore, path: str, method: str
) -> None:
    connector = TCPConnector(limit=1)
    client = await aiohttp_client(create_app(Settings(), store=double_store), connector=connector)
    tag = (await client.head(path)).headers.get("ETag", "none")
    conditions: tuple[dict[str, str], ...] = (
        {},
        {"If-None-Match": tag},
        {"If-Match": '"other"'},
        {"Range": "bytes=0-9"},
        {"Range": "bytes=9999999-"},
    )
    for condition in conditions:
        headers = {"Accept-Encoding": "gzip, deflate", **condition}
        response = await client.request(method, path, headers=headers)
        await response.read()
        # What is left would be taken for the beginning of this answer.
        assert (await client.get("/health/live")).status == 200, condition


async def test_a_file_is_sent_compressed_to_whom_that_suits(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    path = "/static/swagger-ui-bundle.js"
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})
    whole = await plain.read()
    assert "Content-Encoding" not in plain.headers
    for coding in ("gzip", "deflate"):
        packed = await client.get(path, headers={"Accept-Encoding": coding})
        assert packed.headers["Content-Encoding"] == coding
        assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
        assert await packed.read() == whole
    again = await client.get(path, headers={"If-None-Match": plain.headers["ETag"]})
    assert again.status == 304


async def test_only_files_are_kept_the_client_for_an_hour(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    paths = ("/docs", "/docs/integration", *FILES)
    kept = {path: (await client.get(path)).headers["Cache-Control"] for path in paths}
    clients = dict.fromkeys(("/client.js", "/client.tv.js"), "public, max-age=3600")
    assert kept == dict.fromkeys(paths, "no-cache") | clients
    for path in ("/console", "/console/state", "/metrics", "/openapi.json", "/static/none.js"):
        assert (await client.get(path)).headers["Cache-Control"] == "no-store"


def test_the_client_that_is_served_is_the_one_of_the_package() -> None:
    root = Path(__file__).parents[2]
    for name in ("stream-client.js", "stream-client.tv.js"):
        served = root / "stream_service" / "pages" / "static" / name
        assert served.samefile(root / "client" / name)


async def test_processes_that_share_a_port_and_a_directory_tell_the_sum(
    mongo_url: str, database: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    serve = functools.partial(
        Service,
        MONGO_URL=mongo_url,
        MONGO_DB=database,
        PORT=str(unused_tcp_port),
        LISTENER_DIR=str(tmp_path / "run"),
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    seen: set[str] = set()
    starts = 0
    with serve() as one, serve() as other:
        assert one.url == other.url
        # Each on a connection of its own, which one process or the other takes.
        async with ClientSession(one.url, connector=TCPConnector(force_close=True)) as client:
            while len(seen) < 2:
                headers = {"Session-Id": str(starts)}
                await (await client.post("/streams", headers=headers)).read()
                starts += 1
                state: dict[str, Any] = await (await client.get("/console/state")).json()
                seen.add(state["process"])
                assert state["starts"]["admitted"] == starts
            text = await (await client.get("/metrics")).text()
    assert f'stream_service_starts_total{{outcome="admitted"}} {starts}.0' in text
    assert "stream_service_active_streams " in text
