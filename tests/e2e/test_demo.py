"""`make demo` in a browser: three tabs play, the fourth is refused, and nobody can ignore it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from demo.film import NAME, SEGMENT_SECONDS, make_film
from demo.gateway import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, FloatRect, Page

LEASE_SECONDS = 8
# A segment (the players have four seconds of film at hand) and one second.
DARK_WITHIN_SECONDS = 5.0
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the demo's with a film in it."""
    folder = tmp_path_factory.mktemp("demo")
    make_film(folder / "film" / NAME, 90)
    return folder


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[str]:
    """The demo, as `make demo` runs it; Ctrl-C ends it and all that it started."""
    command = [sys.executable, "-m", "demo", "--port", "0", "--folder", str(folder), *arguments]
    with (folder / "demo.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            found = re.search(r"ready: (http://\S+)", line)
            if found:
                url = found[1]
                break
        assert url, (folder / "demo.log").read_text()
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.communicate()
    left = subprocess.run(
        ["pgrep", "--full", str(folder)], check=False, capture_output=True, text=True
    )
    assert left.stdout == "", "the demo left processes behind"


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with running(folder, "--lease-seconds", "60") as url:
        yield url


@contextmanager
def _context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 760, "height": 820})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def household(browser: Browser) -> Iterator[BrowserContext]:
    """One browser, in which a household's tabs share their login."""
    with _context(browser) as context:
        yield context


@pytest.fixture
def with_a_clock(browser: Browser) -> Iterator[BrowserContext]:
    """Another one of the household, whose clock the test moves: in that of the others, it would
    run out for requests that are under way."""
    with _context(browser) as context:
        context.clock.install()
        yield context


def log_in(household: BrowserContext, url: str, name: str) -> Page:
    page = household.new_page()
    page.goto(url)
    page.get_by_label("Household").fill(name)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    return page


def open_tab(household: BrowserContext, url: str) -> Page:
    page = household.new_page()
    page.goto(url)
    page.get_by_role("button", name="Play", exact=True).wait_for()
    return page


def film_time(page: Page) -> float:
    time_now: float = page.evaluate("document.querySelector('video').currentTime")
    return time_now


def press_play(page: Page) -> None:
    page.get_by_role("button", name="Play", exact=True).click()
    plays_on(page)


def plays_on(page: Page) -> None:
    """Wait until the picture moves."""
    before = film_time(page)
    page.wait_for_function(
        "(before) => document.querySelector('video').currentTime > before + 0.5", arg=before
    )


def until_dark(page: Page) -> float:
    """Wait until the picture stands still; returns where in the film."""
    page.wait_for_function(
        """() => {
          const video = document.querySelector('video');
          const now = performance.now();
          if (window.seenAt !== video.currentTime) {
            window.seenAt = video.currentTime;
            window.since = now;
          }
          return now - window.since > 2000;
        }""",
        polling=100,
    )
    return film_time(page)


def refused(page: Page) -> None:
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("heading", name="Too many streams").wait_for()


def test_three_tabs_play_and_the_fourth_is_offered_a_place(
    url: str, household: BrowserContext, screenshot: Callable[[Page, str], None]
) -> None:
    first = log_in(household, url, "The Smiths")
    tabs = [first, *(open_tab(household, url) for _ in range(3))]
    for tab in tabs[:3]:
        press_play(tab)
    refused(tabs[3])
    assert tabs[3].get_by_role("button", name="Take this place").count() == 3
    # All of it can be seen without scrolling, over the picture.
    tabs[3].set_viewport_size({"width": 1280, "height": 800})
    places = boxes(tabs[3], "#refused button")
    [picture] = boxes(tabs[3], "#screen")
    assert picture["y"] + picture["height"] <= 800
    for place in places:
        assert picture["y"] < place["y"] < picture["y"] + picture["height"] - place["height"]
    screenshot(tabs[3], "demo-refused-1280")
    tabs[3].set_viewport_size({"width": 760, "height": 820})
    screenshot(tabs[3], "demo-refused")
    tabs[3].emulate_media(color_scheme="dark")
    screenshot(tabs[3], "demo-refused-dark")
    tabs[3].set_viewport_size({"width": 390, "height": 820})
    width = tabs[3].evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    screenshot(tabs[3], "demo-refused-390")
    # A stop in one tab makes room for the fourth.
    tabs[0].get_by_role("button", name="Stop").click()
    tabs[0].get_by_text("Nothing plays here.").wait_for()
    tabs[3].get_by_role("button", name="Play", exact=True).click()
    plays_on(tabs[3])
    screenshot(tabs[3], "demo-playing")
    for tab in tabs[1:3]:
        plays_on(tab)
        # Without a sound that is not muted, Chromium would pause it in a tab that is not looked at.
        assert tab.evaluate("document.querySelector('video').webkitAudioDecodedByteCount") > 0
        assert not tab.evaluate("document.querySelector('video').muted")


