"""`/docs` and the guides below it: put together when they are first asked for."""

from __future__ import annotations

import json
from functools import cache, partial
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stream_service.api.openapi import openapi_document
from stream_service.api.problems import CONTENT_TYPE
from stream_service.pages.files import html_page
from stream_service.pages.guides import GUIDES, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream_service.settings import Settings

_STATIC = Path(__file__).parent / "static"
_SHADOW = " In shadow mode (<code>ENFORCE=0</code>), as here, it is 201: nothing is refused."
_STANDARD = frozenset({"type", "title", "status", "detail"})


def docs_routes(settings: Settings) -> list[web.RouteDef]:
    """The API page, and a page for each guide."""
    page = cache(partial(_docs, settings))
    guide_page = cache(_guide)

    async def docs(_: web.Request) -> web.Response:
        return html_page(page())

    async def guide(request: web.Request) -> web.Response:
        name = request.match_info["guide"]
        if name not in GUIDES:
            raise web.HTTPNotFound
        return html_page(guide_page(name))

    return [web.get("/docs", docs), web.get("/docs/{guide}", guide)]


def _template(name: str) -> Template:
    return Template((_STATIC / name).read_text(encoding="utf-8"))


def _docs(settings: Settings) -> str:
    needs_token = settings.gateway_tokens or settings.operator_tokens
    return _template("docs.html").substitute(
        token=' -H "Authorization: Bearer $TOKEN"' if needs_token else "",
        limit=settings.stream_limit,
        shadow="" if settings.enforce else _SHADOW,
        guides="".join(
            f'<li><a href="docs/{name}">{escape(guide.title)}</a></li>'
            for name, guide in GUIDES.items()
        ),
        problems="".join(_problems(openapi_document(settings)["components"])),
    )


def _guide(name: str) -> str:
    here = ' aria-current="page"'
    return _template("guide.html").substitute(
        title=escape(GUIDES[name].title),
        guides=" ".join(
            f'<a href="{other}"{here if other == name else ""}>{escape(guide.title)}</a>'
            for other, guide in GUIDES.items()
        ),
        body=rendered(name),
    )


def _problems(components: dict[str, Any]) -> Iterator[str]:
    """An entry for each kind of problem, at an anchor that is the problem's `type` itself."""
    answers: dict[str, Any] = {}
    for response in components["responses"].values():
        examples = response.get("content", {}).get(CONTENT_TYPE, {}).get("examples", {})
        for example in examples.values():
            problem = example["value"]
            answers.setdefault(problem["type"], (response["description"], problem))
    for name, schema in components["schemas"].items():
        if name.endswith("Problem"):
            kind = schema["properties"]["type"]["const"]
            meaning, example = answers.get(kind, ("", None))
            yield _problem(kind, schema, schema.get("description", meaning), example)


def _problem(kind: str, schema: dict[str, Any], meaning: str, example: Any) -> str:
    statuses = ", ".join(map(str, schema["properties"]["status"]["enum"]))
    members = "".join(
        f"<li><code>{escape(name)}</code> {_prose(member.get('description', ''))}</li>"
        for name, member in schema["properties"].items()
        if name not in _STANDARD
    )
    shown = escape(json.dumps(example, indent=2, ensure_ascii=False))
    return (
        f'<article class="problem" id="{escape(kind)}"><h3>{escape(schema["title"])}</h3>'
        f"<p><code>{escape(kind)}</code> · status {statuses}</p><p>{_prose(meaning)}</p>"
        + (f"<ul>{members}</ul>" if members else "")
        + (
            "<details><summary>Example</summary>"
            f'<pre tabindex="0"><code>{shown}</code></pre></details>'
            if example
            else ""
        )
        + "</article>"
    )


def _prose(text: str) -> str:
    """Markdown's code spans; there is no other markup in these descriptions."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
