"""What the repository as a whole has to keep."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_service import __version__
from tests.engines import FILES
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_OURS = {"node_modules", "build", "data", "static", "__pycache__"}
"""Folders of what others wrote, or of what is made."""

# Not one line alone: a command may be broken, and a message put together from several strings.
INSTALLS_BY_NAME = re.compile(
    r"""\b(?: pipx?3? | uvx? | npx | npm | pnpm | yarn ) \b [^\n;|&`]*? [\s"'\\]
    (?! [./~] ) (?: @[\w-]+/ )? stream [-_] (?: admission [-_] )? service [\w-]* (?! [\w./-] )""",
    re.VERBOSE,
)

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


def _texts() -> Iterator[tuple[Path, str]]:
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if name not in NOT_OURS
            and not name.endswith(".egg-info")
            and (name == ".ci" or not name.startswith("."))
        )
        for path in (Path(folder, name) for name in sorted(files)):
            try:
                yield path, path.read_text()
            except UnicodeDecodeError:
                continue


def test_nothing_tells_anybody_to_install_a_public_package_by_a_name_that_is_not_ours() -> None:
    # Others own "stream-service" on the package index, and our own name is not published there.
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path, text in _texts()
        if path != Path(__file__)
        for match in INSTALLS_BY_NAME.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'stream-service[tracing]'",
        "python -m pip install --upgrade stream_service",
        "pipx install stream-admission-service==1.0",
        "uvx stream-service",
        "npm install stream-service-client",
        'npm i "@somebody/stream-service"',
    ],
)
def test_an_installation_by_name_is_found(line: str) -> None:
    assert INSTALLS_BY_NAME.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "pip install .",
        "pip install ./stream-service",
        "npm install ../stream-service/client",
        "npm install ./stream-service-client-1.0.0.tgz",
        "make install TRACING=1 && stream-service --help",
        "pip install --require-hashes -r requirements/serve.txt; stream-service",
    ],
)
def test_an_installation_from_a_path_is_none_by_name(line: str) -> None:
    assert not INSTALLS_BY_NAME.search(line)


def test_the_distribution_is_not_called_as_one_of_somebody_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] != "stream-service"
    assert list(project["scripts"]) == ["stream-service"]


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_make_says_of_a_python_that_is_not_there_that_it_is_not_there(tmp_path: Path) -> None:
    done = _make(f"VENV={tmp_path}/venv", "PYTHON=python9", "run")
    assert done.returncode != 0
    assert "There is no program python9" in done.stderr
    assert "needs Python 3.11" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_make_says_of_a_python_that_is_too_old_which_it_is(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo Python 3.9.18; exit; fi\n'
        'exec python3 -c "import sys; sys.version_info = (3, 9, 18); $2"\n'
    )
    old.chmod(0o755)
    done = _make(f"VENV={tmp_path}/venv", f"PYTHON={old}", "run")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, and Python 3.9.18 is not" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_leaves_no_half_made_environment_behind(tmp_path: Path) -> None:
    # As where Debian's package python3-venv is missing.
    broken = tmp_path / "broken-python"
    broken.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -c ]; then exit 0; fi\n'
        'mkdir -p "$3/bin"; echo "ensurepip is not available" >&2; exit 1\n'
    )
    broken.chmod(0o755)
    done = _make(f"VENV={tmp_path}/venv", f"PYTHON={broken}", "run")
    assert done.returncode != 0
    assert "ensurepip is not available" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_version_on_top_of_the_changelog_is_that_of_the_service_and_of_its_client() -> None:
    versions = re.findall(
        r"^## \[([0-9.]+)\] - (?:unreleased|\d{4}-\d\d-\d\d)$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    package = json.loads((ROOT / "client" / "package.json").read_text())
    assert versions[0] == __version__ == package["version"]


def test_the_files_that_are_run_on_every_engine_exist() -> None:
    assert [name for name in FILES if not (ROOT / "tests" / "fast" / f"{name}.py").is_file()] == []
