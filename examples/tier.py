"""Holds many players' leases by `POST /heartbeats`, as a gateway of WebSockets does for viewers.

    GATEWAY_TOKEN=... python -m examples.tier --streams 10000 --url http://127.0.0.1:3001

starts so many streams and holds them until Ctrl-C, then lets them lapse. `Tier` is the part to take
over.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import random
import secrets
import sys
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from examples.player import ANSWER_SECONDS, NoAnswerError, wait_asked_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    OnEnded = Callable[[str, dict[str, Any]], None]

MOST_IN_A_REQUEST = 1000
FEWEST_TURNS = 40
"""An interval has so many parts at least, each of which renews its part of the leases: many small
requests are answered sooner than a few large ones, and cost hardly more."""
MOST_AT_ONCE = 4
"""How many requests may be under way."""
BEATS_PER_LEASE = 3
"""`heartbeat_in` is a third of the lease, give or take 10 %."""
FIRST_INTERVAL_SECONDS = 1.0
"""Until the service has named one."""
FIRST_WAIT_SECONDS = 1.0

STARTS_AT_ONCE = 32

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    lease_id: str
    on_ended: OnEnded
    renewed_at: float
    """When it was asked for, by the loop's clock: the lease lasts at least from then."""


class Tier:
    """Leases that are renewed together, each once in the interval that the service names.

    A lease whose stream is over is let go, and its `on_ended` told why: `stopped`, `replaced` or
    `expired` with the service's problem, `unknown` if the service has forgotten it, and
    `unreachable` with {} if for a whole lease nobody could say.

    Attributes:
        interval: Seconds in which each lease is renewed once.
        requests: How many requests were answered.
        renewed: How many leases they renewed.
        failed: How many requests brought nothing.
    """

    def __init__(self, client: ClientSession, url: str) -> None:
        """Make a tier; `run` renews.

        Args:
            client: Sends the requests, with the gateway's token if the service wants one.
            url: Where the service is.
        """
        self.interval = FIRST_INTERVAL_SECONDS
        self.requests = self.renewed = self.failed = 0
        self._client = client
        self._url = url.rstrip("/")
        self._lease = math.inf
        self._held: dict[str, _Held] = {}
        # Those that are not being renewed right now, in the order of their turns.
        self._next: deque[_Held] = deque()
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, lease_id: str, on_ended: OnEnded) -> None:
        """Hold a lease that was started or renewed just now, until its stream is over."""
        held = _Held(lease_id, on_ended, asyncio.get_running_loop().time())
        self._held[lease_id] = held
        self._next.append(held)

    def remove(self, lease_id: str) -> None:
        """Let go of a lease, if it is held; its `on_ended` hears nothing any more."""
        self._held.pop(lease_id, None)

    async def run(self) -> None:
        """Renew until this is cancelled. Streams then go on for what is left of their leases."""
        due = 0.0
        async with asyncio.TaskGroup() as tasks:
            while True:
                turns = max(FEWEST_TURNS, math.ceil(len(self) / MOST_IN_A_REQUEST))
                due += len(self) / turns
                batch = self._take(int(due))
                due %= 1
                if batch:
                    tasks.create_task(self._renew(batch))
                await asyncio.sleep(self.interval / turns)

    def _take(self, count: int) -> list[_Held]:
        batch: list[_Held] = []
        while self._next and len(batch) < count:
            held = self._next.popleft()
            if self._holds(held):
                batch.append(held)
        return batch

    def _holds(self, held: _Held) -> bool:
        return self._held.get(held.lease_id) is held

    async def _renew(self, batch: Sequence[_Held]) -> None:
        """Renew these; try again until their leases would be over."""
        loop = asyncio.get_running_loop()
        failures = 0
        while batch := [held for held in batch if self._holds(held)]:
            try:
                async with self._at_once:
                    asked_at = loop.time()
                    items = [{"lease_id": held.lease_id} for held in batch]
                    results, seconds = await post_heartbeats(self._client, self._url, items)
            except NoAnswerError as error:
                log.warning("%d leases are not renewed: %s", len(batch), error)
                self.failed += 1
                doubled = FIRST_WAIT_SECONDS * 2.0 ** min(failures, 10)
                failures += 1
                wait = max(min(doubled, self.interval / 2), error.retry_after)
                await asyncio.sleep(wait * (1.0 + random.random()))  # noqa: S311 - no secret
                for held in batch:
                    if held.renewed_at + self._lease < loop.time():
                        self._end(held, "unreachable", {})
            else:
                self.requests += 1
                self.interval = max(seconds, FIRST_INTERVAL_SECONDS)
                self._lease = BEATS_PER_LEASE * self.interval
                for held, result in zip(batch, results, strict=True):
                    self._settle(held, result, asked_at)
                return

    def _settle(self, held: _Held, result: dict[str, Any], asked_at: float) -> None:
        problem = result.get("problem")
        if problem is None:
            self.renewed += 1
            held.renewed_at = asked_at
        elif problem["status"] in (404, 410):
            self._end(held, problem.get("reason", "unknown"), problem)
        else:
            log.error("a lease is not renewed: %s", problem["detail"])
        if self._holds(held):
            self._next.append(held)

    def _end(self, held: _Held, reason: str, problem: dict[str, Any]) -> None:
        if not self._holds(held):
            return
        del self._held[held.lease_id]
        try:
            held.on_ended(reason, problem)
        except Exception:
            log.exception("what is told of an end failed")


