"""hls.js, Shaka Player and Video.js play a real film behind the gateway: the picture counts.

All play side by side, each as a household of its own, so that a minute is waited for once.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.film import make_film
from demo.gateway import ROOT
from tests.e2e.conftest import launch
from tests.support.gateway import LIMIT, Gateway, running_gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Playwright

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
VENDORS = (
    MODULES / "hls.js" / "dist" / "hls.min.js",
    MODULES / "shaka-player" / "dist" / "shaka-player.compiled.js",
    MODULES / "video.js" / "dist" / "video.min.js",
)
# The last is hls.js with the build of the client for old engines.
KINDS = ("hls", "shaka", "videojs", "tv")
LEASE_SECONDS = 6
FILM_SECONDS = 240
SHORT_FILM_SECONDS = 6
PATIENCE_MS = 90_000

# The picture moves when the machine finds the time; a player that runs dry stands for seconds.
A_HICCUP_MS = 2_500

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, mongo_url: str) -> Iterator[Gateway]:
    """A gateway with a film, another episode, and a page for each player."""
    folder = tmp_path_factory.mktemp("players")
    make_film(folder / "film", FILM_SECONDS)
    make_film(folder / "film" / "next", SHORT_FILM_SECONDS)
    pages = folder / "pages"
    shutil.copytree(HERE / "players", pages)
    shutil.copytree(ROOT / "client" / "adapters", pages / "adapters")
    shutil.copytree(ROOT / "client" / "adapters", pages / "tv" / "adapters")
    shutil.copy(ROOT / "client" / "stream-client.js", pages)
    shutil.copy(ROOT / "client" / "stream-client.tv.js", pages)
    shim = "export const play = (...options) => window.StreamService.play(...options);"
    (pages / "tv" / "stream-client.js").write_text(shim)
    (pages / "vendor").mkdir()
    for file in VENDORS:
        shutil.copy(file, pages / "vendor")
    with running_gateway(
        folder, mongo_url, lease_seconds=LEASE_SECONDS, services=1, pages=pages
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def playing_browser(playwright: Playwright) -> Iterator[Browser]:
    browser = launch(playwright)
    yield browser
    browser.close()


class Tab:
    """A tab in which one of the players plays."""

    def __init__(self, context: BrowserContext, gateway: Gateway, kind: str, login: str) -> None:
        self.context = context
        self.kind = kind
        self._gateway = gateway
        self.login = login
        self.page = context.new_page()
        self.page.goto(f"http://127.0.0.1:{gateway.port}/")
        self.page.wait_for_function("window.ready")

    def begin(self, **options: Any) -> None:
        self.page.evaluate("([kind, options]) => window.begin(kind, options)", [self.kind, options])

    def do(self, script: str) -> Any:
        return self.page.evaluate(
            f"(() => {{ const video = document.querySelector('video'); {script} }})()"
        )

    @property
    def film_time(self) -> float:
        at: float = self.do("return video.currentTime")
        return at

    def plays_on(self, seconds: float = 0.5) -> None:
        """Wait until the picture has moved on by so much."""
        self.page.wait_for_function(
            "([before, by]) => document.querySelector('video').currentTime > before + by",
            arg=[self.film_time, seconds],
        )

    def stands_still(self) -> None:
        """Wait until the picture has not moved for a second and a half."""
        self.page.wait_for_function("performance.now() - window.seen.since > 1500")

    def told(self, name: str) -> str:
        """Wait until the client has called this back; what it said then, as text."""
        self.page.wait_for_function("(name) => window.told.some(([one]) => one === name)", arg=name)
        said: str = self.page.evaluate(
            "(name) => window.told.find(([one]) => one === name)[1]", name
        )
        return said

    def was_told(self, name: str) -> int:
        count: int = self.page.evaluate(
            "(name) => window.told.filter(([one]) => one === name).length", name
        )
        return count

    @property
    def active(self) -> list[dict[str, Any]]:
        """What the service says is playing."""
        answer = self._gateway.ask("GET", "/streams", login=self.login)
        assert answer.status == 200, answer
        streams: list[dict[str, Any]] = answer.body["streams"]
        return streams

    def until_active(self, wanted: int) -> None:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while len(self.active) != wanted:
            assert time.monotonic() < deadline, (self.kind, self.active)
            time.sleep(0.2)


@pytest.fixture
def open_tab(gateway: Gateway, playing_browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens a tab of a household."""
    contexts: list[BrowserContext] = []

    def make(kind: str, login: str | None = None) -> Tab:
        login = login or gateway.login()
        context = playing_browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        origin = f"http://127.0.0.1:{gateway.port}"
        context.add_cookies([{"name": "login", "value": login, "url": origin}])
        contexts.append(context)
        return Tab(context, gateway, kind, login)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def tabs(open_tab: Callable[..., Tab]) -> list[Tab]:
    """One tab for each player, playing."""
    made = [open_tab(kind) for kind in KINDS]
    for tab in made:
        tab.begin()
    for tab in made:
        tab.plays_on(1)
    return made


@contextmanager
def without_a_stop(tabs: list[Tab]) -> Iterator[None]:
    """Holds that the picture moves all the while."""
    for tab in tabs:
        tab.do("window.still = 0")
    yield
    for tab in tabs:
        still = tab.do("return window.still")
        print(f"\n  {tab.kind}: stood still for {still:.0f} ms at most", end="", flush=True)
        assert still < A_HICCUP_MS, tab.kind
        tab.plays_on()


