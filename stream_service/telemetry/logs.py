"""Structured logs: one JSON object per line, on standard error."""

from __future__ import annotations

import atexit
import logging
import traceback
from datetime import UTC, datetime

from pythonjsonlogger.json import JsonFormatter

from stream_service.telemetry.line_writer import LineWriter


class _Formatter(JsonFormatter):
    """Shows of an exception its class and where it passed, never its message.

    A message can quote what a client sent: a header that would not parse, a document. The class and
    the frames tell what to look at; the line's own fields tell the rest.
    """

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        lines: list[str] = []
        error = ei[1] if isinstance(ei, tuple) else None
        while isinstance(error, BaseException):
            lines.append(f"{type(error).__module__}.{type(error).__qualname__}")
            lines.extend(line.rstrip() for line in traceback.format_tb(error.__traceback__))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(lines)


def _dropped(lines: int) -> str:
    return (
        f'{{"level": "WARNING", "logger": "{__name__}", "event": "log lines dropped", '
        f'"lines": {lines}, "time": "{datetime.now(UTC).isoformat(timespec="milliseconds")}"}}\n'
    )


OUTPUT = LineWriter(2, _dropped)
"""Standard error, for all that the process logs."""

atexit.register(OUTPUT.close)


def configure_logging(level: str) -> None:
    """Send every logger's lines, from `level` on, to standard error as JSON."""
    handler = logging.StreamHandler(OUTPUT)
    handler.setFormatter(
        _Formatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger", "message": "event"},
            timestamp="time",
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # At DEBUG the driver logs documents and URLs, and the parser of the guides each of its states.
    for name in ("pymongo", "markdown_it"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
