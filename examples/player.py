"""A player of stream-service without a picture: the rules of docs/clients.md, over aiohttp.

    python -m examples.player http://127.0.0.1:3001 --session me

plays until Ctrl-C and prints what happens. `Player` is the part to take over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import random
import re
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientSession, ClientTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Headers = Mapping[str, str] | Callable[[bool], Awaitable[Mapping[str, str]]]
    Tell = Callable[[str, Any], None]

ANSWER_SECONDS = 10.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, LONGEST_RETRY_AFTER_SECONDS = 1.0, 15.0, 60.0
SHORTEST_BEAT_SECONDS, LONGEST_BEAT_SECONDS = 1.0, 3600.0
RESUME_SPREAD_SECONDS = 5.0
STOP_SECONDS, STOP_FIRST_SECONDS = 10.0, 3.0
FREE_REQUESTS = 2
"""Then one a second. (A web page has a third one, for the moment when it goes.)"""

PROBLEM = "urn:stream-service:problem:"
HOPELESS = {400, 413, 415, 422}
UNWELCOME = {401, 403}

LONGEST_LABEL = 200
MOST_CHOICES = 8

_ID = re.compile("[A-Za-z0-9_-]{1,128}")
"""What goes into paths: an id with dots or slashes would lead elsewhere."""
_AT_THE_START = {"lease_id", "active", "limit"}
"""The first is a secret, which nobody is told; the others are true at the start alone."""

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where a player is."""

    STARTING = "starting"
    PLAYING = "playing"
    RESUMING = "resuming"
    OVER = "over"


