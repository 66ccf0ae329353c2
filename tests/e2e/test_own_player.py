"""Chromium's own player, which is told an address and nothing more, holds a stream by playing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from demo.film import make_film
from tests.e2e.conftest import launch
from tests.support.gateway import running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page, Playwright

LEASE_SECONDS = 6
FILM_SECONDS = 120


def _film_time(page: Page) -> float:
    at: float = page.evaluate("document.querySelector('video').currentTime")
    return at


def test_chromiums_own_player_plays_three_leases_without_a_heartbeat_and_ends_once_replaced(
    tmp_path: Path, mongo_url: str, playwright: Playwright
) -> None:
    make_film(tmp_path / "film" / "film-1", FILM_SECONDS)
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text(
        "<!doctype html><title>Own</title><video muted playsinline></video>"
    )
    with running_gateway(
        tmp_path, mongo_url, lease_seconds=LEASE_SECONDS, services=1, pages=pages
    ) as gateway:
        login = gateway.login()

        def start(body: bytes) -> tuple[str, str]:
            json = {"Content-Type": "application/json"}
            answer = gateway.ask("POST", "/streams", login=login, headers=json, body=body)
            assert answer.status == 201
            film = f"/film/{answer.body['playback_token']}/media_0.m3u8"
            return film, answer.body["stream_id"]

        film, stream_id = start(b'{"content":"film-1"}')
        browser = launch(playwright)
        try:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{gateway.port}/")
            page.evaluate(
                "(film) => { const v = document.querySelector('video'); v.src = film; v.play(); }",
                film,
            )
            began = time.monotonic()
            page.wait_for_function(
                f"document.querySelector('video').currentTime > {3 * LEASE_SECONDS}", timeout=90_000
            )
            assert time.monotonic() - began > 2 * LEASE_SECONDS
            assert gateway.ask("GET", "/streams", login=login).body["active"] == 1
            start(f'{{"content":"film-1","replace":"{stream_id}"}}'.encode())
            # What is buffered is still shown, then the picture stands.
            page.evaluate("window.seen = { at: -1, since: 0 }")
            page.wait_for_function(
                """() => {
                  const at = document.querySelector('video').currentTime;
                  const now = performance.now();
                  if (at !== seen.at) seen = { at, since: now };
                  return now - seen.since > 3000;
                }""",
                timeout=90_000,
                polling=200,
            )
            assert _film_time(page) < FILM_SECONDS - 10
        finally:
            browser.close()
        log = (tmp_path / "nginx" / "access.log").read_text()
        assert "heartbeat" not in log
