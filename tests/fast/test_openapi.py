"""The document and the code, held to each other in both directions."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import re
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hypothesis
import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

import stream_service
from stream_service import streams
from stream_service.admission import OLDEST, SAME_DEVICE, STALEST
from stream_service.api import access, inputs
from stream_service.api.heartbeats import MAX_BYTES, MOST_HEARTBEATS
from stream_service.api.openapi import openapi_document
from stream_service.api.playback import KEYS_MAX_AGE_SECONDS, PLAYBACK
from stream_service.api.playback_tokens import MAX_TOKEN_LENGTH
from stream_service.api.policy import MAX_NAME_LENGTH
from stream_service.api.problems import CONTENT_TYPE, RETRY_AFTER_SECONDS, TYPE_PREFIX
from stream_service.app import create_app
from stream_service.group_commit import GroupCommit
from stream_service.limiter import JITTER
from stream_service.settings import MAX_LIMIT, Settings
from stream_service.streams import StoreUnavailableError, Stream, utc_now
from tests.support.http_api import a_lease_id
from tests.support.playback import write_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from aiohttp import ClientResponse
    from aiohttp.test_utils import TestClient
    from aiohttp.typedefs import Handler, Middleware
    from pytest_aiohttp.plugin import AiohttpClient

    from stream_service.store import MongoStore

    Client = TestClient[web.Request, web.Application]

SESSION = {"Session-Id": "viewer"}
BEARER = {"Authorization": "Bearer token-of-an-operator"}
PLAIN = Settings()
FULL = Settings(
    gateway_tokens=("token-of-a-gateway",),
    operator_tokens=("token-of-an-operator",),
    stream_limit_header="X-Stream-Limit",
    playback_keys=(Path("made-when-it-is-served.pem"),),
    policy_file=Path("made-when-it-is-served.toml"),
)
# HTTP's own, the echo on a problem that came before or after the session was found valid, and what
# browsers are told about pages and files.
UNDOCUMENTED_HEADERS = {
    *("content-type", "content-length", "transfer-encoding", "date", "server", "connection"),
    *("content-security-policy", "x-content-type-options", "referrer-policy"),
    *("etag", "last-modified", "accept-ranges", "vary", "content-encoding"),
}
# These say one of several things, of which the example is one.
SEVERAL_DETAILS = {
    *("invalid-request", "unsupported-media-type", "stream-ended", "unauthorized"),
    "playback-refused",
    "too-many-requests",
    "unavailable",
}
PAGES = {"/docs", "/console"}
FILE = Path(stream_service.__file__).parent / "api" / "openapi.yaml"
LIMITS = {"pattern", "const"} | {
    f"{bound}{what}"
    for bound in ("min", "max", "exclusiveMin", "exclusiveMax")
    for what in ("imum", "Length", "Items", "Properties")
}
KEYWORDS = {"schema", "items", "contains", "properties", "oneOf", "allOf", "anyOf", "if", "then"}
PRINTABLE = "^[!-~]([ -~]*[!-~])?$"
"""What can be sent in a header and be left of it there: no blank at the ends."""
METHODS = {"get", "post", "put", "patch", "delete", "options", "head", "propfind"}


@dataclass(frozen=True)
class Operation:
    """One documented operation."""

    path: str
    method: str
    answers: dict[str, dict[str, Any]]


def operations(document: dict[str, Any]) -> dict[str, Operation]:
    return {
        operation["operationId"]: Operation(
            path,
            method,
            {
                status: resolved(document, answer)
                for status, answer in operation["responses"].items()
            },
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for, or the part itself."""
    if "$ref" not in part:
        return part
    found: Any = document
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return cast("dict[str, Any]", found)


