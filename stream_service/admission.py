"""The rules of the limit, as a pure function: no clock, no store, no HTTP.

A slot is the unit of admission. A start that claims slot 0, 1 ... limit - 1 of a session is
admitted; the store lets one stream at a time have a slot. These rules only choose what to try, from
a fresh view of the session. Another start can be faster; then the view is outdated, and the start
has to look again. So no start is admitted beyond the limit, because there is no slot, and none is
refused wrongly, because only a fresh view refuses.

Each further limit has numbered places of its own, and what holds for slots holds for those: the
store lets one stream at a time have a place, and a start claims its slot and one place under each
limit that applies to it in one step, or nothing.

Two properties of `plan` carry the proof, for each limit by itself, and are tested as such:

- It claims the lowest free place s, and only when no more than limit - s - 1 streams above it are
  active or can be again. Then the cap holds even while streams from before a lowered limit sit in
  higher places. For let s be the highest place that was claimed under this limit: at most s + 1
  streams lie in the places up to it, and those above it were counted when it was claimed, and can
  only have become fewer.
- It refuses only on what the view holds, never on what other starts beside it are about to get.

A stream whose lease is over can be active again: a heartbeat that was sent in time may be carried
out after the view was read, even much later. Where that would matter, which takes a lowered limit,
such a stream is closed first: from then on no heartbeat renews it. The look after that sees it
closed, or sees that the heartbeat was faster.

A take-over keeps its victim's slot, so all the session's streams are as many as before. Under each
further limit it is a claim, before which the victim is gone.

Where a limit is not enforced, a start may use every place there is. For starts that enforce it,
beside those or later, the streams in slots beyond their limit are like those of a higher limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from stream_service.group_commit import AGAIN, Again
from stream_service.settings import MAX_LIMIT
from stream_service.streams import (
    Reached,
    Rule,
    Stream,
    key_place,
    new_secret,
    place_number,
    stream_id_of,
    token_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

SAME_DEVICE = "same-device"
OLDEST = "oldest"
STALEST = "stalest"


@dataclass(frozen=True, slots=True)
class Start:
    """One request for one more stream.

    Attributes:
        session: Digest of the session id.
        limit: How many active streams this session may have, 0 to 100.
        rules: The further limits that apply.
        plan: The name of the plan that these are of, or None.
        enforced: Whether a start beyond the limit is refused. Otherwise it is admitted, no other
            stream loses its place by "oldest" or "stalest", and only the slots are an end.
        device: Label for lists and refusals, or None.
        content: Label for lists and refusals, or None.
        platform: What it plays on, or None.
        device_id: Digest of the id of the device that asks, or None.
        replace: Whose place it would take: stream ids, "same-device", "oldest" and "stalest". The
            first that finds a stream acts, the last two find one only where no slot is left. Of
            several streams of the same device the stalest is meant.
        idempotency_key: Digest of the client's key, or None.
        fingerprint: Digest of what this start says, or None without a key. A start with the same
            key has to say the same.
        salt: What a replay needs to make the secret again, or None without a key.
        secret: Of the lease to be.
        token: The secret's digest, second part of the id to be. It stays the same while the start
            tries again, so that a claim whose answer was lost is recognised as this start's own.
    """

    session: str
    limit: int
    rules: tuple[Rule, ...] = ()
    plan: str | None = None
    enforced: bool = True
    device: str | None = None
    content: str | None = None
    platform: str | None = None
    device_id: str | None = None
    replace: tuple[str, ...] = ()
    idempotency_key: str | None = None
    fingerprint: str | None = None
    salt: str | None = None
    secret: bytes = field(default_factory=new_secret, repr=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", token_of(self.secret))

    @property
    def places(self) -> tuple[str, ...]:
        """What its stream holds beside its slot and the places under the rules."""
        return () if self.idempotency_key is None else (key_place(self.idempotency_key),)

    @property
    def slots(self) -> int:
        """How many slots this start may use."""
        return self.limit if self.enforced else MAX_LIMIT


class Places(NamedTuple):
    """What a start takes beside its slot.

    Attributes:
        names: One under each of its rules.
        beyond: The names of the rules that are only counted, and would have refused it.
    """

    names: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


NO_PLACES = Places()


@dataclass(frozen=True, slots=True)
class Claim:
    """Take this free slot, as the `active`-th stream of the session.

    Attributes:
        slot: The slot.
        active: How many streams the session then has.
        expired: The stream that had the slot until its lease ran out, or None.
        places: What it takes beside the slot.
    """

    slot: int
    active: int
    expired: Stream | None = None
    places: Places = NO_PLACES


@dataclass(frozen=True, slots=True)
class TakeOver:
    """End `victim` and take its slot in the same step.

    With `if_unchanged` only if it has not been renewed since the view was read, so that a stream
    with heartbeats is never taken for a ghost.
    """

    victim: Stream
    active: int
    if_unchanged: bool
    places: Places = NO_PLACES


@dataclass(frozen=True, slots=True)
class Settled:
    """This start has its stream already: a replay, or a claim whose answer was lost.

    To be confirmed before it is answered: what the view shows may not be durable yet.
    """

    stream: Stream
    active: int
    replay: bool


@dataclass(frozen=True, slots=True)
class Overtaken:
    """This start had its stream, and another request has ended it since. It gets no second one."""

    slot: int
    active: int


@dataclass(frozen=True, slots=True)
class KeyReused:
    """Another start, that said something else, has a stream by the key of this one."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The session is at these limits, `active` streams in all."""

    reached: list[Reached]
    active: int


