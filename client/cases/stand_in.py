# ruff: noqa: INP001 - a program of its own
"""A service that plays the cases of cases.json over real HTTP, and says what a client did wrong.

    python3 client/cases/stand_in.py --port 8099

Needs Python 3.11 and nothing else. The rules of a runner are in docs/clients.md, "Test yours". Ends
when each case has been reported: with 0 if all passed, with 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TABLE = json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
NAMES = {"heartbeat": "beat", "stop": "stop"}
HANGING_SECONDS = 60


class Case:
    """One case while a client runs it."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.began = time.monotonic()
        self.requests: list[list[Any]] = []
        self.labels: list[list[Any]] = []
        self._keys: list[str] = []
        self._lease = ""
        self._lock = threading.Lock()

    def answer(
        self, path: str, headers: Any, body: dict[str, Any] | None
    ) -> tuple[str, dict[str, Any]]:
        """Write the request down; the name of its answer, and the answer."""
        elapsed = time.monotonic() - self.began
        at = float(headers.get("Case-Time") or elapsed)
        with self._lock:
            answers = self.case["answers"]
            name = answers[min(len(self.requests), len(answers) - 1)]
            what = self._start(headers, body) if path == "/streams" else self._by_lease(path)
            authorization = headers.get("Authorization")
            self.requests.append([at, *what, *([authorization] if authorization else [])])
            answer: dict[str, Any] = TABLE["answers"][name]
            if path == "/streams" and isinstance(answer.get("body"), dict):
                self._lease = answer["body"].get("lease_id", "")
        return name, answer

    def _start(self, headers: Any, body: dict[str, Any] | None) -> list[str]:
        body, key = body or {}, headers.get("Idempotency-Key", "none")
        if key not in self._keys:
            self._keys.append(key)
        self.labels.append([body.get("device"), body.get("content")])
        replace = body.get("replace") or []
        choices = [replace] if isinstance(replace, str) else replace
        sent = ["replace", *choices] if choices else []
        sent += ["device_id"] if body.get("device_id") else []
        return [
            f"start {chr(ord('a') + self._keys.index(key))}",
            *([" ".join(sent)] if sent else []),
        ]

    def _by_lease(self, path: str) -> list[str]:
        lease, _, verb = path.removeprefix("/streams/").partition("/")
        return [NAMES[verb]] if lease == self._lease and verb in NAMES else [path]

    def wrong(self, said: dict[str, Any], tolerance: float) -> list[str]:
        """What differs from the case, a line each."""
        was = {"requests": self.requests, "told": said.get("told"), "state": said.get("state")}
        was["stopped"] = said.get("stopped")
        was["labels"] = self.labels if "labels" in self.case else None
        return [
            f"{name}: {json.dumps(self.case.get(name))} expected, {json.dumps(value)} seen"
            for name, value in was.items()
            if not _same(value, self.case.get(name), tolerance)
        ]


def _same(seen: Any, expected: Any, tolerance: float) -> bool:
    """Equal, but for numbers, which are seconds."""
    if isinstance(seen, list) and isinstance(expected, list):
        pairs = zip(seen, expected, strict=False)
        return len(seen) == len(expected) and all(_same(a, b, tolerance) for a, b in pairs)
    if _is_number(seen) and _is_number(expected):
        return bool(abs(seen - expected) <= tolerance)
    return bool(seen == expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class StandIn(ThreadingHTTPServer):
    """Hands out the cases, answers their requests, and judges."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, only: str, tolerance: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.cases = [case for case in TABLE["cases"] if only in case["name"]]
        self.tolerance = tolerance
        self.running: dict[int, Case] = {}
        self.verdicts: dict[int, list[str]] = {}
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One request: `GET /next`, `POST /cases/N/done`, or one of a client's."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # An answer in one piece.
    server: StandIn

    def do_GET(self) -> None:
        """Hand out the next case, or say that there is none any more."""
        with self.server.lock:
            number = len(self.server.running)
            if self.path != "/next" or number >= len(self.server.cases):
                return self._send(404 if self.path != "/next" else 204)
            one = self.server.running[number] = Case(self.server.cases[number])
        port = self.server.server_port
        told = {name: one.case.get(name) for name in ("name", "options", "do", "seconds")}
        self._send(200, {"url": f"http://127.0.0.1:{port}/cases/{number}", **told})
        return None

    def do_POST(self) -> None:
        """Answer as the case says, or judge it."""
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, root, number, path = (*self.path.split("/", 3), "")[:4]
        one = self.server.running.get(int(number)) if root == "cases" and number.isdigit() else None
        if one is None:
            return self._send(404)
        body = json.loads(raw) if raw else None
        if path == "done":
            return self._judge(int(number), one, body)
        name, answer = one.answer(f"/{path}", self.headers, body)
        if "hangs" in answer or "error" in answer:
            return self._say_nothing(name, hang="hangs" in answer)
        headers, takes = {**answer.get("headers", {})}, answer.get("after", 0)
        # Whose clock stands still while it waits has to be told.
        if takes and "Case-Time" in self.headers:
            headers["Case-Answer-After"] = str(takes)
        else:
            time.sleep(takes)
        if answer.get("type"):
            headers["Content-Type"] = answer["type"]
        return self._send(answer["status"], answer.get("body"), headers)

    def _judge(self, number: int, one: Case, said: Any) -> None:
        virtual = "Case-Time" in self.headers
        wrong = one.wrong(said, 0.001 if virtual else self.server.tolerance)
        self._send(200, {"passed": not wrong, "wrong": wrong})
        self.wfile.flush()
        if wrong:
            sys.stdout.write("\n  ".join([f"FAILED {one.case['name']}", *wrong]) + "\n")
            sys.stdout.flush()
        with self.server.lock:
            self.server.verdicts[number] = wrong
            if len(self.server.verdicts) == len(self.server.cases):
                threading.Thread(target=self.server.shutdown).start()

    def _say_nothing(self, name: str, *, hang: bool) -> None:
        if "Case-Time" in self.headers:
            return self._send(599, None, {"Case-Answer": name})
        if hang:
            time.sleep(HANGING_SECONDS)
        self.close_connection = True
        return None

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        raw = (
            b""
            if body is None
            else body.encode()
            if isinstance(body, str)
            else json.dumps(body).encode()
        )
        self.send_response_only(status)  # Without a Date: the device's clock means nothing.
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:  # noqa: PLR2004
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if status != 204:  # noqa: PLR2004
            self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Say nothing of single requests."""


def main() -> int:
    """Serve until each case has been judged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--port", type=int, default=8099, help="where it listens; 0: any that is free"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.5,
        metavar="S",
        help="how many seconds a time may be off",
    )
    options = parser.parse_args()
    server = StandIn(options.port, options.only, options.tolerance)
    sys.stdout.write(f"{len(server.cases)} cases: http://127.0.0.1:{server.server_port}/next\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.05)
    failed = sum(map(bool, server.verdicts.values()))
    missing = len(server.cases) - len(server.verdicts)
    passed = len(server.verdicts) - failed
    sys.stdout.write(f"{passed} passed, {failed} failed, {missing} not reported\n")
    return int(failed > 0 or missing > 0)


if __name__ == "__main__":
    sys.exit(main())
