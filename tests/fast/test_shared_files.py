"""Metrics of several processes in one directory: what is wrong there stops nothing."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING
from urllib.request import urlopen

from tests.support.disks import fill, small_disk
from tests.support.processes import PATIENCE_SECONDS, Service

if TYPE_CHECKING:
    from pathlib import Path


def _scrape(service: Service) -> dict[str, float]:
    with urlopen(f"{service.url}/metrics", timeout=PATIENCE_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }


LIVE = 'stream_service_request_seconds_count{method="GET",route="/health/live",status="200"}'


def _ask(service: Service, times: int) -> None:
    for _ in range(times):
        assert service.ask("GET", "/health/live")[0] == 200


def test_what_dead_processes_counted_is_kept_in_one_file_of_each_kind(
    mongo_url: str, database: str, tmp_path: Path
) -> None:
    def serving() -> Service:
        return Service(
            MONGO_URL=mongo_url, MONGO_DB=database, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)
        )

    for turn in range(3):
        with serving() as service:
            _ask(service, 5)
            assert _scrape(service)[LIVE] == 5 * (turn + 1)
    with serving() as service:
        assert _scrape(service)[LIVE] == 15
        kinds = Counter(path.stem.rpartition("_")[0] for path in tmp_path.glob("*.db"))
        assert kinds == {"counter": 2, "histogram": 2, "gauge_mostrecent": 1}


def test_files_that_are_empty_cut_or_nonsense_are_left_out_and_told_once(
    mongo_url: str, database: str, tmp_path: Path
) -> None:
    alive = os.getpid()
    (tmp_path / f"counter_{alive}.db").touch()
    (tmp_path / f"histogram_{alive}.db").write_bytes(b"\xff\x00\x00\x00 nonsense")
    (tmp_path / "counter_999999999.db").write_bytes(b"\x40\x00")
    with Service(
        MONGO_URL=mongo_url, MONGO_DB=database, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)
    ) as service:
        _ask(service, 3)
        for _ in range(3):
            assert _scrape(service)[LIVE] == 3
        told = [e["file"] for e in service.events if "is broken" in e["event"]]
    assert sorted(told) == sorted(
        [f"counter_{alive}.db", f"histogram_{alive}.db", "counter_999999999.db"]
    )


def test_without_room_on_the_disk_a_process_counts_for_itself_and_serves(
    mongo_url: str, database: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path, "1m") as disk:
        fill(disk)
        with Service(
            MONGO_URL=mongo_url, MONGO_DB=database, PROMETHEUS_MULTIPROC_DIR=str(disk)
        ) as service:
            _ask(service, 4)
            assert _scrape(service)[LIVE] == 4
            [told] = [e for e in service.events if "no room" in e["event"]]
            assert told["level"] == "WARNING"