def test_who_pauses_for_longer_than_a_lease_keeps_the_stream(tabs: list[Tab]) -> None:
    ids = [tab.active[0]["stream_id"] for tab in tabs]
    for tab in tabs:
        tab.do("video.pause()")
    for tab in tabs:
        tab.stands_still()
    time.sleep(LEASE_SECONDS + 1)
    for tab in tabs:
        tab.do("video.play()")
    for tab, stream_id in zip(tabs, ids, strict=True):
        tab.plays_on()
        assert [stream["stream_id"] for stream in tab.active] == [stream_id]


CHANGE_QUALITY = {
    "hls": "window.session.player.nextLevel = 0",
    "shaka": "const one = window.session.player; one.configure('abr.enabled', false);"
    "one.selectVariantTrack(one.getVariantTracks()[0], true)",
    "videojs": "const list = window.session.player.qualityLevels();"
    "for (let n = 0; n < list.length; n++) list[n].enabled = n === 0",
}
CHANGE_QUALITY["tv"] = CHANGE_QUALITY["hls"]


def test_a_seek_and_a_change_of_quality_are_no_new_streams(tabs: list[Tab]) -> None:
    ids = [tab.active[0]["stream_id"] for tab in tabs]
    for tab in tabs:
        tab.do("video.currentTime = 100")
    for tab in tabs:
        tab.plays_on()
        assert tab.film_time > 100
        tab.do(CHANGE_QUALITY[tab.kind])
    for tab, stream_id in zip(tabs, ids, strict=True):
        tab.plays_on(2)
        assert [stream["stream_id"] for stream in tab.active] == [stream_id]
        assert tab.was_told("onEnded") == 0


def test_the_next_episode_is_a_stream_of_its_own_and_its_end_frees_the_slot(
    tabs: list[Tab],
) -> None:
    ids = [tab.active[0]["stream_id"] for tab in tabs]
    for tab in tabs:
        tab.do("return window.session.stop()")
        tab.begin(src="/film/next/film")
    for tab, stream_id in zip(tabs, ids, strict=True):
        tab.plays_on()
        [stream] = tab.active
        assert stream["stream_id"] != stream_id
    for tab in tabs:
        tab.until_active(0)


def test_a_film_that_is_not_there_gives_its_slot_back(open_tab: Callable[..., Tab]) -> None:
    for kind in KINDS:
        tab = open_tab(kind)
        tab.begin(src="/film/nowhere/film")
        tab.told("onStarted")
        tab.told("onFilmError")
        tab.until_active(0)


def test_a_tab_that_is_closed_gives_its_slot_back(tabs: list[Tab]) -> None:
    for tab in tabs:
        tab.page.close(run_before_unload=True)
        # Sooner than its lease would.
        deadline = time.monotonic() + LEASE_SECONDS / 2
        while tab.active and time.monotonic() < deadline:
            time.sleep(0.1)
    for tab in tabs:
        tab.until_active(0)


def test_a_stream_that_another_tab_replaces_stops_its_picture_and_stays_away(
    tabs: list[Tab], open_tab: Callable[..., Tab]
) -> None:
    for tab in tabs:
        other = open_tab(tab.kind, tab.login)
        other.begin(replace=tab.active[0]["stream_id"])
        other.plays_on()
        assert tab.told("onEnded") == "replaced"
        tab.stands_still()
        assert tab.was_told("onResumed") == 0
        assert len(other.active) == 1
        other.page.close()


def test_the_limit_is_told_before_a_picture_is_shown(
    gateway: Gateway, open_tab: Callable[..., Tab]
) -> None:
    for kind in KINDS:
        tab = open_tab(kind)
        for _ in range(LIMIT):
            gateway.start(tab.login)
        tab.begin()
        tab.told("onRefused")
        assert tab.film_time == 0


def test_a_database_away_for_two_leases_costs_no_frame(gateway: Gateway, tabs: list[Tab]) -> None:
    with without_a_stop(tabs):
        gateway.hold_database()
        try:
            time.sleep(2 * LEASE_SECONDS + 1)
            for tab in tabs:
                assert tab.was_told("onEnded") == 0
        finally:
            gateway.release_database()
        for tab in tabs:
            tab.told("onOnline")
            tab.until_active(1)
        time.sleep(LEASE_SECONDS)


def test_a_reload_of_the_service_costs_no_frame(gateway: Gateway, tabs: list[Tab]) -> None:
    with without_a_stop(tabs):
        gateway.reload_service()
        time.sleep(LEASE_SECONDS)
    for tab in tabs:
        assert tab.was_told("onEnded") == 0
        tab.until_active(1)


def test_a_device_that_slept_plays_on_without_anybody_pressing_play(tabs: list[Tab]) -> None:
    """Its heartbeats came to nothing for longer than a lease; then it wakes up."""
    for tab in tabs:
        tab.context.route("**/heartbeat", lambda route: route.abort())
    time.sleep(LEASE_SECONDS + 2)
    for tab in tabs:
        tab.until_active(0)
        tab.context.unroute("**/heartbeat")
        tab.page.evaluate("window.dispatchEvent(new Event('online'))")
    for tab in tabs:
        tab.told("onResumed")
        tab.until_active(1)
        tab.plays_on()


def test_a_minute_offline_ends_no_film(tabs: list[Tab]) -> None:
    for tab in tabs:
        tab.context.set_offline(offline=True)
    for tab in tabs:
        tab.told("onOffline")
    time.sleep(60)
    for tab in tabs:
        assert tab.was_told("onEnded") == 0
        assert tab.was_told("onFilmError") == 0
        tab.context.set_offline(offline=False)
    for tab in tabs:
        tab.told("onOnline")
        tab.plays_on(2)
        tab.until_active(1)
