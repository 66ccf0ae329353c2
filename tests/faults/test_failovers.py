"""What a replica set says while it changes its primary, under load: MongoDB's own `failCommand`.

Each fault comes alone and all of them mixed, with and without the labels by which a server tells
the driver that a command may be sent again.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from stream_service.connection import COMMAND_TIMEOUT, MONITOR_EVERY
from stream_service.group_commit import DEADLINE_SECONDS
from tests.faults.conftest import served
from tests.faults.tally import TALLY, Tally, new_secret
from tests.faults.viewers import LIMIT, MARGIN_SECONDS, Answer, Viewers
from tests.support.database import Database, url_of
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.conftest import Serve

pytestmark = pytest.mark.timeout(240)

RECOVERY_SECONDS = (COMMAND_TIMEOUT + MONITOR_EVERY).total_seconds() + MARGIN_SECONDS
"""Within it a command that still hangs ends, and the driver has looked at the server again."""
TIMES = 4
"""How many commands of all processes a fault hits."""

CODES = {
    10107: "NotWritablePrimary",
    91: "ShutdownInProgress",
    11602: "InterruptedDueToReplStateChange",
    189: "PrimarySteppedDown",
    11600: "InterruptedAtShutdown",
    13435: "NotPrimaryNoSecondaryOk",
    112: "WriteConflict",
    251: "NoSuchTransaction",
    6: "HostUnreachable",
}
CONFLICT = 112
AGAIN = ["RetryableWriteError"]

Fault = dict[str, Any]
BY_CODE: list[Fault] = [{"errorCode": code} for code in CODES]
CLOSED: Fault = {"closeConnection": True}
BLOCKED: Fault = {"blockConnection": True, "blockTimeMS": 2500}
NOT_DURABLE: list[Fault] = [
    {"writeConcernError": {"code": code, "errmsg": "injected"}} for code in (64, 91)
]
EVERY: list[Fault] = [*BY_CODE, CLOSED, *NOT_DURABLE]


def _labelled(faults: list[Fault]) -> Iterator[Fault]:
    for fault in faults:
        for labels in ([], AGAIN):
            yield {**fault, "errorLabels": labels}


@pytest.fixture(scope="module")
def obedient_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    made = Database(tmp_path_factory.mktemp("database"), "--enable-test-commands")
    made.start()
    try:
        made.wait()
        yield made
    finally:
        made.close()


@pytest.fixture
def database(obedient_database: Database) -> Database:
    """A database that fails as it is told to; empty and well at first."""
    obedient_database.heal()
    with obedient_database.client() as client:
        client.drop_database(obedient_database.name)
    return obedient_database


def _as_replica_set(database: Database) -> str:
    return f"mongodb://127.0.0.1:{database.port}/?replicaSet=secantus"


@contextmanager
def _named(tally: Tally, fault: object) -> Iterator[None]:
    """Say of the violations that come meanwhile under which fault they came."""
    before = len(tally.violations)
    yield
    tally.violations[before:] = [f"{v} ({fault})" for v in tally.violations[before:]]


async def _under(
    database: Database, viewers: Viewers, commands: list[str], fault: Fault, *, shows: bool = False
) -> None:
    """Have the fault for a while, and see the service come back.

    Args:
        database: Whose commands fail.
        viewers: Are playing.
        commands: Names of those that fail.
        fault: How.
        shows: Whether somebody is certain to be told: it is had until then.
    """
    tally = viewers.tally
    with _named(tally, (commands, fault)):
        unavailable = tally.statuses[503]
        await asyncio.to_thread(database.fail, commands, fault, TIMES)
        tally.fault("database command failed", TIMES)
        async with asyncio.timeout(30):
            await asyncio.sleep(0.15)
            while shows and tally.statuses[503] == unavailable:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        await asyncio.to_thread(database.heal)
        took = await viewers.next_good(time.monotonic())
        tally.recoveries.append(took)
        if took > RECOVERY_SECONDS:
            tally.violations.append(f"the first good answer came after {took:.2f} s")


async def _settled(viewers: Viewers, database: Database) -> None:
    """Nothing that was acknowledged is lost, and no session has too many."""
    assert await viewers.all_sure_ones_beat() > 0
    counted = await asyncio.to_thread(database.active, database.name)
    too_many = [n for n in counted.values() if n > LIMIT]
    viewers.tally.violations += [f"{n} active streams in the database" for n in too_many]


async def test_each_fault_of_a_read_or_a_write_alone_costs_no_promise(
    database: Database, serve: Serve, token: str
) -> None:
    quiet = [{**fault, "errorLabels": []} for fault in (CLOSED, {"errorCode": CONFLICT})]
    with serve(database.url) as one, serve(_as_replica_set(database)) as other:
        async with Viewers([one.url, other.url], 60, token=token) as viewers:
            async with viewers.playing():
                for fault in _labelled(EVERY):
                    # Where the driver may not send it again, what came of it is not known.
                    shows = not (fault["errorLabels"] or fault in quiet)
                    await _under(database, viewers, ["update"], fault, shows=shows)
                for fault in [*_labelled(BY_CODE), CLOSED]:
                    await _under(database, viewers, ["find"], fault)
                for command in ("update", "find"):
                    await _under(database, viewers, [command], BLOCKED, shows=True)
            await _settled(viewers, database)
    assert TALLY.violations == []


async def test_all_faults_mixed_cost_no_promise(
    database: Database, serve: Serve, token: str
) -> None:
    faults = [*_labelled(EVERY), BLOCKED]
    with serve(database.url) as one, serve(_as_replica_set(database)) as other:
        async with Viewers([one.url, other.url], 60, token=token) as viewers:
            async with viewers.playing():
                for _ in range(40):
                    fault = random.choice(faults)
                    commands = random.choice([["update"], ["find"], ["update", "find", "hello"]])
                    await asyncio.to_thread(database.fail, commands, fault, TIMES)
                    TALLY.fault("database command failed", TIMES)
                    await asyncio.sleep(random.uniform(0, 0.3))
                await asyncio.to_thread(database.heal)
                await viewers.next_good(time.monotonic())
            await _settled(viewers, database)
    assert TALLY.violations == []


async def test_every_fault_of_the_handshake_costs_no_promise(
    database: Database, serve: Serve, token: str
) -> None:
    async with (
        Proxy(database.port) as proxy,
        served(serve(url_of(proxy.port))) as one,
        served(serve(url_of(proxy.port))) as other,
        Viewers([one.url, other.url], 60, token=token) as viewers,
    ):
        async with viewers.playing():
            for fault in [*BY_CODE, CLOSED, {**BLOCKED, "blockTimeMS": 800}]:
                await asyncio.to_thread(database.fail, ["hello", "isMaster"], fault, TIMES)
                proxy.cut_all()
                await _under(database, viewers, ["hello", "isMaster"], fault)
        await _settled(viewers, database)
    assert TALLY.violations == []


async def test_as_long_as_its_indexes_fail_a_service_says_so_and_then_it_comes_to_life(
    database: Database, serve: Serve, token: str
) -> None:
    for_long: Fault = {**BLOCKED, "blockTimeMS": 4000}
    await asyncio.to_thread(database.fail, ["createIndexes"], BY_CODE[0])
    with serve(database.url) as one, serve(_as_replica_set(database)) as other:
        async with Viewers([one.url, other.url], 10, token=token) as viewers:
            for fault in [*BY_CODE, CLOSED]:
                await asyncio.to_thread(database.fail, ["createIndexes"], fault)
                TALLY.fault("database command failed", TIMES)
                told = f" {fault['errorCode']}" if "errorCode" in fault else "AutoReconnect"
                for service in (one, other):
                    await asyncio.to_thread(service.wait_for, _says_of_its_indexes(told))
                if fault in (BY_CODE[0], CLOSED):
                    await _are_told_to_wait(viewers, fault)
            await asyncio.to_thread(database.fail, ["createIndexes"], for_long)
            await _are_told_to_wait(viewers, for_long)
            await asyncio.to_thread(database.heal)
            await _until_good(viewers)
            async with viewers.playing():
                await asyncio.sleep(1)
            await _settled(viewers, database)
    assert TALLY.violations == []


def _says_of_its_indexes(what: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: "indexes could not" in event["event"] and event["error"].endswith(what)


async def _are_told_to_wait(viewers: Viewers, fault: Fault) -> None:
    """A start with a key needs the index that keeps it from being made twice."""
    with _named(TALLY, fault):
        answers = await asyncio.gather(
            *(viewers.start(family, key=new_secret()) for family in viewers.families)
        )
    assert {answer.status for answer in answers if answer} == {503}, fault


@pytest.mark.parametrize("fault", NOT_DURABLE, ids=["64", "91"])
async def test_indexes_that_are_there_though_nobody_vouches_for_them_are_used(
    database: Database, serve: Serve, token: str, fault: Fault
) -> None:
    await asyncio.to_thread(database.fail, ["createIndexes"], fault)
    TALLY.fault("database command failed")
    with serve(database.url) as service:
        async with Viewers([service.url], token=token) as viewers:
            await _until_good(viewers)
            await asyncio.to_thread(database.heal)
    assert TALLY.violations == []


async def _until_good(viewers: Viewers) -> None:
    """Return when a start that needs the indexes is admitted."""
    began = time.monotonic()
    while True:
        answer = await viewers.ask("POST", "/streams", new_secret(), key=new_secret())
        if answer is not None and answer.status == 201:
            break
        assert time.monotonic() - began < 4 * RECOVERY_SECONDS
        await asyncio.sleep(0.05)


async def test_a_count_that_fails_leaves_the_metrics_readable_in_time(
    database: Database, serve: Serve, token: str
) -> None:
    unread = [{"errorCode": 251}, BLOCKED]
    with serve(database.url, "sample=0") as service:
        async with Viewers([service.url], token=token) as viewers:
            for fault in [*BY_CODE, CLOSED, BLOCKED]:
                await asyncio.to_thread(database.fail, ["aggregate"], fault, 1)
                TALLY.fault("database command failed")
                began = time.monotonic()
                headers = {"Authorization": f"Bearer {token}"}
                async with viewers.client.get(f"{service.url}/metrics", headers=headers) as got:
                    text = await got.text()
                # Two counts, each with a command's time.
                assert time.monotonic() - began < 2 * DEADLINE_SECONDS + MARGIN_SECONDS
                assert got.status == 200
                if fault.get("errorCode") != CONFLICT:
                    assert ("stream_service_active_streams NaN" in text) == (fault in unread), fault


async def _once(
    database: Database, viewers: Viewers, method: str, command: str, fault: Fault
) -> Answer:
    """What is said to a start or a list whose command fails once, with all well before."""
    deadline = time.monotonic() + 5 * RECOVERY_SECONDS
    while True:
        well = await viewers.ask("GET", "/streams", new_secret())
        assert well is not None
        if well.status == 200:
            break
        assert time.monotonic() < deadline
    database.fail([command], fault, 1)
    TALLY.fault("database command failed")
    answer = await viewers.ask(method, "/streams", new_secret())
    assert answer is not None
    return answer


@pytest.mark.parametrize("retries", [True, False])
async def test_what_may_be_sent_again_is_and_without_retries_nothing_would_be(
    database: Database, serve: Serve, token: str, *, retries: bool
) -> None:
    url = database.url + ("" if retries else "&retryWrites=false&retryReads=false")
    tally = TALLY if retries else Tally()
    with serve(url) as service:
        async with Viewers([service.url], token=token, tally=tally) as viewers:
            for code in CODES if retries else (10107, CONFLICT, 6):
                fault = {"errorCode": code}
                labelled = {**fault, "errorLabels": AGAIN}
                written = await _once(database, viewers, "POST", "update", labelled)
                read = await _once(database, viewers, "GET", "find", fault)
                if code == CONFLICT:
                    # That is the service's own retry.
                    assert (written.status, read.status) == (201, 200)
                else:
                    assert written.status == (201 if retries else 503), code
                    assert read.status == (200 if retries and code != 251 else 503), code
    assert tally.violations == []


@pytest.mark.parametrize("change", ["", "not-durable"])
async def test_a_start_that_is_not_durable_is_503_and_its_retry_finds_it(
    database: Database, serve: Serve, token: str, change: str
) -> None:
    tally = Tally() if change else TALLY
    with serve(database.url, *filter(None, [change])) as service:
        async with Viewers([service.url], tally=tally, token=token) as viewers:
            for fault in NOT_DURABLE:
                key, session = new_secret(), new_secret()
                for fails in (True, True, False):
                    if fails:
                        database.fail(["update"], fault)
                    else:
                        database.heal()
                    answer = await viewers.ask("POST", "/streams", session, key=key)
                    assert answer is not None
                    if change:
                        assert answer.status in (200, 201)
                    else:
                        # It is there from the first try on, but only the last may say so.
                        assert answer.status == (503 if fails else 200)


@pytest.mark.parametrize("every", ["", "monitor=60"])
async def test_a_server_that_only_says_it_is_not_primary_is_looked_at_again_in_time(
    database: Database, serve: Serve, token: str, every: str
) -> None:
    tally = Tally() if every else TALLY
    with serve(database.url, *filter(None, [every])) as service:
        async with Viewers([service.url], token=token, tally=tally) as viewers:
            answer = await _once(database, viewers, "GET", "find", {"errorCode": 10107})
    assert answer.status == (503 if every else 200)


async def test_an_error_that_is_not_translated_would_be_a_500(
    database: Database, serve: Serve, token: str
) -> None:
    tally = Tally()
    with serve(database.url, "untranslated", keep_log=False) as service:
        async with Viewers([service.url], token=token, tally=tally) as viewers:
            answer = await _once(database, viewers, "POST", "update", {"errorCode": 251})
    assert answer.status == 500
