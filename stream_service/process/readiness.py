"""What the supervisor, pm2 or systemd, is told, and how a process learns that pm2 is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

from stream_service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_service.api.health import Health
    from stream_service.settings import Settings

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
"""How long to wait before an unreachable database is asked again."""


async def announce_ready(health: Health, settings: Settings) -> None:
    """Wait until this process is ready, then tell pm2 and systemd, whichever is there.

    Args:
        health: Asked until it is.
        settings: Hold the two addresses. What cannot be told is logged, and changes nothing else.

    Raises:
        SettingsError: It must not serve beside the other processes.
    """
    # Each look asks the database anew.
    while not (await health.database_answers() and health.ready):
        if health.processes.refusal is not None:
            raise SettingsError(health.processes.refusal)
        await asyncio.sleep(RETRY_SECONDS)
    log.info("ready")
    try:
        if settings.node_channel_fd is not None:
            # What process.send('ready') writes in a Node program: one line of JSON.
            os.write(settings.node_channel_fd, b'"ready"\n')
        if settings.notify_socket is not None:
            _notify(settings.notify_socket, b"READY=1")
    except OSError as error:
        log.warning("readiness could not be reported", extra={"error": error.strerror})


def when_pm2_is_gone(channel: int, stop: Callable[[], object]) -> None:
    """Call `stop` once pm2's daemon has closed its end, as it does when it is killed.

    Its next daemon would start new processes beside this one, and know nothing of it. systemd needs
    none of this: it knows its processes after a restart of its own.

    Args:
        channel: File descriptor of pm2's channel.
        stop: Ends this process.
    """
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            gone = not os.read(channel, 65_536)
        except OSError:
            gone = True
        if gone:
            loop.remove_reader(channel)
            log.warning("pm2 is gone")
            stop()

    try:
        loop.add_reader(channel, read)
    except OSError as error:
        log.warning("pm2 cannot be watched", extra={"error": error.strerror})


def _notify(address: str, message: bytes) -> None:
    # sd_notify(3): a leading @ stands for the abstract namespace.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(message, address.replace("@", "\0", 1) if address[0] == "@" else address)
