"""The documents: what they link to is there, and so is what they tell people to run."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from markdown_it.token import Token

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "client/*.md", "stream_service/**/*.md")
    for path in ROOT.glob(pattern)
)
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

_MAKES = re.compile(
    r"(?:^ *|[;&|(] *|=\S* )make(?: +[A-Z_]+=\S*)* +([a-z][a-z0-9-]*)", re.MULTILINE
)


@cache
def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        found.extend((token, *(token.children or ())))
    return found


def _links(text: str) -> Iterator[str]:
    for token in _tokens(text):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            yield str(target)
        if token.type in ("html_inline", "html_block"):
            yield from re.findall(r'(?:src|href)="([^"]+)"', token.content)


def _anchors(text: str) -> set[str]:
    """The ids of the headings, as where the repository is hosted, and as on the pages."""
    anchors: set[str] = set()
    tokens = _tokens(text)
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            words = "".join(
                part.content
                for part in tokens[i + 1].children or ()
                if part.type in ("text", "code_inline")
            )
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            same = sum(
                1 for anchor in anchors if re.fullmatch(f"{re.escape(slug)}(-\\d+)?", anchor)
            )
            anchors.add(f"{slug}-{same}" if slug in anchors else slug)
    return anchors


def _leads_nowhere(document: Path, text: str) -> list[str]:
    wrong = []
    for link in _links(text):
        target = urlsplit(link)
        if target.scheme or target.netloc:
            continue
        path = document if not target.path else document.parent / unquote(target.path)
        is_wrong = not path.exists() or not path.resolve().is_relative_to(ROOT)
        if not is_wrong and target.fragment:
            there = text if path == document else path.read_text()
            is_wrong = path.suffix != ".md" or target.fragment not in _anchors(there)
        if is_wrong:
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_relative_link_and_anchor_leads_somewhere(document: Path) -> None:
    assert _leads_nowhere(document, document.read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["[a](docs/missing.md)", "[a](README.md#missing)", "[a](#missing)", '<img src="missing.png">'],
)
def test_a_link_that_leads_nowhere_is_found(text: str) -> None:
    assert len(_leads_nowhere(ROOT / "README.md", f"# Title\n\n{text}\n")) == 1


def _made(text: str) -> set[str]:
    code = "\n".join(
        token.content
        for token in _tokens(text)
        if token.type in ("code_inline", "code_block", "fence")
    )
    return set(_MAKES.findall(code))


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_make_target_that_a_document_names_is_there(document: Path) -> None:
    assert _made(document.read_text()) - _targets() == set()


def test_a_make_target_that_is_not_there_is_found() -> None:
    text = "Run `make tset`, or:\n\n    MONGO_URL=... make tests && make PYTHON=python3 tist\n"
    assert _made(text) == {"tset", "tests", "tist"}


def test_contributing_names_every_target_that_tests() -> None:
    tests = {target for target in _targets() if target.startswith("test")}
    assert tests <= _made((ROOT / "CONTRIBUTING.md").read_text())


_NAMED = re.compile(r"\b(?:(?:docs|bench|client)/[\w-]+|[A-Z]{4,})\.md\b")


def _texts() -> Iterator[tuple[str, str]]:
    tracked = (
        "*.py",
        "*.js",
        "*.mjs",
        "*.ts",
        "*.yml",
        "*.yaml",
        "*.json",
        "*.conf",
        "*.sh",
        "*.toml",
    )
    names = subprocess.run(
        ["git", "ls-files", "--", *tracked, "Makefile", "Dockerfile", "*.service"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    yield from ((name, (ROOT / name).read_text()) for name in names)


def test_every_document_that_a_file_names_is_there() -> None:
    missing = {
        f"{name}: {named}"
        for name, text in _texts()
        for named in _NAMED.findall(text)
        if not (ROOT / named).exists()
    }
    assert missing - {"tests/fast/test_documents.py: docs/missing.md"} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_test_that_a_document_names_is_there(document: Path) -> None:
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+", document.read_text())) - there == set()


def _words(*patterns: str) -> int:
    return sum(len(path.read_text().split()) for one in patterns for path in ROOT.glob(one))


def test_the_documents_are_short_enough_to_be_read() -> None:
    assert _words("README.md") <= 1200
    assert _words("docs/reliability.md") <= 1200
    assert _words("docs/performance.md") <= 1200
    assert _words("README.md", "docs/*.md", "client/README.md") <= 14_000


def test_no_document_needs_a_program_to_draw_its_pictures() -> None:
    assert [path for path in DOCUMENTS if "```mermaid" in path.read_text()] == []


def test_the_map_of_the_house_names_every_module_and_folder() -> None:
    said = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "stream_service"
    modules = {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    at_the_top = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir()}
    at_the_top &= {"bench/", "client/", "demo/", "deploy/", "docs/", "examples/", "tests/"}
    assert {name for name in modules | folders | at_the_top if name not in said} == set()
