"""The six queries of examples/events, on the events of a load whose truth is known."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import pytest

from examples.events.__main__ import QUESTIONS, answer, connect, draw
from stream_service.api.digests import Digests
from tests.support.processes import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duckdb import DuckDBPyConnection
    from pymongo import MongoClient

POLICY = """
[plans.default]
streams = 3
[plans.default.limits.uhd]
when = { quality = "uhd" }
streams = 1
[plans.small]
streams = 1
"""
WEB, TV = "web 3.4.1", "tizen 4"


@pytest.fixture(scope="module")
def answers(
    mongo_url: str, mongo: MongoClient[Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DuckDBPyConnection]:
    """One account fills its plan and is refused twice more, one a limit by attribute and one plan.

    Of the web's streams all are stopped, of the television's all expire.
    """
    folder = tmp_path_factory.mktemp("events")
    name = f"stream_service_test_{secrets.token_hex(6)}"
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    with Service(
        MONGO_URL=mongo_url,
        MONGO_DB=name,
        EVENTS="1",
        POLICY_FILE=str(policy),
        STREAM_TTL_SECONDS="5",
    ) as service:

        def start(account: str, platform: str, status: int = 201, **headers: str) -> dict[str, Any]:
            told = {"Session-Id": account} | {k.replace("_", "-"): v for k, v in headers.items()}
            body = json.dumps({"platform": platform})
            stream: dict[str, Any]
            answered, stream = service.ask("POST", "/streams", told, body)
            assert answered == status
            return stream

        web = [start("family", WEB) for _ in range(3)]
        start("family", WEB, 409)
        start("family", TV, 409)
        web.append(start("couple", WEB, Stream_Attributes="quality=uhd"))
        start("couple", WEB, 409, Stream_Attributes="quality=uhd")
        televisions = [start("couple", TV)]
        web.append(start("single", WEB, Stream_Plan="small"))
        start("single", WEB, 409, Stream_Plan="small")
        for stream in web:
            assert service.ask("POST", f"/streams/{stream['lease_id']}/stop")[0] == 204
        deadline = time.monotonic() + 60
        while service.ask("GET", "/streams", {"Session-Id": "couple"})[1]["active"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for stream in televisions:
            assert service.ask("POST", f"/streams/{stream['lease_id']}/heartbeat")[0] == 410
        service.process.terminate()
        assert service.status() == 0
    events = folder / "stream-service.events"
    events.write_text("".join(f"{line}\n" for line in service.output))
    yield connect(str(events))
    mongo.drop_database(name)


def test_peaks_of_concurrent_streams(answers: DuckDBPyConnection) -> None:
    assert answer(answers, "peaks") == [{"peak": n, "accounts": 1} for n in (1, 2, 3)]


def test_refusals_by_plan_limit_and_hour(answers: DuckDBPyConnection) -> None:
    counts: dict[tuple[str, str], int] = {}
    for row in answer(answers, "refusals"):  # Of two hours, if one ended meanwhile.
        assert (row["hour"].minute, row["hour"].second) == (0, 0)
        of = row["plan"], row["refused_by"]
        counts[of] = counts.get(of, 0) + row["refusals"]
    assert counts == {("default", "streams"): 2, ("default", "uhd"): 1, ("small", "streams"): 1}


def test_which_platform_expires(answers: DuckDBPyConnection) -> None:
    assert answer(answers, "expired") == [
        {"platform": TV, "ends": 1, "expired_share": 1.0},
        {"platform": WEB, "ends": 5, "expired_share": 0.0},
    ]


def test_accounts_with_the_most_refusals(answers: DuckDBPyConnection) -> None:
    digest = Digests()
    rows = answer(answers, "accounts")
    assert (rows[0]["account"], rows[0]["refusals"], rows[0]["limit"]) == (digest("family"), 2, 3)
    assert {row["account"]: row["refusals"] for row in rows[1:]} == {
        digest("couple"): 1,
        digest("single"): 1,
    }


def test_what_another_limit_would_have_refused(answers: DuckDBPyConnection) -> None:
    # Ten starts: the family's asked for the 1st, 2nd, 3rd, 4th and 4th stream, the couple's for the
    # 1st, 2nd and 2nd, the single one's for the 1st and 2nd.
    assert answer(answers, "other_limits") == [
        {"limit": 1, "by_active_at_start": 0.7, "played_again": 0.7},
        {"limit": 2, "by_active_at_start": 0.3, "played_again": 0.3},
        {"limit": 3, "by_active_at_start": 0.2, "played_again": 0.2},
    ]


def test_how_long_streams_played(answers: DuckDBPyConnection) -> None:
    lengths = {row["platform"]: row for row in answer(answers, "lengths")}
    assert {platform: row["streams"] for platform, row in lengths.items()} == {WEB: 5, TV: 1}
    # It had no heartbeat: its lease, which nobody used, is no play.
    assert lengths[TV]["median"] == 0.0


def test_the_answers_are_drawn(answers: DuckDBPyConnection, tmp_path: Path) -> None:
    draw(answers, tmp_path / "answers.svg")
    picture = (tmp_path / "answers.svg").read_text()
    for title, *_ in QUESTIONS.values():
        assert title in picture


def test_a_line_that_came_twice_counts_once_and_a_torn_one_not_at_all(tmp_path: Path) -> None:
    line = json.dumps(
        {
            "id": "r",
            "type": "stream.refused",
            "time": "2026-11-26T20:00:00.000000Z",
            "data": {"account": "a", "active": 3, "limit": 3},
        }
    )
    events = tmp_path / "events"
    events.write_text(f'{line}\n{{"specversion":"1.0","type":"stream.ref\n{line}\n')
    [row] = answer(connect(str(events)), "accounts")
    assert row["refusals"] == 1


def test_what_plays_again_counts_a_stream_until_its_end_alone(tmp_path: Path) -> None:
    lines = []
    for second, kind, stream in (
        (1, "started", "0-a"),
        (2, "ended", "0-a"),
        (3, "started", "0-b"),
        (4, "started", "1-c"),
        (5, "ended", "0-b"),
        (6, "started", "0-d"),
    ):
        data = {"account": "a", "stream_id": stream, "active": 1 + (second in (4, 6)), "limit": 2}
        when = f"2026-11-26T20:00:0{second}.000000Z"
        lines.append(
            json.dumps({"id": str(second), "type": f"stream.{kind}", "time": when, "data": data})
        )
    events = tmp_path / "events"
    events.write_text("\n".join(lines) + "\n")
    # With one stream at a time 1-c is refused, so 0-d is not: it was by what was active then.
    assert answer(connect(str(events)), "other_limits") == [
        {"limit": 1, "by_active_at_start": 0.5, "played_again": 0.25}
    ]
