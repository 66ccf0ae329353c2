"""Limits by attribute: the rules for several at once, the policy file, and the real thing."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from stream_service.admission import (
    OLDEST,
    STALEST,
    Claim,
    CloseFirst,
    Places,
    Refuse,
    Start,
    TakeOver,
    plan,
)
from stream_service.api.policy import load_policy
from stream_service.app import create_app
from stream_service.group_commit import AGAIN
from stream_service.limiter import Limiter, Started
from stream_service.settings import Settings, SettingsError
from stream_service.streams import LimitReachedError, Reached, Rule, Stream
from tests.fast.test_admission import NOW, over, streaming
from tests.support.processes import PATIENCE_SECONDS, ROOT, Service, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aiohttp.pytest_plugin import AiohttpClient
    from pymongo import MongoClient

    from stream_service.store import MongoStore

UHD = Rule("uhd", "uhd", 1)
POLICY = """
[plans.default]
streams = 3
[plans.default.limits.uhd]
when = { quality = "uhd" }
streams = 1
[plans.default.limits.same-title]
each = "title"
streams = 1
[plans.default.limits.events]
when = { live = true, kind = ["sport", "concert"] }
streams = 1
enforce = false
[plans.none]
streams = 0
[plans.family]
streams = 5
require = ["quality"]
[plans.family.limits.uhd]
when = { quality = "uhd" }
streams = 2
[plans.family.limits.adult]
when = { rating = 18 }
streams = 0
"""


def holding(stream: Stream, *places: str) -> Stream:
    return stream._replace(places=places)


def starting(*rules: Rule, limit: int = 3, replace: tuple[str, ...] = (), **said: Any) -> Start:
    return Start("s", limit, rules, replace=replace, **said)


def test_a_start_takes_the_lowest_free_place_under_each_limit_that_applies() -> None:
    title = Rule("same-title", "same-title/d", 2)
    view = [holding(streaming(0), "uhd/1", "same-title/d/0"), holding(streaming(2), "uhd/0")]
    [decision] = plan(view, [starting(Rule("uhd", "uhd", 3), title)], NOW)
    assert decision == Claim(1, 3, None, Places(("same-title/d/1", "uhd/2")))


def test_a_refusal_names_the_limits_that_are_reached_the_most_hindering_first() -> None:
    view = [holding(streaming(0), "uhd/0"), streaming(1), holding(streaming(2), "live/0", "live/1")]
    [decision] = plan(view, [starting(UHD, Rule("live", "live", 5))], NOW)
    assert decision == Refuse([Reached("uhd", 1, [view[0]]), Reached(None, 3, view)], 3)


def test_a_limit_of_0_forbids() -> None:
    assert plan([], [starting(Rule("adult", "adult", 0), replace=(OLDEST,))], NOW) == [
        Refuse([Reached("adult", 0, [])], 0)
    ]


@pytest.mark.parametrize("choice", [OLDEST, STALEST])
def test_oldest_and_stalest_choose_among_those_in_the_way_of_every_limit(choice: str) -> None:
    view = [
        streaming(0, age=90, left=1),
        holding(streaming(1, age=20, left=20), "uhd/0"),
        streaming(2),
    ]
    [decision] = plan(view, [starting(UHD, replace=(choice,))], NOW)
    assert isinstance(decision, TakeOver)
    assert (decision.victim, decision.places) == (view[1], Places(("uhd/0",)))
    both = [holding(view[0], "live/0"), view[1], view[2]]
    live = Rule("live", "live", 1)
    [refused] = plan(both, [starting(UHD, live, replace=(choice,))], NOW)
    assert isinstance(refused, Refuse)
    assert {one.rule for one in refused.reached} == {None, "uhd", "live"}


def test_a_take_over_that_another_limit_would_still_refuse_is_none() -> None:
    view = [holding(streaming(0), "uhd/0"), streaming(1, device="mine")]
    [refused] = plan(
        view, [starting(UHD, replace=(view[1].stream_id, "same-device"), device_id="mine")], NOW
    )
    assert refused == Refuse([Reached("uhd", 1, [view[0]])], 2)


def test_nothing_is_replaced_above_a_limit_that_was_lowered() -> None:
    view = [holding(streaming(0), "uhd/0"), holding(streaming(1), "uhd/1")]
    [refused] = plan(view, [starting(UHD, replace=(OLDEST, view[0].stream_id))], NOW)
    assert isinstance(refused, Refuse)


def test_two_starts_of_one_plan_never_get_one_place() -> None:
    decisions = plan([], [starting(Rule("uhd", "uhd", 2))] * 3, NOW)
    assert decisions == [
        Claim(0, 1, None, Places(("uhd/0",))),
        Claim(1, 2, None, Places(("uhd/1",))),
        AGAIN,
    ]


def test_a_lapsed_stream_that_holds_the_place_is_closed_first_unless_it_is_written_over() -> None:
    lapsed = holding(over(1), "uhd/0")
    assert plan([streaming(0), lapsed], [starting(UHD)], NOW) == [
        Claim(1, 2, lapsed, Places(("uhd/0",)))
    ]
    assert plan([lapsed], [starting(UHD)], NOW) == [CloseFirst([lapsed])]


def test_a_lapsed_stream_in_a_higher_place_is_closed_before_it_could_be_one_too_many() -> None:
    lapsed = holding(over(2), "uhd/4")
    assert plan([streaming(0), lapsed], [starting(UHD)], NOW) == [CloseFirst([lapsed])]
    two = Rule("uhd", "uhd", 2)
    assert plan([streaming(0), lapsed], [starting(two)], NOW) == [
        Claim(1, 2, None, Places(("uhd/0",)))
    ]


@pytest.mark.parametrize(
    "counted", [starting(UHD._replace(enforced=False)), starting(UHD, enforced=False)]
)
def test_a_limit_that_is_only_counted_admits_and_says_what_it_would_have_refused(
    counted: Start,
) -> None:
    view = [holding(streaming(0), "uhd/1")]
    assert plan([], [counted], NOW) == [Claim(0, 1, None, Places(("uhd/0",)))]
    assert plan(view, [counted], NOW) == [Claim(1, 2, None, Places(("uhd/0",), ("uhd",)))]


PREFIXES = ["uhd", "live", "title/d"]
_PLACES = st.sets(st.sampled_from([(p, n) for p in PREFIXES for n in range(4)]), max_size=3).map(
    lambda places: tuple(f"{p}/{n}" for p, n in dict(places).items())
)


@st.composite
def _views(draw: st.DrawFn) -> list[Stream]:
    """Streams of a session, active, lapsed or closed; no two hold one place."""
    seen: set[str] = set()
    view = []
    for slot in draw(st.sets(st.integers(0, 5))):
        stream = streaming(slot, age=draw(st.integers(1, 4)), left=draw(st.integers(-2, 4)))
        if not stream.is_active(NOW) and draw(st.booleans()):
            stream = stream._replace(ended="expired")
        else:
            stream = holding(stream, *(one for one in draw(_PLACES) if one not in seen))
        seen.update(stream.places)
        view.append(stream)
    return view


_RULES = st.sets(st.sampled_from(PREFIXES)).flatmap(
    lambda prefixes: st.tuples(
        *(
            st.builds(
                Rule,
                st.just(p),
                st.just(p),
                st.integers(0, 4),
                st.sampled_from([True, True, False]),
            )
            for p in sorted(prefixes)
        )
    )
)
_CHOICES = st.sampled_from([OLDEST, STALEST, *(streaming(slot).stream_id for slot in range(6))])
_STARTS = st.lists(
    st.builds(
        Start,
        st.just("s"),
        st.integers(1, 6),
        _RULES,
        replace=st.just(()) | st.lists(_CHOICES, max_size=2).map(tuple),
        enforced=st.sampled_from([True, True, True, False]),
    ),
    min_size=1,
    max_size=5,
)


def _holders(streams: list[Stream], prefix: str) -> dict[int, Stream]:
    return {
        int(place.rpartition("/")[2]): stream
        for stream in streams
        for place in stream.places
        if place.rpartition("/")[0] == prefix
    }


@given(view=_views(), starts=_STARTS)
def test_what_holds_for_slots_holds_for_the_places_under_each_limit(
    view: list[Stream], starts: list[Start]
) -> None:
    active = [stream for stream in view if stream.is_active(NOW)]
    can_be = [stream for stream in view if stream.ended is None]
    given: set[str] = set()
    closes = False
    for start, decision in zip(starts, plan(view, starts, NOW), strict=True):
        event(type(decision).__name__)
        closes = closes or isinstance(decision, CloseFirst)
        if isinstance(decision, Refuse):
            assert decision.reached
            for one in decision.reached:
                rule = next((r for r in start.rules if r.name == one.rule), None)
                held = active if one.rule is None else list(_holders(active, one.rule).values())
                most = start.slots if rule is None else rule.limit if start.enforced else 100
                assert rule is None or rule.enforced
                assert len(held) >= most
                assert {s.slot for s in one.streams} == {s.slot for s in held}
        if not isinstance(decision, Claim | TakeOver):
            continue
        # One place under each limit, which no active stream has and no start of this plan got.
        assert [name.rpartition("/")[0] for name in decision.places.names] == sorted(
            rule.prefix for rule in start.rules
        )
        gone = [decision.victim] if isinstance(decision, TakeOver) else []
        written_over = {decision.slot} if isinstance(decision, Claim) else set()
        for rule in start.rules:
            place = next(p for p in decision.places.names if p.rpartition("/")[0] == rule.prefix)
            number = int(place.rpartition("/")[2])
            assert place not in given
            rivals = [
                s
                for s in can_be
                if s not in gone and (s.is_active(NOW) or s.slot not in written_over)
            ]
            holders = _holders(rivals, rule.prefix)
            assert number not in holders, "no index would let it"
            if not (rule.enforced and start.enforced):
                continue
            # The lemma that the cap rests on: see the docstring of the module.
            others = {
                int(p.rpartition("/")[2]) for p in given if p.rpartition("/")[0] == rule.prefix
            }
            above = {n for n in {*holders, *others} if n > number}
            assert number + len(above) + 1 <= rule.limit
            taken = {*_holders([s for s in active if s not in gone], rule.prefix), *others}
            assert closes or taken.issuperset(range(number)), "the lowest free place"
        given.update(decision.places.names)


@given(view=_views(), start=_STARTS.map(lambda starts: starts[0]))
def test_a_start_alone_is_refused_only_where_a_limit_is_reached(
    view: list[Stream], start: Start
) -> None:
    active = [stream for stream in view if stream.is_active(NOW)]
    [decision] = plan(view, [start], NOW)
    assert decision is not AGAIN
    full = len(active) >= start.slots or any(
        len(_holders(active, rule.prefix)) >= rule.limit
        for rule in start.rules
        if rule.enforced and start.enforced
    )
    assert isinstance(decision, Refuse) <= full
    assert not (full and isinstance(decision, Claim))


def test_a_limit_applies_by_all_of_its_attributes_and_by_each_value(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    policy = load_policy(tmp_path / "policy.toml")

    def prefixes(plan: str, **attributes: str) -> list[str]:
        rules = policy.plans[plan].rules(attributes, lambda value: f"<{value}>")
        return [rule.prefix for rule in rules]

    assert prefixes("default", quality="uhd", title="x") == ["uhd", "same-title/<x>"]
    assert prefixes("default", quality="hd") == []
    assert prefixes("default", live="true") == []
    assert prefixes("default", live="true", kind="concert") == ["events"]
    assert prefixes("family", rating="18", quality="uhd") == ["uhd", "adult"]
    assert {name for one in policy.plans.values() for name in one.limits} == {
        "uhd",
        "same-title",
        "events",
        "adult",
    }


GUIDE = (ROOT / "docs" / "integration.md").read_text()
RECIPES = {
    "away": ("place=away", "place=home"),
    "tv": ("platform=webos", "platform=web"),
    "live": ("live", "live=?0"),
    "same-title": ('title="x"', 'title="y"'),
    "device": ('device="a"', 'device="b"'),
    "kids": ("profile=kids, rating=18", "profile=kids, rating=12"),
}
"""What a start of each recipe of the guide says to be counted, and one that is not."""


async def test_each_recipe_of_the_guide_limits_what_it_is_for_and_nothing_else(
    aiohttp_client: AiohttpClient, double_store: MongoStore, tmp_path: Path
) -> None:
    example = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert example
    recipes = re.findall(r"\| `(([a-z-]+) = \{.*?\})` \|", GUIDE)
    file = tmp_path / "policy.toml"
    lines = "".join(f"limits.{recipe}\n" for recipe, _ in recipes)
    file.write_text(f"{example[1]}\n[plans.recipes]\nstreams = 100\n{lines}")
    assert [name for _, name in recipes] == list(RECIPES)
    client = await aiohttp_client(create_app(Settings(policy_file=file), store=double_store))
    plan = load_policy(file).plans["recipes"]
    for name, (counted, other) in RECIPES.items():
        for _ in range(plan.limits[name].streams):
            assert (await start(client, "recipes", counted)).status == 201, name
        assert (await (await start(client, "recipes", counted)).json())["rule"] == name
        assert (await start(client, "recipes", other)).status == 201, name


WRONG = """
unknow = 1
[plans.Big]
streams = 3
[plans.standard]
strems = 3
streams = 300
[plans.standard.limits.uhd]
streams = "1"
[plans.standard.limits.any]
streams = 1
[plans.standard.limits.key]
each = "x"
streams = 1
[plans.standard.limits.odd]
when = { quality = 1.5 }
streams = 1
enforce = "no"
"""


def test_each_mistake_of_the_file_is_one_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(WRONG)
    with pytest.raises(SettingsError) as refused:
        load_policy(file)
    places = [line.split(": ")[1] for line in str(refused.value).splitlines()]
    assert sorted(places) == [
        "plans.Big",
        "plans.standard.limits.any",
        "plans.standard.limits.key",
        "plans.standard.limits.odd.enforce",
        "plans.standard.limits.odd.when.quality",
        "plans.standard.limits.uhd.streams",
        "plans.standard.streams",
        "plans.standard.strems",
        "unknow",
    ]
    assert "any: when names no attribute" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[plans.a]\nstreams = 1", "plans.default is missing"),
        ("plans = 1", "plans: "),
        ("[plans", "is not TOML"),
        ("".join(f"[plans.p{n}]\nstreams = 1\n" for n in range(65)), "plans: "),
        (
            "[plans.default]\nstreams = 1\n"
            + "".join(f"limits.l{n} = {{ each = 'x', streams = 1 }}\n" for n in range(33)),
            "plans.default.limits: ",
        ),
    ],
)
def test_check_reads_settings_keys_and_policy_and_says_what_is_wrong(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "policy.toml"
    for content, status in ((text, 2), (POLICY, 0)):
        file.write_text(content)
        checked = subprocess.run(
            [sys.executable, "-m", "stream_service", "--check"],
            env=environment({"POLICY_FILE": str(file), "MONGO_URL": "mongodb://127.0.0.1:1"}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == status, checked.stderr
        assert (said in checked.stderr) == (status == 2)


def test_check_tells_of_names_that_look_misspelt_and_waits_for_no_pipe(tmp_path: Path) -> None:
    def check(**variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "stream_service", "--check"],
            env=environment(variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        return done.returncode, done.stderr

    status, said = check(STREAM_LIMT="4")
    assert (status, "did you mean STREAM_LIMIT?" in said) == (0, True)
    os.mkfifo(tmp_path / "pipe")
    status, said = check(POLICY_FILE=str(tmp_path / "pipe"))
    assert (status, said) == (2, "stream-service: POLICY_FILE names what is no file\n")


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, double_store: MongoStore, tmp_path: Path) -> Any:
    (tmp_path / "policy.toml").write_text(POLICY)
    return await aiohttp_client(
        create_app(Settings(policy_file=tmp_path / "policy.toml"), store=double_store)
    )


async def start(
    client: Any, plan: str | None = None, attributes: str | None = None, **body: Any
) -> Any:
    headers = {"Session-Id": "s"}
    headers |= {"Stream-Plan": plan} if plan is not None else {}
    headers |= {"Stream-Attributes": attributes} if attributes is not None else {}
    return await client.post("/streams", headers=headers, json=body)


async def test_a_refusal_names_the_limit_and_its_own_streams(client: Any) -> None:
    one = await (await start(client, attributes='quality=uhd, title="x"', device="TV")).json()
    await start(client)
    answer = await start(client, attributes="quality=uhd")
    body = await answer.json()
    assert (answer.status, body["type"]) == (409, "urn:stream-service:problem:limit-reached")
    assert (body["rule"], body["limit"], body["active"]) == ("uhd", 1, 1)
    assert [stream["stream_id"] for stream in body["streams"]] == [one["stream_id"]]
    assert "rules" not in body
    both = await (await start(client, attributes='quality=uhd, title="x"')).json()
    assert [rule["rule"] for rule in both["rules"]] == ["uhd", "same-title"]
    taken = await start(client, attributes="quality=uhd", replace="oldest")
    assert taken.status == 201
    assert (await (await start(client, attributes='title="x"')).json())["active"] == 3


async def test_the_plan_says_how_many_and_an_unknown_one_is_the_default_and_counted(
    client: Any,
) -> None:
    refused = await (await start(client, "none")).json()
    assert (refused["limit"], refused["active"]) == (0, 0)
    assert "rule" not in refused
    assert (await (await start(client, "gold")).json())["limit"] == 3
    assert (await (await start(client, "family", "quality=sd")).json())["limit"] == 5
    forbidden = await (await start(client, "family", "quality=sd, rating=18")).json()
    assert (forbidden["rule"], forbidden["limit"]) == ("adult", 0)
    listed = await client.get("/streams", headers={"Session-Id": "s", "Stream-Plan": "family"})
    assert (await listed.json())["limit"] == 5
    metrics = await (await client.get("/metrics")).text()
    assert "stream_service_unknown_plans_total 1.0" in metrics
    assert 'stream_service_limits_total{limit="adult",outcome="refused"} 1.0' in metrics


async def test_who_does_not_know_the_plan_is_told_that_of_the_newest_stream(client: Any) -> None:
    async def told(**plan: str) -> tuple[str, int]:
        answer = await client.get("/streams", headers={"Session-Id": "s", **plan})
        listed = await answer.json()
        return listed["plan"], listed["limit"]

    assert await told() == ("default", 3)
    # The name of its plan, and not of what the plan requires.
    await start(client, "family", "quality=sd")
    assert await told() == ("family", 5)
    assert await told(**{"Stream-Plan": "none"}) == ("none", 0)
    await start(client)
    assert await told() == ("default", 3)


async def test_what_the_gateway_says_wrongly_is_400_and_names_the_field(client: Any) -> None:
    for attributes in (
        "quality=",
        "Quality=1",
        "a=1.5",
        "a=(b c)",
        'a=""',
        f'a="{"x" * 129}"',
        " " * 3,
        ", ".join(f"a{n}=1" for n in range(17)),
    ):
        answer = await start(client, attributes=attributes)
        assert (answer.status, (await answer.json())["field"]) == (400, "Stream-Attributes"), (
            attributes
        )
    missing = await start(client, "family", "title=x")
    assert "must name quality" in (await missing.json())["detail"]
    assert (await (await start(client, "x" * 33)).json())["field"] == "Stream-Plan"


async def test_a_limit_in_shadow_mode_admits_and_is_counted(client: Any) -> None:
    for _ in range(2):
        assert (await start(client, attributes="live, kind=sport")).status == 201
    metrics = await (await client.get("/metrics")).text()
    assert 'stream_service_limits_total{limit="events",outcome="would_refuse"} 1.0' in metrics


async def test_a_key_of_a_start_under_other_limits_gets_round_none(client: Any) -> None:
    async def keyed(attributes: str, key: str) -> int:
        headers = {"Session-Id": "s", "Stream-Attributes": attributes, "Idempotency-Key": key}
        return int((await client.post("/streams", headers=headers)).status)

    assert await keyed("quality=sd", "k") == 201
    assert await keyed("quality=sd", "k") == 200
    assert await keyed("quality=uhd", "k") == 422


async def test_without_a_policy_the_headers_mean_nothing(
    aiohttp_client: AiohttpClient, double_store: MongoStore
) -> None:
    client = await aiohttp_client(create_app(Settings(), store=double_store))
    assert (await (await start(client, "none", "=")).json())["limit"] == 3


async def test_no_value_of_an_attribute_is_stored_in_clear(
    client: Any, double_store: MongoStore
) -> None:
    await start(client, attributes='title="Casablanca"')
    [document] = await double_store._streams.find({}).to_list(None)  # noqa: SLF001
    assert document["places"][0].startswith("same-title/")
    assert "Casablanca" not in str(document)


LEASE = timedelta(seconds=60)
THREE = (Rule("uhd", "uhd", 1), Rule("live", "live", 2), Rule("title", "title/d", 2))


async def test_25_starts_at_once_under_three_overlapping_limits_are_exact(
    connect: Callable[..., MongoStore],
) -> None:
    # On a real server: the double does not enforce the index, and would prove nothing.
    stores = [connect() for _ in range(2)]
    for store in stores:
        await store.prepare()
    limiters = [Limiter(store, lease=LEASE) for store in stores]
    luck = random.Random(14)
    for turn in range(12):
        session = f"s{turn}"
        chosen = [tuple(r for r in THREE if luck.random() < 0.6) for _ in range(25)]
        answers = await asyncio.gather(
            *(limiters[n % 2].start(Start(session, 4, rules)) for n, rules in enumerate(chosen)),
            return_exceptions=True,
        )
        admitted = [a.stream for a in answers if isinstance(a, Started)]
        assert all(isinstance(a, Started | LimitReachedError) for a in answers), answers
        playing = await limiters[0].active(session)
        assert {s.stream_id for s in playing} == {s.stream_id for s in admitted}
        assert len(playing) <= 4
        for rule in THREE:
            assert len(_holders(playing, rule.prefix)) <= rule.limit
        # And none is refused who could watch: what was refused is in the way still.
        for answer, rules in zip(answers, chosen, strict=True):
            if isinstance(answer, LimitReachedError):
                with pytest.raises(LimitReachedError):
                    await limiters[1].start(Start(session, 4, rules))


@contextmanager
def _two_processes(
    mongo_url: str, mongo: MongoClient[Any], *policies: Path
) -> Iterator[list[Service]]:
    """Two processes on one database, each with a policy of its own."""
    name = f"stream_service_test_{secrets.token_hex(6)}"
    program = ("-m", "tests.support.driver")
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Service(
                    "patient",
                    program=program,
                    MONGO_URL=mongo_url,
                    MONGO_DB=name,
                    POLICY_FILE=str(policy),
                )
            )
            for policy in policies
        ]
    mongo.drop_database(name)


@pytest.fixture
def two_versions(
    mongo_url: str, mongo: MongoClient[Any], tmp_path: Path
) -> Iterator[list[Service]]:
    """Two processes: one has the policy, the other the next version of it."""
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(POLICY)
    uhd = 'quality = "uhd" }\nstreams = '
    new.write_text(POLICY.replace(f"{uhd}1", f"{uhd}2", 1))
    with _two_processes(mongo_url, mongo, old, new) as services:
        yield services


OVERLAPPING = """
[plans.default]
streams = 4
limits.uhd = { when = { quality = "uhd" }, streams = 1 }
limits.live = { when = { live = true }, streams = 2 }
limits.same-title = { each = "title", streams = 2 }
"""
LIMITS = {"quality=uhd": 1, "live": 2, 'title="x"': 2}


async def test_of_25_starts_at_once_in_two_processes_none_is_one_too_many_and_none_refused_wrongly(
    mongo_url: str, mongo: MongoClient[Any], tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(OVERLAPPING)
    luck = random.Random(25)
    with _two_processes(mongo_url, mongo, *[tmp_path / "policy.toml"] * 2) as services:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

            async def begin(number: int, session: str, attributes: str) -> int:
                url = f"{services[number % 2].url}/streams"
                headers = {"Session-Id": session, "Stream-Attributes": attributes}
                if not attributes:
                    del headers["Stream-Attributes"]
                async with client.post(url, headers=headers) as answer:
                    return answer.status

            for turn in range(6):
                said = [", ".join(a for a in LIMITS if luck.random() < 0.6) for _ in range(25)]
                statuses = await asyncio.gather(
                    *(begin(n, f"s{turn}", attributes) for n, attributes in enumerate(said))
                )
                assert set(statuses) <= {201, 409}
                playing = [a for a, status in zip(said, statuses, strict=True) if status == 201]
                assert len(playing) <= 4
                for attribute, limit in LIMITS.items():
                    assert sum(attribute in one for one in playing) <= limit
                # What was refused is in the way still, so it was not refused wrongly.
                for number, attributes in enumerate(said):
                    if statuses[number] == 409:
                        assert await begin(number, f"s{turn}", attributes) == 409


async def test_two_versions_of_the_policy_side_by_side_keep_the_larger_limit_and_end_no_film(
    two_versions: list[Service],
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def begin(service: Service, session: str) -> tuple[int, Any]:
            headers = {"Session-Id": session, "Stream-Attributes": "quality=uhd"}
            async with client.post(f"{service.url}/streams", headers=headers) as response:
                return response.status, await response.json()

        async def burst(session: str, services: list[Service]) -> Counter[int]:
            answers = await asyncio.gather(
                *(begin(services[n % len(services)], session) for n in range(12))
            )
            for status, body in answers:
                if status == 201:
                    async with client.post(
                        f"{services[0].url}/streams/{body['lease_id']}/heartbeat"
                    ) as beat:
                        assert beat.status == 200
            return Counter(status for status, _ in answers)

        old, new = two_versions
        for turn in range(4):
            mixed = await burst(f"mixed {turn}", [old, new])
            assert 1 <= mixed[201] <= 2
            assert mixed[201] + mixed[409] == 12
            # Forward: the new one fills what the old one left. Back: the old one admits no more.
            assert (await burst(f"mixed {turn}", [new]))[201] == 2 - mixed[201]
            assert (await burst(f"mixed {turn}", [old]))[201] == 0