@dataclass(frozen=True, slots=True)
class CloseFirst:
    """End these for good, whose leases are over, and free their places; then look again."""

    lapsed: list[Stream]


Decision = Claim | TakeOver | Settled | Overtaken | KeyReused | Refuse | CloseFirst | Again
"""What a start tries; `AGAIN` if what it would get depends on others that are tried right now."""


def plan(view: Sequence[Stream], starts: Sequence[Start], now: datetime) -> list[Decision]:
    """Decide what each start of one session shall try.

    Args:
        view: What the session's slots hold: active streams, and what is over but not deleted.
        starts: Starts of that one session, in the order of their arrival.
        now: The time at which `view` was asked for.

    Returns:
        One decision per start, in order. Claims of one plan never meet in the same place.
    """
    session = _Session(view, now)
    return [session.decide(start) for start in starts]


class _Session:
    """A session while one plan is made: what is active, and what the plan has given away."""

    def __init__(self, view: Sequence[Stream], now: datetime) -> None:
        self._view = view
        active = sorted((s for s in view if s.is_active(now)), key=lambda s: (s.started_at, s.slot))
        self._active = active
        self._by_id = {stream.stream_id: stream for stream in active}
        self._by_place = {place: stream for stream in active for place in stream.places}
        self._expired = {s.slot: s for s in view if not s.is_active(now) and s.ended != "stopped"}
        self._lapsed = [s for s in self._expired.values() if s.ended is None]
        self._occupied = {stream.slot for stream in active}
        self._count = len(active)
        self._held: dict[str, dict[str, Stream]] = {}
        self._taken: dict[str, set[str]] = {}
        self._victims: set[str] = set()
        self._keys: set[str] = set()
        self._devices: set[str] = set()

    def decide(self, start: Start) -> Decision:
        key = start.idempotency_key
        settled = self._settled(start)
        if settled is not None:
            return settled
        if key is not None:
            if key in self._keys:
                return AGAIN
            self._keys.add(key)
        decision = self._admit(start)
        if isinstance(decision, Refuse | Again):
            return decision
        in_the_way = self._in_the_way(start, decision)
        return CloseFirst(in_the_way) if in_the_way else decision

    def _in_the_way(self, start: Start, decision: Claim | TakeOver) -> list[Stream]:
        """Which of the lapsed have to be closed before this can be tried."""
        # A claim writes over what is in its slot, key and all.
        written_over = decision.slot if isinstance(decision, Claim) else None
        others = [stream for stream in self._lapsed if stream.slot != written_over]
        occupied_or_to_be = self._occupied | {stream.slot for stream in others}
        if len(occupied_or_to_be) > start.slots:
            return [stream for stream in others if stream.slot not in self._occupied]
        victim = decision.victim if isinstance(decision, TakeOver) else None
        for rule in start.rules:
            lapsed = _holders(others, rule.prefix)
            taken = self._taken[rule.prefix]
            if (
                victim is not None
                and f"{rule.prefix}/{place_number(victim, rule.prefix)}"
                not in decision.places.names
            ):
                taken = taken - {place_number(victim, rule.prefix)}
            if lapsed and len(taken | lapsed.keys()) > _places(rule, start):
                return list(lapsed.values())
        # No two streams of a session hold the same place.
        wanted = {*start.places, *decision.places.names}
        return [stream for stream in others if not wanted.isdisjoint(stream.places)]

    def _settled(self, start: Start) -> Settled | Overtaken | KeyReused | None:
        for stream in self._active:
            if stream.stream_id.endswith(start.token):
                return Settled(stream, len(self._active), replay=False)
        for stream in self._view:
            if stream.reason_of(stream_id_of(stream.slot, start.token)) is not None:
                return Overtaken(stream.slot, len(self._active))
        key = start.idempotency_key
        replayed = None if key is None else self._by_place.get(key_place(key))
        if replayed is None:
            return None
        if replayed.fingerprint != start.fingerprint:
            return KeyReused()
        return Settled(replayed, len(self._active), replay=True)

    def _admit(self, start: Start) -> Claim | TakeOver | Refuse | Again:
        reached = self._reached(start)
        decision = self._replace(start, reached) or self._claim(start, reached)
        if start.device_id is not None and isinstance(decision, Claim | TakeOver):
            self._devices.add(start.device_id)
        return decision

    def _reached(self, start: Start) -> list[Reached]:
        """The limits that what is active leaves no place under, the one that hinders most first."""
        reached = []
        if len(self._active) >= start.slots:
            reached.append(Reached(None, start.limit, self._active))
        for rule in start.rules:
            holders = self._holders(rule.prefix)
            if len(holders) >= _places(rule, start):
                reached.append(Reached(rule.name, rule.limit, list(holders.values())))
        # First where most have to end, then where there are fewest to choose from.
        reached.sort(key=lambda one: (one.limit - len(one.streams), len(one.streams)))
        return reached

    def _holders(self, prefix: str) -> dict[str, Stream]:
        """Which active stream has which place under a rule, oldest first."""
        held = self._held.get(prefix)
        if held is None:
            held = self._held[prefix] = _holders(self._active, prefix)
            self._taken[prefix] = set(held)
        return held

    def _replace(self, start: Start, reached: list[Reached]) -> TakeOver | Again | None:
        """What the first choice that finds a stream makes of the start; None if none does."""
        if len(self._active) > start.slots:
            return None  # A place that is taken over would still be one too many.
        for choice in start.replace:
            if choice == SAME_DEVICE and start.device_id in self._devices:
                # A start of the same device is before this one, and may get a stream.
                return AGAIN
            found = self._found(choice, start, reached)
            if found:
                victim = found[0] if choice == OLDEST else min(found, key=_end_of_lease)
                return self._take_over(start, victim, if_unchanged=choice in (SAME_DEVICE, STALEST))
        return None

    def _found(self, choice: str, start: Start, reached: list[Reached]) -> list[Stream]:
        """The active streams, oldest first, of which this choice would end one."""
        if choice == SAME_DEVICE:
            found = [s for s in self._active if s.device_id == start.device_id is not None]
        elif choice in (OLDEST, STALEST):
            found = self._active if reached else []
        else:
            found = [self._by_id[choice]] if choice in self._by_id else []
        for one in reached:
            # Above a lowered limit, a place that is taken over would still be one too many.
            in_the_way = one.streams if one.rule is None or len(one.streams) == one.limit else []
            found = [stream for stream in found if stream in in_the_way]
        return found

    def _claim(self, start: Start, reached: list[Reached]) -> Claim | Refuse | Again:
        if reached:
            return Refuse(reached, len(self._active))
        if self._count >= start.slots:
            return AGAIN
        places = self._take_places(start)
        if places is None:
            return AGAIN
        slot = next(slot for slot in range(start.slots) if slot not in self._occupied)
        self._occupied.add(slot)
        self._count += 1
        return Claim(slot, self._count, self._expired.get(slot), places)

    def _take_over(self, start: Start, victim: Stream, *, if_unchanged: bool) -> TakeOver | Again:
        places = None if victim.stream_id in self._victims else self._take_places(start, victim)
        if places is None:
            return AGAIN
        self._victims.add(victim.stream_id)
        return TakeOver(victim, len(self._active), if_unchanged, places)

    def _take_places(self, start: Start, victim: Stream | None = None) -> Places | None:
        """The lowest free place under each rule; None where this plan has given the last away."""
        taking: dict[str, str] = {}
        beyond = []
        for rule in start.rules:
            taken = self._taken[rule.prefix]
            held = taken if victim is None else taken - {place_number(victim, rule.prefix)}
            if len(held) >= _places(rule, start):
                return None
            if len(held) >= rule.limit:
                beyond.append(rule.name)
            taking[rule.prefix] = next(n for n in map(str, count()) if n not in held)
        for prefix, number in taking.items():
            self._taken[prefix].add(number)
        names = tuple(f"{prefix}/{number}" for prefix, number in sorted(taking.items()))
        return Places(names, tuple(beyond))


def _holders(streams: Sequence[Stream], prefix: str) -> dict[str, Stream]:
    """Which of these streams has which place under a rule."""
    numbers = ((place_number(stream, prefix), stream) for stream in streams)
    return {number: stream for number, stream in numbers if number is not None}


def _places(rule: Rule, start: Start) -> int:
    """How many places a start may choose from under a rule."""
    return rule.limit if rule.enforced and start.enforced else MAX_LIMIT


def _end_of_lease(stream: Stream) -> datetime:
    return stream.expires_at
