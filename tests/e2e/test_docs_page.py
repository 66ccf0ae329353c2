"""The landing page, the API page and the guides: somebody who tries them finds out what it does."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.e2e.conftest import Service, Visit

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

# Of Swagger UI's own markup: a button within a button, a nameless table and text without landmark.
_SWAGGERS = {"nested-interactive", "landmark-unique", "region"}

_FOREIGN_COLOURS = """(() => {
  const page = getComputedStyle(document.documentElement);
  const probe = document.body.appendChild(document.createElement("i"));
  const own = ["--page", "--card", "--track", "--accent"].map((name) => {
    probe.style.backgroundColor = page.getPropertyValue(name);
    return getComputedStyle(probe).backgroundColor;
  });
  return [...document.querySelectorAll("#swagger-ui *:not(.opblock-summary-method)")]
    .map((one) => [one.className, getComputedStyle(one).backgroundColor])
    .filter(([, colour]) => ![...own, "rgba(0, 0, 0, 0)"].includes(colour));
})()"""
"""What of the reference stands on a colour that is none of the page's."""

_BUTTONS_ABOVE_CODE = """(() => {
  const boxes = (selector) => [...document.querySelectorAll(selector)]
    .filter((one) => one.checkVisibility()).map((one) => [one, one.getBoundingClientRect()]);
  return boxes("button, .copy-to-clipboard").flatMap(([button, a]) => boxes("pre")
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(() => button.outerHTML));
})()"""
"""The buttons that cover a piece of code, if only by a corner."""


def only_refusals(complaints: list[str]) -> bool:
    """Chromium itself complains of every 4xx; of nothing else may it."""
    return all("the server responded with a status of 409" in one for one in complaints)


def test_a_stream_is_started_on_the_page_and_the_fourth_is_refused(
    visit: Visit, service: Service, screenshot: Callable[[Page, str], None]
) -> None:
    page = visit.open(f"{service.url}/docs", viewport=DESK)
    operation = page.locator("#operations-Streams-startStream")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_placeholder("Session-Id").fill("reader")
    status = operation.locator(".live-responses-table td.response-col_status").last
    for count in range(1, 5):
        with page.expect_response("**/streams") as answered:
            operation.get_by_role("button", name="Execute").click()
        assert answered.value.status == (201 if count <= 3 else 409)
    expect(status).to_contain_text("409")
    expect(operation.locator(".live-responses-table")).to_contain_text("limit-reached")
    assert len(service.active("reader")) == 3
    assert only_refusals(visit.complaints)
    operation.locator(".live-responses-table").scroll_into_view_if_needed()
    screenshot(page, "docs-refused")


def test_the_quick_start_is_copied_into_a_shell_and_works(visit: Visit, service: Service) -> None:
    page = visit.open(
        f"{service.url}/docs", permissions=["clipboard-read", "clipboard-write"], viewport=DESK
    )
    commands = ""
    for step in ("Start a stream", "Send a heartbeat", "Meet a refusal", "Take a place", "Stop it"):
        page.get_by_role("button", name=f"Copy: {step}").click()
        expect(page.locator("#copied")).to_have_text("Copied.")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert service.url in copied
        commands += f"{copied}\necho; echo -- {step}\n"
    shell = subprocess.run(
        ["bash", "-euc", commands], capture_output=True, text=True, timeout=60, check=True
    )
    steps = re.split(r"^-- .*\n", shell.stdout, flags=re.MULTILINE)
    started, renewed, refused, replacing, stopped, _ = steps
    assert re.fullmatch(r"\d-\S{56}", started.strip())
    assert '"heartbeat_in"' in renewed
    assert "urn:stream-service:problem:limit-reached" in refused
    assert re.fullmatch(r"\d-\S{56}", replacing.strip())
    assert replacing != started
    assert stopped.strip() == "204"


def test_the_type_of_a_problem_leads_to_what_it_means(visit: Visit, service: Service) -> None:
    for _ in range(3):
        service.ask("POST", "/streams", "quinn")
    kind = service.ask("POST", "/streams", "quinn").json()["type"]
    page = visit.open(f"{service.url}/docs#{kind}", viewport=PHONE)
    expect(page.locator(".opblock").first).to_be_attached()
    expect(page.get_by_role("heading", name="Too many streams")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_api_page_is_its_own_and_can_be_read_on_a_phone(
    visit: Visit, service: Service, screenshot: Callable[[Page, str], None], scheme: str
) -> None:
    page = visit.open("about:blank", color_scheme=scheme, viewport=PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/docs")
    operation = page.locator("#operations-Streams-startStream")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_placeholder("Session-Id").fill(f"phone-{scheme}")
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text("201")
    assert asked
    assert all(url.startswith((service.url, "data:")) for url in asked)
    assert visit.complaints == []
    screenshot(page, f"docs-{scheme}-phone")
    assert page.evaluate(_FOREIGN_COLOURS) == []
    assert page.evaluate(_BUTTONS_ABOVE_CODE) == []
    found = Axe().run(page)
    others = {found["id"] for found in found.response["violations"]} - _SWAGGERS
    assert not others, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_token_is_asked_for_in_a_dialog_that_can_be_read(
    visit: Visit, service: Service, screenshot: Callable[[Page, str], None], scheme: str
) -> None:
    page = visit.open(f"{service.url}/docs", color_scheme=scheme, viewport=DESK)
    page.get_by_role("button", name="Authorize").click()
    expect(page.locator(".modal-ux")).to_be_visible()
    screenshot(page, f"docs-re-token-{scheme}")
    found = Axe().run(page, context=".modal-ux")
    others = {found["id"] for found in found.response["violations"]} - _SWAGGERS
    assert not others, found.generate_report()


@pytest.mark.parametrize(
    ("path", "scheme"), [("/", "light"), ("/", "dark"), ("/docs/integration", "light")]
)
def test_what_is_read_is_accessible_and_fits_a_phone(
    visit: Visit,
    service: Service,
    screenshot: Callable[[Page, str], None],
    path: str,
    scheme: str,
) -> None:
    page = visit.open(service.url + path, color_scheme=scheme, viewport=PHONE)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    screenshot(page, f"{path.rpartition('/')[2] or 'landing'}-{scheme}-phone")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert visit.complaints == []
