"""The rules of the limit alone: no clock, no store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from stream_service.admission import (
    OLDEST,
    SAME_DEVICE,
    STALEST,
    Claim,
    CloseFirst,
    KeyReused,
    Overtaken,
    Refuse,
    Settled,
    Start,
    TakeOver,
    plan,
)
from stream_service.group_commit import AGAIN
from stream_service.streams import (
    Reached,
    Stream,
    Tombstone,
    key_place,
    stream_id_of,
    token_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 1, 20, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE = 60 * SECOND
OWN = stream_id_of(1, token_of(b"t"))
"""Of the start that `starting` makes, in slot 1."""


def streaming(
    slot: int,
    *,
    age: int = 10,
    left: int = 50,
    key: str | None = None,
    device: str | None = None,
) -> Stream:
    """A stream that started `age` seconds ago and whose lease runs `left` seconds more."""
    return Stream(
        session="s",
        stream_id=stream_id_of(slot, f"{slot:022}"),
        started_at=NOW - age * SECOND,
        expires_at=NOW + left * SECOND,
        places=() if key is None else (key_place(key),),
        device_id=device,
    )


def over(slot: int, *, key: str | None = None, device: str | None = None) -> Stream:
    return streaming(slot, age=100, left=-1, key=key, device=device)


def starting(  # noqa: PLR0913 - what a start may say
    limit: int = 3,
    *,
    replace: str | tuple[str, ...] = (),
    key: str | None = None,
    device: str | None = None,
    secret: bytes = b"t",
    enforced: bool = True,
) -> Start:
    return Start(
        "s",
        limit,
        device_id=device,
        replace=(replace,) if isinstance(replace, str) else replace,
        idempotency_key=key,
        secret=secret,
        enforced=enforced,
    )


def refusal(limit: int, streams: list[Stream]) -> Refuse:
    """Of a start that only the number of all streams hinders."""
    return Refuse([Reached(None, limit, streams)], len(streams))


def test_the_first_streams_get_the_lowest_slots_in_the_order_of_their_arrival() -> None:
    assert plan([], [starting(), starting(), starting()], NOW) == [
        Claim(0, 1),
        Claim(1, 2),
        Claim(2, 3),
    ]


def test_a_start_gets_the_lowest_free_slot() -> None:
    assert plan([streaming(0), streaming(2)], [starting()], NOW) == [Claim(1, 3)]


def test_a_start_at_the_limit_is_refused_with_what_is_playing_oldest_first() -> None:
    young, old, middle = streaming(0, age=5), streaming(1, age=50), streaming(2, age=20)

    assert plan([young, old, middle], [starting()], NOW) == [refusal(3, [old, middle, young])]


def test_streams_that_started_in_one_millisecond_are_listed_by_slot() -> None:
    view = [streaming(2), streaming(0), streaming(1)]

    [refused] = plan(view, [starting()], NOW)

    assert isinstance(refused, Refuse)
    assert [stream.slot for stream in refused.reached[0].streams] == [0, 1, 2]


def test_a_stream_is_over_at_the_very_moment_its_lease_ends() -> None:
    view = [streaming(0, left=0), streaming(1), streaming(2)]

    assert plan(view, [starting()], NOW) == [Claim(0, 3, view[0])]


def test_more_starts_than_slots_are_left_look_again_and_are_not_refused() -> None:
    # Those before them have not got their slots yet, and may lose them.
    decisions = plan([streaming(0), streaming(1)], [starting(), starting(), starting()], NOW)

    assert decisions == [Claim(2, 3), AGAIN, AGAIN]


def test_a_lowered_limit_counts_streams_in_higher_slots() -> None:
    view = [streaming(4), streaming(5)]

    decisions = plan(view, [starting(3), starting(3)], NOW)

    assert decisions == [Claim(0, 3), AGAIN]


def test_a_lowered_limit_refuses_while_higher_slots_fill_it() -> None:
    view = [streaming(3), streaming(4), streaming(5)]

    assert isinstance(plan(view, [starting(3)], NOW)[0], Refuse)


def test_a_raised_limit_opens_the_slots_above() -> None:
    view = [streaming(0), streaming(1), streaming(2)]

    assert plan(view, [starting(5), starting(5)], NOW) == [Claim(3, 4), Claim(4, 5)]


def test_each_start_of_one_plan_has_the_limit_that_it_came_with() -> None:
    decisions = plan([streaming(0)], [starting(1), starting(2), starting(2)], NOW)

    assert decisions == [refusal(1, [streaming(0)]), Claim(1, 2), AGAIN]


@pytest.mark.parametrize("slots", [(0,), (0, 1, 2)])
def test_replace_by_id_takes_the_place_below_the_limit_and_at_it(slots: tuple[int, ...]) -> None:
    view = [streaming(slot) for slot in slots]

    decisions = plan(view, [starting(replace=view[0].stream_id)], NOW)

    assert decisions == [TakeOver(view[0], len(slots), if_unchanged=False)]


def test_replace_by_id_of_a_stream_that_is_over_starts_as_usual() -> None:
    gone = over(0)

    assert plan([gone], [starting(replace=gone.stream_id)], NOW) == [Claim(0, 1, gone)]


def test_replace_by_id_over_the_limit_is_refused() -> None:
    view = [streaming(0), streaming(1), streaming(2)]

    decisions = plan(view, [starting(2, replace=view[0].stream_id)], NOW)

    assert decisions == [refusal(2, view)]


def test_replace_oldest_takes_the_place_of_the_one_that_started_first() -> None:
    view = [streaming(0, age=5), streaming(1, age=50, left=59), streaming(2, age=20, left=1)]

    decisions = plan(view, [starting(replace=OLDEST)], NOW)

    assert decisions == [TakeOver(view[1], 3, if_unchanged=False)]


def test_replace_stalest_takes_the_longest_without_a_heartbeat_unless_it_beats() -> None:
    view = [streaming(0, age=5), streaming(1, age=50, left=59), streaming(2, age=20, left=1)]

    decisions = plan(view, [starting(replace=STALEST)], NOW)

    assert decisions == [TakeOver(view[2], 3, if_unchanged=True)]


@pytest.mark.parametrize("which", [OLDEST, STALEST])
def test_replace_oldest_or_stalest_ends_nothing_below_the_limit(which: str) -> None:
    view = [streaming(0), streaming(1)]

    assert plan(view, [starting(replace=which)], NOW) == [Claim(2, 3)]


@pytest.mark.parametrize("which", [OLDEST, STALEST])
def test_replace_oldest_or_stalest_is_refused_over_the_limit(which: str) -> None:
    view = [streaming(0), streaming(1), streaming(2)]

    assert plan(view, [starting(2, replace=which)], NOW) == [refusal(2, view)]


def test_one_victim_is_given_to_one_start() -> None:
    view = [streaming(0), streaming(1, age=50), streaming(2)]
    starts = [starting(replace=OLDEST), starting(replace=view[1].stream_id)]

    decisions = plan(view, starts, NOW)

    assert decisions == [TakeOver(view[1], 3, if_unchanged=False), AGAIN]


@pytest.mark.parametrize("slots", [(0,), (0, 1, 2)])
def test_replace_same_device_takes_its_own_place_below_the_limit_and_at_it(
    slots: tuple[int, ...],
) -> None:
    view = [streaming(slot, device=f"device {slot}") for slot in slots]

    decisions = plan(view, [starting(replace=SAME_DEVICE, device="device 0")], NOW)

    assert decisions == [TakeOver(view[0], len(slots), if_unchanged=True)]


def test_replace_same_device_without_a_stream_of_the_device_is_a_plain_start() -> None:
    view = [streaming(0), streaming(1, device="another"), over(2, device="mine")]

    assert plan(view, [starting(replace=SAME_DEVICE, device="mine")], NOW) == [Claim(2, 3, view[2])]
    [refused] = plan(view, [starting(2, replace=SAME_DEVICE, device="mine")], NOW)
    assert isinstance(refused, Refuse)


def test_streams_without_a_device_are_no_streams_of_the_same_one() -> None:
    # The handlers refuse such a start; the rules would end nobody's stream for it either.
    assert plan([streaming(0)], [starting(replace=SAME_DEVICE)], NOW) == [Claim(1, 2)]


def test_of_several_streams_of_the_device_the_stalest_loses_its_place_unless_it_beats() -> None:
    view = [
        streaming(0, left=1),
        streaming(1, left=30, device="mine"),
        streaming(2, left=20, device="mine"),
    ]

    decisions = plan(view, [starting(replace=SAME_DEVICE, device="mine")], NOW)

    assert decisions == [TakeOver(view[2], 3, if_unchanged=True)]


def test_replace_same_device_over_the_limit_is_refused() -> None:
    view = [streaming(0, device="mine"), streaming(1), streaming(2)]

    decisions = plan(view, [starting(2, replace=SAME_DEVICE, device="mine")], NOW)

    assert decisions == [refusal(2, view)]


def test_two_starts_of_one_device_are_tried_one_after_the_other() -> None:
    # Served in a row, the second would take the place of the first.
    mine = starting(replace=(SAME_DEVICE, STALEST), device="mine")
    full = [streaming(slot) for slot in range(3)]
    own = [streaming(0, device="mine")]

    assert plan([], [mine, mine], NOW) == [Claim(0, 1), AGAIN]
    assert plan([], [starting(device="mine"), mine], NOW) == [Claim(0, 1), AGAIN]
    assert plan(own, [mine, mine], NOW) == [TakeOver(own[0], 1, if_unchanged=True), AGAIN]
    assert plan(full, [mine, mine], NOW) == [TakeOver(full[0], 3, if_unchanged=True), AGAIN]


def test_two_starts_of_one_device_that_replace_nothing_get_a_slot_each() -> None:
    starts = [starting(device="mine"), starting(device="mine")]

    assert plan([], starts, NOW) == [Claim(0, 1), Claim(1, 2)]


def test_a_key_that_has_a_stream_is_answered_with_it_before_the_device_is_looked_for() -> None:
    view = [streaming(0, key="k", device="mine"), streaming(1, device="mine", left=1)]

    decisions = plan(view, [starting(key="k", replace=SAME_DEVICE, device="mine")], NOW)

    assert decisions == [Settled(view[0], 2, replay=True)]


@pytest.mark.parametrize(
    ("device", "limit", "victim"),
    [("mine", 3, 1), ("mine", 4, 1), ("new", 3, 2), ("new", 4, None)],
)
def test_of_a_list_of_choices_the_first_that_finds_a_stream_acts(
    device: str, limit: int, victim: int | None
) -> None:
    view = [streaming(0), streaming(1, device="mine"), streaming(2, left=1)]

    [decision] = plan(view, [starting(limit, replace=(SAME_DEVICE, STALEST), device=device)], NOW)

    slot = decision.victim.slot if isinstance(decision, TakeOver) else None
    assert slot == victim
    assert isinstance(decision, TakeOver | Claim)


def test_a_choice_that_only_acts_at_the_limit_leaves_its_turn_to_the_next_one() -> None:
    view = [streaming(0, age=50), streaming(1)]
    choices = (OLDEST, over(2).stream_id, view[1].stream_id)

    below, at = (plan(view, [starting(limit, replace=choices)], NOW) for limit in (3, 2))

    assert below == [TakeOver(view[1], 2, if_unchanged=False)]
    assert at == [TakeOver(view[0], 2, if_unchanged=False)]


def test_a_limit_that_is_not_enforced_lets_starts_have_the_slots_beyond_it() -> None:
    view = [streaming(0), streaming(1), streaming(2)]
    beyond = starting(enforced=False)

    assert plan(view, [beyond, beyond], NOW) == [Claim(3, 4), Claim(4, 5)]


@pytest.mark.parametrize("which", [OLDEST, STALEST])
def test_a_limit_that_is_not_enforced_costs_nobody_a_place(which: str) -> None:
    view = [streaming(0), streaming(1), streaming(2)]

    assert plan(view, [starting(replace=which, enforced=False)], NOW) == [Claim(3, 4)]


@pytest.mark.parametrize("replace", [SAME_DEVICE, streaming(1).stream_id])
def test_what_a_start_replaces_at_any_number_it_replaces_beyond_a_limit_too(replace: str) -> None:
    view = [streaming(0), streaming(1, device="mine"), streaming(2)]
    start = starting(1, replace=replace, device="mine", enforced=False)

    [decision] = plan(view, [start], NOW)

    assert isinstance(decision, TakeOver)
    assert decision.victim == view[1]


def test_a_stream_that_might_come_back_is_in_nobodys_way_where_no_limit_is_enforced() -> None:
    view = [streaming(0), over(4)]

    assert plan(view, [starting(1, enforced=False)], NOW) == [Claim(1, 2)]


def test_all_slots_are_an_end_also_where_the_limit_is_not_enforced() -> None:
    view = [streaming(slot, age=slot + 1) for slot in range(100)]
    beyond = starting(enforced=False)

    [refused, replacing] = plan(view, [beyond, replace(beyond, replace=(OLDEST,))], NOW)

    assert isinstance(refused, Refuse)
    assert replacing == TakeOver(view[99], 100, if_unchanged=False)
    assert plan(view[:99], [beyond, beyond], NOW) == [Claim(99, 100), AGAIN]


def test_a_limit_is_enforced_for_one_start_beside_others_for_which_it_is_not() -> None:
    view = [streaming(0), streaming(5)]
    starts = [starting(), starting(enforced=False), starting(), starting(2)]

    decisions = plan(view, starts, NOW)

    assert decisions[:3] == [Claim(1, 3), Claim(2, 4), AGAIN]
    assert isinstance(decisions[3], Refuse)


def test_a_key_that_has_a_stream_is_answered_with_it_even_at_the_limit() -> None:
    view = [streaming(0), streaming(1, key="k"), streaming(2)]

    decisions = plan(view, [starting(key="k"), starting(key="other")], NOW)

    assert decisions == [Settled(view[1], 3, replay=True), refusal(3, view)]


def test_a_key_whose_stream_was_started_by_other_words_is_refused() -> None:
    view = [streaming(0, key="k")._replace(fingerprint="f"), streaming(1), streaming(2)]

    def said(fingerprint: str | None, start: Start) -> Start:
        return replace(start, fingerprint=fingerprint)

    starts = [said("f", starting(key="k")), said("g", starting(key="k")), said("f", starting())]
    assert plan(view, starts, NOW) == [
        Settled(view[0], 3, replay=True),
        KeyReused(),
        refusal(3, view),
    ]


def test_a_slot_whose_stream_was_stopped_has_nobody_to_remember_anew() -> None:
    stopped = over(0)._replace(ended="stopped")
    closed = over(1)._replace(ended="expired")

    assert plan([stopped, closed], [starting(), starting()], NOW) == [
        Claim(0, 1),
        Claim(1, 2, closed),
    ]


def test_a_key_that_has_a_stream_replaces_nothing_more() -> None:
    view = [streaming(0), streaming(1, key="k")]

    decisions = plan(view, [starting(key="k", replace=view[0].stream_id)], NOW)

    assert decisions == [Settled(view[1], 2, replay=True)]


def test_starts_without_a_key_are_no_replays_of_streams_without_one() -> None:
    assert plan([streaming(0)], [starting(), starting()], NOW) == [Claim(1, 2), Claim(2, 3)]


def test_a_start_whose_claim_was_done_unanswered_knows_its_own_stream() -> None:
    view = [streaming(0), streaming(1), streaming(2)]
    view[1] = view[1]._replace(stream_id=OWN)

    assert plan(view, [starting()], NOW) == [Settled(view[1], 3, replay=False)]


@pytest.mark.parametrize(
    "holder",
    [
        streaming(1)._replace(tombstones=(Tombstone(OWN, "replaced"),)),
        streaming(1)._replace(tombstones=(Tombstone(OWN, "replaced"), Tombstone("1-x", "stopped"))),
        over(1)._replace(ended="stopped", tombstones=(Tombstone(OWN, "stopped"),)),
    ],
    ids=["replaced", "replaced long ago", "stopped"],
)
def test_a_start_whose_stream_was_ended_by_another_request_gets_no_second_one(
    holder: Stream,
) -> None:
    active = 2 if holder.is_active(NOW) else 1
    for choice in ((), ("oldest",)):
        start = starting(replace=choice)
        assert plan([streaming(0), holder], [start], NOW) == [Overtaken(1, active)]


def test_one_key_twice_in_one_plan_is_tried_once() -> None:
    decisions = plan([], [starting(key="k"), starting(key="k"), starting(key="l")], NOW)

    assert decisions == [Claim(0, 1), AGAIN, Claim(1, 2)]


def test_the_key_of_a_stream_that_is_over_is_taken_off_before_another_slot_gets_it() -> None:
    gone = over(2, key="k")

    assert plan([gone], [starting(key="k")], NOW) == [CloseFirst([gone])]


def test_the_key_of_a_stream_that_is_over_goes_with_its_slot() -> None:
    gone = over(1, key="k")

    assert plan([streaming(0), gone], [starting(key="k")], NOW) == [Claim(1, 2, gone)]


def test_the_key_of_a_stream_that_is_over_is_taken_off_before_a_take_over() -> None:
    playing, gone = streaming(0), over(1, key="k")
    replacing = starting(key="k", replace=playing.stream_id)

    assert plan([playing, gone], [replacing], NOW) == [CloseFirst([gone])]


def test_a_refused_start_leaves_the_key_of_a_stream_that_is_over_alone() -> None:
    playing = streaming(0)

    decisions = plan([playing, over(1, key="k")], [starting(1, key="k")], NOW)

    assert decisions == [refusal(1, [playing])]


def test_a_lapsed_stream_above_the_limit_is_closed_before_its_place_is_given_away() -> None:
    # A heartbeat of it that was sent in time may still be under way.
    lapsed = over(4)
    view = [streaming(0), streaming(1), lapsed]

    assert plan(view, [starting(3)], NOW) == [CloseFirst([lapsed])]
    assert plan(view, [starting(4)], NOW) == [Claim(2, 3)]
    closed = [streaming(0), streaming(1), lapsed._replace(ended="expired")]
    assert plan(closed, [starting(3)], NOW) == [Claim(2, 3)]


def test_lapsed_streams_below_the_limit_are_nobodys_trouble() -> None:
    view = [streaming(0), over(1), over(2)]

    assert plan(view, [starting(3), starting(3)], NOW) == [
        Claim(1, 2, view[1]),
        Claim(2, 3, view[2]),
    ]


def test_a_lapsed_stream_that_would_be_one_too_many_is_closed_before_a_take_over() -> None:
    view = [streaming(0), streaming(1), over(2), streaming(4)]

    decisions = plan(view, [starting(3, replace=view[0].stream_id)], NOW)

    assert decisions == [CloseFirst([view[2]])]


_DEVICES = ["TV", "phone"]


def _streams(keys: list[str]) -> st.SearchStrategy[list[Stream]]:
    a_stream = st.builds(
        lambda slot, age, left, key, device, ended: streaming(
            slot, age=age, left=left, key=key, device=device
        )._replace(ended=ended if left <= 0 else None),
        st.integers(0, 6),
        st.integers(1, 4),
        st.integers(-2, 4),
        st.sampled_from([None, *keys]),
        st.sampled_from([None, *_DEVICES]),
        st.sampled_from([None, "stopped", "expired"]),
    )
    of_one_session: Callable[[Stream], object] = lambda stream: stream.slot  # noqa: E731
    return st.lists(a_stream, max_size=6, unique_by=of_one_session).map(_each_key_once)


def _each_key_once(streams: list[Stream]) -> list[Stream]:
    """Keys are unique in a session: the database sees to that."""
    seen: set[str] = set()
    kept = []
    for stream in streams:
        fresh = seen.isdisjoint(stream.places)
        kept.append(stream if fresh else stream._replace(places=()))
        seen.update(stream.places)
    return kept


_KEYS = ["k", "l"]
_CHOICES = [SAME_DEVICE, OLDEST, STALEST, *(streaming(slot).stream_id for slot in range(7))]
_STARTS = st.lists(
    st.builds(
        starting,
        st.integers(1, 6),
        replace=st.just(()) | st.lists(st.sampled_from(_CHOICES), max_size=3).map(tuple),
        device=st.sampled_from([None, *_DEVICES]),
        key=st.sampled_from([None, None, *_KEYS]),
        secret=st.sampled_from([b"t", b"t", b"1"]),
        enforced=st.sampled_from([True, True, False]),
    ),
    min_size=1,
    max_size=6,
)


any_plan = given(view=_streams(_KEYS), starts=_STARTS)


def _active(view: list[Stream]) -> dict[str, Stream]:
    return {stream.stream_id: stream for stream in view if stream.is_active(NOW)}


@any_plan
def test_claims_of_any_plan_never_meet_and_leave_room_for_every_stream_above(
    view: list[Stream], starts: list[Start]
) -> None:
    taken = {stream.slot for stream in _active(view).values()}
    lapsed = {s.slot for s in view if not s.is_active(NOW) and s.ended is None}
    closes = False

    for start, decision in zip(starts, plan(view, starts, NOW), strict=True):
        event(type(decision).__name__)
        closes = closes or isinstance(decision, CloseFirst)
        if isinstance(decision, Claim):
            assert decision.slot not in taken
            above = sum(1 for slot in taken | lapsed if slot > decision.slot)
            # The lemma that the cap rests on: see the docstring of the module.
            assert decision.slot + above + 1 <= start.slots
            # A start that has something closed first keeps its place in the plan.
            assert closes or taken.issuperset(range(decision.slot)), "the lowest free slot"
            taken.add(decision.slot)
            assert closes or decision.active == len(taken)
        if isinstance(decision, CloseFirst):
            assert decision.lapsed
            assert all(not s.is_active(NOW) and s.ended is None for s in decision.lapsed)


@any_plan
def test_any_plan_refuses_only_at_the_limit_and_lets_its_first_start_get_on(
    view: list[Stream], starts: list[Start]
) -> None:
    active = _active(view)

    decisions = plan(view, starts, NOW)

    assert decisions[0] is not AGAIN
    for start, decision in zip(starts, decisions, strict=True):
        if isinstance(decision, Refuse):
            assert len(active) >= start.slots
            assert {stream.stream_id for stream in decision.reached[0].streams} == set(active)


@any_plan
def test_take_overs_of_any_plan_end_each_stream_once_and_only_as_the_start_asks(
    view: list[Stream], starts: list[Start]
) -> None:
    active = _active(view)
    victims = set()

    for start, decision in zip(starts, plan(view, starts, NOW), strict=True):
        if isinstance(decision, TakeOver):
            victim = decision.victim.stream_id
            assert active[victim] == decision.victim
            assert victim not in victims
            victims.add(victim)
            assert len(active) <= start.slots
            assert decision == _first_that_acts(active, start)


def _first_that_acts(active: dict[str, Stream], start: Start) -> TakeOver | None:
    """What the choices of a start say, in plain words, were it alone."""
    streams = sorted(active.values(), key=lambda s: (s.started_at, s.slot))
    own = [s for s in streams if s.device_id is not None and s.device_id == start.device_id]
    full = streams if len(streams) == start.slots else []
    for choice in start.replace:
        victims = {
            SAME_DEVICE: sorted(own, key=lambda s: s.expires_at),
            OLDEST: full,
            STALEST: sorted(full, key=lambda s: s.expires_at),
        }.get(choice, [s for s in streams if s.stream_id == choice])
        if victims:
            by_its_lease = choice in (STALEST, SAME_DEVICE)
            return TakeOver(victims[0], len(streams), if_unchanged=by_its_lease)
    return None


@any_plan
def test_any_plan_lets_a_start_take_a_free_slot_only_if_none_of_its_choices_acts(
    view: list[Stream], starts: list[Start]
) -> None:
    active = _active(view)
    getting: set[str | None] = {None}

    for start, decision in zip(starts, plan(view, starts, NOW), strict=True):
        if isinstance(decision, Claim):
            assert _first_that_acts(active, start) is None
            # Nor does it get a second stream beside one that its device is about to get.
            assert SAME_DEVICE not in start.replace or start.device_id not in getting - {None}
        if isinstance(decision, Claim | TakeOver):
            getting.add(start.device_id)


@any_plan
def test_any_plan_tries_each_key_once_and_never_for_a_start_that_has_its_stream(
    view: list[Stream], starts: list[Start]
) -> None:
    active = _active(view)
    keyed = {place for stream in active.values() for place in stream.places}
    tokens = {stream_id.partition("-")[2] for stream_id in active}
    tried = set()

    for start, decision in zip(starts, plan(view, starts, NOW), strict=True):
        has_its_stream = not keyed.isdisjoint(start.places) or start.token in tokens
        assert isinstance(decision, Settled) == has_its_stream
        if isinstance(decision, Claim | TakeOver) and start.idempotency_key is not None:
            assert start.idempotency_key not in tried
            tried.add(start.idempotency_key)
