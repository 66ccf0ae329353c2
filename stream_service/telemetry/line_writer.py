"""Writes lines where it may be that nothing reads them, and never makes anybody wait for that."""

from __future__ import annotations

import asyncio
import os
from threading import Condition, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CHARACTERS = 1024 * 1024
"""How much may wait to be written; what comes beyond that is dropped."""

CLOSE_SECONDS = 1.0
"""How long the end of a process waits for what is still to be written."""


WRITE_EVERY_SECONDS = 0.1
"""How long a line may wait to be written with others: a write costs as much as several lines."""


class LineWriter:
    """A file to write whole lines to. A thread of its own writes them to the descriptor.

    A pipe that is full, a terminal that is paused, a reader that is gone, a full disk: lines are
    dropped and counted, and the next one that gets through is told how many. A line of which only a
    part got through is ended before that.
    """

    def __init__(self, descriptor: int, tell: Callable[[int], str]) -> None:
        """Nothing is written yet.

        Args:
            descriptor: Of the open file.
            tell: Makes the line that says how many lines were dropped.
        """
        self.on_dropped: Callable[[int], None] = lambda _: None
        """Told how many lines were dropped, each time."""
        self._descriptor = descriptor
        self._tell = tell
        self._changed = Condition()
        self._texts: list[str] = []
        self._waiting = 0
        self._dropped = 0
        self._thread: Thread | None = None

    def write(self, text: str) -> None:
        """Have these lines written, or dropped. Returns at once, and never raises."""
        with self._changed:
            fits = self._waiting + len(text) <= MOST_CHARACTERS
            if fits:
                self._texts.append(text)
                self._waiting += len(text)
                if self._thread is None:
                    # Not at the import: a process that only answers --help needs none.
                    self._thread = Thread(target=self._work, name="log writer", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
        if not fits:
            self._drop(text.count("\n"))

    def flush(self) -> None:
        """Do nothing: lines are written as soon as they can be."""

    def close(self) -> None:
        """Wait until all is written, for `CLOSE_SECONDS` at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, CLOSE_SECONDS)

    def _drop(self, lines: int) -> None:
        with self._changed:
            self._dropped += lines
        self.on_dropped(lines)

    def _work(self) -> None:
        torn = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
                texts, self._texts = self._texts, []
                dropped, self._dropped = self._dropped, 0
            raw = "".join(texts).encode(errors="backslashreplace")
            told = self._tell(dropped).encode() if dropped else b""
            everything = (b"\n" if torn else b"") + told + raw
            left = self._send(everything)
            if len(left) < len(everything):
                torn = bool(left) and everything[-len(left) - 1 : -len(left)] != b"\n"
            with self._changed:
                self._waiting -= sum(map(len, texts))
                if len(left) > len(raw):
                    self._dropped += dropped  # Counted before, and still to be told.
                self._changed.notify_all()
            if left:
                self._drop(min(left.count(b"\n"), raw.count(b"\n")))

    def _send(self, raw: bytes) -> bytes:
        """Write it; returns what could not be written."""
        while raw:
            try:
                raw = raw[os.write(self._descriptor, raw) :]
            except OSError:
                break
        return raw


class Lines:
    """Lines of the event loop, handed to a writer together ten times a second."""

    def __init__(self, output: LineWriter) -> None:
        """None yet.

        Args:
            output: What writes them.
        """
        self._output = output
        self._lines: list[str] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._lines)

    def add(self, line: str) -> None:
        """Have this line written."""
        if not self._lines:
            asyncio.get_running_loop().call_later(WRITE_EVERY_SECONDS, self.write)
        self._lines.append(line)

    def write(self) -> None:
        """Have all written that wait."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._output.write("".join(lines))
