"""Asks several services in turn whether they live, and prints how long each had it wait.

    python -m tests.faults.prober PORT...

A line per round, until it is told to stop: when the round began (the machine's monotonic clock),
and the seconds that each service took. A process of its own, since whoever attacks is busy.
"""

from __future__ import annotations

import http.client
import sys
import time
from contextlib import suppress

PAUSE_SECONDS = 0.002
PATIENCE_SECONDS = 60.0


def main() -> None:
    """Ask until the output is closed."""
    connections = [
        http.client.HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE_SECONDS)
        for port in sys.argv[1:]
    ]
    while True:
        began = time.monotonic()
        waits = []
        for connection in connections:
            asked = time.monotonic()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            waits.append(time.monotonic() - asked)
        # In one piece: it may be stopped at any moment.
        sys.stdout.write(" ".join(map(str, (began, *waits))) + "\n")
        sys.stdout.flush()
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