def documented_answers(settings: Settings) -> Iterator[tuple[str, int, str]]:
    """Operation, status, and kind of problem, or "" for an answer that is none."""
    for name, operation in operations(openapi_document(settings)).items():
        for status, answer in operation.answers.items():
            content = answer.get("content", {})
            kinds = content.get(CONTENT_TYPE, {}).get("examples", {"": None})
            yield from ((name, int(status), kind) for kind in kinds)


class Judge:
    """Compares answers with a document; a member or header that is not in it is an error."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.operations = operations(document)
        self.schemas = _closed(document["components"])

    async def judge(self, name: str, response: ClientResponse) -> tuple[int, str]:
        answers = self.operations[name].answers
        assert str(response.status) in answers, await response.text()
        answer = answers[str(response.status)]
        kind = await self._judge_content(answer, response)
        promised = {
            header: self.document["components"]["headers"][header] for header in answer["headers"]
        }
        for header, about in promised.items():
            assert header in response.headers or not about.get("required"), header
        named = {header.lower() for header in promised} | UNDOCUMENTED_HEADERS
        assert {header.lower() for header in response.headers} <= named
        return response.status, kind

    async def _judge_content(self, answer: dict[str, Any], response: ClientResponse) -> str:
        if "content" not in answer:
            assert await response.read() == b""
            return ""
        assert response.content_type in answer["content"]
        schema = answer["content"][response.content_type]["schema"]
        if "json" not in response.content_type:
            assert await response.text()
            return ""
        body = await response.json(content_type=response.content_type)
        self.validate(schema, body)
        if response.content_type != CONTENT_TYPE:
            return ""
        assert body["status"] == response.status
        kind: str = body["type"].removeprefix(TYPE_PREFIX)
        example = answer["content"][CONTENT_TYPE]["examples"][kind]["value"]
        assert example["title"] == body["title"]
        # The example is of an account at its limit; above a lowered one the way out is another.
        above = body.get("active", 0) > body.get("limit", 0)
        if kind not in SEVERAL_DETAILS and not above and "rule" not in body:
            assert plain_figures(example["detail"]) == plain_figures(body["detail"])
        return kind

    def validate(self, schema: dict[str, Any], body: object) -> None:
        whole = {**_closed(schema), "components": self.schemas}
        Draft202012Validator(whole, format_checker=FormatChecker()).validate(body)


def plain_figures(detail: str) -> str:
    return re.sub(r"[0-9.]*[0-9]", "0", detail)


def _closed(schema: Any) -> Any:
    """The same with every object closed: an answer may have no member that is not documented."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed["additionalProperties"] = False
    return closed


class Service:
    """A running service to be asked."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.operations = operations(openapi_document(settings))

    async def ask(  # noqa: PLR0913 - what fills a path
        self,
        name: str,
        stream_id: str = "0-" + "a" * 22,
        *,
        lease_id: str = a_lease_id(SESSION["Session-Id"], FULL.digest_key),
        without: str = "",
        file: str = "icon.svg",
        guide: str = "integration",
        **how: Any,
    ) -> ClientResponse:
        """Ask what the operation's name says, as an operator would, but for one header."""
        operation = self.operations[name]
        path = operation.path.format(stream_id=stream_id, lease_id=lease_id, file=file, guide=guide)
        headers = {**BEARER, **SESSION, **how.pop("headers", {})}
        headers.pop(without, None)
        return await self.client.request(operation.method, path, headers=headers, **how)

    def playback_token(self) -> str:
        """A token that is good, of a stream that nobody started."""
        now = utc_now()
        stream_id = "0-" + "a" * 22
        over = now + timedelta(seconds=60)
        stream = Stream("ab" * 18, stream_id, now, over, "TV", "A film")
        app: web.Application = self.client.app
        return app[PLAYBACK].issue(stream)

    def asks_the_store(self, name: str) -> bool:
        return "503" in self.operations[name].answers

    async def start(self, **body: Any) -> dict[str, str]:
        """The ids of a stream that was just started."""
        started = await (await self.ask("startStream", json=body)).json()
        return {name: started[name] for name in ("stream_id", "lease_id")}

    async def fill(self) -> None:
        for _ in range(3):
            await self.start()

    async def stopped(self) -> dict[str, str]:
        ids = await self.start()
        await self.ask("deleteStream", **ids)
        return ids


