"""The documentation page: somebody who tries the service on it finds out what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.e2e.conftest import Service, Visit

PHONE = {"width": 390, "height": 844}


def only_refusals(complaints: list[str]) -> bool:
    """Chromium itself complains of every 4xx; of nothing else may it."""
    return all("the server responded with a status of 409" in one for one in complaints)


def test_a_stream_is_started_on_the_page_and_the_fourth_is_refused(
    visit: Visit, service: Service, screenshot: Callable[[Page, str], None]
) -> None:
    page = visit.open(f"{service.url}/docs", viewport={"width": 1280, "height": 900})
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_from_this_service_alone_and_without_complaint(
    visit: Visit, service: Service, screenshot: Callable[[Page, str], None], scheme: str
) -> None:
    page = visit.open("about:blank", color_scheme=scheme, viewport=PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    expect(page.get_by_role("link", name="Console", exact=True)).to_be_visible()
    assert asked
    assert all(url.startswith((service.url, "data:")) for url in asked)
    assert visit.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(page, f"docs-{scheme}-phone")
