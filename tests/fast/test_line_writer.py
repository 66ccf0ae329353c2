"""A log that nothing reads makes nobody wait, and ends nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from threading import Thread
from typing import IO, TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from stream_service.telemetry import line_writer
from stream_service.telemetry.line_writer import LineWriter
from tests.support.processes import PATIENCE_SECONDS, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable


def told(lines: int) -> str:
    return f"dropped {lines}\n"


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_does_not_fit_is_dropped_counted_and_told_once_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_writer, "MOST_CHARACTERS", 200_000)
    monkeypatch.setattr(line_writer, "CLOSE_SECONDS", 0.1)
    reader, pipe = os.pipe()
    counted: list[int] = []
    writer = LineWriter(pipe, told)
    writer.on_dropped = counted.append
    for number in range(100_000):
        writer.write(f"line {number}\n")
    writer.close()  # Bounded: nobody reads.
    assert sum(counted) > 1000
    lines: list[bytes] = []
    with os.fdopen(reader, "rb") as stream:
        reading = Thread(target=lambda: lines.extend(stream))
        reading.start()
        until(lambda: writer._waiting == 0)  # noqa: SLF001
        writer.write("the end\n")
        until(lambda: writer._waiting == 0)  # noqa: SLF001
        os.close(pipe)
        reading.join()
    assert f"dropped {sum(counted)}\n".encode() in lines
    whole = [line for line in lines if line.startswith(b"line ")]
    assert whole == [f"line {n}\n".encode() for n in range(len(whole))]
    assert len(whole) + sum(counted) == 100_000


def test_a_reader_that_is_gone_and_a_full_disk_raise_nothing() -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    for descriptor in (pipe, os.open("/dev/full", os.O_WRONLY)):
        counted: list[int] = []
        writer = LineWriter(descriptor, told)
        writer.on_dropped = counted.append
        writer.write("one\ntwo\n")
        until(partial(_is, counted, 2))
        os.close(descriptor)


def _is(counted: list[int], lines: int) -> bool:
    return sum(counted) == lines


def _requests(port: int, count: int) -> None:
    for _ in range(count):
        with urlopen(f"http://127.0.0.1:{port}/health/live", timeout=PATIENCE_SECONDS) as answer:
            assert json.load(answer) == {"status": "UP"}


@pytest.mark.parametrize("how", ["nobody reads", "the reader is gone", "full disk"])
def test_a_service_whose_log_is_not_read_answers_and_stops(how: str) -> None:
    port = free_port()
    variables = {"PORT": str(port), "MONGO_URL": "mongodb://127.0.0.1:1", "LOG_LEVEL": "DEBUG"}
    errors: int | IO[Any] = subprocess.PIPE
    if how == "full disk":
        errors = os.open("/dev/full", os.O_WRONLY)
    with subprocess.Popen(
        [sys.executable, "-m", "stream_service"],
        env=environment(variables),
        stdout=subprocess.DEVNULL,
        stderr=errors,
    ) as process:
        try:
            if how == "the reader is gone":
                assert process.stderr is not None
                process.stderr.close()
            until(lambda: _listens(port))
            # A pipe takes 64 KiB: some three hundred lines of these.
            _requests(port, 600)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


def _listens(port: int) -> bool:
    try:
        _requests(port, 1)
    except OSError:
        return False
    return True


def test_each_line_that_is_lost_counts_once_and_is_told_once_something_takes_lines() -> None:
    reader, pipe = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    target = os.dup(full)
    counted: list[int] = []
    writer = LineWriter(target, told)
    writer.on_dropped = counted.append
    for number in range(8):
        writer.write(f"line {number}\n")
        until(lambda: writer._waiting == 0)  # noqa: SLF001
    until(lambda: sum(counted) == 8)
    os.dup2(pipe, target)
    os.close(pipe)
    writer.write("the end\n")
    until(lambda: writer._waiting == 0)  # noqa: SLF001
    os.dup2(full, target)
    with os.fdopen(reader) as stream:
        assert stream.read() == "dropped 8\nthe end\n"
    assert sum(counted) == 8


def test_half_a_line_is_ended_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    written = bytearray()
    room = 10

    def write(_: int, raw: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError
        taken, room = raw[:room], max(0, room - len(raw))
        written.extend(taken)
        return len(taken)

    monkeypatch.setattr(os, "write", write)
    writer = LineWriter(-1, told)
    writer.write("a line\nanother\n")
    until(lambda: writer._waiting == 0)  # noqa: SLF001
    room = 1000
    writer.write("the end\n")
    until(lambda: writer._waiting == 0)  # noqa: SLF001
    assert written == b"a line\nano\ndropped 1\nthe end\n"