class NoAnswerError(Exception):
    """A request brought no answer of use.

    Attributes:
        status: The HTTP status, or None if nothing was answered.
        retry_after: Seconds that the answer asked to wait; 0 if it did not.
        problem: What the service said, or None if it was not the service that answered.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        retry_after: float = 0.0,
        problem: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.problem = problem


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    kind: str | None
    """Of the problem, if the service itself told one."""
    answer: Any
    retry_after: float

    def says(self, status: int, kind: str) -> bool:
        return (self.status, self.kind) == (status, kind)

    def stream(self) -> dict[str, Any] | None:
        """The stream that it describes, or None if it is no such answer."""
        if self.status not in (200, 201) or not isinstance(self.answer, dict):
            return None
        if not _is_id(self.answer.get("stream_id")):
            return None
        beat = self.answer.get("heartbeat_in")
        if isinstance(beat, bool) or not isinstance(beat, int | float) or not 0 < beat < math.inf:
            return None
        return self.answer

    def lease_id(self) -> str | None:
        """The lease id of the stream that was started, or None if it is no such answer."""
        stream = self.stream()
        lease_id = None if stream is None else stream.get("lease_id")
        return lease_id if _is_id(lease_id) else None

    def is_refusal(self) -> bool:
        return self.says(409, "limit-reached") and isinstance(self.answer.get("streams"), list)

    def reason(self) -> str | None:
        """Why the stream has ended, or None if it is no such answer."""
        reason = self.answer.get("reason") if self.says(410, "stream-ended") else None
        return reason if reason and isinstance(reason, str) else None

    def error(self) -> NoAnswerError:
        return NoAnswerError(
            str(self.answer.get("detail")) if self.kind else f"HTTP {self.status}",
            status=self.status,
            retry_after=self.retry_after,
            problem=self.answer if self.kind else None,
        )


class Player:
    """One stream, from play to stop.

    What happens is told as `tell(event, detail)`: `started`, `beat`, `resumed` and `online` with
    the stream, `refused` and `ended` with the problem (both are the end), `unavailable`, `offline`
    and `error` with a `NoAnswerError`.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of its own
        self,
        client: ClientSession,
        url: str,
        *,
        tell: Tell,
        device: str | None = None,
        content: str | None = None,
        device_id: str | None = None,
        replace: str | Sequence[str] = (),
        abandoned: Sequence[str] = (),
        headers: Headers | None = None,
        grace_seconds: float = math.inf,
        pause_seconds: float = math.inf,
        after: Player | None = None,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """Make a player; `run` plays.

        Args:
            client: Sends the requests.
            url: Where the service, or the gateway before it, is.
            tell: Is told what happens.
            device: What other devices of the account are shown; cut to 200 characters.
            content: What is played, as other devices are shown it; cut to 200 characters.
            device_id: Opaque, and kept on the device: `same-device` finds its stream by it.
            replace: Whose place the first start takes.
            abandoned: The `stream_id`s of players of this device before, of which it is not sure
                that they ended: the first start names them before `replace`.
            headers: Sent with each start; its lease id opens the rest. A coroutine function is
                asked before each, with True once one was answered with 401 or 403 and until there
                is a stream; if it raises, that is no answer.
            grace_seconds: For how long it may go on with no answer.
            pause_seconds: For how long the picture may stand still.
            after: The player of this device before, which is being stopped: zapping waits for that.
            spread: Random numbers from 0 to 1.
        """
        self.state = State.STARTING
        self.stream: dict[str, Any] = {}
        """As the service described it last; empty while none is held."""
        self.reason: str | None = None
        self._client = client
        self._url = url.rstrip("/")
        self._tell = tell
        body = {"device": _label(device), "content": _label(content), "device_id": device_id}
        self._body = {name: value for name, value in body.items() if value is not None}
        choices = [*abandoned, *([replace] if isinstance(replace, str) else replace)]
        self._replace = choices[:MOST_CHOICES]
        self._lease_id = ""
        self._headers = headers
        self._grace_seconds = grace_seconds
        self._pause_seconds = pause_seconds
        self._pausing: asyncio.TimerHandle | None = None
        self._after = after
        self._start_free_at = 0.0
        self._spread = spread
        self._key = secrets.token_urlsafe(16)
        self._failures = 0
        self._may_hurry = False
        self._refused = False
        self._unsure = False
        self._silent = False
        self._grace: asyncio.TimerHandle | None = None
        self._sent = 0
        self._free_at = 0.0
        self._awake = asyncio.Event()
        self._no_start_under_way = asyncio.Event()
        self._no_start_under_way.set()
        self._stop: asyncio.Task[bool] | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, or has been stopped."""
        return self.state is State.OVER

    async def run(self) -> None:
        """Play until it is over. Cancelling this stops the stream."""
        wait = 0.0
        try:
            if self._after is not None:
                wait = await self._follow(self._after)
            while not self.over:
                await self._rest(wait)
                await asyncio.sleep(self._pause())
                if not self.over:
                    wait = await self._ask()
        finally:
            await self.stop()

    async def stop(self) -> bool:
        """End the stream; nothing is told any more.

        Returns:
            True once there is no stream for sure; False if nobody said so within 11 seconds (10
            for all, and a last try of one second): the lease then frees the slot.
        """
        return await asyncio.shield(self._finish())

    def set_paused(self, *, paused: bool) -> None:
        """Whether the picture stands still: after `pause_seconds` of that the slot is freed."""
        if self._pausing is not None:
            self._pausing.cancel()
        if paused and not self.over and self._pause_seconds < math.inf:
            loop = asyncio.get_running_loop()
            self._pausing = loop.call_later(self._pause_seconds, self._end, "ended", {}, "paused")

    def online(self) -> None:
        """The device has a network again: do not wait, unless the service asked for it."""
        if self._may_hurry:
            self._failures = 0
            self._awake.set()

    async def _follow(self, before: Player) -> float:
        """Let the player before stop; the seconds until a start may follow its start."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_FIRST_SECONDS):
                await before.stop()
        self._start_free_at = before._start_free_at
        return max(0.0, self._start_free_at - asyncio.get_running_loop().time())

    async def _ask(self) -> float:
        """One request; the seconds until the next."""
        try:
            if self.state is State.PLAYING:
                return await self._beat()
            self._no_start_under_way.clear()
            return await self._start()
        except NoAnswerError as error:
            return self._failed(error)
        finally:
            self._no_start_under_way.set()

    async def _start(self) -> float:
        first = self.state is State.STARTING
        body: dict[str, Any] = {**self._body}
        if first and self._replace:
            body["replace"] = self._replace
        self._unsure = True
        self._start_free_at = asyncio.get_running_loop().time() + 1.0
        reply = await self._post("/streams", body)
        lease_id, refused = reply.lease_id(), reply.is_refusal()
        if lease_id is not None or refused:
            self._unsure = False
        if lease_id is not None:
            self._lease_id = lease_id
            stream = {name: value for name, value in reply.answer.items() if name != "lease_id"}
            return self._hold(stream, "started" if first else "resumed")
        if refused:
            return self._end("refused", reply.answer)
        raise reply.error()

    async def _beat(self) -> float:
        reply = await self._post(f"{self._path()}/heartbeat")
        if self.over:
            return 0.0
        stream = reply.stream()
        if stream is not None and stream["stream_id"] == self.stream["stream_id"]:
            told = {**self.stream, **stream}
            for name in _AT_THE_START:
                told.pop(name, None)
            return self._hold(told, "beat")
        reason = reply.reason()
        if reason == "expired" or reply.says(404, "stream-not-found"):
            return self._resume()
        if reason is None:
            raise reply.error()
        self.stream = {}
        return self._end("ended", reply.answer, reason)

    def _hold(self, stream: dict[str, Any], event: str) -> float:
        self.stream = stream
        if self.over:
            return 0.0  # Stopped meanwhile: what waits for this ends it.
        was_offline = self._silent and event != "started"
        self.state = State.PLAYING
        if self._grace is not None:
            self._grace.cancel()
        self._failures = 0
        self._may_hurry = self._refused = self._silent = False
        if was_offline:
            self._say("online", stream)
        self._say(event, stream)
        beat: float = stream["heartbeat_in"]
        return min(max(beat, SHORTEST_BEAT_SECONDS), LONGEST_BEAT_SECONDS)

    def _resume(self) -> float:
        """The stream is lost and nobody meant it: start anew, not all players in one moment."""
        beat: float = self.stream["heartbeat_in"]
        self.stream = {}
        self.state = State.RESUMING
        self._key = secrets.token_urlsafe(16)
        self._may_hurry = False  # the spread is the service's
        return self._spread() * min(beat, RESUME_SPREAD_SECONDS)

    def _failed(self, error: NoAnswerError) -> float:
        if self.over:
            return 0.0
        # Only a start needs a login.
        unwelcome = self.state is not State.PLAYING and error.status in UNWELCOME
        if unwelcome and not self._refused and callable(self._headers):
            self._refused = True
            return 0.0
        first = self.state is State.STARTING
        self._may_hurry = not error.retry_after
        doubled = FIRST_WAIT_SECONDS * 2.0 ** min(self._failures, 10)
        wait: float = min(doubled, LONGEST_WAIT_SECONDS)
        self._failures += 1
        wait = max(wait, error.retry_after) * (1.0 + self._spread())
        self._say("error", error)
        if first and (unwelcome or (error.problem is not None and error.status in HOPELESS)):
            return self._end("ended", error, "rejected")
        if not self._silent:
            self._silent = True
            if self._grace_seconds < math.inf:
                loop = asyncio.get_running_loop()
                self._grace = loop.call_later(
                    self._grace_seconds, self._end, "ended", error, "unreachable"
                )
            self._say("unavailable" if first else "offline", error)
        return wait

    def _end(self, event: str, detail: Any, reason: str | None = None) -> float:
        if not self.over:
            self.reason = reason or event
            self._finish()  # frees the slot, if one is still held
            self._call(event, detail)
        return 0.0

    def _finish(self) -> asyncio.Task[bool]:
        if self._stop is None:
            self.state = State.OVER
            self._awake.set()
            self.set_paused(paused=False)
            if self._grace is not None:
                self._grace.cancel()
            self._stop = asyncio.create_task(self._release())
        return self._stop

    async def _release(self) -> bool:
        """Have the service end what is held. A start under way may still bring a stream."""
        loop = asyncio.get_running_loop()
        until, wait = loop.time() + STOP_SECONDS, FIRST_WAIT_SECONDS
        if not self.stream:
            await self._no_start_under_way.wait()  # for as long as a request may take at most
        while self.stream:
            await asyncio.sleep(self._pause())
            seconds = max(1.0, until - loop.time())
            try:
                reply = await self._post(f"{self._path()}/stop", seconds=seconds, last=True)
            except NoAnswerError:
                gone = False
            else:
                gone = reply.status == 204 or reply.kind in ("stream-ended", "stream-not-found")  # noqa: PLR2004
            if gone:
                self.stream = {}
            elif loop.time() + wait >= until:
                return False
            else:
                await asyncio.sleep(wait)
                wait *= 2
        return not self._unsure

    async def _post(
        self,
        path: str,
        start: Mapping[str, Any] | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
        last: bool = False,
    ) -> _Reply:
        """What was answered, within these seconds.

        Raises:
            NoAnswerError: Nothing was.
        """
        try:
            async with asyncio.timeout(seconds):
                headers = None if start is None else await self._headers_of_start()
                if self.over and not last:
                    raise NoAnswerError("no longer wanted")
                self._count()
                async with self._client.post(
                    self._url + path,
                    json=start,
                    headers=headers,
                    raise_for_status=False,  # Its error would tell the address, which is a secret.
                    allow_redirects=False,  # A login page is no answer.
                    timeout=ClientTimeout(total=None),
                ) as response:
                    raw = b""
                    if response.content_type in ("application/json", "application/problem+json"):
                        raw = await response.read()
                    return self._judge(response.status, response.headers, raw)
        except TimeoutError:
            raise NoAnswerError(f"no answer within {seconds:g} s") from None
        except ClientError as error:
            raise NoAnswerError(str(error) or type(error).__name__) from error

    async def _headers_of_start(self) -> dict[str, str]:
        own = self._headers or {}
        try:
            sent = dict(await own(self._refused) if callable(own) else own)
        except Exception as error:
            self._count()  # a try that sent nothing takes its turn too
            # Nothing that the app's error says of a status or a wait is the service's.
            raise NoAnswerError(f"no headers: {type(error).__name__}") from error
        return {**sent, "Idempotency-Key": self._key}

    def _count(self) -> None:
        self._sent += 1
        self._free_at = asyncio.get_running_loop().time() + 1.0

    def _judge(self, status: int, headers: Mapping[str, str], raw: bytes) -> _Reply:
        try:
            answer = json.loads(raw) if raw else None
        except ValueError:
            answer = None
        kind = None
        is_problem = headers.get("Content-Type", "").startswith("application/problem+json")
        if is_problem and isinstance(answer, dict) and answer.get("status") == status:
            kind = str(answer.get("type")).removeprefix(PROBLEM)
            if kind == answer.get("type"):
                kind = None
        return _Reply(status, kind, answer, wait_asked_for(headers))

    async def _rest(self, seconds: float) -> None:
        """Wait, until the network comes back or it is over."""
        self._awake.clear()
        if self.over:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            pass

    def _pause(self) -> float:
        """Seconds until the next request may be sent: whatever happens, no storm."""
        if self._sent < FREE_REQUESTS:
            return 0.0
        return max(0.0, self._free_at - asyncio.get_running_loop().time())

    def _say(self, event: str, detail: Any) -> None:
        if not self.over:
            self._call(event, detail)

    def _call(self, event: str, detail: Any) -> None:
        try:
            self._tell(event, detail)
        except Exception:
            log.exception("what is told of %s failed", event)

    def _path(self) -> str:
        return f"/streams/{self._lease_id}"


