"""The version before devices, tokens for playback and `forget_at`, and this one, on one database.

Both under load at once, in both orders: as when a version is rolled out, and rolled back.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tarfile
from contextlib import AsyncExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.conftest import served
from tests.faults.tally import TALLY, new_secret
from tests.faults.viewers import LIMIT, Viewers
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.faults.conftest import Serve
    from tests.support.database import Database
    from tests.support.processes import Service

    Run = Callable[..., AbstractContextManager[Service]]

OLDER = "3b0b9d18e3191b73ae32dab6f047e672c44cc85e"
"""The commit of the older version, in the history of this project."""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the older version lies."""
    directory = tmp_path_factory.mktemp("older")
    archive = subprocess.run(
        ["git", "archive", OLDER, "stream_service"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert archive.returncode == 0, (
        f"this test needs the project's history, with the commit {OLDER}: {archive.stderr.decode()}"
    )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return directory


@pytest.fixture
def run(database: Database, serve: Serve, older: Path) -> Run:
    """Runs a service of the older version or of this one."""

    def runs(version: str) -> AbstractContextManager[Service]:
        path = older if version == "older" else ROOT
        return serve(database.url, PYTHONPATH=str(path))

    return runs


@pytest.mark.parametrize(
    ("first", "second"), [("older", "newer"), ("newer", "older")], ids=["forward", "back"]
)
async def test_two_versions_side_by_side_keep_the_cap_and_lose_nothing(
    database: Database, run: Run, token: str, first: str, second: str
) -> None:
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(served(run(first)))
        viewers = await stack.enter_async_context(Viewers([before.url], 60, token=token))
        async with viewers.playing():
            await asyncio.sleep(2.0)
            async with served(run(second)) as after:
                TALLY.fault("another version beside")
                viewers.urls.append(after.url)
                await asyncio.sleep(6.0)
                viewers.urls.remove(before.url)
                await asyncio.sleep(2.0)
                assert await asyncio.to_thread(_served_requests, before) > 50
                assert await asyncio.to_thread(_served_requests, after) > 50
                viewers.urls.append(before.url)
                await asyncio.sleep(1.0)
                viewers.urls.remove(after.url)
                # Told to stop, it answers what it has; who has chosen it has asked it by then.
                await asyncio.sleep(1.0)
            await asyncio.sleep(1.0)
        assert await viewers.all_sure_ones_beat() > 0
    assert max(database.active(database.name).values()) <= LIMIT
    assert TALLY.violations == []


def _served_requests(service: Service) -> int:
    return sum(1 for event in service.events if event.get("event") == "request")


@pytest.mark.parametrize(
    ("one", "other"), [("older", "newer"), ("newer", "older")], ids=["from older", "from newer"]
)
def test_each_version_goes_on_with_what_the_other_began(
    run: Run, token: str, one: str, other: str
) -> None:
    with run(one) as begins, run(other) as goes_on:
        account = {"Authorization": f"Bearer {token}", "Session-Id": new_secret()}

        def start(service: Service, key: str | None = None, **body: Any) -> tuple[int, Any]:
            keyed = {} if key is None else {"Idempotency-Key": key}
            headers = {**account, **keyed, "Content-Type": "application/json"}
            return service.ask("POST", "/streams", headers, json.dumps(body))

        key = new_secret()
        status, stream = start(begins, key, device="TV")
        assert status == 201
        status, replay = start(goes_on, key, device="TV")
        assert (status, replay["stream_id"]) == (200, stream["stream_id"])
        path = f"/streams/{stream['stream_id']}"
        for service in (begins, goes_on, begins):
            assert service.ask("POST", f"{path}/heartbeat", account)[0] == 200
        assert start(goes_on, replace=stream["stream_id"], device="phone")[0] == 201
        status, told = begins.ask("POST", f"{path}/heartbeat", account)
        assert (status, told["replaced_by"]["device"]) == (410, "phone")
        assert [start(service)[0] for service in (begins, goes_on, begins)] == [201, 201, 409]
        [first, *_] = goes_on.ask("GET", "/streams", account)[1]["streams"]
        stopped = f"/streams/{first['stream_id']}"
        assert goes_on.ask("DELETE", stopped, account)[0] == 204
        assert begins.ask("POST", f"{stopped}/heartbeat", account)[1]["reason"] == "stopped"
        assert start(begins)[0] == 201
        assert start(goes_on)[0] == 409


def test_what_a_start_said_here_does_not_count_for_the_next_one_in_its_slot_there(
    run: Run, token: str
) -> None:
    with run("newer") as newer, run("older") as older:
        account = {"Authorization": f"Bearer {token}", "Session-Id": new_secret()}
        key = {"Idempotency-Key": new_secret()}

        def start(service: Service, **body: str) -> tuple[int, Any]:
            headers = {**account, **key, "Content-Type": "application/json"}
            return service.ask("POST", "/streams", headers, json.dumps(body))

        mine = {"device_id": new_secret(), "replace": "same-device"}
        status, stream = start(newer, **mine)
        assert status == 201
        assert older.ask("DELETE", f"/streams/{stream['stream_id']}", account)[0] == 204
        # The same slot and the same key, for somebody else who said something else.
        status, other = start(older, device="TV")
        assert (status, other["stream_id"][0]) == (201, stream["stream_id"][0])
        assert start(newer, device="TV")[0] == 200
        del key["Idempotency-Key"]
        status, own = start(newer, **mine)
        assert (status, own["active"]) == (201, 2)
