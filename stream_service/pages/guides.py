"""The guides of docs/ as pages: rendered at the first request, never stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import stream_service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from markdown_it.token import Token

_PACKAGE = Path(stream_service.__file__).parent
# Beside the package in a checkout, inside it in a wheel: pyproject.toml puts them there.
_FOLDERS = (_PACKAGE / "docs", _PACKAGE.parent / "docs")
_FOLDER = next((folder for folder in _FOLDERS if folder.is_dir()), None)

_HERE = "127.0.0.1:3001"
"""What the guides call the service that serves them."""

SHELVES = {
    "Integrate": ("integration", "clients", "enforcement"),
    "Operate": ("deployment", "operations", "events", "databases", "data-protection"),
    "Understand": ("reliability", "performance", "architecture"),
}
"""Which guides belong together, in the order in which they are wanted."""


@dataclass(frozen=True)
class Guide:
    """A guide.

    Attributes:
        path: Its Markdown.
        title: Its first heading.
    """

    path: Path
    title: str


def _found() -> Mapping[str, Guide]:
    if _FOLDER is None:
        return {}
    paths = {name: _FOLDER / f"{name}.md" for names in SHELVES.values() for name in names}
    return {name: Guide(path, _title(path)) for name, path in paths.items()}


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("#").strip()


GUIDES = _found()
PICTURES = {} if _FOLDER is None else {path.name: path for path in _FOLDER.glob("pictures/*.svg")}
"""The pictures of the guides by their names, which are served beside the files of the pages."""


@cache
def rendered(name: str) -> str:
    """The guide of this name as HTML.

    Args:
        name: One of `GUIDES`.

    Headings bear the ids that they have where the repository is hosted; links to other guides lead
    to their pages. What else is in the repository is not served: such a link becomes plain text.
    """
    # Not at the start of the service: most processes are never asked for a guide.
    from markdown_it import MarkdownIt  # noqa: PLC0415

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(GUIDES[name].path.read_text(encoding="utf-8"))
    seen: dict[str, int] = {}
    for token, content in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _slug(content.content, seen))
    for token in tokens:
        _relink(token.children or [])
        # Columns of figures: the pages run no style that is written into them.
        if token.attrs.pop("style", None) == "text-align:right":
            token.attrSet("class", "right")
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    # What is too wide for a phone scrolls by itself, by keyboard too. Text holds no bare "<".
    html = re.sub(r"<p>(<img [^>]*>)</p>", r'<div class="scroll" tabindex="0">\1</div>', html)
    return (
        html.replace("<pre>", '<pre tabindex="0">')
        .replace("<table>", '<div class="scroll" tabindex="0"><table>')
        .replace("</table>", "</table></div>")
    )


def _slug(heading: str, seen: dict[str, int]) -> str:
    slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    count = seen[slug] = seen.get(slug, -1) + 1
    return f"{slug}-{count}" if count else slug


def _relink(inline: list[Token]) -> None:
    """Let links between guides and to the service lead to its pages, and those to files nowhere."""
    leads_nowhere = False
    for token in inline:
        if token.type == "image":
            token.attrSet("src", f"../static/{PurePosixPath(str(token.attrGet('src'))).name}")
        elif token.type == "link_open":
            target = urlsplit(str(token.attrGet("href")))
            path = PurePosixPath(target.path)
            here = target.netloc == _HERE
            if here:
                token.attrSet("href", f"..{target.path}")
            elif not target.scheme and path.suffix == ".md" and path.stem in GUIDES:
                token.attrSet(
                    "href", path.stem + (f"#{target.fragment}" if target.fragment else "")
                )
            elif here or (not target.scheme and target.path):
                token.tag, token.attrs = "span", {}
                leads_nowhere = True
        elif token.type == "text":
            token.content = token.content.removeprefix(f"http://{_HERE}")
        elif token.type == "link_close" and leads_nowhere:
            token.tag, leads_nowhere = "span", False