def wait_asked_for(headers: Mapping[str, str]) -> float:
    """Seconds, from seconds or a date; 0 where there is nothing to be understood.

    A date is told by the clock that dated the answer: that of a device may be years off.
    """
    text = headers.get("Retry-After", "")
    try:
        if re.fullmatch("[0-9]+", text):
            wait = float(text)
        else:
            until, sent_at = map(parsedate_to_datetime, (text, headers.get("Date", "")))
            wait = (until - sent_at).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _label(text: str | None) -> str | None:
    """The text as the service takes it: no half of a character, and 200 at most."""
    if text is None:
        return None
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole[:LONGEST_LABEL]


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Plays a stream without a picture, until Ctrl-C.")
    parser.add_argument("url", help="where the service is, such as http://127.0.0.1:3001")
    parser.add_argument("--session", required=True, help="the account, as a gateway would set it")
    parser.add_argument("--device", default="Python", help="what other devices are shown")
    parser.add_argument("--replace", action="append", help="whose place to take; may be repeated")
    options = parser.parse_args()

    def tell(event: str, detail: Any) -> None:
        known = (
            detail.get("stream_id") or detail.get("detail") if isinstance(detail, dict) else detail
        )
        print(f"{event}: {known}", flush=True)  # noqa: T201 - the picture

    async with ClientSession() as client:
        await Player(
            client,
            options.url,
            tell=tell,
            device=options.device,
            replace=options.replace or (),
            headers={"Session-Id": options.session},
        ).run()


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except KeyboardInterrupt:
        sys.exit(130)
