"""The console: what is known of now, support for one account, and slots to try."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.support import processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Locator, Page, Route

    from tests.e2e.conftest import Service, Visit

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
UNKNOWN = "\N{EN DASH}"
TOKEN = "the-token-of-the-operators"


def open_console(visit: Visit, service: Service, session: str, **how: Any) -> Page:
    """The tab on which an account's slots can be tried."""
    page = visit.open(f"{service.url}/console", **how)
    expect(page.get_by_text("Database reachable")).to_be_visible()
    page.get_by_role("tab", name="Try it").click()
    page.get_by_label("Session-Id", exact=True).fill(session)
    return page


def slot(page: Page, number: int) -> Locator:
    return page.get_by_role("list", name="Slots of the account").get_by_role("listitem").nth(number)


def said(page: Page) -> Locator:
    return page.locator("#said")


def start(page: Page, device: str) -> None:
    page.get_by_label("Device", exact=True).fill(device)
    page.get_by_role("button", name="Start a stream").click()


def _key_of_a_start(page: Page) -> str:
    """The idempotency key of one start, which is answered when this returns."""
    with page.expect_response("**/streams") as answered:
        start(page, "TV")
    return answered.value.request.headers["idempotency-key"]


def fill(page: Page) -> None:
    for number, device in enumerate(("Living-room TV", "Phone", "Tablet")):
        start(page, device)
        expect(slot(page, number)).to_contain_text(device)


def test_slots_are_taken_refused_replaced_and_freed(visit: Visit, service: Service) -> None:
    page = open_console(visit, service, "olga")
    fill(page)
    start(page, "Laptop")
    expect(said(page)).to_contain_text("409")
    expect(said(page)).to_contain_text("already has 3 active streams")
    page.get_by_role("button", name="Replace Phone in slot 1").click()
    expect(slot(page, 1)).to_contain_text("Laptop")
    page.get_by_role("button", name="Stop Living-room TV in slot 0").click()
    expect(slot(page, 0)).to_contain_text("Slot 0 is free")
    assert {stream["device"] for stream in service.active("olga")} == {"Laptop", "Tablet"}
    assert all("status of 409" in complaint for complaint in visit.complaints)


def test_a_lease_is_seen_to_run_out_and_a_beating_one_goes_on(
    visit: Visit, hasty_service: Service
) -> None:
    page = open_console(visit, hasty_service, "paul")
    start(page, "Ghost")
    start(page, "Player")
    expect(slot(page, 1)).to_contain_text("Player")
    slot(page, 1).get_by_label("Auto-heartbeat").check()
    expect(slot(page, 0)).to_contain_text("Slot 0 is free", timeout=15_000)
    expect(said(page)).to_contain_text("ran out")
    start(page, "Next")
    expect(slot(page, 0)).to_contain_text("Next")
    expect(slot(page, 1)).to_contain_text("Player")
    assert visit.complaints == []


def test_streams_ended_elsewhere_are_noticed_by_the_next_beat(
    visit: Visit, service: Service
) -> None:
    page = open_console(visit, service, "rosa")
    start(page, "TV")
    expect(slot(page, 0)).to_contain_text("TV")
    [stream] = service.active("rosa")
    service.ask("DELETE", f"/streams/{stream['stream_id']}", "rosa")
    page.get_by_role("button", name="Heartbeat TV in slot 0").click()
    expect(said(page)).to_contain_text("This stream is over (stopped)")
    expect(slot(page, 0)).to_contain_text("Slot 0 is free")