def boxes(page: Page, selector: str) -> list[FloatRect]:
    found = [one.bounding_box() for one in page.locator(selector).all()]
    return [box for box in found if box is not None]


def test_of_one_household_one_tab_plays_in_uhd_and_the_second_takes_its_place(
    household: BrowserContext, url: str
) -> None:
    first, second = log_in(household, url, "The Millers"), open_tab(household, url)
    first.get_by_role("button", name="Play in UHD").click()
    first.get_by_text("This tab has a stream").wait_for()
    second.get_by_role("button", name="Play in UHD").click()
    second.get_by_text("1 of 1 streams in UHD play already.").wait_for()
    second.get_by_role("button", name="Take this place").click()
    second.get_by_text("This tab has a stream").wait_for()
    # Not in UHD there is room for it still.
    third = open_tab(household, url)
    press_play(third)


def test_a_tab_that_ignores_the_limit_goes_dark_once_its_place_is_taken(
    url: str,
    household: BrowserContext,
    with_a_clock: BrowserContext,
    screenshot: Callable[[Page, str], None],
) -> None:
    disobedient = log_in(with_a_clock, url, "The Millers")
    device = disobedient.locator("#device").inner_text()
    tabs = [log_in(household, url, "The Millers"), *(open_tab(household, url) for _ in range(2))]
    for tab in (disobedient, *tabs[:2]):
        press_play(tab)
    disobedient.get_by_label("Ignore the limit").check()
    refused(tabs[2])
    tabs[2].locator("li", has_text=device).get_by_role("button").click()
    tabs[2].wait_for_function("document.querySelector('video').currentTime > 0.2")
    # From here on its stream is replaced. What it has at hand it may show.
    at, began = film_time(disobedient), time.monotonic()
    dark_at = until_dark(disobedient)
    print(
        f"\n  live check: {dark_at - at:.1f} s of film after the replacement, "
        f"{time.monotonic() - began - 2:.1f} s by the clock"
    )
    assert dark_at - at <= DARK_WITHIN_SECONDS
    disobedient.get_by_text("refuses the film").wait_for()
    # Long after its heartbeats have got no answer, and its segments neither, it says nothing else.
    disobedient.route("**/film/**", lambda _: None)
    disobedient.clock.run_for(3 * 60_000)
    assert "refuses the film" in disobedient.locator("#status").inner_text()
    screenshot(disobedient, "demo-dark")
    for tab in tabs:
        plays_on(tab)


def test_a_fourth_viewer_cannot_live_on_the_streams_that_its_refusal_tells(
    url: str, household: BrowserContext
) -> None:
    tabs = [log_in(household, url, "The Taylors"), *(open_tab(household, url) for _ in range(3))]
    for tab in tabs[:3]:
        press_play(tab)
    refused(tabs[3])
    tried = tabs[3].evaluate(
        """async () => {
          const said = [];
          const ask = async (path, options) => {
            const answer = await fetch(path, options);
            const text = await answer.text();
            said.push(text);
            return { status: answer.status, body: text && JSON.parse(text) };
          };
          const { status, body } = await ask("/streams", { method: "POST" });
          const beats = [];
          for (const { stream_id } of body.streams) {
            const { status } = await ask(`/streams/${stream_id}/heartbeat`, { method: "POST" });
            beats.push(status, (await ask(`/streams/${stream_id}`)).status);
          }
          const without = { headers: { "Playback-Token": "" } };
          const film = await fetch("/film/test-pattern/film.m3u8", without);
          return { status, beats, film: film.status, said: said.join() };
        }"""
    )
    assert tried["status"] == 409
    # It may look at each, and that is all.
    assert tried["beats"] == [404, 200] * 3
    assert "playback_token" not in tried["said"]
    assert "started_at" in tried["said"]
    assert re.search(r"[0-9]-[A-Za-z0-9_-]{56}", tried["said"]) is None
    assert tried["film"] == 401
    for tab in tabs[:3]:
        plays_on(tab)


