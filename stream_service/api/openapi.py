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
_LIMIT = {"$ref": "#/components/parameters/Limit"}


def openapi_document(settings: Settings) -> dict[str, Any]:
    """The description, with the version and the name that `STREAM_LIMIT_HEADER` gives the header.

    It is of a service with everything configured, and says what needs which setting.
    """
    document: dict[str, Any] = msgspec.json.decode(_described())
    document["info"]["version"] = __version__
    if settings.stream_limit_header:
        document["components"]["parameters"]["Limit"]["name"] = settings.stream_limit_header
    else:
        # Without the setting there is no such header, and what is sent as one is not looked at.
        del document["components"]["parameters"]["Limit"]
        for operations in document["paths"].values():
            for operation in operations.values():
                if _LIMIT in operation.get("parameters", ()):
                    operation["parameters"].remove(_LIMIT)
    return document


@cache
def _described() -> bytes:
    """The file as JSON, from which each caller gets a copy of its own."""
    # libyaml reads it 10 times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return msgspec.json.encode(yaml.load(_FILE.read_bytes(), loader))  # noqa: S506 - both are safe
