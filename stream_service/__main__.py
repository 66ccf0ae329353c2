"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from stream_service import __version__

try:
    from stream_service.process.embedded import EmbeddedError
    from stream_service.process.server import CannotServeError, serve
    from stream_service.settings import Settings, SettingsError, near_misses
    from stream_service.telemetry.logs import configure_logging
    from stream_service.telemetry.tracing import start_tracing
except ModuleNotFoundError as error:
    sys.exit(
        f"stream-service: this Python has no {error.name}. `make install` installs what is needed; "
        "then run .venv/bin/python -m stream_service"
    )

log = logging.getLogger("stream_service")

_ENVIRONMENT = """\
environment variables and their defaults:
  HOST 127.0.0.1                  address to listen on
  PORT 3001                       port to listen on; 0 takes a free one
  MONGO_URL mongodb://127.0.0.1:27017
                                  the database server; not used with --embedded
  MONGO_DB stream_service         name of the database; if unset, the one that MONGO_URL names
  STREAM_LIMIT 3                  active streams per session, 1 to 100
  ENFORCE 1                       0 refuses no start, but counts what would have been refused
  STREAM_TTL_SECONDS 60           lease: how long a stream lives without a heartbeat
  STREAM_RETENTION_SECONDS 300    how long, at least, an ended stream is remembered
  STREAM_LIMIT_HEADER             header in which the gateway sends a viewer's own limit
  GATEWAY_TOKEN                   bearer token of the gateway; two, with a comma, to rotate it
  OPERATOR_TOKEN                  token of operators, which opens the pages too; two likewise
  DIGEST_KEY                      secret key of the digests of session ids, 16 characters or more
  PLAYBACK_KEYS                   PEM files with private keys for playback tokens, separated by
                                  commas; the first one signs
  PLAYBACK_AUDIENCE               "aud" of playback tokens
  REUSE_PORT 0                    1 lets several processes listen on one port
  LISTENER_DIR                    directory through which several processes share one
                                  listening socket, so that a reload loses no connection
  DRAIN_SECONDS 0                 how long open connections are served after a signal to stop,
                                  each answer telling the client to close
  LOG_LEVEL INFO                  DEBUG, INFO, WARNING, ERROR or CRITICAL
  NODE_CHANNEL_FD                 set by pm2, to be told when the service is ready
  NOTIFY_SOCKET                   set by systemd, likewise
  PROMETHEUS_MULTIPROC_DIR        directory in which several processes collect their metrics, so
                                  that /metrics has the sum: see docs/operations.md
  OTEL_EXPORTER_OTLP_ENDPOINT     where traces are sent: see docs/operations.md
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the service; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="stream-service",
        description="Decides whether a session may watch one more stream.",
        epilog=_ENVIRONMENT,
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    if options.data_dir is not None and not options.embedded:
        parser.error("--data-dir is for --embedded")
    try:
        environment = dict(os.environ)
        if options.embedded:
            environment.pop("MONGO_URL", None)
        settings = Settings.from_environment(environment)
        configure_logging(settings.log_level)
        for sentence in near_misses(environment):
            log.warning(sentence)
        embedded_in = (options.data_dir or Path("data")) if options.embedded else None
        start_tracing()
        return asyncio.run(serve(settings, embedded_in=embedded_in))
    except (SettingsError, EmbeddedError, CannotServeError) as error:
        for line in str(error).splitlines():
            print(f"stream-service: {line}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