def test_who_is_signed_out_everywhere_ends_at_the_next_heartbeat_without_a_login(
    folder: Path, tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "film").symlink_to(folder / "film")
    contexts = [browser.new_context() for _ in range(5)]
    for context in contexts:
        context.set_default_timeout(PATIENCE_MS)
    options = ("--limit", "2", "--lease-seconds", str(LEASE_SECONDS))
    with running(tmp_path, *options) as url:
        *tabs, owner = (log_in(context, url, "The Wrights") for context in contexts)
        for tab in tabs[:2]:
            press_play(tab)
        refused(tabs[2])
        for tab in tabs[:2]:
            assert (
                tab.evaluate("fetch('/login', { method: 'DELETE' }).then((a) => a.status)") == 204
            )
            assert tab.evaluate("fetch('/streams').then((answer) => answer.status)") == 401
        end_all = "fetch('/streams', { method: 'DELETE' }).then((answer) => answer.json())"
        assert owner.evaluate(end_all) == {"ended": 2}
        for tab in tabs[:2]:
            tab.get_by_text("This stream is over: stopped.").wait_for()
        for tab in tabs[2:]:
            press_play(tab)
        # The service says two, and two it is.
        listed = owner.evaluate("fetch('/streams').then((answer) => answer.json())")
        assert (listed["active"], listed["limit"]) == (2, 2)
        for tab in tabs[:2]:
            assert tab.locator("#screen").get_attribute("data-state") == "idle"
        for tab in tabs[2:]:
            plays_on(tab)
        for context in contexts:
            context.close()


def test_a_place_taken_by_no_named_device_and_a_lost_login_are_told_in_words(
    folder: Path, tmp_path: Path, household: BrowserContext
) -> None:
    (tmp_path / "film").symlink_to(folder / "film")
    take = """async () => {
      const { streams } = await (await fetch("/streams")).json();
      const body = JSON.stringify({ replace: streams[0].stream_id });
      const headers = { "Content-Type": "application/json" };
      return (await fetch("/streams", { method: "POST", headers, body })).status;
    }"""
    options = ("--limit", "1", "--lease-seconds", str(LEASE_SECONDS))
    with running(tmp_path, *options) as url:
        page = log_in(household, url, "The Blacks")
        press_play(page)
        assert page.evaluate(take) == 201
        page.get_by_text("Now playing on another device").wait_for()
        refused(page)
        page.get_by_text("another device: a film, since").wait_for()
        household.clear_cookies()
        page.get_by_role("button", name="Play", exact=True).click()
        page.get_by_text("Log in again").wait_for()
        assert page.locator("#status").inner_text() == "Nobody is logged in any more."


def test_another_player_plays_the_address_that_the_page_shows_and_sends_no_heartbeat(
    folder: Path, tmp_path: Path, household: BrowserContext, screenshot: Callable[[Page, str], None]
) -> None:
    (tmp_path / "film").symlink_to(folder / "film")
    lease_seconds = 5
    options = ("--limit", "1", "--lease-seconds", str(lease_seconds))
    active = "fetch('/streams').then((answer) => answer.json()).then(({ active }) => active)"
    with running(tmp_path, *options) as url:
        household.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        page = log_in(household, url, "The Greens")
        page.get_by_role("button", name="Open in another player").click()
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("Copied.").wait_for()
        address = page.evaluate("navigator.clipboard.readText()")
        assert address == page.get_by_label("Address of the film").input_value()
        assert address.startswith(f"{url}/film/")
        for name, width, height in (("", 1280, 800), ("-390", 390, 820)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                screenshot(page, f"demo-another-player{name}-{scheme}")

        # As fast as it is watched, and for longer than two leases.
        seconds = str(2.5 * lease_seconds)
        command = ["ffmpeg", "-v", "error", "-re", "-i", address, "-t", seconds, "-f", "null", "-"]
        played = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert played.stderr == ""
        assert page.evaluate(active) == 1
        # It counts as any other does; a new address may take its place.
        page.get_by_role("button", name="Open in another player").click()
        page.get_by_text("1 of 1 streams play already.").wait_for()
        page.get_by_text("Another player: test-pattern, since").wait_for()
        page.get_by_role("button", name="Take this place").click()
        page.wait_for_function(
            "(old) => ![old, ''].includes(document.querySelector('#address').value)", arg=address
        )
        assert "heartbeat" not in (tmp_path / "nginx" / "access.log").read_text()


def test_by_the_lease_alone_a_player_without_heartbeats_goes_dark_too(
    folder: Path, tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "film").symlink_to(folder / "film")
    with running(tmp_path, "--check", "lease", "--lease-seconds", str(LEASE_SECONDS)) as url:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        page = log_in(context, url, "The Joneses")
        press_play(page)
        page.get_by_label("Ignore the limit").check()
        at, began = film_time(page), time.monotonic()
        dark_at = until_dark(page)
        context.close()
    print(
        f"\n  lease check: {dark_at - at:.1f} s of film after the last heartbeat, "
        f"{time.monotonic() - began - 2:.1f} s by the clock, with a lease of {LEASE_SECONDS} s"
    )
    # The token is good for the lease, rounded up; then what is at hand is shown.
    assert dark_at - at <= LEASE_SECONDS + 1 + 2 * SEGMENT_SECONDS + 1