def test_it_works_by_keyboard_alone(visit: Visit, service: Service) -> None:
    page = open_console(visit, service, "")
    page.get_by_role("tab", name="Try it").press("ArrowLeft")
    expect(page.get_by_role("tab", name="Support")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("sam")
    page.keyboard.press("Enter")
    expect(said(page)).to_contain_text("0 of 3 streams are active")
    page.keyboard.press("Tab")  # Load
    page.keyboard.press("Tab")
    page.keyboard.type("Kitchen TV")
    page.keyboard.press("Tab")  # at the limit
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(slot(page, 0)).to_contain_text("Kitchen TV")
    expect(page.get_by_role("button", name="Start a stream")).to_be_focused()
    page.keyboard.press("Tab")
    expect(slot(page, 0).get_by_label("Auto-heartbeat")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Stop Kitchen TV in slot 0")).to_be_focused()
    page.keyboard.press("Enter")
    expect(slot(page, 0)).to_be_focused()
    assert service.active("sam") == []


def test_figures_move_with_what_happens(visit: Visit, service: Service) -> None:
    page = visit.open(f"{service.url}/console")
    about = page.locator("#about")
    expect(about).to_contain_text("started")
    before = started(about)
    for _ in range(4):
        service.ask("POST", "/streams", "tom")
    expect(about).to_contain_text(f"{before + 3} started")
    chart = page.locator("[data-chart=refusals]")
    # One of these four, and of what else its sample of five seconds has.
    expect(chart.locator(".top")).to_contain_text(re.compile(r"max [1-9]"))
    expect(chart.locator(".line").first).to_have_attribute("d", re.compile("L"))


def started(about: Locator) -> int:
    found = re.search(r"([\d,]+) started", about.inner_text())
    assert found is not None
    return int(found[1].replace(",", ""))


def state_of(service: Service) -> Any:
    return service.ask("GET", "/console/state", "nobody").json()


def history(values: list[float | None], *, seconds_ago: int = 0) -> dict[str, Any]:
    """The last minutes, with these values for everything that may be unknown."""
    end = time.time() - seconds_ago
    known: dict[str, Any] = {
        "interval_seconds": 5,
        "window_seconds": 900,
        "at": [
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end - 5 * back))
            for back in reversed(range(len(values)))
        ],
        "database": [value is not None for value in values],
    }
    for name in ("starts", "heartbeats", "errors"):
        known[name] = [value or 0 for value in values]
    for name in ("refusal_ratio", "p50", "p99", "database_wait", "batch_size", "active"):
        known[name] = values
    return known


