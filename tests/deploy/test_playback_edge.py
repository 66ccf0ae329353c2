"""The check of playback tokens for a CDN's edge, in Node, by the keys that a service publishes."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.api.playback_tokens import PlaybackTokens
from stream_service.limiter import Renewed
from tests.support.playback import KINDS, write_key
from tests.support.processes import ROOT, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EDGE = ROOT / "deploy" / "playback-edge.mjs"
PROGRAM = f"""
import {{ playbackCheck }} from {json.dumps(EDGE.as_uri())};
const [url, audience, ...checks] = process.argv.slice(1);
const check = playbackCheck(url, audience || undefined);
const said = [];
for (const [token, content] of checks.map((text) => JSON.parse(text)))
  said.push(await check(token, content).then(
    (claims) => claims.sub,
    (error) => `refused: ${{error.message}}`,
  ));
console.log(JSON.stringify(said));
"""


def _checked(url: str, audience: str, *checks: tuple[str, str | None]) -> list[str]:
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", PROGRAM, url, audience]
        + [
            json.dumps([token] if content is None else [token, content])
            for token, content in checks
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said: list[str] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("audience", ["", "cdn"])
def test_an_edge_takes_the_tokens_of_the_service_and_no_others(
    mongo_url: str, database: str, tmp_path: Path, kind: str, audience: str
) -> None:
    variables: dict[str, Any] = {
        "MONGO_URL": mongo_url,
        "MONGO_DB": database,
        "PLAYBACK_AUDIENCE": audience,
    }
    variables["PLAYBACK_KEYS"] = str(write_key(tmp_path / "key.pem", kind))
    variables["STREAM_TTL_SECONDS"] = "300"
    with Service(**variables) as service:
        body = json.dumps({"content": "film-42"})
        started = service.ask("POST", "/streams", {"Session-Id": "me"}, body)[1]
        token, stream_id = started["playback_token"], started["stream_id"]
        head, claims, signature = token.split(".")
        keys = f"{service.url}/.well-known/jwks.json"
        none = "eyJhbGciOiJub25lIn0"
        assert _checked(
            keys,
            audience,
            (token, "film-42"),
            (token, None),
            (token, "film-7"),
            (f"{head}.{claims}.{signature[::-1]}", None),
            (f"{none}.{claims}.{signature}", None),
            (f"{head}.{claims}", None),
        ) == [
            stream_id,
            stream_id,
            "refused: another content",
            "refused: forged",
            "refused: unknown key",
            "refused: no token",
        ]
        assert _checked(keys, "another", (token, None)) == ["refused: not for us"]


def test_an_edge_refuses_a_token_whose_lease_is_over(
    mongo_url: str, database: str, tmp_path: Path
) -> None:
    key = str(write_key(tmp_path / "key.pem"))
    with Service(
        MONGO_URL=mongo_url, MONGO_DB=database, PLAYBACK_KEYS=key, STREAM_TTL_SECONDS="5"
    ) as service:
        token = service.ask("POST", "/streams", {"Session-Id": "me"})[1]["playback_token"]
        keys = f"{service.url}/.well-known/jwks.json"
        # Until it is refused, it is asked again.
        while (said := _checked(keys, "", (token, None))) != ["refused: over"]:
            assert said[0].startswith("0-")


# Reads from each line how many checks of which token to make at once,
# and how far to set the clock forward first.
INTERACTIVE = f"""
import {{ CannotTellError, playbackCheck }} from {json.dumps(EDGE.as_uri())};
import {{ createInterface }} from "node:readline";
const check = playbackCheck(process.argv[1]);
const now = Date.now;
let ahead = 0;
Date.now = () => now() + ahead;
for await (const line of createInterface({{ input: process.stdin }})) {{
  const {{ token, count, forward }} = JSON.parse(line);
  ahead += forward * 1000;
  const began = performance.now();
  const said = await Promise.all(Array.from({{ length: count }}, () => check(token).then(
    () => "good",
    (error) => error instanceof CannotTellError ? "cannot tell" : `refused: ${{error.message}}`,
  )));
  console.log(JSON.stringify([[...new Set(said)], (performance.now() - began) / 1000]));
}}
"""


class _Keys(BaseHTTPRequestHandler):
    """Serves the keys, or fails, or hangs, as its server is told to."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked += 1
        if server.mode == "hangs":
            server.over.wait(60)
        self.send_response(200 if server.mode == "serves" else 500)
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _edge(published: dict[str, Any]) -> Iterator[tuple[Any, Callable[..., tuple[str, float]]]]:
    """A server of these keys, and an edge that asks it: `say(token, count, forward)`."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Keys)
    server.mode, server.asked, server.over = "serves", 0, threading.Event()
    server.body = json.dumps(published).encode()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with subprocess.Popen(
        ["node", "--input-type=module", "--eval", INTERACTIVE, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        stdin, stdout = node.stdin, node.stdout
        assert stdin
        assert stdout

        def say(token: str, count: int = 1, forward: int = 0) -> tuple[str, float]:
            asked = {"token": token, "count": count, "forward": forward}
            print(json.dumps(asked), file=stdin, flush=True)
            [said], took = json.loads(stdout.readline())
            return said, took

        try:
            yield server, say
        finally:
            stdin.close()
            server.over.set()
            server.shutdown()
            thread.join()
            server.server_close()


def _tokens(folder: Path, kind: str = "p256") -> tuple[PlaybackTokens, str]:
    """Keys made anew, and a token of theirs that is good for an hour."""
    folder.mkdir(exist_ok=True)
    tokens = PlaybackTokens.load(
        [write_key(folder / "key.pem", kind)], None, lambda: datetime.now(UTC)
    )
    end = datetime.now(UTC) + timedelta(hours=1)
    return tokens, tokens.issue(Renewed("0" * 64, f"0-{'A' * 22}", end, None))


def test_kept_keys_serve_while_their_address_fails_or_hangs(tmp_path: Path) -> None:
    tokens, token = _tokens(tmp_path)
    with _edge(tokens.published()) as (server, say):
        assert say(token)[0] == "good"
        for mode in ("fails", "hangs"):
            server.mode = mode
            said, took = say(token, count=200, forward=400)
            assert said == "good"
            # The deadline; 15 s without it, or more.
            assert took < 10
        assert server.asked == 3


def test_without_the_keys_an_edge_says_that_it_cannot_tell_and_not_that_a_token_is_forged(
    tmp_path: Path,
) -> None:
    tokens, token = _tokens(tmp_path)
    with _edge(tokens.published()) as (server, say):
        server.mode = "fails"
        assert say(token)[0] == "cannot tell"
        assert say("a.b")[0] == "refused: no token"
        server.mode = "serves"
        assert say(token, forward=11)[0] == "good"
        # A key that is newer than the kept ones, while they cannot be had.
        server.mode = "fails"
        assert say(_tokens(tmp_path / "other")[1], forward=11)[0] == "cannot tell"
        assert say(token)[0] == "good"


def test_many_checks_at_once_make_one_fetch_and_unknown_keys_one_in_ten_seconds(
    tmp_path: Path,
) -> None:
    tokens, token = _tokens(tmp_path)
    _, strange = _tokens(tmp_path / "other")
    with _edge(tokens.published()) as (server, say):
        assert say(token, count=500)[0] == "good"
        assert server.asked == 1
        for _ in range(3):
            assert say(strange, count=100)[0] == "refused: unknown key"
        assert server.asked == 1
        assert say(strange, count=100, forward=11)[0] == "refused: unknown key"
        assert server.asked == 2


def test_of_the_two_signatures_of_a_token_an_edge_takes_the_services_own(tmp_path: Path) -> None:
    tokens, token = _tokens(tmp_path)
    signed, _, signature = token.rpartition(".")
    pair = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    high = pair[:32] + (order - int.from_bytes(pair[32:])).to_bytes(32)
    twin = f"{signed}.{base64.urlsafe_b64encode(high).decode().rstrip('=')}"
    with _edge(tokens.published()) as (_, say):
        assert say(token)[0] == "good"
        assert say(twin)[0] == "refused: forged"
