"""Serves openapi.yaml, the description of the HTTP API, as it holds for this deployment."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from stream_service import __version__

if TYPE_CHECKING:
    from stream_service.settings import Settings

_FILE = Path(__file__).with_name("openapi.yaml")
_LIMIT = {"$ref": "#/components/parameters/Limit"}
_OF_PLAYBACK = (
    ("parameters", "Live"),
    ("parameters", "Playback-Token"),
    ("parameters", "X-Original-URI"),
    ("headers", "Stream-Content"),
    ("headers", "Stream-Id"),
    ("responses", "PlaybackRefused"),
    ("responses", "PlaybackUnavailable"),
    ("schemas", "PlaybackRefusedProblem"),
    ("schemas", "PublicKeys"),
)
_UNAUTHORIZED = {"$ref": "#/components/responses/Unauthorized"}


def openapi_document(settings: Settings) -> dict[str, Any]:
    """The description for a service with these settings.

    The file describes a service with everything configured. Put in are the version and the name of
    the header that `STREAM_LIMIT_HEADER` names; left out is what these settings switch off.
    """
    document: dict[str, Any] = msgspec.json.decode(_described())
    document["info"]["version"] = __version__
    paths, components = document["paths"], document["components"]
    if not settings.console:
        for path in ("/console", "/console/state"):
            del paths[path]
        del components["schemas"]["ConsoleState"]
    if not settings.playback_keys:
        for path in ("/playback/check", "/.well-known/jwks.json"):
            del paths[path]
        for schema in ("RenewedStream", "StartedStream"):
            del components["schemas"][schema]["properties"]["playback_token"]
        for kind, name in _OF_PLAYBACK:
            del components[kind][name]
        document["tags"] = [tag for tag in document["tags"] if tag["name"] != "Playback"]
    operations = [operation for item in paths.values() for operation in item.values()]
    if settings.stream_limit_header:
        components["parameters"]["Limit"]["name"] = settings.stream_limit_header
    else:
        del components["parameters"]["Limit"]
        for operation in operations:
            if _LIMIT in operation.get("parameters", ()):
                operation["parameters"].remove(_LIMIT)
    _secure(document, operations, settings)
    return document


def _secure(document: dict[str, Any], operations: list[dict[str, Any]], settings: Settings) -> None:
    """Leave out the tokens that this deployment does not have (see access.py)."""
    schemes: dict[str, Any] = document["components"]["securitySchemes"]
    if not settings.gateway_tokens:
        del schemes["gateway"]
    if not settings.operator_tokens:
        del schemes["operator"], schemes["operator-password"]
    for part in [document, *operations]:
        if part.get("security"):
            part["security"] = [one for one in part["security"] if schemes.keys() >= one.keys()]
            # What only operators may see falls to the gateway where there is none of them.
            if not part["security"]:
                del part["security"]
    if not schemes:
        del document["components"]["securitySchemes"]
        for operation in operations:
            if operation["responses"].get("401") == _UNAUTHORIZED:
                del operation["responses"]["401"]


@cache
def _described() -> bytes:
    """The file as JSON, from which each caller gets a copy of its own."""
    # libyaml reads it 10 times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return msgspec.json.encode(yaml.load(_FILE.read_bytes(), loader))  # noqa: S506 - both are safe