def test_a_chart_has_a_gap_where_nothing_is_known_and_tells_each_value(
    visit: Visit, service: Service
) -> None:
    state = {**state_of(service), "history": history([10, 20, None, None, 40, 30])}
    page = visit.open("about:blank", viewport=DESK)
    page.route("**/console/state", lambda route: route.fulfill(json=state))
    page.goto(f"{service.url}/console")
    chart = page.locator("[data-chart=active]")
    expect(chart.locator(".figure")).to_have_text("30")
    expect(chart.locator(".top")).to_have_text("max 40")
    expect(chart.locator("path.line")).to_have_count(2)
    expect(chart.locator("rect.down")).to_have_count(2)
    # By keyboard, and all charts tell of the same moment.
    slider = page.get_by_role("slider", name="Active streams")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".figure")).to_have_text("40")
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".figure")).to_have_text(UNKNOWN)
    expect(slider).to_have_attribute("aria-valuetext", re.compile("not counted at "))
    page.keyboard.press("Home")
    expect(page.locator("[data-chart=batch-size] .figure")).to_have_text("10")
    expect(chart.locator(".when")).to_contain_text("at ")
    # By the pointer.
    box = chart.locator(".plot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * (1 - 20 / 30), box["y"] + 40)
    expect(chart.locator(".figure")).to_have_text("20")
    page.mouse.move(0, 0)
    expect(chart.locator(".figure")).to_have_text("30")
    assert visit.complaints == []


def test_charts_begin_with_the_process_and_say_figures_as_people_do(
    visit: Visit, service: Service
) -> None:
    state = {**state_of(service), "history": history([0.599, 0.04])}
    state["processes"][0]["clock"] = -0.04
    page = visit.open("about:blank", viewport=DESK)
    page.route("**/console/state", lambda route: route.fulfill(json=state))
    page.goto(f"{service.url}/console")
    starts = page.locator("[data-chart=starts]")
    expect(starts.locator(".top")).to_have_text("max 0.6 a second")
    # Of two values the first is half way, not at the far right of a quarter of an hour.
    drawn = starts.locator(".line").first.get_attribute("d") or ""
    assert 100 < float(drawn[1:].split(",")[0]) < 200
    expect(page.locator("#scope")).to_contain_text("this process only")
    expect(page.locator("#scope")).to_contain_text("Since the start at")
    expect(page.locator("#processes")).to_contain_text("clock as the database's")
    latency = page.locator("[data-chart=latency]")
    expect(latency.locator("h2 + .note")).to_have_text("to answer viewers, in the service")
    expect(latency.locator(".figure")).to_have_text(re.compile(r"p50\s40\sms\s+p99\s40\sms"))
    for line in (0, 1):
        key = "getComputedStyle(document.querySelector('.key-%d'), '::before').backgroundColor"
        drawn_in = (
            "getComputedStyle(document.querySelector('[data-chart=latency] .line-%d')).stroke"
        )
        assert page.evaluate(key % line) == page.evaluate(drawn_in % line)


def test_each_process_behind_one_port_is_shown_by_itself(visit: Visit, service: Service) -> None:
    real = state_of(service)
    states = [
        {**real, "process": name, "history": history([value])}
        for name, value in (("first", 11.0), ("second", 22.0))
    ]
    page = visit.open("about:blank")

    def one_after_the_other(route: Route) -> None:
        states.reverse()
        route.fulfill(json=states[1])

    page.route("**/console/state", one_after_the_other)
    page.goto(f"{service.url}/console")
    figure = page.locator("[data-chart=active] .figure")
    expect(page.get_by_label("Process")).to_be_visible()
    shown = page.get_by_label("Process").input_value()
    expect(figure).to_have_text({"first": "11", "second": "22"}[shown])
    other = {"first": "second", "second": "first"}[shown]
    page.get_by_label("Process").select_option(other)
    for _ in range(3):  # whichever answers
        expect(figure).to_have_text({"first": "11", "second": "22"}[other])
        with page.expect_response("**/console/state"):
            pass
        assert page.get_by_label("Process").input_value() == other
    expect(page.locator("#scope")).to_contain_text("this process only")


def test_an_outage_is_told_as_what_it_is(
    visit: Visit, tmp_path: Path, screenshot: Callable[[Page, str], None]
) -> None:
    arguments = ("--embedded", "--data-dir", str(tmp_path / "data"))
    with processes.Service(*arguments, LOG_LEVEL="WARNING", PORT="0") as service:
        url = "http://" + service_address(service)
        [database] = service.children
        desk = visit.open(f"{url}/console", viewport=DESK)
        phone = visit.open(f"{url}/console", viewport=PHONE, color_scheme="dark")
        for page in (desk, phone):
            expect(page.get_by_text("Database reachable")).to_be_visible()
            # Known, and nothing happened: no ratio, and no latency, but no starts.
            expect(page.locator("[data-chart=starts] .figure")).to_contain_text("0")
            expect(page.locator("[data-chart=refusals]")).to_contain_text("none decided")
            screenshot(page, f"console-idle-{'desk' if page is desk else 'phone'}")
        send(database, signal.SIGSTOP)
        for page in (desk, phone):
            expect(page.locator("#store")).to_contain_text(
                re.compile(r"Database unreachable since \d\d:\d\d:\d\d \(\d+ s\)")
            )
            expect(page.locator("rect.down").first).to_be_attached()
            expect(page.locator("[data-chart=active] .figure")).to_have_text(UNKNOWN)
            screenshot(page, f"console-database-away-{'desk' if page is desk else 'phone'}")
            assert Axe().run(page).violations_count == 0
        desk.get_by_role("tab", name="Try it").click()
        keys = [_key_of_a_start(desk) for _ in range(2)]
        expect(said(desk)).to_contain_text("Try again with the same Idempotency-Key")
        send(database, signal.SIGCONT)
        expect(desk.get_by_text("Database reachable")).to_be_visible()
        # Whatever became of the first two tries, there is one stream.
        keys.append(_key_of_a_start(desk))
        expect(said(desk)).to_contain_text("Slot 0 is taken")
        assert len(set(keys)) == 1
        assert _key_of_a_start(desk) not in keys
        expect(said(desk)).to_contain_text("Slot 1 is taken: 2 of 3")
    for page in (desk, phone):
        expect(page.locator("#store")).to_contain_text(
            re.compile(r"The service has not answered since \d\d:\d\d:\d\d")
        )
        expect(page.locator("html.stale")).to_be_attached()
        expect(page.locator("#as-of")).to_have_text(re.compile(r"as of \d\d:\d\d:\d\d"))
        screenshot(page, f"console-gone-{'desk' if page is desk else 'phone'}")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def service_address(service: processes.Service) -> str:
    deadline = time.monotonic() + processes.PATIENCE_SECONDS
    while not service.output:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return service.output[0].split("http://")[1].split()[0].rstrip(",")


def send(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


def test_support_sees_and_ends_the_streams_of_one_account(
    visit: Visit, tmp_path: Path, screenshot: Callable[[Page, str], None]
) -> None:
    account = "household-4711-of-the-support-test"
    arguments = ("--embedded", "--data-dir", str(tmp_path / "data"))
    viewer = {"Session-Id": account, "Authorization": f"Bearer {TOKEN}"}
    with processes.Service(
        *arguments, LOG_LEVEL="INFO", OPERATOR_TOKEN=TOKEN, STREAM_TTL_SECONDS="600"
    ) as service:
        leases = {}
        for device in ("Living-room TV", "Phone", "Tablet"):
            body = json.dumps({"device": device, "content": "Evening news"})
            headers = {**viewer, "Content-Type": "application/json"}
            status, started = service.ask("POST", "/streams", headers, body)
            assert status == 201
            leases[started["stream_id"]] = started["lease_id"]
        operator = {"username": "anybody", "password": TOKEN}
        page = visit.open(f"{service.url}/console", http_credentials=operator, viewport=DESK)
        page.get_by_role("tab", name="Support").click()
        page.get_by_label("Account (Session-Id)").fill(account)
        page.get_by_role("button", name="Look up").click()
        streams = page.get_by_role("list", name="Streams of the account").get_by_role("listitem")
        expect(streams).to_have_count(3)
        expect(streams.nth(1)).to_contain_text("Phone")
        expect(streams.nth(1)).to_contain_text("Evening news")
        expect(streams.nth(1)).to_contain_text("none since the start")
        for stream in service.ask("GET", "/streams", viewer)[1]["streams"]:
            # Another second than that of the start.
            while time.time() - _seconds(stream["started_at"]) < 1.2:
                time.sleep(0.1)
            service.ask("POST", f"/streams/{leases[stream['stream_id']]}/heartbeat", viewer)
        page.get_by_role("button", name="Look up").click()
        expect(streams.nth(1)).to_contain_text(
            re.compile(r"Last heartbeat\s*\d\d:\d\d:\d\d \(\d s ago\)")
        )
        screenshot(page, "console-support-desk")
        for answer, left in (("Cancel", 3), ("End it", 2)):
            page.get_by_role("button", name="End Phone").click()
            expect(page.get_by_role("dialog")).to_contain_text("End Phone?")
            page.get_by_role("button", name=answer).click()
            expect(page.get_by_role("dialog")).to_be_hidden()
            expect(streams).to_have_count(left)
        expect(page.locator("#account-said")).to_contain_text("Ended: Phone. 2 of 3 streams active")
        expect(page.locator("#account-said")).to_be_focused()
        page.get_by_role("button", name="End all streams").click()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.get_by_role("button", name="End all streams").click()
        assert service.ask("GET", "/streams", viewer)[1]["active"] == 2  # it asks first
        page.get_by_role("button", name="End all 2").click()
        expect(streams).to_have_count(0)
        expect(page.locator("#account-said")).to_contain_text("2 ended. Nothing is playing")
        assert service.ask("GET", "/streams", viewer)[1]["active"] == 0
        assert account not in page.url
        assert account not in page.evaluate("JSON.stringify([history.state, {...localStorage}])")
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_label("Account (Session-Id)")).to_have_value("")
        assert visit.complaints == []
        page.context.close()
    assert service.log
    assert account not in "".join(service.log)


def test_support_sees_under_which_limits_an_account_plays_and_how_its_last_streams_ended(
    visit: Visit, tmp_path: Path, screenshot: Callable[[Page, str], None]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        "[plans.default]\nstreams = 3\n[plans.basic]\nstreams = 2\n"
        '[plans.basic.limits.uhd]\nwhen = { quality = "uhd" }\nstreams = 1\n'
        '[plans.basic.limits.same-title]\neach = "title"\nstreams = 1\n'
    )
    basic = {"Session-Id": "zoe", "Stream-Plan": "basic", "Content-Type": "application/json"}

    def start(device: str, title: str, quality: str, **more: str) -> Any:
        attributes = {"Stream-Attributes": f'quality={quality}, title="{title}"'}
        body = json.dumps({"device": device, "content": title.title(), **more})
        headers = {**basic, **attributes, "Idempotency-Key": device}
        return service.ask("POST", "/streams", headers, body)

    arguments = ("--embedded", "--data-dir", str(tmp_path / "data"))
    with processes.Service(
        *arguments, POLICY_FILE=str(policy), STREAM_TTL_SECONDS="600"
    ) as service:
        _, radio = start("Radio", "the-hour", "sd")
        service.ask("DELETE", f"/streams/{radio['lease_id']}", {})
        start("Old phone", "tea-time", "sd")
        start("TV", "deep-sea", "uhd", platform="tizen 7.0")
        start("Phone", "evening-news", "sd", replace="oldest")
        assert start("Laptop", "ballroom", "sd")[0] == 409
        pages = []
        for scheme in ("light", "dark"):
            for where, viewport in (("desk", DESK), ("phone", PHONE)):
                page = visit.open(
                    f"{service.url}/console#support", color_scheme=scheme, viewport=viewport
                )
                pages.append((page, f"{scheme}-{where}"))
        for page, name in pages:
            page.get_by_label("Account (Session-Id)").fill("zoe")
            page.get_by_role("button", name="Look up").click()
            # Its own limit, though the console knows no plan.
            expect(page.locator("#account-said")).to_contain_text(
                "2 of 2 streams (plan basic) active at "
            )
            playing = page.locator("#account-streams li")
            expect(playing).to_have_count(2)
            tv = playing.filter(has_text="Deep-Sea")
            expect(tv).to_contain_text("tizen 7.0")
            expect(tv).to_contain_text("all streams (2), same-title, uhd")
            ends = page.locator("#account-ends li")
            expect(ends).to_have_count(2)
            expect(ends.first).to_contain_text("Replaced")
            expect(ends.last).to_contain_text("Stopped")
            expect(page.locator("#account-memory")).to_contain_text("Refusals are not stored")
            looks_right(page, screenshot, f"support-{name}")
            page.get_by_role("button", name="End TV").click()
            looks_right(page, screenshot, f"support-asks-{name}")
            page.get_by_role("button", name="Cancel").click()
        # What a slot still holds is told by name.
        page.get_by_role("button", name="End TV").click()
        page.get_by_role("button", name="End it").click()
        expect(ends.first).to_contain_text(re.compile(r"Stopped\s*TV: Deep-Sea, tizen 7.0\s*at "))
        for page, name in pages:
            page.get_by_label("Account (Session-Id)").fill("nobody")
            page.get_by_role("button", name="Look up").click()
            expect(page.locator("#account-said")).to_contain_text(
                re.compile(
                    r"Nothing is playing at .* 3 streams \(plan default\). That is the default"
                )
            )
            looks_right(page, screenshot, f"support-nothing-{name}")
        [database] = service.children
        send(database, signal.SIGSTOP)
        for page, name in pages:
            page.get_by_role("button", name="Look up").click()
            expect(page.locator("#account-said")).to_contain_text("The database is unreachable")
            expect(page.locator("#account-found")).to_be_hidden()
            expect(page.locator("#store")).to_contain_text("Database unreachable since")
            looks_right(page, screenshot, f"support-database-away-{name}")
        send(database, signal.SIGCONT)


def looks_right(page: Page, screenshot: Callable[[Page, str], None], name: str) -> None:
    """Keep a picture, and see that the page is accessible and fits."""
    screenshot(page, name)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width = page.viewport_size
    assert width is not None
    assert page.evaluate("document.documentElement.scrollWidth") <= width["width"]
    assert cut_off(page) == []


def test_the_list_is_of_the_account_that_it_was_asked_for(visit: Visit, service: Service) -> None:
    for account, devices in {"anna": 2, "bert": 3}.items():
        for number in range(devices):
            service.ask("POST", "/streams", account, json={"device": f"{account} {number}"})
    page = visit.open(f"{service.url}/console")
    page.get_by_role("tab", name="Support").click()
    streams = page.get_by_role("list", name="Streams of the account").get_by_role("listitem")
    held: list[Route] = []

    def slow(route: Route) -> None:
        if route.request.headers["session-id"] == "bert":
            held.append(route)
        else:
            route.continue_()

    def look_up(account: str) -> None:
        page.get_by_label("Account (Session-Id)").fill(account)
        page.get_by_role("button", name="Look up").click()

    look_up("anna")
    expect(streams).to_have_count(2)
    page.route("**/console/account", slow)
    with page.expect_request("**/console/account"):
        look_up("bert")
    expect(page.get_by_role("button", name="End all streams")).to_be_hidden()
    expect(streams).to_have_count(0)
    # And the other way round: bert's answer comes once anna's is there.
    look_up("anna")
    expect(streams).to_have_count(2)
    with page.expect_response("**/console/account"):
        held[0].continue_()
    page.get_by_role("button", name="End all streams").click()
    page.get_by_role("button", name="End all 2").click()
    expect(page.locator("#account-said")).to_contain_text("2 ended")
    assert len(service.active("bert")) == 3
    assert service.active("anna") == []


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_the_sessions_of_others_are_not_shown(visit: Visit, service: Service) -> None:
    session, device = "secret-session-of-ute", "Ute's TV"
    for _ in range(4):
        service.ask("POST", "/streams", session, json={"device": device})
    page = visit.open(f"{service.url}/console")
    expect(page.locator("#problems")).to_contain_text("limit-reached")
    seen = page.content() + json.dumps(service.ask("GET", "/console/state", "vera").json())
    assert session not in seen
    assert device not in seen


def test_a_fault_stands_above_a_refusal(visit: Visit, service: Service) -> None:
    for _ in range(4):
        service.ask("POST", "/streams", "will")
    state = state_of(service)
    fault = {**state["problems"][0], "severity": "fault", "status": 503, "kind": "unavailable"}
    state["problems"] = [fault, *state["problems"]]
    page = visit.open("about:blank")
    page.route("**/console/state", lambda route: route.fulfill(json=state))
    page.goto(f"{service.url}/console")
    first = page.locator("#problems li").first
    expect(first).to_contain_text("Fault")
    expect(first).to_contain_text(re.compile(r"last minute \d+ · last hour \d+"))
    page.get_by_role("link", name="503 unavailable").click()
    expect(page.locator("[id='urn:stream-service:problem:unavailable']")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_it_is_accessible_and_fits(
    visit: Visit,
    service: Service,
    screenshot: Callable[[Page, str], None],
    scheme: str,
    viewport: dict[str, int],
) -> None:
    where = "desk" if viewport is DESK else "phone"
    page = open_console(
        visit, service, f"xenia-{scheme}-{where}", color_scheme=scheme, viewport=viewport
    )
    fill(page)
    start(page, "Laptop")
    expect(said(page)).to_contain_text("409")
    page.get_by_role("button", name="Stop Tablet in slot 2").click()
    expect(slot(page, 2)).to_contain_text("is free")
    account = page.get_by_label("Session-Id", exact=True).input_value()
    for name in ("Try it", "Support", "Overview"):
        page.get_by_role("tab", name=name).click()
        if name == "Support":
            page.get_by_label("Account (Session-Id)").fill(account)
            page.get_by_role("button", name="Look up").click()
            expect(page.locator("#account-streams li")).to_have_count(2)
        if name == "Overview":
            expect(page.locator("#problems")).to_contain_text("limit-reached")
            expect(page.locator("[data-chart=latency] .figure")).to_contain_text("p99")
        screenshot(page, f"console-{name.split()[0].lower()}-{scheme}-{where}")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert cut_off(page) == []


def cut_off(page: Page) -> list[str]:
    """Texts that are wider than their boxes."""
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll("main *, header *")]
            .filter((one) => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1
                && getComputedStyle(one).display !== "inline" && one.tagName !== "INPUT")
            .map((one) => `${one.tagName}.${one.className}: ${one.textContent.slice(0, 40)}`)"""
    )
    return found