async def post_heartbeats(
    client: ClientSession, url: str, items: Sequence[dict[str, str]]
) -> tuple[list[dict[str, Any]], float]:
    """Renew these; one result for each, and the seconds until the next heartbeat is wanted.

    Raises:
        NoAnswerError: It was refused as a whole, or not answered.
    """
    try:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            client.post(
                f"{url}/heartbeats",
                json={"heartbeats": items},
                raise_for_status=False,
                allow_redirects=False,
                timeout=ClientTimeout(total=None),
            ) as response,
        ):
            if response.status != 200:  # noqa: PLR2004
                raise NoAnswerError(
                    f"HTTP {response.status}",
                    status=response.status,
                    retry_after=wait_asked_for(response.headers),
                )
            answer = await response.json()
        results: list[dict[str, Any]] = answer["results"]
        if len(results) != len(items):
            raise NoAnswerError("this is no answer of stream-service")
        return results, float(answer["heartbeat_in"])
    except TimeoutError:
        raise NoAnswerError(f"no answer within {ANSWER_SECONDS:g} s") from None
    except (ClientError, ValueError, LookupError, TypeError) as error:
        raise NoAnswerError(f"no answer of use ({type(error).__name__})") from error


async def _start(client: ClientSession, url: str) -> str:
    """The lease id of a new stream of an account of its own."""
    headers = {"Session-Id": secrets.token_urlsafe(16), "Idempotency-Key": secrets.token_urlsafe()}
    while True:
        async with client.post(f"{url}/streams", headers=headers) as response:
            if response.status in (429, 503):
                await asyncio.sleep(wait_asked_for(response.headers))
                continue
            response.raise_for_status()
            return str((await response.json())["lease_id"])


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Starts streams and holds them, until Ctrl-C.")
    parser.add_argument("--url", required=True, help="where the service is")
    parser.add_argument("--streams", type=int, default=10_000, help="how many (default: 10000)")
    options = parser.parse_args()
    url, waiting, ended = options.url.rstrip("/"), options.streams, Counter[str]()
    # Not an option: who lists processes sees those.
    token = os.environ.get("GATEWAY_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None

    async with ClientSession(headers=headers) as client, asyncio.TaskGroup() as tasks:
        tier = Tier(client, url)
        tasks.create_task(tier.run())

        async def start() -> None:
            nonlocal waiting
            while waiting > 0:
                waiting -= 1
                tier.add(await _start(client, url), lambda reason, _: ended.update((reason,)))

        for _ in range(STARTS_AT_ONCE):
            tasks.create_task(start())
        while True:
            before = tier.renewed, tier.requests, tier.failed
            seconds = tier.interval
            await asyncio.sleep(seconds)
            renewed, requests, failed = (
                now - then
                for now, then in zip(
                    (tier.renewed, tier.requests, tier.failed), before, strict=True
                )
            )
            print(  # noqa: T201 - what it is run for
                f"holds {len(tier)}; in {seconds:.1f} s {renewed} renewed by {requests} requests, "
                f"{failed} requests failed; ended: {dict(ended) or 'none'}",
                flush=True,
            )


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except KeyboardInterrupt:
        sys.exit(130)
    except ExceptionGroup as errors:
        if errors.subgroup(ClientError) is None:
            raise
        sys.exit(f"examples.tier: a start failed: {errors.exceptions[0]}")
