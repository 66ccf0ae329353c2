"""Limits by attribute: the file that says them, and which of them apply to a start.

A gateway says with each start which plan the account has and what is to be watched. Each limit of
the plan that is about such a stream applies to it, as a `Rule`.
"""

from __future__ import annotations

import tomllib
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from aiohttp import web
from annotated_types import Ge, Le, Len
from http_sf import Token
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from stream_service.settings import MAX_LIMIT, SettingsError, unusable_file
from stream_service.streams import KEY_PREFIX, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MAX_PLANS = 64
MAX_LIMITS = 32
DEFAULT_PLAN = "default"
MAX_NAME_LENGTH = 32
MAX_VALUE_LENGTH = 128


def as_text(value: object) -> str:
    """A value of an attribute as text, whether a header or the file has it.

    Raises:
        ValueError: It is of another kind, or too long.
    """
    match value:
        case bool():
            text = str(value).lower()
        case int() | str() | Token():
            text = str(value)
        case _:
            text = ""
    if not 1 <= len(text) <= MAX_VALUE_LENGTH:
        raise ValueError(
            f"a value must be a text of 1 to {MAX_VALUE_LENGTH} characters, a whole number or a "
            "boolean"
        )
    return text


def _values(value: object) -> frozenset[str]:
    return frozenset(map(as_text, value if isinstance(value, list) else [value]))


def _no_key(name: str) -> str:
    if name == KEY_PREFIX:
        raise ValueError(f"{KEY_PREFIX} is the name of the places of idempotency keys")
    return name


Name = Annotated[str, StringConstraints(pattern=rf"^[a-z][a-z0-9_.-]{{0,{MAX_NAME_LENGTH - 1}}}$")]
"""Of a plan, a limit or an attribute."""

_Values = Annotated[frozenset[str], Len(1), BeforeValidator(_values)]
_Streams = Annotated[int, Ge(0), Le(MAX_LIMIT), Field(strict=True)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limit(_Table):
    """One limit of a plan.

    Attributes:
        streams: How many streams; 0 forbids.
        when: The attributes and the values that it is about. All must match.
        each: An attribute: so many streams for each of its values.
        enforce: Whether a start beyond it is refused, or only counted.
    """

    streams: _Streams
    when: dict[Name, _Values] = {}
    each: Name | None = None
    enforce: Annotated[bool, Field(strict=True)] = True

    @model_validator(mode="after")
    def _is_about_something(self) -> Limit:
        if not self.when and self.each is None:
            raise ValueError("when names no attribute, and each none either")
        return self


class Plan(_Table):
    """What one kind of account may watch.

    Attributes:
        streams: How many streams in all.
        limits: The further limits, by name.
        require: The attributes that each start has to name.
    """

    streams: _Streams
    limits: Annotated[
        dict[Annotated[Name, AfterValidator(_no_key)], Limit], Len(0, MAX_LIMITS)
    ] = {}
    require: frozenset[Name] = frozenset()

    def rules(self, attributes: Mapping[str, str], digest: Callable[[str], str]) -> Iterator[Rule]:
        """The limits that apply to a start.

        Args:
            attributes: Of the start, by name.
            digest: Stands for a value in the database.
        """
        for when, each, rule in self._rules:
            if all(attributes.get(name) in values for name, values in when):
                if each is None:
                    yield rule
                elif (value := attributes.get(each)) is not None:
                    yield rule._replace(prefix=f"{rule.name}/{digest(value)}")

    @cached_property
    def _rules(self) -> list[tuple[list[tuple[str, frozenset[str]]], str | None, Rule]]:
        return [
            (list(limit.when.items()), limit.each, Rule(name, name, limit.streams, limit.enforce))
            for name, limit in self.limits.items()
        ]


class Policy(_Table):
    """The file.

    Attributes:
        plans: By name; `default` is the plan of a start that names none.
        unknown_plan: What a start gets whose plan is not here: the default one, or 400.
    """

    plans: Annotated[dict[Name, Plan], Len(1, MAX_PLANS)]
    unknown_plan: Literal["default", "refuse"] = "default"

    @model_validator(mode="after")
    def _has_a_default(self) -> Policy:
        if DEFAULT_PLAN not in self.plans:
            raise ValueError(
                f"plans.{DEFAULT_PLAN} is missing: the plan of a start that names none"
            )
        return self


def load_policy(path: Path) -> Policy:
    """Read and check the file.

    Raises:
        SettingsError: It cannot be used; a line for each mistake, with its place.
    """
    if path.exists() and not path.is_file():
        raise SettingsError("POLICY_FILE names what is no file")  # A pipe would never end.
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return Policy.model_validate(table)
    except OSError as error:
        raise SettingsError(f"POLICY_FILE {unusable_file(error)}") from None
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in one['loc'] if part != '[key]')}: {_said(one['msg'])}"
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("\n".join(f"POLICY_FILE: {line}" for line in lines)) from None
    except ValueError as error:
        raise SettingsError(f"POLICY_FILE is not TOML in UTF-8: {error}") from None


def _said(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Extra inputs are", "a key that is")


class Plans:
    """Finds the plan of a start."""

    def __init__(self, policy: Policy, on_unknown: Callable[[], None]) -> None:
        """Make it.

        Args:
            policy: The file.
            on_unknown: Told of each plan that is not in it.
        """
        self._policy = policy
        self._on_unknown = on_unknown

    def named(self, name: str | None) -> tuple[str, Plan] | None:
        """The plan of this name, or the default one; None if such a start is to be refused."""
        name, plans = name or DEFAULT_PLAN, self._policy.plans
        if name not in plans:
            self._on_unknown()
            name = self._policy.unknown_plan
        return (name, plans[name]) if name in plans else None


PLANS = web.AppKey("plans", Plans)
"""Absent without a policy."""
