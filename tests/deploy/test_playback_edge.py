"""The check of playback tokens for a CDN's edge, in Node, by the keys that a service publishes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.playback import KINDS, write_key
from tests.support.processes import ROOT, Service

if TYPE_CHECKING:
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