class AwayStore:
    """A store that never answers."""

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[None]]:
        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailableError("away")

        return away


@web.middleware
async def _bug(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001
    raise LookupError


@pytest.fixture
async def serve(
    aiohttp_client: AiohttpClient,
    double_store: MongoStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Awaitable[Service]]:
    """Makes a service; one with a bug in every handler, or one whose store is away, if wanted."""
    monkeypatch.setattr(access, "GUESS_SECONDS", 0)

    async def make(settings: Settings, *, bug: bool = False, away: bool = False) -> Service:
        store: Any = AwayStore() if away else double_store
        if settings.playback_keys:
            key = write_key(tmp_path / "key.pem")
            settings = settings.model_copy(update={"playback_keys": (key,)})
        if settings.policy_file:
            policy = tmp_path / "policy.toml"
            policy.write_text(
                "[plans.default]\nstreams = 3\n"
                'limits.uhd = { when = { quality = "uhd" }, streams = 1 }\n'
            )
            settings = settings.model_copy(update={"policy_file": policy})
        app = create_app(settings, store=store)
        if bug:
            app.middlewares.append(cast("Middleware", _bug))
        return Service(await aiohttp_client(app), settings)

    return make


async def _given(service: Service, name: str, status: int, kind: str) -> ClientResponse:  # noqa: C901, PLR0911, PLR0912 - a table
    """Bring a documented answer about."""
    match name, status, kind:
        case _, 401, "unauthorized":
            return await service.ask(name, without="Authorization")
        case "ready", 200, _:
            await service.ask("health")
            return await service.ask(name)
        case "checkPlayback", 204, _:
            return await service.ask(name, headers={"Playback-Token": service.playback_token()})
        case "checkPlayback", 400, _:
            return await service.ask(name, params={"live": "2"})
        case _, 429, _ if not service.asks_the_store(name):
            return await service.ask(name, headers={"Authorization": "Bearer wrong"})
        case "checkPlayback", 429 | 503, _:
            headers = {"Playback-Token": service.playback_token()}
            return await service.ask(name, headers=headers, params={"live": "1"})
        case "stopAllStreams", 403, _:
            gateway = {"Authorization": f"Bearer {FULL.gateway_tokens[0]}"}
            return await service.ask(name, headers=gateway, params={"forget": "1"})
        case _, 403, _:
            return await service.ask(name, headers={"Sec-Purpose": "prefetch"})
        case _, 400, "no-session":
            return await service.ask(name, without="Session-Id")
        case "heartbeat", 400, _:
            return await service.ask(
                name, **await service.start(), headers={"Session-Id": "x" * 257}
            )
        case _, 400, "invalid-request":
            return await service.ask(name, headers={"Session-Id": "x" * 257})
        case "startStream", 200, _:
            key = {"Idempotency-Key": "one"}
            await service.ask(name, headers=key)
            return await service.ask(name, headers=key)
        case "heartbeats", 200, _:
            items = [{"lease_id": (await service.start())["lease_id"]}, {"lease_id": "mangled"}, {}]
            return await service.ask(name, json={"heartbeats": items})
        case "heartbeats", 400, _:
            return await service.ask(name, json={})
        case "heartbeats", 413, _:
            return await service.ask(name, data=BytesIO(b" " * (MAX_BYTES + 1)))
        case "heartbeats", 429 | 503, _:
            items = [{"lease_id": a_lease_id(SESSION["Session-Id"], FULL.digest_key)}]
            return await service.ask(name, json={"heartbeats": items})
        case "startStream" | "heartbeats", 408, _:
            return await service.ask(name, data=_never_ending())
        case "startStream", 413, _:
            return await service.ask(name, data=b" " * (inputs.MAX_BODY_BYTES + 1))
        case "startStream" | "heartbeats", 415, _:
            return await service.ask(name, data="device=TV", headers={"Content-Type": "text/xml"})
        case "startStream", 422, _:
            key = {"Idempotency-Key": "one"}
            await service.ask(name, headers=key)
            return await service.ask(name, headers=key, json={"device": "TV"})
        case _, _, "limit-reached":
            await service.fill()
            return await service.ask(name)
        case _, 410, _:
            return await service.ask(name, **await service.stopped())
        case "getStream" | "deleteStream" | "stopStream" | "heartbeat", 200 | 204, _:
            return await service.ask(name, **await service.start(device="TV"))
        case "landing", 200, _:
            return await service.ask(name, headers={"Accept": "text/html"})
        case "guide", 404, _:
            return await service.ask(name, guide="none")
        case _, 304, _:
            return await service.ask(name, headers={"If-None-Match": "*"})
        case "staticFile", 404, _:
            return await service.ask(name, file="../app.py")
        case _:
            return await service.ask(name)


async def _never_ending() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(60)


def test_the_document_is_valid_openapi() -> None:
    validate(openapi_document(FULL))


def test_every_example_is_what_its_schema_says() -> None:
    document = openapi_document(FULL)
    judge, checked = Judge(document), 0
    for operation in itertools.chain(*(item.values() for item in document["paths"].values())):
        for part in [operation.get("requestBody", {}), *operation["responses"].values()]:
            for media in resolved(document, part).get("content", {}).values():
                examples = [example["value"] for example in media.get("examples", {}).values()]
                examples += [media["example"]] if "example" in media else []
                for example in examples:
                    judge.validate(media["schema"], example)
                    checked += 1
    assert checked > 50


async def test_routes_and_documented_operations_are_the_same(
    serve: Callable[..., Awaitable[Service]],
) -> None:
    service = await serve(FULL)
    router = service.client.app.router
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    # With a slash at its end a page only leads to itself.
    routes -= {("get", f"{page}/") for page in PAGES}
    assert routes == {(one.method, one.path) for one in service.operations.values()}


def test_the_file_is_valid_as_it_stands_and_reads_the_same_in_every_parser() -> None:
    read = yaml.safe_load(FILE.read_bytes())
    validate(read)
    # A date or a number where a parser of another YAML version reads a string.
    assert read == json.loads(json.dumps(read))


def test_nothing_in_the_file_stands_there_unused() -> None:
    text = FILE.read_text()
    unused = {
        f"{section}/{name}"
        for section, named in openapi_document(FULL)["components"].items()
        for name in named
        if section != "securitySchemes" and f"#/components/{section}/{name}" not in text
    }
    # Of no operation, since it is the answer to what is none.
    assert unused == {"schemas/MethodNotAllowedProblem"}


def test_each_limit_in_the_document_is_the_constant_of_the_code() -> None:
    assert set(limits(openapi_document(FULL))) == {
        ("Session-Id", "minLength", 1),
        ("Session-Id", "maxLength", inputs.MAX_SESSION_LENGTH),
        ("Session-Id", "pattern", PRINTABLE),
        ("Session-Of-Lease", "minLength", 1),
        ("Session-Of-Lease", "maxLength", inputs.MAX_SESSION_LENGTH),
        ("Session-Of-Lease", "pattern", PRINTABLE),
        ("lease_id", "maxLength", len(a_lease_id()) + 1),
        ("Idempotency-Key", "minLength", 1),
        ("Idempotency-Key", "maxLength", inputs.MAX_KEY_LENGTH),
        ("Idempotency-Key", "pattern", PRINTABLE),
        ("Limit", "minimum", 0),
        ("Limit", "maximum", MAX_LIMIT),
        ("Stream-Plan", "minLength", 1),
        ("Stream-Plan", "maxLength", MAX_NAME_LENGTH),
        ("Stream-Plan", "pattern", PRINTABLE),
        ("Stream-Attributes", "maxLength", inputs.MAX_ATTRIBUTES_LENGTH),
        ("limit", "minimum", 0),
        ("limit", "maximum", MAX_LIMIT),
        ("active", "minimum", 0),
        ("ended", "minimum", 0),
        ("heartbeat_in", "minimum", 0),
        ("device", "maxLength", inputs.MAX_LABEL_LENGTH),
        ("content", "maxLength", inputs.MAX_LABEL_LENGTH),
        ("platform", "maxLength", inputs.MAX_PLATFORM_LENGTH),
        ("platform", "pattern", f"^{inputs.PLATFORM}$"),
        ("device_id", "minLength", 1),
        ("device_id", "maxLength", inputs.MAX_DEVICE_ID_LENGTH),
        ("Playback-Token", "maxLength", MAX_TOKEN_LENGTH),
        ("playback_token", "maxLength", MAX_TOKEN_LENGTH),
        ("replace", "maxItems", inputs.MAX_CHOICES),
        ("heartbeats", "maxItems", MOST_HEARTBEATS),
        ("replace", "const", SAME_DEVICE),
        ("replace", "const", OLDEST),
        ("replace", "const", STALEST),
        ("replace", "pattern", f"^{streams.STREAM_ID.pattern}$"),
    }


def test_each_figure_in_the_words_of_the_document_is_the_constant_of_the_code() -> None:
    components = openapi_document(FULL)["components"]
    answers = components["responses"]
    assert f" {inputs.BODY_DEADLINE_SECONDS:g} s " in answers["RequestTimeout"]["description"]
    longest = f" {inputs.MAX_BODY_BYTES // 1024} KiB, or {MAX_BYTES // 1024**2} MiB "
    assert longest in answers["ContentTooLarge"]["description"]
    assert components["headers"]["Retry-After"]["example"] == RETRY_AFTER_SECONDS
    jitter = f"jittered by {JITTER * 100:g} %"
    beat = components["schemas"]["RenewedStream"]["properties"]["heartbeat_in"]
    assert f"a third of the lease, {jitter}" in beat["description"]
    assert f"`{TYPE_PREFIX}`" in openapi_document(FULL)["info"]["description"]
    keys = openapi_document(FULL)["paths"]["/.well-known/jwks.json"]["get"]
    assert f" {KEYS_MAX_AGE_SECONDS // 60} minutes." in keys["description"]


def limits(part: Any, name: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each limit in a document: whose, which and how much."""
    if isinstance(part, list):
        for one in part:
            yield from limits(one, name)
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if isinstance(value, dict | list):
            yield from limits(value, name if key in KEYWORDS else key)
        elif key in LIMITS and not str(value).startswith(TYPE_PREFIX):
            yield name, key, value


def test_problems_in_the_code_and_in_the_document_are_the_same() -> None:
    in_code: set[str] = set()
    for path in Path(stream_service.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                in_code.update(
                    argument.value
                    for argument in node.args[1:2]
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                )
    # What the framework raises by itself gets its kind from the status.
    in_code |= {"not-found", "method-not-allowed", "content-too-large"}
    documented = {
        schema["properties"]["type"]["const"].removeprefix(TYPE_PREFIX)
        for name, schema in openapi_document(FULL)["components"]["schemas"].items()
        if name.endswith("Problem")
    }
    assert documented == in_code


@pytest.mark.parametrize(("name", "status", "kind"), list(documented_answers(FULL)))
async def test_every_documented_answer_is_given(
    serve: Callable[..., Awaitable[Service]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    status: int,
    kind: str,
) -> None:
    monkeypatch.setattr(inputs, "BODY_DEADLINE_SECONDS", 0.05)
    if status == 429:
        monkeypatch.setattr(access, "MAX_GUESSES", 0)
        monkeypatch.setitem(GroupCommit.__init__.__kwdefaults__ or {}, "max_waiting", 0)
        monkeypatch.setattr("stream_service.limiter.MANY_WAITING", 0)
    service = await serve(FULL, bug=kind == "internal-error", away=status == 503)
    response = await _given(service, name, status, kind)
    judge = Judge(openapi_document(FULL))
    assert await judge.judge(name, response) == (status, kind)


START = Draft202012Validator(
    openapi_document(PLAIN)["components"]["schemas"]["StartRequest"]
).is_valid
NAMED = st.from_regex(streams.STREAM_ID, fullmatch=True) | st.sampled_from(
    (SAME_DEVICE, OLDEST, STALEST)
)
LABELS = st.none() | st.text(st.characters(codec="utf-8"), max_size=210)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=30),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "device": LABELS,
        "content": LABELS,
        "platform": st.none() | st.text("ab 1.", max_size=8) | st.just("web " + "1" * 37),
        "device_id": st.none() | st.text(st.characters(codec="utf-8"), max_size=140),
        "replace": st.none()
        | NAMED
        | st.lists(NAMED, max_size=10)
        | NAMED.map(lambda name: name + "x")
        | ANYTHING,
    },
)


async def test_a_start_is_refused_with_400_exactly_where_the_document_forbids_it(
    serve: Callable[..., Awaitable[Service]],
) -> None:
    service = await serve(PLAIN)
    said = {True: 0, False: 0}

    async def ask(body: object) -> None:
        json_type = {"Content-Type": "application/json"}
        answer = await service.ask("startStream", data=json.dumps(body), headers=json_type)
        allowed = START(body)
        assert (answer.status != 400) is allowed, body
        said[allowed] += 1

    loop = asyncio.get_running_loop()

    @hypothesis.settings(max_examples=300, deadline=None)
    @given(body=REQUESTS | REQUESTS | ANYTHING)
    def check(body: object) -> None:
        asyncio.run_coroutine_threadsafe(ask(body), loop).result()

    await asyncio.to_thread(check)
    assert min(said.values()) > 30


SESSIONS: list[dict[str, str]] = [
    {"Session-Id": "a"},
    {"Session-Id": "b"},
    {"Session-Id": ""},
    {"Session-Id": "x" * 257},
    {"Session-Id": "caf\xe9"},
    {},
]
KEYED = {"Idempotency-Key": "k"}
EXTRAS: list[dict[str, str]] = [
    {},
    {"X-Stream-Limit": "1"},
    {"X-Stream-Limit": "0"},
    {"X-Stream-Limit": "nine"},
    {"Stream-Attributes": "quality=uhd"},
    {"Stream-Attributes": "quality=uhd", "Stream-Plan": "gold"},
    {"Stream-Attributes": "quality="},
    {"Stream-Plan": "x" * 33},
    KEYED,
    {"Idempotency-Key": ""},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=nonsense"},
]
BODIES: list[bytes | None] = [
    None,
    b"{}",
    b"[]",
    b"null",
    b"{",
    b"\xff",
    b'{"device":1}',
    b'{"device":"TV","content":null}',
    b'{"replace":"oldest"}',
    b'{"replace":"stalest"}',
    b'{"replace":["same-device","stalest"],"device_id":"a"}',
    b'{"replace":"same-device"}',
    b'{"replace":"eldest"}',
    b'{"replace":"0-aaaaaaaaaaaaaaaaaaaaaa"}',
    b'{"nonsense":1}',
    b'{"device":NaN}',
    b'{"device":"\\ud800"}',
    b" " * 20_000,
]


async def test_whatever_is_asked_the_answer_is_documented(
    serve: Callable[..., Awaitable[Service]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BODY_DEADLINE_SECONDS", 0.05)
    service = await serve(FULL)
    judge = Judge(openapi_document(FULL))
    response = await service.ask("startStream", data=_never_ending())
    seen = {("startStream", (await judge.judge("startStream", response))[0])}
    for _ in range(2):
        response = await service.ask("startStream", headers={**SESSIONS[0], **KEYED})
        seen.add(("startStream", (await judge.judge("startStream", response))[0]))
    for name in service.operations:
        bodies = BODIES if name == "startStream" else [None, b"{", b"x" * 20_000]
        for session, extra, body in itertools.product(SESSIONS, EXTRAS, bodies):
            headers = {"Content-Type": "application/json", **session, **extra}
            without = "" if session else "Session-Id"
            for stream_id in ("0-" + "a" * 22, "%2e%2e") if "Id" in session else ("x",):
                response = await service.ask(
                    name, stream_id, headers=headers, without=without, data=body
                )
                seen.add((name, (await judge.judge(name, response))[0]))
    assert {("startStream", status) for status in (200, 201, 400, 408, 409, 413, 415, 422)} <= seen


async def test_other_methods_and_paths_are_problems_of_the_documented_shape(
    serve: Callable[..., Awaitable[Service]],
) -> None:
    service = await serve(FULL)
    document = openapi_document(FULL)
    judge = Judge(document)
    headers = {**SESSION, **BEARER}
    for template, item in document["paths"].items():
        path = template.format(stream_id="any", lease_id="any", file="any", guide="any")
        headed = {"head"} if "get" in item and template != "/watch" else set()
        for method in METHODS - item.keys() - headed:
            response = await service.client.request(method, path, headers=headers)
            assert response.status == 405
            assert set(response.headers["Allow"].lower().split(",")) - {"head"} == item.keys()
            if method != "head":
                body = await response.json(content_type=CONTENT_TYPE)
                judge.validate({"$ref": "#/components/schemas/MethodNotAllowedProblem"}, body)
        if template not in {"/", *PAGES}:
            response = await service.client.get(path + "/", headers=headers)
            body = await response.json(content_type=CONTENT_TYPE)
            judge.validate({"$ref": "#/components/schemas/NotFoundProblem"}, body)


async def test_the_document_is_served_and_names_the_version(
    serve: Callable[..., Awaitable[Service]],
) -> None:
    service = await serve(PLAIN)
    served = json.loads(await (await service.ask("openapi")).read())
    assert served == openapi_document(PLAIN)
    assert served["info"]["version"] == stream_service.__version__


def test_the_limit_header_is_documented_by_the_name_that_it_is_given() -> None:
    document = openapi_document(FULL.model_copy(update={"stream_limit_header": "X-Plan"}))
    assert document["components"]["parameters"]["Limit"]["name"] == "X-Plan"


@pytest.mark.parametrize("gateways", [(), ("token-of-a-gateway",)])
@pytest.mark.parametrize("operators", [(), ("token-of-an-operator",)])
async def test_the_description_tells_which_token_opens_what(
    serve: Callable[..., Awaitable[Service]],
    gateways: tuple[str, ...],
    operators: tuple[str, ...],
) -> None:
    settings = Settings(gateway_tokens=gateways, operator_tokens=operators, stream_limit=9)
    document = openapi_document(settings)
    service = await serve(settings)
    for name, operation in service.operations.items():
        described = document["paths"][operation.path][operation.method]
        if described["tags"] == ["Playback"]:
            continue  # not served without keys
        wanted = described.get("security", document["security"])
        for scheme, token in (("gateway", gateways), ("operator", operators)):
            if token:
                bearer = {"Authorization": f"Bearer {token[0]}"}
                answer = await service.ask(name, headers=bearer)
                # Without an operator's token the gateway's opens everything: the document says so.
                documented = not (wanted and operators) or {scheme: []} in wanted
                assert (answer.status != 401) == documented, (name, scheme)
        answer = await service.ask(name, without="Authorization")
        assert (answer.status == 401) == bool(wanted and (gateways or operators)), name
