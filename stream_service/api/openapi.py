"""Serves openapi.yaml, the description of the HTTP API."""

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


def openapi_document(settings: Settings) -> dict[str, Any]:
    """The description, with the version and the headers that these settings have.

    It is of a service with everything configured, and says what needs which setting.
    """
    document: dict[str, Any] = msgspec.json.decode(_described())
    document["info"]["version"] = __version__
    parameters = document["components"]["parameters"]
    if settings.stream_limit_header:
        parameters["Limit"]["name"] = settings.stream_limit_header
    else:
        _leave_out(document, "Limit")
    if settings.policy_file is None:
        _leave_out(document, "Stream-Plan")
        _leave_out(document, "Stream-Attributes")
    return document


def _leave_out(document: dict[str, Any], header: str) -> None:
    """Without its setting there is no such header, and what is sent as one is not looked at."""
    del document["components"]["parameters"][header]
    reference = {"$ref": f"#/components/parameters/{header}"}
    for operations in document["paths"].values():
        for operation in operations.values():
            if reference in operation.get("parameters", ()):
                operation["parameters"].remove(reference)


@cache
def _described() -> bytes:
    """The file as JSON, from which each caller gets a copy of its own."""
    # libyaml reads it 10 times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return msgspec.json.encode(yaml.load(_FILE.read_bytes(), loader))  # noqa: S506 - both are safe
