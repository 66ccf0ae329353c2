"""Which part of the package may know which: the folders and the modules of the core."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stream_service

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(stream_service.__file__).parent
CORE = {
    *("streams", "admission", "limiter", "group_commit"),
    *("store", "documents", "connection", "processes"),
}
MAY_IMPORT = {
    # Settings import nothing: the store and the tracing say by its error what cannot be used.
    "core": {"core", "settings"},
    "settings": set(),
    "telemetry": {"core", "settings", "telemetry"},
    "api": {"core", "settings", "api"},
    "pages": {"core", "settings", "api", "telemetry", "pages"},
    "app": {"core", "settings", "api", "telemetry", "pages"},
    "process": {"core", "settings", "app", "api", "telemetry", "pages", "process"},
    "__main__": {"core", "settings", "app", "telemetry", "process"},
}


def part_of(module: str) -> str:
    """The part of the package that a module `stream_service.name[.name]` belongs to."""
    name = module.split(".")[1]
    return "core" if name in CORE else name


def imports_of(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, those for types alone among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            if node.module not in (None, "stream_service"):
                yield str(node.module)
            # Each name may be a module as well.
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


FILES = {
    ".".join(("stream_service", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.name != "__init__.py"
}


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_part_imports_only_what_it_may_know(module: str) -> None:
    parts = {
        part_of(imported)
        for imported in imports_of(FILES[module])
        if imported.startswith("stream_service.") and imported != "stream_service.__version__"
    }
    assert parts <= MAY_IMPORT[part_of(module)]


def test_no_module_knows_itself_through_others() -> None:
    known = {
        module: {name for name in imports_of(path) if name in FILES}
        for module, path in FILES.items()
    }
    for _ in known:
        # Away with those that know none of those that are left.
        known = {
            module: names & known.keys() for module, names in known.items() if names & known.keys()
        }
    assert known == {}


def test_each_part_of_the_package_has_its_rule() -> None:
    assert {part_of(module) for module in FILES} == set(MAY_IMPORT)
    assert {path.stem for path in PACKAGE.glob("*.py")} >= CORE


@pytest.mark.parametrize(
    ("library", "where"),
    [
        ("aiohttp", ("app", "api.", "pages.", "telemetry.", "process.")),
        ("motor", ("connection", "process.embedded")),
        ("pymongo", ("store", "connection", "settings", "process.embedded")),
        ("prometheus_client", ("telemetry.", "pages.routes")),
        ("yaml", ("api.openapi",)),
        ("markdown_it", ("pages.guides",)),
    ],
)
def test_a_library_is_known_only_where_it_belongs(library: str, where: tuple[str, ...]) -> None:
    knowing = {
        module.removeprefix("stream_service.")
        for module, path in FILES.items()
        if library in {imported.partition(".")[0] for imported in imports_of(path)}
    }
    assert knowing
    assert {module for module in knowing if not module.startswith(where)} == set()
