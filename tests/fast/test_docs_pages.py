"""The landing page, the API page and the guides: what stands there leads somewhere."""

from __future__ import annotations

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin

import pytest
import yaml

from stream_service.api.health import HEALTH
from stream_service.api.openapi import openapi_document
from stream_service.api.problems import TYPE_PREFIX
from stream_service.app import create_app
from stream_service.pages.guides import GUIDES, PICTURES, SHELVES, rendered
from stream_service.settings import Settings
from tests.fast.test_console_state import Away

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.test_utils import TestClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

    Client = TestClient[web.Request, web.Application]

ROOT = Path(__file__).parent.parent.parent
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, double_store: MongoStore) -> Client:
    return await aiohttp_client(create_app(Settings(), store=double_store))


class _Page(HTMLParser):
    """The ids and links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.links += [named[name] or "" for name in ("href", "src") if name in named]


async def page_of(client: Client, path: str) -> _Page:
    response = await client.get(path, headers=BROWSER)
    assert response.status == 200, path
    assert response.content_type == "text/html"
    return _Page(await response.text())


async def test_every_link_of_every_page_leads_somewhere(client: Client) -> None:
    paths = ["/", "/docs", "/console", *(f"/docs/{name}" for name in GUIDES)]
    pages = {path: await page_of(client, path) for path in paths}
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue  # another site, or a page of a service on this machine
            target, fragment = urldefrag(urljoin(path, link))
            if target not in pages:
                assert (await client.get(target)).status == 200, (path, link)
            elif fragment and target != "/console":
                assert fragment in pages[target].ids, (path, link)


async def test_each_alert_leads_to_its_paragraph_of_the_served_runbook(client: Client) -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    runbook = await page_of(client, "/docs/operations")
    for alert in alerts:
        url, anchor = urldefrag(alert["annotations"]["runbook_url"])
        # Where compose.yaml, which takes the rules as they are, has the service.
        assert url == "http://127.0.0.1:8080/docs/operations"
        assert anchor == alert["alert"].lower()
        assert anchor in runbook.ids
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert compose["services"]["nginx"]["ports"] == ["127.0.0.1:8080:80"]


async def test_a_guide_leads_to_the_pages_of_the_service_that_serves_it(client: Client) -> None:
    for name in GUIDES:
        links = (await page_of(client, f"/docs/{name}")).links
        assert not [link for link in links if "127.0.0.1:3001" in link], name
    assert 'href="../docs">/docs</a>' in rendered("integration")


async def test_a_browser_that_looks_for_an_icon_finds_it(client: Client) -> None:
    response = await client.get("/favicon.ico")
    assert (response.status, response.content_type) == (200, "image/svg+xml")


async def test_browsers_get_a_landing_page_and_programs_the_same_as_json(client: Client) -> None:
    page = await client.get("/", headers=BROWSER)
    text = await page.text()
    assert "Ready: the database answers." in text
    for accept in ("*/*", "application/json", "application/json, text/plain, */*"):
        response = await client.get("/", headers={"Accept": accept})
        body: dict[str, Any] = await response.json()
        assert body["status"] == "UP"
        assert body["state"] in text
        assert body["about"] in text
        assert {path[1:] for path in body["links"].values()} <= {
            *_Page(text).links,
            "health",
            "client.js",
        }
        assert response.headers["Vary"] == page.headers["Vary"] == "Accept"


async def test_the_landing_page_tells_of_an_unreachable_database(client: Client) -> None:
    client.app[HEALTH].processes._store = Away()  # type: ignore[assignment]  # noqa: SLF001
    text = await (await client.get("/", headers=BROWSER)).text()
    body: dict[str, Any] = await (await client.get("/")).json()
    assert body["status"] == "DOWN"
    [since] = re.findall(r"Not ready: database unreachable since (2[0-9TZ:.-]+)[.] ", body["state"])
    # A script of the page shows it as the visitor's clock has it.
    assert f'since <time datetime="{since}">{since}</time>. ' in text


async def test_the_type_of_each_problem_is_its_anchor_on_the_api_page(client: Client) -> None:
    page = await page_of(client, "/docs")
    kinds = {
        schema["properties"]["type"]["const"]
        for name, schema in openapi_document(Settings())["components"]["schemas"].items()
        if name.endswith("Problem")
    }
    assert kinds
    assert kinds == {anchor for anchor in page.ids if anchor.startswith(TYPE_PREFIX)}


async def test_the_quick_start_names_the_token_where_there_is_one(
    aiohttp_client: AiohttpClient, double_store: MongoStore, client: Client
) -> None:
    assert "$TOKEN" not in await (await client.get("/docs")).text()
    settings = Settings(gateway_tokens=("t" * 16,), stream_limit=7)
    guarded = await aiohttp_client(create_app(settings, store=double_store))
    response = await guarded.get("/docs", headers={"Authorization": f"Bearer {'t' * 16}"})
    page = await response.text()
    assert page.count('-H "Authorization: Bearer $TOKEN"') == page.count("curl -s") == 5
    assert "seq 7" in page


async def test_shadow_mode_is_named_wherever_a_refusal_is_spoken_of(
    aiohttp_client: AiohttpClient, double_store: MongoStore, client: Client
) -> None:
    shadow = await aiohttp_client(create_app(Settings(enforce=False), store=double_store))
    for path, words in (("/", "shadow mode"), ("/docs", "In shadow mode")):
        assert words in await (await shadow.get(path, headers=BROWSER)).text()
        assert words not in await (await client.get(path, headers=BROWSER)).text()
    assert (await (await shadow.get("/console/state")).json())["enforce"] is False


async def test_the_landing_page_leads_to_integrate_then_operate_then_understand(
    client: Client,
) -> None:
    text = await (await client.get("/", headers=BROWSER)).text()
    assert re.findall(r"<h2>(\w+)</h2>", text) == list(SHELVES)
    assert text.count('class="primary"') == 1
    shelves = text.split("<h2>")[1:]
    for shelf, names in zip(shelves, SHELVES.values(), strict=True):
        assert re.findall(r'href="docs/([a-z-]+)"', shelf) == list(names)


async def test_a_guide_begins_with_its_title_and_ends_with_the_list_of_all(client: Client) -> None:
    for name in GUIDES:
        page = await page_of(client, f"/docs/{name}")
        assert page.links[-len(GUIDES) :] == list(GUIDES)
        assert page.ids.index("main") + 1 < page.ids.index("guides") == len(page.ids) - 1


async def test_a_page_shows_the_pictures_of_its_guide(client: Client) -> None:
    shown = set[str]()
    for name, guide in GUIDES.items():
        wanted = re.findall(
            r"^!\[.+\]\(pictures/([a-z-]+\.svg)\)$", guide.path.read_text(), re.MULTILINE
        )
        links = (await page_of(client, f"/docs/{name}")).links
        assert {f"../static/{picture}" for picture in wanted} <= set(links)
        shown.update(wanted)
    assert shown == set(PICTURES) == {path.name for path in (ROOT / "docs/pictures").iterdir()}
    for picture in shown:
        response = await client.get(f"/static/{picture}")
        assert (response.status, response.content_type) == (200, "image/svg+xml")


def test_a_guide_is_read_as_it_is_written() -> None:
    assert set(GUIDES) == {path.stem for path in (ROOT / "docs").glob("*.md")}
    for name, guide in GUIDES.items():
        html = rendered(name)
        assert "<script" not in html
        assert " style=" not in html
        prose = re.sub(r"^```.*?^```$", "", guide.path.read_text(), flags=re.MULTILINE | re.DOTALL)
        headings = re.findall(r"^#+ .+$", prose, re.MULTILINE)
        assert len(re.findall(r"<h\d id=", html)) == len(headings), name


def test_the_wheel_takes_the_guides_along() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"]["stream_service.docs"] == "docs"
    assert "stream_service.docs" in setuptools["packages"]
    assert setuptools["package-data"]["stream_service.docs"] == ["*.md", "pictures/*.svg"]
