"""This process among those that use the same database: what has to agree, and whose clock is off.

Each has a document in the collection `processes`:

    _id          random, of this run of the process
    name         its host and process id
    started_at, seen_at
    settings     what has to agree, by the name of its variable; of secrets a check value
    clock        seconds by which its clock is ahead of the database's; null where that tells none
    forget_at    bears the TTL index
"""

from __future__ import annotations

import logging
import os
import secrets
from datetime import timedelta
from socket import gethostname
from time import monotonic
from typing import TYPE_CHECKING, Any

from stream_service.documents import TOLERATED_SKEW

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from stream_service.store import MongoStore

log = logging.getLogger(__name__)

NOTICED_SKEW = timedelta(seconds=5)
"""From which difference on a clock is said to be off. Beyond `TOLERATED_SKEW` it does harm."""

KEPT_BEYOND_A_LEASE = timedelta(minutes=1)
"""A process that was killed is known for so long, and for as long as its last streams may play."""


class Processes:
    """Tells the other processes of this one, and this one of the others.

    Attributes:
        id: Of this run of this process.
        own: Its document, as last written.
        others: The documents of the others, as last read.
        refusal: Why this process must not serve; None if it may.
        clock_is_right: Whether its clock may judge leases.
    """

    def __init__(
        self,
        store: MongoStore,
        settings: Mapping[str, Any],
        *,
        lease: timedelta,
        clock: Callable[[], datetime],
        other_digest_key: bool,
    ) -> None:
        """Nothing is told yet.

        Args:
            store: Where the processes are.
            settings: What has to agree, by the name of its variable. `DIGEST_KEY` is one of them.
            lease: How long a stream stays active without a heartbeat.
            clock: Tells the time.
            other_digest_key: Whether another `DIGEST_KEY` than the others have is no refusal.
        """
        self.id = secrets.token_hex(8)
        self.own: dict[str, Any] = {}
        self.others: list[dict[str, Any]] = []
        self.refusal: str | None = None
        self.clock_is_right = True
        self._store = store
        self._settings = dict(settings)
        self._kept = lease + KEPT_BEYOND_A_LEASE
        self._clock = clock
        self._may_differ = other_digest_key
        self._started_at, self._started = clock(), monotonic()
        self._drift = 0.0
        self._how_far_off = 0
        self._timeless = False
        self._met = False
        self._said = set[tuple[str, str]]()

    async def meet(self) -> None:
        """Read and write as requests do; by it, tell of this process and learn of the others.

        Raises:
            StoreUnavailableError: The database fails one of these, or gives no answer.
        """
        sent_at, sent = self._clock(), monotonic()
        told = await self._store.clock()
        midway = timedelta(seconds=(monotonic() - sent) / 2)
        off = self._judge_clock(sent_at, sent, None if told is None else told - midway)
        # The database's TTL index deletes by its own clock.
        now = self._clock() if told is None else told
        self.own = {
            "name": f"{gethostname()}:{os.getpid()}",
            "started_at": self._started_at,
            "seen_at": now,
            "settings": self._settings,
            "clock": off,
            "forget_at": now + self._kept,
        }
        self.others = await self._store.meet(self.id, self.own, now)
        self._compare()
        if not self._met and self.refusal is not None:
            await self._store.leave(self.id, now)
        self._met = True

    async def leave(self) -> None:
        """Let the others forget this process, if it was ever told of.

        Raises:
            StoreUnavailableError: They do so by themselves, later.
        """
        if self._met:
            await self._store.leave(self.id, self._clock())

    def _compare(self) -> None:
        differences: dict[tuple[str, str], dict[str, Any]] = {}
        for other in self.others:
            for setting, here in self._settings.items():
                there = other["settings"].get(setting)
                if there != here:
                    about = {"setting": setting, "here": here, "there": there}
                    differences[setting, str(there)] = about | {"other": other["name"]}
        for (setting, _), about in differences.items():
            if setting == "DIGEST_KEY" and not self._met and not self._may_differ:
                self.refusal = (
                    f"DIGEST_KEY is not that of the process {about['other']} on this database: "
                    "each would count an account's streams apart. DIGEST_KEY_CHANGE=1 starts "
                    "nevertheless"
                )
        for difference in differences.keys() - self._said:
            # A release is rolled out process by process.
            level = logging.INFO if difference[0] == "version" else logging.WARNING
            log.log(level, "settings of processes differ", extra=differences[difference])
        self._said = set(differences)

    def _judge_clock(self, at: datetime, when: float, database: datetime | None) -> float | None:
        """Judge the clock, which says `at` at this time of the monotonic one; returns how far off.

        Where the database tells no time it is compared with itself, as it was at the start.
        """
        before = self._drift
        self._drift = (at - self._started_at).total_seconds() - (when - self._started)
        jumped = abs(self._drift - before) > NOTICED_SKEW.total_seconds()
        if jumped:
            log.warning("clock jumped", extra={"seconds": round(self._drift - before, 3)})
        if database is None and not self._timeless:
            self._timeless = True
            log.info("the database tells no time: this clock is not compared with it")
        told = None if database is None else round((at - database).total_seconds(), 3)
        off = self._drift if told is None else told
        how_far = sum(abs(off) > skew.total_seconds() for skew in (NOTICED_SKEW, TOLERATED_SKEW))
        # A jump may have put it right: that is seen when it is looked at next.
        self.clock_is_right = how_far < 2 and not jumped  # noqa: PLR2004 - of two bounds
        if how_far != self._how_far_off:
            self._how_far_off = how_far
            message = "clock is off: set it by NTP" if how_far else "clock is right again"
            log.warning(message, extra={"seconds": round(off, 3), "ready": self.clock_is_right})
        return told
