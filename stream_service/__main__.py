"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
from asyncio import new_event_loop
from contextlib import suppress
from pathlib import Path
from textwrap import fill

from stream_service import __version__

try:
    from stream_service.app import create_app
    from stream_service.process.embedded import EmbeddedError
    from stream_service.process.server import CannotServeError, serve
    from stream_service.settings import Settings, SettingsError, near_misses, variables
    from stream_service.telemetry.logs import OUTPUT, configure_logging
    from stream_service.telemetry.tracing import start_tracing
except ModuleNotFoundError as error:
    sys.exit(
        f"stream-service: this Python has no {error.name}. `make install` installs what is needed; "
        "then run .venv/bin/python -m stream_service"
    )

with suppress(ImportError):
    from uvloop import new_event_loop

log = logging.getLogger("stream_service")

_OF_OPENTELEMETRY = "OpenTelemetry's own variables, OTEL_..., say where traces are sent."


def _environment() -> str:
    """The environment variables, as `--help` shows them."""
    told = ["environment variables and their defaults:"]
    for name, default, text in variables():
        # Plain text: links are for the README.
        plain = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text).replace("`", "")
        told.append(f"  {name} {default}".rstrip())
        told.append(fill(plain, 98, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join([*told, "", _OF_OPENTELEMETRY])


def main(arguments: list[str] | None = None) -> int:
    """Run the service; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="stream-service",
        description="Decides whether a session may watch one more stream.",
        epilog=_environment(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--embedded", action="store_true", help="run an embedded database as a child process"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the embedded database keeps its data (default: ./data)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read settings, keys and policy, say what is wrong, and end: 0, or 2",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if options.data_dir is not None and not options.embedded:
        parser.error("--data-dir is for --embedded")
    environment = dict(os.environ)
    if options.embedded:
        environment.pop("MONGO_URL", None)
    unread = near_misses(environment)
    try:
        settings = Settings.from_environment(environment)
        if options.check:
            create_app(settings)
            for line in unread:
                print(f"stream-service: {line}", file=sys.stderr)  # noqa: T201
            return 0
        configure_logging(settings.log_level)
        while unread:
            log.warning(unread.pop(0))
        embedded_in = (options.data_dir or Path("data")) if options.embedded else None
        start_tracing()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(serve(settings, embedded_in=embedded_in))
    except (SettingsError, EmbeddedError, CannotServeError) as error:
        OUTPUT.close()  # What was logged comes first.
        for line in [*str(error).splitlines(), *unread]:
            print(f"stream-service: {line}", file=sys.stderr)  # noqa: T201
        return 2 if options.check else 1


if __name__ == "__main__":
    sys.exit(main())
