"""The console: what happens now, and one session's slots."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

    from tests.e2e.conftest import Service, Visit

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def open_console(visit: Visit, service: Service, session: str, **how: Any) -> Page:
    page = visit.open(f"{service.url}/console", **how)
    page.get_by_label("Session", exact=True).fill(session)
    expect(page.get_by_text("Store is up")).to_be_visible()
    return page


def slot(page: Page, number: int) -> Locator:
    return page.get_by_role("list", name="Slots of the session").get_by_role("listitem").nth(number)


def said(page: Page) -> Locator:
    return page.locator("#said")


def start(page: Page, device: str) -> None:
    page.get_by_label("Device", exact=True).fill(device)
    page.get_by_role("button", name="Start a stream").click()


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
    expect(page.locator("#problems")).to_contain_text("limit-reached")
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
    slot(page, 1).get_by_label("Beat by itself").check()
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
    page.get_by_role("button", name="Beat TV in slot 0").click()
    expect(said(page)).to_contain_text("This stream is over (stopped)")
    expect(slot(page, 0)).to_contain_text("Slot 0 is free")


def test_it_works_by_keyboard_alone(visit: Visit, service: Service) -> None:
    page = open_console(visit, service, "")
    page.keyboard.type("sam")
    page.keyboard.press("Enter")
    expect(said(page)).to_contain_text("0 of 3 streams are active")
    page.keyboard.press("Tab")  # Look
    page.keyboard.press("Tab")
    page.keyboard.type("Kitchen TV")
    page.keyboard.press("Tab")  # at the limit
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(slot(page, 0)).to_contain_text("Kitchen TV")
    expect(page.get_by_role("button", name="Start a stream")).to_be_focused()
    page.keyboard.press("Tab")
    expect(slot(page, 0).get_by_label("Beat by itself")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Stop Kitchen TV in slot 0")).to_be_focused()
    page.keyboard.press("Enter")
    expect(slot(page, 0)).to_be_focused()
    assert service.active("sam") == []


def test_figures_move_with_what_happens(visit: Visit, service: Service) -> None:
    page = open_console(visit, service, "tom")
    before = int(re.sub("[^0-9]", "", page.locator("#starts-all").inner_text()))
    fill(page)
    expect(page.locator("#starts-all")).to_contain_text(f"{before + 3} since")
    expect(page.locator("[data-series=starts] .line")).to_have_attribute("d", re.compile("L"))


def test_the_sessions_of_others_are_not_shown(visit: Visit, service: Service) -> None:
    session, device = "secret-session-of-ute", "Ute's TV"
    for _ in range(4):
        service.ask("POST", "/streams", session, json={"device": device})
    page = open_console(visit, service, "vera")
    expect(page.locator("#problems")).to_contain_text("limit-reached")
    seen = page.content() + json.dumps(service.ask("GET", "/console/state", "vera").json())
    assert session not in seen
    assert device not in seen


def test_a_service_that_goes_away_is_said_to_be_away(visit: Visit, service: Service) -> None:
    page = open_console(visit, service, "will")
    page.route("**/console/state", lambda route: route.abort())
    expect(page.get_by_text("The service gives no answer")).to_be_visible()
    page.unroute("**/console/state")
    expect(page.get_by_text("Store is up")).to_be_visible()


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
    expect(page.locator("#problems")).to_contain_text("limit-reached")
    screenshot(page, f"console-{scheme}-{where}")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
