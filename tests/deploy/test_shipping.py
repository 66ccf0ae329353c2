"""deploy/rsyslog in a real rsyslog: each event arrives as it was written."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.processes import PATIENCE_SECONDS, ROOT, free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


def rsyslog(folder: Path, name: str, *changes: tuple[str, str]) -> list[str]:
    """The command that runs a file of deploy/rsyslog, with the paths and names of this test."""
    text = (ROOT / "deploy" / "rsyslog" / f"{name}.conf").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    work = folder / f"{name}-work"
    work.mkdir()
    config = folder / f"{name}.conf"
    # Debian's rsyslog.conf names the directory, too.
    config.write_text(f'global(workDirectory="{work}")\n{text}')
    return ["rsyslogd", "-n", "-f", str(config), "-i", str(folder / f"{name}.pid")]


class Shipping:
    """A file of events, the two rsyslogs, and what arrived."""

    def __init__(self, folder: Path) -> None:
        self.written: list[str] = []
        self._folder = folder
        self._events = folder / "stream-service.events"
        self._kept = folder / "kept"
        self._port = free_port()
        self._collector = rsyslog(
            folder,
            "collector",
            ('port="2514"', f'port="{self._port}"'),
            ("/var/lib/stream-service", str(self._kept)),
        )
        self._sender = rsyslog(
            folder,
            "events",
            ('port="2514"', f'port="{self._port}"'),
            ("collector.example", "127.0.0.1"),
            ("/home/deploy/.pm2/logs/stream-service.events", str(self._events)),
            ('resumeInterval="5"', 'resumeInterval="1"'),
        )

    def collecting(self) -> AbstractContextManager[object]:
        """Run the collector."""
        return listening(self._port, *self._collector, folder=self._folder)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Run the sender; end it as the system does, and wait."""
        process = subprocess.Popen(self._sender)
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0

    def write(self, *labels: str) -> None:
        """Write an event for each label."""
        lines = [
            json.dumps({"id": str(len(self.written) + n), "data": {"content": label}})
            for n, label in enumerate(labels)
        ]
        self.written += lines
        with self._events.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def arrived(self) -> list[str]:
        """The lines that were kept, each once, in their order."""
        files = sorted(self._kept.glob("*.events")) if self._kept.is_dir() else []
        return list(dict.fromkeys(line for file in files for line in file.read_text().splitlines()))

    def wait(self) -> None:
        """Wait until all that was written has arrived."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.arrived()) < len(self.written):
            assert time.monotonic() < deadline, self.arrived()
            time.sleep(0.05)
        assert sorted(self.arrived()) == sorted(self.written)


def test_events_arrive_as_they_were_written_whichever_of_both_was_away(tmp_path: Path) -> None:
    shipping = Shipping(tmp_path)
    with shipping.collecting():
        with shipping.sending():
            shipping.write("a film", "Amélie — 映画 🎬", 'a "quoted" \\ title', "%msg% $! <13> {}")
            shipping.write("x" * 4000)
            shipping.wait()
        shipping.write("while the sender was away")
        with shipping.sending():
            shipping.wait()
    with shipping.sending():
        shipping.write(*(f"{n} while the collector was away" for n in range(100)))
        with shipping.collecting():
            shipping.wait()
