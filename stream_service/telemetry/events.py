"""What happened, and to whom: one line for each start that was decided and each end of a stream.

The lines are CloudEvents 1.0 in their JSON form, on standard output; `api/events.schema.json`
describes them. What has no value is left out. Nothing is kept to be sent again: what waits when the
process is killed, a tenth of a second or what nobody reads, is lost.
"""

from __future__ import annotations

import atexit
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.json import Encoder

from stream_service.limiter import Ender, Observer, Started
from stream_service.streams import LimitReachedError, Reason
from stream_service.telemetry.line_writer import Lines, LineWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from stream_service.admission import Start
    from stream_service.limiter import Clock, End

_encode = Encoder().encode


class _Data(Struct, omit_defaults=True, kw_only=True):
    account: str
    plan: str | None = None
    platform: str | None = None
    device: str | None = None
    content: str | None = None


class StartedData(_Data, kw_only=True):
    """A start that was admitted, once for all its tries."""

    stream_id: str
    active: int
    limit: int
    expires_at: datetime
    replaced: str | None = None
    would: Literal["refuse", "replace"] | None = None
    beyond: tuple[str, ...] = ()


class RefusedData(_Data, kw_only=True):
    """A start that a limit stood in the way of."""

    active: int
    limit: int
    rule: str | None = None


class EndedData(_Data, kw_only=True):
    """A stream that ended, or was found to have expired."""

    stream_id: str
    reason: Reason
    by: Ender | None = None
    replaced_by: str | None = None
    started_at: datetime
    last_heartbeat_at: datetime
    expires_at: datetime


class DroppedData(Struct):
    """How many lines before this one nothing took."""

    events: int


class Event(Struct):
    """The envelope, as CloudEvents 1.0 has it."""

    specversion: str
    type: str
    source: str
    id: str
    time: datetime
    datacontenttype: str
    data: StartedData | RefusedData | EndedData | DroppedData


def _line(
    kind: str, name: str, time: datetime, data: StartedData | RefusedData | EndedData | DroppedData
) -> str:
    event = Event("1.0", kind, "stream-service", name, time, "application/json", data)
    return _encode(event).decode() + "\n"


def _dropped(lines: int) -> str:
    return _line("events.dropped", token_hex(16), datetime.now(UTC), DroppedData(lines))


EVENTS_OUTPUT = LineWriter(1, _dropped)
"""Standard output, for nothing but events."""

atexit.register(EVENTS_OUTPUT.close)


class Events(Observer):
    """Writes the events of one application."""

    def __init__(self, lines: Lines, clock: Clock, *, with_labels: bool) -> None:
        """Nothing is written yet.

        Args:
            lines: Where they go.
            clock: Tells when a start was refused.
            with_labels: Whether device and content are told, which may be personal data.
        """
        self._lines = lines
        self._clock = clock
        self._with_labels = with_labels

    async def written_at_the_end(self, _: web.Application) -> AsyncIterator[None]:
        """Have all written that waits, once the application has finished."""
        yield
        self._lines.write()

    def on_start(self, start: Start, outcome: Started | Exception) -> None:
        """Tell of a start that was admitted or refused, but of no replay."""
        device, content = (start.device, start.content) if self._with_labels else (None, None)
        match outcome:
            case Started(stream=stream, replay=False):
                would = outcome.spared and ("refuse" if outcome.spared == "refusal" else "replace")
                data: StartedData | RefusedData = StartedData(
                    account=start.session,
                    stream_id=stream.stream_id,
                    plan=start.plan,
                    platform=start.platform,
                    device=device,
                    content=content,
                    active=outcome.active,
                    limit=outcome.limit,
                    expires_at=stream.expires_at,
                    replaced=stream.replaced,
                    would=would,
                    beyond=outcome.beyond,
                )
                line = _line(
                    "stream.started", f"{stream.stream_id}/started", stream.started_at, data
                )
            case LimitReachedError(reached=[first, *_], active=active):
                data = RefusedData(
                    account=start.session,
                    plan=start.plan,
                    platform=start.platform,
                    device=device,
                    content=content,
                    active=active,
                    limit=first.limit,
                    rule=first.rule,
                )
                line = _line("stream.refused", f"{start.token}/refused", self._clock(), data)
            case _:
                return
        self._lines.add(line)

    def on_end(self, end: End) -> None:
        """Tell of a stream that ended."""
        stream = end.stream
        data = EndedData(
            account=stream.session,
            stream_id=stream.stream_id,
            plan=stream.plan,
            platform=stream.platform,
            device=stream.device if self._with_labels else None,
            content=stream.content if self._with_labels else None,
            reason=end.reason,
            by=end.by,
            replaced_by=end.replaced_by,
            started_at=stream.started_at,
            last_heartbeat_at=end.last_heartbeat_at,
            expires_at=stream.expires_at,
        )
        self._lines.add(_line("stream.ended", f"{stream.stream_id}/ended", end.at, data))
