"""Renews by what a CDN has served: reads playback tokens from its log, for `POST /heartbeats`.

    GATEWAY_TOKEN=... python -m examples.log_reader --url http://127.0.0.1:3001 --socket nginx.sock

takes what nginx logs by deploy/nginx-film-log.conf. Without `--socket` it reads standard input, a
pipe, to its end. Of each line the last word is a token, of a segment that was served. A token is a
secret for as long as its stream plays, so no file and no other program should have those lines.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import socket
import sys
from collections import Counter
from contextlib import suppress

from aiohttp import ClientSession

from examples.player import NoAnswerError
from examples.tier import FIRST_INTERVAL_SECONDS, MOST_IN_A_REQUEST, post_heartbeats

_LAST_WORD = re.compile(rb"(?:^|\s)([\w-]+\.[\w-]+\.[\w-]+)\s*$", re.ASCII)
LONGEST_LINE = 16 * 1024

log = logging.getLogger(__name__)


class LogReader(asyncio.DatagramProtocol, asyncio.Protocol):
    """Gathers tokens for half of the interval that the service names, then renews each once."""

    def __init__(self, client: ClientSession, url: str) -> None:
        """Make a reader; `run` renews.

        Args:
            client: Sends the requests, with the gateway's token if the service wants one.
            url: Where the service is.
        """
        self._ended = asyncio.Event()
        self._client = client
        self._url = url.rstrip("/")
        self._seconds = FIRST_INTERVAL_SECONDS
        self._tokens: set[str] = set()
        self._begun = b""

    def datagram_received(self, data: bytes, _: object) -> None:
        """Take a line that nginx sends."""
        self._see(data)

    def data_received(self, data: bytes) -> None:
        """Take a part of standard input."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._see(line)
        if len(self._begun) > LONGEST_LINE:
            self._begun = b""

    def connection_lost(self, _: Exception | None) -> None:
        """Standard input has ended."""
        self._see(self._begun)
        self._ended.set()

    def _see(self, line: bytes) -> None:
        found = _LAST_WORD.search(line)
        if found is not None:
            self._tokens.add(found[1].decode())

    async def run(self) -> None:
        """Renew until there is nothing more to read."""
        is_over = False
        while not is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._ended.wait()
            is_over = self._ended.is_set()
            seen, self._tokens = list(self._tokens), set()
            for first in range(0, len(seen), MOST_IN_A_REQUEST):
                await self._renew(seen[first : first + MOST_IN_A_REQUEST])

    async def _renew(self, tokens: list[str]) -> None:
        items = [{"playback_token": token} for token in tokens]
        try:
            results, interval = await post_heartbeats(self._client, self._url, items)
        except NoAnswerError as error:
            # Whoever still plays is served the next segment in a moment, and so is read again.
            log.warning("%d streams are not renewed: %s", len(tokens), error)
            return
        self._seconds = interval / 2
        problems = (result["problem"] for result in results if "problem" in result)
        refused = Counter(problem.get("reason", problem["type"]) for problem in problems)
        log.info("%d renewed, refused: %s", len(tokens) - refused.total(), dict(refused) or "none")


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Renews the streams whose segments were served.")
    parser.add_argument("--url", required=True, help="where the service is")
    parser.add_argument("--socket", help="made for nginx's lines; standard input is read without")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Not an option: who lists processes sees those.
    token = os.environ.get("GATEWAY_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    loop = asyncio.get_running_loop()
    async with ClientSession(headers=headers) as client:
        reader = LogReader(client, options.url)
        if options.socket is None:
            await loop.connect_read_pipe(lambda: reader, sys.stdin.buffer)
        else:
            os.umask(0o077)  # This user alone, nginx's own, may write to it.
            await loop.create_datagram_endpoint(
                lambda: reader, local_addr=options.socket, family=socket.AF_UNIX
            )
        await reader.run()


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except KeyboardInterrupt:
        sys.exit(130)
