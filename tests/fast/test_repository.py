"""What the repository as a whole has to keep."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOCKS = {"utc_now", "now", "utcnow", "today", "time", "monotonic", "perf_counter"}


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: of a function, its decorators and defaults alone."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                evaluated = [*child.decorator_list, *child.args.defaults, *child.args.kw_defaults]
                for part in filter(None, evaluated):
                    yield part
                    yield from _at_import(part)
            case ast.Lambda():
                pass
            case _:
                yield child
                yield from _at_import(child)


def _reads_a_clock(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in CLOCKS


def _times_taken_at_import(source: str) -> list[int]:
    return [node.lineno for node in _at_import(ast.parse(source)) if _reads_a_clock(node)]  # type: ignore[attr-defined]


def test_no_test_takes_the_time_when_it_is_imported_for_it_would_be_stale_when_used() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if (lines := _times_taken_at_import(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    ["NOW = utc_now()", "def f(at=datetime.now(UTC)): ...", "class A:\n  now = time.time() + 60"],
)
def test_a_time_taken_at_import_is_found(source: str) -> None:
    assert len(_times_taken_at_import(source)) == 1
