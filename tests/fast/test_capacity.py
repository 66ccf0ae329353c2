"""`python -m bench.capacity`: it measures what the service writes, and reckons rightly with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import bson
import pytest

from bench.capacity import Asked, Measured, by_depth, by_line, main, measure, needs, table
from bench.engines import MONGO, Engine, MadeUp, documents_of
from stream_service.streams import utc_now
from tests.support.http_api import open_api
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

ENTRIES = {
    "renewals": 0,
    "renewals past a step": 2,
    "starts": 4,
    "stops": 1,
    "deletions": 3,
}


def of(streams: int, *, fixed: int = 0, cpu: float = 100) -> Measured:
    """A database that takes 500 bytes of data for each stream, and 50 for each place."""
    sizes = {"data": fixed + 500 * streams, "index places": 50 * streams}
    return Measured(streams, sizes, {"CPU us, renewals": cpu}, ENTRIES)


def figures(*measured: Measured, **asked: float) -> dict[str, str]:
    return {name: figure for name, figure, _ in needs(measured, Asked(**asked))}


async def test_it_fills_with_documents_as_a_start_leaves_them(
    aiohttp_client: AiohttpClient, wire_store: MongoStore, mongo: MongoClient[Any], database: str
) -> None:
    api = await open_api(aiohttp_client, wire_store)
    filled = documents_of([MadeUp("word", utc_now(), utc_now()).stream(1)])[0]
    labels = {name: filled[name] for name in ("device", "content", "platform")}
    started = await api.start(key="an idempotency key", device_id="a device", **labels)
    assert started.status == 201

    written = mongo[database]["streams"].find_one()

    assert written is not None
    assert set(written) == set(filled)
    assert len(bson.encode(written)) == len(bson.encode(filled))


async def test_it_measures_bytes_and_index_entries_at_each_number_of_streams(
    mongo: MongoClient[Any], mongo_url: str, database: str
) -> None:
    said: list[str] = []

    found = await measure(Engine("", mongo_url, ()), database, [150, 300], said.append)

    assert [one.streams for one in found] == [150, 300]
    assert [one.entries for one in found] == [ENTRIES, ENTRIES]
    each = bson.encode(mongo[database]["streams"].find_one() or {})
    assert found[1].sizes["data"] == 300 * len(each)
    assert all(cost > 0 for one in found for cost in one.costs.values())
    assert mongo[database]["streams"].count_documents({}) == 300
    assert "300 of 300 streams, 0.0 min left" in said


def test_a_line_and_the_depth_of_a_tree_foretell_what_follows_them() -> None:
    assert by_line([(100, 1000)], 200) == 2000
    assert by_line([(100, 1100), (200, 2100)], 1000) == 10_100
    assert by_depth([(100, 7)], 1000) == 7
    assert by_depth([(100, 7), (1000, 8)], 100_000) == pytest.approx(10)


def test_the_last_column_tells_how_wrong_the_smaller_numbers_are() -> None:
    lines = table([of(100), of(1000, cpu=110), of(10_000, fixed=500_000, cpu=100)])
    assert [line.split()[-1] for line in lines[:4]] == ["predicted", "-9.1%", "+0.0%", "+20.0%"]


def test_a_single_number_predicts_nothing() -> None:
    assert table([of(1000)])[1].split() == ["data", "500,000"]


def test_each_stream_beats_three_times_in_a_lease() -> None:
    assert figures(of(1000))["heartbeats a second"] == "50,000"
    assert figures(of(1000), lease=120)["heartbeats a second"] == "25,000"


def test_those_that_ended_are_documents_for_sixteen_minutes_and_hold_no_place() -> None:
    found = figures(of(1000), streams=2_700_000)
    assert found["starts, stops a second"] == "1,000"
    assert found["documents"] == "3,660,000"
    assert found["data"] == "1.83 GB"
    assert found["index places"] == "0.14 GB"
    assert found["working set"] == "1.49 GB", "documents of active streams, all indexes"


def test_a_life_updates_at_each_heartbeat_and_twice_beside() -> None:
    found = figures(of(1000), streams=2_700_000)
    assert found["updates a second"] == "137,000"
    # Of thirty heartbeats one moves an entry. A start makes four, which stop and deletion remove.
    assert found["index entries a second"] == "17,000"
    always = figures(of(1000), streams=2_700_000, lease=3600)
    assert always["index entries a second"] == f"{2250 * 2 + 8000:,}"


def test_cores_and_shards_follow_from_what_is_assumed() -> None:
    found = figures(of(1000), streams=2_700_000, heartbeat_us=70, start_us=580)
    assert (found["cores of the service"], found["processes"]) == ("10.0", "17")
    assert found["shards"] == "14"
    other = figures(of(1000), streams=2_700_000, shard_updates=137_000, heartbeat_us=20, start_us=0)
    assert (other["cores of the service"], other["shards"]) == ("2.7", "1")
    assert figures(of(1000), streams=1)["processes"] == "2"


def test_what_is_assumed_says_so_and_names_its_option() -> None:
    notes = {note for _, _, note in needs([of(1000)], Asked()) if "ASSUMED" in note}
    options = ("--heartbeat-us", "--start-us", "--shard-updates")
    assert sorted(note[note.index("--") : -1] for note in notes) == sorted(options)


@pytest.mark.parametrize("argument", ["--streams=0", "--lease=nan", "--measure=1000,x"])
def test_a_number_that_makes_no_sense_is_refused(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([argument])
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_an_error_tells_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "mongodb://user:letmein@127.0.0.1:1/?serverSelectionTimeoutMS=10"
    monkeypatch.setenv("MONGO_URL", url)
    assert main(["--engine", MONGO]) == 1
    assert "letmein" not in capsys.readouterr().err


def test_the_guides_example_is_what_the_program_prints() -> None:
    guide = (ROOT / "docs" / "performance.md").read_text()
    block = guide.partition("python -m bench.capacity --streams 10000000")[2].partition("\n\n    ")[
        2
    ]
    rows = [re.split(r"  +", line.strip()) for line in block.partition("\n## ")[0].splitlines()]
    head = next(row for row in rows if row[0] == "streams")
    told = next(row[0] for row in rows if row[0].startswith("index entries changed"))
    changes = re.findall(r"([a-z ]+) ([0-9.]+)", told.partition(": ")[2])
    measured = [
        Measured(
            int(number.replace(",", "")),
            {
                row[0]: int(row[column].replace(",", ""))
                for row in rows[rows.index(head) + 1 :]
                if re.match("data|index ", row[0]) and row[-1].endswith("%")
            },
            {},
            {name.strip(): float(count) for name, count in changes},
        )
        for column, number in enumerate(head[1:-1], 1)
    ]
    printed = table(measured)[:-1]
    printed += ["{:26}{:>15}  {}".format(*row) for row in needs(measured, Asked(streams=1e7))]
    for line in printed:
        assert re.split(r"  +", line.strip()) in rows
