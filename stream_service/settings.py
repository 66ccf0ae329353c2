"""The one place that reads the environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LIMIT = 100
"""The most streams that one session may be allowed; a slot number stays below it."""

MIN_DIGEST_KEY = 16
"""Least length of DIGEST_KEY, in characters."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_DATABASE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_NOT_A_LIMIT_HEADER = {"session-id", "authorization", "idempotency-key", "content-type", "host"}


class SettingsError(ValueError):
    """An environment variable holds something that cannot be used. The message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be configured; the README's table says what each one is for."""

    host: str = "127.0.0.1"
    port: int = 3001
    mongo_url: str = field(default="mongodb://127.0.0.1:27017", repr=False)
    mongo_db: str = "stream_service"
    stream_limit: int = 3
    stream_ttl_seconds: int = 60
    stream_retention_seconds: int = 300
    stream_limit_header: str | None = None
    gateway_tokens: tuple[str, ...] = field(default=(), repr=False)
    operator_tokens: tuple[str, ...] = field(default=(), repr=False)
    digest_key: str | None = field(default=None, repr=False)
    reuse_port: bool = False
    listener_dir: Path | None = None
    drain_seconds: int = 0
    log_level: str = "INFO"
    node_channel_fd: int | None = None
    notify_socket: str | None = None
    console: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings.

        Args:
            environment: Usually `os.environ`. An empty value counts as unset.

        Raises:
            SettingsError: A value is out of its range or form; the message names the variable.
        """
        env = {name: value for name, value in environment.items() if value != ""}
        return cls(
            host=env.get("HOST", _DEFAULT.host),
            port=_integer(env, "PORT", _DEFAULT.port, 0, 65_535),
            mongo_url=_mongo_url(env, _DEFAULT.mongo_url),
            mongo_db=_database(env, _DEFAULT.mongo_db),
            stream_limit=_integer(env, "STREAM_LIMIT", _DEFAULT.stream_limit, 1, MAX_LIMIT),
            stream_ttl_seconds=_integer(
                env, "STREAM_TTL_SECONDS", _DEFAULT.stream_ttl_seconds, 1, 86_400
            ),
            stream_retention_seconds=_integer(
                env, "STREAM_RETENTION_SECONDS", _DEFAULT.stream_retention_seconds, 0, 31_536_000
            ),
            stream_limit_header=_limit_header(env),
            gateway_tokens=_tokens(env, "GATEWAY_TOKEN"),
            operator_tokens=_operator_tokens(env),
            digest_key=_digest_key(env),
            reuse_port=_integer(env, "REUSE_PORT", 0, 0, 1) == 1,
            listener_dir=Path(env["LISTENER_DIR"]) if "LISTENER_DIR" in env else None,
            drain_seconds=_integer(env, "DRAIN_SECONDS", _DEFAULT.drain_seconds, 0, 3600),
            log_level=_log_level(env, _DEFAULT.log_level),
            node_channel_fd=_node_channel(env),
            notify_socket=env.get("NOTIFY_SOCKET"),
            console=_integer(env, "CONSOLE", 1, 0, 1) == 1,
        )


# A frozen dataclass with slots has member descriptors where its defaults were written, so the
# defaults are read from an instance.
_DEFAULT = Settings()


def _integer(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise SettingsError(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def _mongo_url(env: Mapping[str, str], default: str) -> str:
    url = env.get("MONGO_URL", default)
    # What the driver says of a bad URL may quote a password, so its message is not passed on,
    # and a name that is not in the DNS yet is no fault of the URL: only the form is checked.
    if url.startswith("mongodb+srv://"):
        return url
    try:
        parse_uri(url, warn=False)
    except (PyMongoError, ValueError):
        raise SettingsError(
            "MONGO_URL must look like mongodb://[user:password@]host[:port][,host...][/?options]"
        ) from None
    return url


def _database(env: Mapping[str, str], default: str) -> str:
    name = env.get("MONGO_DB", default)
    if not _DATABASE_NAME.fullmatch(name):
        raise SettingsError(f"MONGO_DB must be 1 to 63 of A-Z a-z 0-9 _ -, not {name!r}")
    return name


def _limit_header(env: Mapping[str, str]) -> str | None:
    name = env.get("STREAM_LIMIT_HEADER")
    if name is not None and (
        not _HEADER_NAME.fullmatch(name) or name.lower() in _NOT_A_LIMIT_HEADER
    ):
        raise SettingsError(
            f"STREAM_LIMIT_HEADER must be the name of a header of its own, not {name!r}"
        )
    return name


def _operator_tokens(env: Mapping[str, str]) -> tuple[str, ...]:
    tokens = _tokens(env, "OPERATOR_TOKEN")
    if not set(tokens).isdisjoint(_tokens(env, "GATEWAY_TOKEN")):
        raise SettingsError(
            "OPERATOR_TOKEN must not be the same as GATEWAY_TOKEN: the gateway would be an operator"
        )
    return tokens


def _tokens(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    if name not in env:
        return ()
    tokens = tuple(token.strip() for token in env[name].split(","))
    if not all(_BEARER_TOKEN.fullmatch(token) for token in tokens):
        raise SettingsError(
            f"{name} must be one bearer token (A-Z a-z 0-9 - . _ ~ + / and = at the end), "
            "or several with commas between them while one is being rotated out"
        )
    return tokens


def _digest_key(env: Mapping[str, str]) -> str | None:
    key = env.get("DIGEST_KEY")
    if key is not None and len(key) < MIN_DIGEST_KEY:
        raise SettingsError(
            f"DIGEST_KEY must have at least {MIN_DIGEST_KEY} characters; "
            "`openssl rand -base64 32` makes one"
        )
    return key


def _node_channel(env: Mapping[str, str]) -> int | None:
    # Set by pm2, and by any Node program that starts this one with a channel.
    return _integer(env, "NODE_CHANNEL_FD", 0, 3, 65_535) if "NODE_CHANNEL_FD" in env else None


def _log_level(env: Mapping[str, str], default: str) -> str:
    level = env.get("LOG_LEVEL", default).upper()
    if level not in LOG_LEVELS:
        raise SettingsError(f"LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}, not {level!r}")
    return level
