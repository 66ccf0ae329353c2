"""Requests made to keep a process busy: what others wait meanwhile, token or not.

Two services run, and one is attacked. Somebody else asks both in turn, so that what the machine is
busy with shows at the other one, and is allowed for.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.faults.tally import TALLY, new_secret
from tests.support.database import url_of
from tests.support.processes import ROOT, Service, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(240)

MAY_WAIT_SECONDS = 0.2
"""How long others may wait at most, on a machine that is busy with nothing else."""
BUSY_TIMES = 5
"""What is added to that: as many times the longest wait at the service that is not attacked."""
ROUNDS = 3
"""Each attack is made so often, and the middle one counts: machines stop for a moment at times."""

KIB, MIB = 1024, 1024 * 1024
TOKEN = new_secret()


@contextmanager
def _service(*changes: str) -> Iterator[Service]:
    """A service without its database, which no attack needs to get to."""
    program = ("-m", "tests.support.driver") if changes else ("-m", "stream_service")
    variables = {"MONGO_URL": url_of(free_port()), "GATEWAY_TOKEN": TOKEN}
    with Service(*changes, program=program, **variables) as service:
        assert service.url
        yield service
    TALLY.log.extend(service.log)


@pytest.fixture(scope="module")
def bystander() -> Iterator[Service]:
    with _service() as service:
        yield service


@pytest.fixture(scope="module")
def attacked() -> Iterator[Service]:
    with _service() as service:
        yield service


def _port(service: Service) -> int:
    return urlsplit(service.url).port or 0


@contextmanager
def _probing(*services: Service) -> Iterator[list[list[float]]]:
    """Asks these services all the time; when the context has ended, holds when and how long."""
    samples: list[list[float]] = []
    prober = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.prober", *(str(_port(s)) for s in services)],
        env=environment({}),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert prober.stdout is not None
    with prober, ThreadPoolExecutor(1) as reader:
        prober.stdout.readline()

        def read() -> None:
            lines = prober.stdout or ()
            samples.extend([float(figure) for figure in line.split()] for line in lines)

        reading = reader.submit(read)
        yield samples
        time.sleep(0.1)
        prober.terminate()
        reading.result()


def _longest_waits(
    attacked: Service,
    bystander: Service,
    attack: Callable[[Service], None],
    rounds_wanted: int = ROUNDS,
) -> tuple[float, float]:
    """What others waited at most at each service, in the middle one of so many attacks."""
    rounds: list[tuple[float, float]] = []
    with _probing(attacked, bystander) as samples:
        for _ in range(rounds_wanted):
            began = time.monotonic()
            attack(attacked)
            # What it set going may take longer than to set it going.
            asked = time.monotonic()
            assert attacked.ask("GET", "/health/live")[0] == 200
            time.sleep(0.05)
            rounds.append((began, time.monotonic()))
            assert time.monotonic() - asked < 60
    waits = [
        [(there, here) for at, there, here in samples if at + there + here >= began and at <= ended]
        for began, ended in rounds
    ]
    return (
        median(max(there for there, _ in one) for one in waits),
        median(max(here for _, here in one) for one in waits),
    )


def _send(service: Service, *pieces: bytes, read: bool = True) -> int | None:
    """Send all that is taken; the status of the first answer, if there is one."""
    with service.connect() as client, suppress(ConnectionError, TimeoutError):
        with suppress(ConnectionError, TimeoutError):
            for piece in pieces:
                client.sendall(piece)
        client.settimeout(10)
        if read and (answer := client.recv(64)):
            return int(answer.split()[1])
    return None


def _at_once(times: int, send: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(times) as pool:
        return [sent.result() for sent in [pool.submit(send) for _ in range(times)]]


def _head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@cache
def _bomb() -> bytes:
    """A megabyte that unpacks to a gigabyte."""
    packer, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(MIB)
    return b"".join([*(packer.compress(zeros) for _ in range(1024)), packer.flush()])


def _unpacks(
    service: Service, method: str = "POST", path: str = "/nowhere", status: int = 404
) -> None:
    length = f"Content-Length: {len(_bomb())}"
    head = _head(method, path, "Content-Encoding: gzip", length, *AS_GATEWAY)
    assert _send(service, head, _bomb()) == status


CHUNKED = "Transfer-Encoding: chunked"
TINY_CHUNKS = b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
AS_GATEWAY = (f"Authorization: Bearer {TOKEN}", f"Session-Id: {new_secret()}")


def _tiny_chunks(service: Service) -> None:
    head = _head("POST", "/nowhere", CHUNKED)
    assert set(_at_once(4, lambda: _send(service, head, TINY_CHUNKS))) == {401}


def _tiny_chunks_that_are_read(service: Service) -> None:
    head = _head("POST", "/streams", CHUNKED, *AS_GATEWAY)
    assert set(_at_once(4, lambda: _send(service, head, TINY_CHUNKS))) == {413}


def _chunks_without_end(service: Service) -> None:
    chunk = b"40000\r\n" + bytes(256 * KIB) + b"\r\n"
    began = time.monotonic()

    def send() -> None:
        with service.connect() as client, suppress(ConnectionError):
            client.sendall(_head("POST", "/streams", CHUNKED))
            # It is not listened to for long: that is what ends this.
            while time.monotonic() - began < 20:
                client.sendall(chunk)

    _at_once(8, send)
    assert time.monotonic() - began < 20


def _huge_heads(service: Service) -> None:
    lines = [f"X-{number}: {'a' * 8000}" for number in range(120)]
    assert set(_at_once(8, lambda: _send(service, _head("GET", "/", *lines)))) == {401}
    endless = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000
    assert set(_at_once(8, lambda: _send(service, endless))) <= {400, None}


def _a_thousand_requests_in_a_row(service: Service) -> None:
    requests = _head("GET", "/nowhere") * 1000

    def send() -> int:
        with service.connect() as client, ThreadPoolExecutor(1) as sender:
            sender.submit(client.sendall, requests)
            answers = 0
            while answers < 1000 and (piece := client.recv(64 * KIB)):
                answers += piece.count(b"HTTP/1.1 401")
            return answers

    assert _at_once(4, send) == [1000] * 4


def _connections(service: Service) -> None:
    for _ in range(300):
        _send(service, _head("GET", "/health/live"), read=False)


def _readers_who_do_not_read(service: Service) -> None:
    head = _head("GET", "/openapi.json", AS_GATEWAY[0])
    clients = [service.connect() for _ in range(20)]
    for client in clients:
        client.setblocking(False)  # noqa: FBT003
        with suppress(BlockingIOError):
            client.sendall(head * 2000)
    time.sleep(0.3)
    for client in clients:
        client.close()


def _expectations(service: Service) -> None:
    head = _head("POST", "/nowhere", "Expect: 100-continue", "Content-Length: 999999999")
    _at_once(8, lambda: _send(service, head, bytes(8 * MIB)))


ATTACKS: dict[str, Callable[[Service], None]] = {
    "a body that unpacks to a gigabyte": _unpacks,
    "the same to a route that reads": lambda service: _unpacks(service, "POST", "/streams", 415),
    "the same to a route that reads no body": lambda service: _unpacks(
        service, "DELETE", "/streams/0-aaaaaaaaaaaaaaaaaaaaaa", 503
    ),
    "the same to an open route": lambda service: _unpacks(service, "GET", "/health/live", 200),
    "tiny chunks": _tiny_chunks,
    "tiny chunks that are read": _tiny_chunks_that_are_read,
    "chunks without end": _chunks_without_end,
    "huge heads": _huge_heads,
    "a thousand requests in a row": _a_thousand_requests_in_a_row,
    "three hundred connections": _connections,
    "readers who do not read": _readers_who_do_not_read,
    "a body nobody asked for": _expectations,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_one_client_sends_nobody_else_waits_longer_than_a_fifth_of_a_second(
    attacked: Service, bystander: Service, attack: str
) -> None:
    TALLY.fault("hostile input", ROUNDS)
    there, here = _longest_waits(attacked, bystander, ATTACKS[attack])
    TALLY.measured[f"wait, {attack}"] = f"{there * 1000:.0f} ms; elsewhere {here * 1000:.0f} ms"
    assert there < MAY_WAIT_SECONDS + BUSY_TIMES * here
    assert [e for e in attacked.events if e["level"] in ("ERROR", "CRITICAL")] == []


def test_by_aiohttps_own_ways_with_bodies_others_would_wait_for_one_that_unpacks(
    bystander: Service,
) -> None:
    with _service("reads-on") as service:
        there, here = _longest_waits(service, bystander, _unpacks, rounds_wanted=1)
    TALLY.measured["wait, reads-on"] = f"{there * 1000:.0f} ms; elsewhere {here * 1000:.0f} ms"
    assert there > MAY_WAIT_SECONDS + BUSY_TIMES * here


def test_a_client_that_takes_no_answers_off_its_connection_loses_it_in_time() -> None:
    with _service("idle=1") as service, service.connect() as client:
        TALLY.fault("reader who does not read")
        client.setblocking(False)  # noqa: FBT003
        with suppress(BlockingIOError):
            client.sendall(_head("GET", "/openapi.json", AS_GATEWAY[0]) * 2000)
        time.sleep(1)
        client.setblocking(True)  # noqa: FBT003
        client.settimeout(20)
        # The kernel may hold some of the answers; what follows them is the end.
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            while True:
                time.sleep(0.5)
                client.send(b"x")


def test_the_answer_reaches_who_sends_a_body_that_nobody_reads(attacked: Service) -> None:
    head = _head("POST", "/nowhere", f"Content-Length: {3 * MIB}")
    with attacked.connect() as client:
        client.sendall(head)
        for _ in range(3 * MIB // (64 * KIB)):
            client.sendall(bytes(64 * KIB))
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(64 * KIB):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close\r\n" in answer
