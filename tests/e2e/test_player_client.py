"""The player client in a real browser, through a gateway, against the real service."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import Visit, launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page, Playwright, Route

    from tests.e2e.conftest import Service


def start(page: Page, **options: Any) -> None:
    page.wait_for_function("window.ready")
    page.evaluate("(options) => window.start(options)", options)


def told(page: Page, name: str) -> list[Any]:
    """Wait until the client has called this back; what it said then."""
    page.wait_for_function("(name) => window.told.some(([one]) => one === name)", arg=name)
    said: list[Any] = page.evaluate("(n) => window.told.find(([one]) => one === n).slice(1)", name)
    return said


def wait_until_free(service: Service, viewer: str, *, seconds: float = 10) -> None:
    """The lease is far longer than this: only a stop can free the slot."""
    deadline = time.monotonic() + seconds
    while service.active(viewer):
        assert time.monotonic() < deadline, "the slot is still taken"
        time.sleep(0.05)


def test_heartbeats_keep_a_stream_alive_beyond_its_lease(
    visit: Visit, hasty_site: str, hasty_service: Service
) -> None:
    page = visit.open(f"{hasty_site}/player", viewer="ann")
    start(page)
    [stream] = told(page, "onStarted")
    page.wait_for_function("window.told.filter(([name]) => name === 'onBeat').length >= 4")
    [active] = hasty_service.active("ann")
    assert active["stream_id"] == stream["stream_id"]
    assert active["expires_at"] > stream["expires_at"]
    assert visit.complaints == []


def test_closing_the_tab_frees_the_slot_by_a_beacon(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="bob")
    start(page)
    told(page, "onStarted")
    assert len(service.active("bob")) == 1
    page.close()
    wait_until_free(service, "bob")


def test_closing_the_tab_frees_the_slot_where_headers_have_to_be_sent(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="carol")
    start(page, headers={"X-Player": "test"})
    told(page, "onStarted")
    assert len(service.active("carol")) == 1
    # All connections that a browser has for one site are busy: a plain request would still wait
    # for one when the page is gone, and go with it.
    page.evaluate("() => { for (let n = 0; n < 12; n++) fetch(`/hang?${n}`); }")
    page.close()
    wait_until_free(service, "carol")


def test_going_to_another_page_frees_the_slot(visit: Visit, site: str, service: Service) -> None:
    page = visit.open(f"{site}/player", viewer="dora")
    start(page)
    told(page, "onStarted")
    page.goto("about:blank")
    wait_until_free(service, "dora")


def test_stop_ends_the_stream(visit: Visit, site: str, service: Service) -> None:
    page = visit.open(f"{site}/player", viewer="emil")
    start(page)
    told(page, "onStarted")
    page.evaluate("window.playing.stop()")
    wait_until_free(service, "emil")


def test_stopping_while_the_start_is_under_way_leaves_no_stream(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="fred")
    page.wait_for_function("window.ready")
    with page.expect_response("**/stop"):
        page.route("**/streams", _late)
        start(page)
        page.evaluate("window.playing.stop()")
    wait_until_free(service, "fred")


def _late(route: Route) -> None:
    answer = route.fetch()
    time.sleep(0.3)
    route.fulfill(response=answer)


def test_a_refusal_tells_what_is_playing(visit: Visit, site: str) -> None:
    page = visit.open(f"{site}/player", viewer="gina")
    for device in ("TV", "Phone", "Tablet"):
        start(page, device=device)
    page.wait_for_function("window.told.length === 3")
    start(page)
    [problem] = told(page, "onRefused")
    assert {stream["device"] for stream in problem["streams"]} == {"TV", "Phone", "Tablet"}
    assert (problem["active"], problem["limit"]) == (3, 3)


def test_a_stream_that_another_one_replaced_is_told_so(
    visit: Visit, hasty_site: str, hasty_service: Service
) -> None:
    page = visit.open(f"{hasty_site}/player", viewer="hans")
    start(page)
    [stream] = told(page, "onStarted")
    body = {"device": "Phone", "replace": stream["stream_id"]}
    hasty_service.ask("POST", "/streams", "hans", json=body)
    reason, problem = told(page, "onEnded")
    assert reason == "replaced"
    assert problem["replaced_by"]["device"] == "Phone"


def test_a_start_whose_answer_was_lost_takes_one_slot(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="ida")
    keys: list[str | None] = []

    def lose_the_first_answer(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/streams", lose_the_first_answer)
    start(page)
    told(page, "onError")
    told(page, "onStarted")
    assert len(keys) == 2
    assert keys[0] == keys[1] is not None
    assert len(service.active("ida")) == 1


def test_a_service_that_is_away_is_asked_again_ever_later(visit: Visit, site: str) -> None:
    page = visit.open(f"{site}/player", viewer="jack")
    asked: list[float] = []

    def away_three_times(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) <= 3:
            problem = '{"detail":"away"}'
            route.fulfill(status=503, headers={"Retry-After": "1"}, body=problem)
        else:
            route.continue_()

    page.route("**/streams", away_three_times)
    start(page)
    told(page, "onStarted")
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert len(waits) == 3
    assert waits[0] >= 1
    assert waits[1] >= 2
    assert waits[2] >= 4


def test_what_cannot_be_mended_by_trying_again_is_not_tried_again(visit: Visit, site: str) -> None:
    page = visit.open(f"{site}/player", viewer="kate")
    start(page, deviceId="x" * 129)
    reason, _ = told(page, "onEnded")
    assert reason == "rejected"
    assert page.evaluate("window.told.at(-1)[2].problem.field") == "device_id"
    assert page.evaluate("window.playing.state") == "over"


def test_a_label_that_is_too_long_or_cut_in_an_emoji_is_no_reason_to_refuse(
    visit: Visit, site: str
) -> None:
    page = visit.open(f"{site}/player", viewer="kurt")
    page.wait_for_function("window.ready")
    page.evaluate(r"window.start({ device: 'TV \ud83c', content: '\u{1f3ac}'.repeat(201) })")
    [stream] = told(page, "onStarted")
    assert (stream["device"], stream["content"]) == ("TV \ufffd", "\U0001f3ac" * 200)


@pytest.fixture
def slow_words(service: Service) -> Iterator[None]:
    """Stops that players send arrive after the start of the page that follows, for sure."""
    service.words_take = 1.5
    yield
    service.words_take = 0.0


@pytest.mark.usefixtures("slow_words")
def test_a_reload_is_never_refused_by_itself(visit: Visit, site: str, service: Service) -> None:
    for device in ("TV", "Phone"):
        service.ask("POST", "/streams", "tilda", json={"device": device})
    page = visit.open(f"{site}/player", viewer="tilda")
    start(page, device="Laptop")
    [last] = told(page, "onStarted")
    for how in ("reload", "goto", "reload"):
        page.reload() if how == "reload" else page.goto(f"{site}/player?next")
        start(page, device="Laptop")
        page.wait_for_function("window.told.length > 0")
        assert page.evaluate("window.told[0][0]") == "onStarted"
        [stream] = told(page, "onStarted")
        assert stream["stream_id"] != last["stream_id"]
        last = stream
        active = {one["device"]: one["stream_id"] for one in service.active("tilda")}
        # The others have lost nothing.
        assert active.keys() == {"TV", "Phone", "Laptop"}
        assert active["Laptop"] == stream["stream_id"]


@pytest.mark.usefixtures("slow_words")
def test_a_tab_that_is_duplicated_takes_not_its_twins_place(
    visit: Visit, site: str, service: Service
) -> None:
    for device in ("TV", "Phone"):
        service.ask("POST", "/streams", "udo", json={"device": device})
    page = visit.open(f"{site}/player", viewer="udo")
    start(page, device="Laptop")
    told(page, "onStarted")
    page.reload()
    start(page, device="Laptop")
    [stream] = told(page, "onStarted")
    # As a browser duplicates a tab: the new one gets a copy of what the old one keeps.
    with page.expect_popup() as opened:
        page.evaluate("sessionStorage.setItem('copied', 'yes'); void window.open(location.href)")
    twin = opened.value
    start(twin, device="Twin")
    assert twin.evaluate("sessionStorage.getItem('copied')") == "yes"
    told(twin, "onRefused")
    assert stream["stream_id"] in {one["stream_id"] for one in service.active("udo")}


def test_stop_and_then_play_at_the_limit_is_admitted(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="mona")
    for _ in range(3):
        start(page)
    page.wait_for_function("window.told.length === 3")
    assert page.evaluate("window.playing.stop()") is True
    start(page)
    page.wait_for_function("window.told.filter(([name]) => name === 'onStarted').length === 4")
    assert len(service.active("mona")) == 3


def test_stop_without_waiting_and_then_play_at_the_limit_is_admitted(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="nora")
    for _ in range(3):
        start(page)
    page.wait_for_function("window.told.length === 3")
    page.evaluate("() => { window.playing.stop(); window.start(); }")
    page.wait_for_function("window.told.filter(([name]) => name === 'onStarted').length === 4")
    assert len(service.active("nora")) == 3


def test_a_redirect_to_a_login_page_starts_no_film(visit: Visit, site: str) -> None:
    page = visit.open(f"{site}/player", viewer="olga")
    start(page, url="/login-needed")
    told(page, "onUnavailable")
    assert page.evaluate("window.told.map(([name]) => name)") == ["onError", "onUnavailable"]
    assert page.evaluate("window.playing.state") == "starting"


@pytest.mark.parametrize("headers", [None, {"X-Player": "test"}])
def test_a_page_of_another_origin_plays_beats_and_frees_its_slot(
    visit: Visit, site: str, other_site: str, service: Service, headers: dict[str, str] | None
) -> None:
    viewer = f"paul {headers}".translate({ord(sign): "-" for sign in " {}':"})
    page = visit.open(f"{site}/player", viewer=viewer)
    options = {"headers": headers} if headers else {}
    start(page, url=other_site, credentials="include", **options)
    told(page, "onStarted")
    assert len(service.active(viewer)) == 1
    page.evaluate("window.playing.stop()")
    wait_until_free(service, viewer)
    start(page, url=other_site, credentials="include", **options)
    page.wait_for_function("window.told.filter(([name]) => name === 'onStarted').length === 2")
    page.close()
    wait_until_free(service, viewer)


def test_a_browser_that_crashed_takes_its_own_place_again(
    visit: Visit, site: str, service: Service
) -> None:
    page = visit.open(f"{site}/player", viewer="rosa")
    for device in ("TV", "Phone"):
        service.ask("POST", "/streams", "rosa", json={"device": device})
    start(page, device="Laptop")
    told(page, "onStarted")
    page.evaluate("navigator.sendBeacon = () => true")  # As a crash: no last word.
    again = page.context.new_page()
    page.close()
    assert len(service.active("rosa")) == 3
    again.goto(f"{site}/player")
    start(again, device="Laptop", replace=["same-device", "stalest"])
    told(again, "onStarted")
    assert {one["device"] for one in service.active("rosa")} == {"TV", "Phone", "Laptop"}


def test_a_page_that_comes_back_from_the_cache_plays_on(
    playwright: Playwright, site: str, service: Service
) -> None:
    browser = launch(playwright, ignore_default_args=["--disable-back-forward-cache"])
    try:
        page = Visit(browser).open(f"{site}/player", viewer="sara")
        start(page)
        [stream] = told(page, "onStarted")
        page.goto(f"{site}/login")
        wait_until_free(service, "sara")
        page.go_back(wait_until="commit")  # A page from the cache is not loaded again.
        [again] = told(page, "onResumed")
        # It is the page of before, not a new one.
        assert told(page, "onStarted") == [stream]
        assert [one["stream_id"] for one in service.active("sara")] == [again["stream_id"]]
    finally:
        browser.close()


def test_a_device_that_sleeps_past_its_lease_goes_on_in_a_new_stream(
    playwright: Playwright, hasty_site: str, hasty_service: Service
) -> None:
    # A browser of its own: all its processes are stopped, as those of a sleeping device are.
    others = set(_browser_processes())
    browser = launch(playwright)
    try:
        processes = set(_browser_processes()) - others
        page = Visit(browser).open(f"{hasty_site}/player", viewer="lena")
        processes |= set(_browser_processes()) - others
        start(page)
        [lost] = told(page, "onStarted")
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            wait_until_free(hasty_service, "lena")  # only the lease can end it
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        [stream] = told(page, "onResumed")
        assert stream["stream_id"] != lost["stream_id"]
        assert [one["stream_id"] for one in hasty_service.active("lena")] == [stream["stream_id"]]
        assert page.evaluate("window.playing.state") == "playing"
    finally:
        browser.close()


def _browser_processes() -> Iterator[int]:
    """Chromium's processes that descend from this one."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        number, _, name = before.partition(" (")
        parents[int(number)], names[int(number)] = int(after.split()[1]), name
    for pid, name in names.items():
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and "chrom" in name:
            yield pid
