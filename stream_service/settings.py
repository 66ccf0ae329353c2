"""The one place that reads the environment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LIMIT = 100
"""The most streams that one session may be allowed; a slot number stays below it."""

MIN_DIGEST_KEY = 16
"""Least length of DIGEST_KEY, in characters."""

VARIABLES = (
    *("HOST", "PORT", "MONGO_URL", "MONGO_DB"),
    *("STREAM_LIMIT", "ENFORCE"),
    *("STREAM_TTL_SECONDS", "STREAM_RETENTION_SECONDS", "STREAM_LIMIT_HEADER"),
    *("GATEWAY_TOKEN", "OPERATOR_TOKEN", "DIGEST_KEY", "PLAYBACK_KEYS", "PLAYBACK_AUDIENCE"),
    *("REUSE_PORT", "LISTENER_DIR", "DRAIN_SECONDS", "LOG_LEVEL"),
    *("NODE_CHANNEL_FD", "NOTIFY_SOCKET"),
    "PROMETHEUS_MULTIPROC_DIR",  # Read by its library.
)
"""The names of all environment variables of the service, but for OpenTelemetry's."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_AUDIENCE = re.compile(r"[!-~]{1,200}")
_DATABASE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_OPTION_NAME = re.compile(r"[A-Za-z0-9]{1,40}")
_NOT_A_LIMIT_HEADER = {"session-id", "authorization", "idempotency-key", "content-type", "host"}


_NEAR = 0.8
"""From which similarity on a name is taken for a slip of one of ours: of `difflib`, 0 to 1."""


class SettingsError(ValueError):
    """Environment variables hold what cannot be used. The message has one line for each."""


class _Environment(dict[str, str]):
    """The variables that are set, and what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__({name: value for name, value in environment.items() if value != ""})
        self._wrong: dict[str, str] = {}

    def refuse(self, name: str, why: str) -> None:
        """Remember that this variable cannot be used, for `raise_for_all`."""
        self._wrong.setdefault(name, f"{name} {why}")

    def raise_for_all(self) -> None:
        """Raise a `SettingsError` if anything was refused."""
        if self._wrong:
            raise SettingsError("\n".join(self._wrong.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be configured; the README's table says what each one is for."""

    host: str = "127.0.0.1"
    port: int = 3001
    mongo_url: str = field(default="mongodb://127.0.0.1:27017", repr=False)
    mongo_db: str = "stream_service"
    stream_limit: int = 3
    enforce: bool = True
    stream_ttl_seconds: int = 60
    stream_retention_seconds: int = 300
    stream_limit_header: str | None = None
    gateway_tokens: tuple[str, ...] = field(default=(), repr=False)
    operator_tokens: tuple[str, ...] = field(default=(), repr=False)
    digest_key: str | None = field(default=None, repr=False)
    playback_keys: tuple[Path, ...] = ()
    playback_audience: str | None = None
    reuse_port: bool = False
    listener_dir: Path | None = None
    drain_seconds: int = 0
    log_level: str = "INFO"
    node_channel_fd: int | None = None
    notify_socket: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings.

        Args:
            environment: Usually `os.environ`. An empty value counts as unset.

        Raises:
            SettingsError: Values are out of their range or form; a line for each variable.
        """
        env = _Environment(environment)
        settings = cls(
            host=env.get("HOST", _DEFAULT.host),
            port=_integer(env, "PORT", _DEFAULT.port, 0, 65_535),
            mongo_url=_mongo_url(env, _DEFAULT.mongo_url),
            mongo_db=_database(env, _DEFAULT.mongo_db),
            stream_limit=_integer(env, "STREAM_LIMIT", _DEFAULT.stream_limit, 1, MAX_LIMIT),
            enforce=_integer(env, "ENFORCE", 1, 0, 1) == 1,
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
            playback_keys=_paths(env, "PLAYBACK_KEYS"),
            playback_audience=_audience(env),
            reuse_port=_integer(env, "REUSE_PORT", 0, 0, 1) == 1,
            listener_dir=Path(env["LISTENER_DIR"]) if "LISTENER_DIR" in env else None,
            drain_seconds=_integer(env, "DRAIN_SECONDS", _DEFAULT.drain_seconds, 0, 3600),
            log_level=_log_level(env, _DEFAULT.log_level),
            node_channel_fd=_node_channel(env),
            notify_socket=env.get("NOTIFY_SOCKET"),
        )
        _metrics_directory(env, environment.get("PROMETHEUS_MULTIPROC_DIR"))
        env.raise_for_all()
        return settings

    @property
    def database(self) -> str:
        """Where the streams are, to be shown: hosts and database, without user and password."""
        return f"{_parts(self.mongo_url)[0]}/{self.mongo_db}"


# A frozen dataclass with slots has member descriptors where its defaults were written, so the
# defaults are read from an instance.
_DEFAULT = Settings()


def _integer(env: _Environment, name: str, default: int, low: int, high: int) -> int:
    text = env.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        env.refuse(name, f"must be a whole number from {low} to {high}, not {text!r}")
        return default
    return int(text)


def _parts(url: str) -> tuple[str, str]:
    """Hosts and path of a MongoDB URL, which may name several hosts."""
    authority, _, path = url.partition("://")[2].partition("?")[0].partition("/")
    return authority.rpartition("@")[2], unquote(path)


def _mongo_url(env: _Environment, default: str) -> str:
    url = env.get("MONGO_URL", default)
    if "@" in _parts(url)[1]:
        env.refuse("MONGO_URL", "must have / in the user name or the password as %2F, and @ as %40")
        return default
    # What the driver says of a bad URL may quote a password, so its message is not passed on,
    # and a name that is not in the DNS yet is no fault of the URL: only the form is checked.
    if url.startswith("mongodb+srv://"):
        return url
    try:
        parse_uri(url, warn=False)
    except OSError as error:
        env.refuse("MONGO_URL", unusable_file(error))
    except (PyMongoError, ValueError):
        option = _option_at_fault(url)
        if option is None:
            why = (
                "must look like "
                "mongodb://[user:password@]host[:port][,host...][/database][?options]"
            )
        else:
            why = f"has an option that cannot be used: {option}. Check its name and its value"
        env.refuse("MONGO_URL", why)
    return url


def _option_at_fault(url: str) -> str | None:
    """The name of the option that alone makes this URL unusable; None if it is not an option."""
    base, _, options = url.partition("?")
    # A password with a bare "?" would be taken for options.
    if "@" in options or not _can_be_parsed(base):
        return None
    for option in re.split("[&;]", options):
        name = option.partition("=")[0]
        if _OPTION_NAME.fullmatch(name) and not _can_be_parsed(f"{base}?{option}"):
            return name
    return None


def _can_be_parsed(url: str) -> bool:
    try:
        parse_uri(url, warn=False)
    except (PyMongoError, ValueError, OSError):
        return False
    return True


def unusable_file(error: OSError) -> str:
    """What to say of a file that MONGO_URL names, for TLS, and that cannot be used."""
    file = "a file" if error.filename is None else f"the file {error.filename}"
    return f"names {file} that cannot be used: {error.strerror or type(error).__name__}"


def _database(env: _Environment, default: str) -> str:
    name = env.get("MONGO_DB")
    if name is not None:
        if not _DATABASE_NAME.fullmatch(name):
            env.refuse("MONGO_DB", f"must be 1 to 63 of A-Z a-z 0-9 _ -, not {name!r}")
        return name
    # A collection may be named after a dot. The users are in "admin", and no streams.
    name = _parts(env.get("MONGO_URL", ""))[1].partition(".")[0]
    if name in ("", "admin"):
        return default
    if "@" not in name and not _DATABASE_NAME.fullmatch(name):
        env.refuse("MONGO_URL", "must name a database of 1 to 63 of A-Z a-z 0-9 _ -, or none")
    return name


def _limit_header(env: _Environment) -> str | None:
    name = env.get("STREAM_LIMIT_HEADER")
    if name is not None and (
        not _HEADER_NAME.fullmatch(name) or name.lower() in _NOT_A_LIMIT_HEADER
    ):
        env.refuse("STREAM_LIMIT_HEADER", f"must be the name of a header of its own, not {name!r}")
    return name


def _operator_tokens(env: _Environment) -> tuple[str, ...]:
    tokens = _tokens(env, "OPERATOR_TOKEN")
    if not set(tokens).isdisjoint(_tokens(env, "GATEWAY_TOKEN")):
        env.refuse(
            "OPERATOR_TOKEN",
            "must not be the same as GATEWAY_TOKEN: the gateway would be an operator",
        )
    return tokens


def _tokens(env: _Environment, name: str) -> tuple[str, ...]:
    if name not in env:
        return ()
    tokens = tuple(token.strip() for token in env[name].split(","))
    if not all(_BEARER_TOKEN.fullmatch(token) for token in tokens):
        env.refuse(
            name,
            "must be one bearer token (A-Z a-z 0-9 - . _ ~ + / and = at the end), "
            "or several with commas between them while one is being rotated out",
        )
    return tokens


def _digest_key(env: _Environment) -> str | None:
    key = env.get("DIGEST_KEY")
    if key is not None and len(key) < MIN_DIGEST_KEY:
        env.refuse(
            "DIGEST_KEY",
            f"must have at least {MIN_DIGEST_KEY} characters; `openssl rand -base64 32` makes one",
        )
    return key


def _paths(env: _Environment, name: str) -> tuple[Path, ...]:
    if name not in env:
        return ()
    paths = [path.strip() for path in env[name].split(",")]
    if not all(paths):
        env.refuse(name, "must be paths of files with one comma between two of them")
    return tuple(Path(path) for path in paths)


def _audience(env: _Environment) -> str | None:
    audience = env.get("PLAYBACK_AUDIENCE")
    if audience is not None and not _AUDIENCE.fullmatch(audience):
        env.refuse(
            "PLAYBACK_AUDIENCE",
            f"must be 1 to 200 printable ASCII characters without blanks, not {audience!r}",
        )
    return audience


def _node_channel(env: _Environment) -> int | None:
    # Set by pm2, and by any Node program that starts this one with a channel.
    return _integer(env, "NODE_CHANNEL_FD", 0, 3, 65_535) if "NODE_CHANNEL_FD" in env else None


def _metrics_directory(env: _Environment, directory: str | None) -> None:
    """Check what prometheus_client reads for itself, to which an empty value is a path too."""
    if directory is None:
        return
    exists = Path(directory).is_dir()
    if directory == "":
        why = "must not be empty: unset it, or set it to an empty directory"
    elif exists and os.access(directory, os.W_OK | os.X_OK):
        return
    elif exists:
        why = f"must be a directory that the service may write to, not {directory}"
    else:
        why = f"must be an existing directory, not {directory}. Make it with mkdir -p, or unset it"
    env.refuse("PROMETHEUS_MULTIPROC_DIR", why)


def _log_level(env: _Environment, default: str) -> str:
    level = env.get("LOG_LEVEL", default).upper()
    if level not in LOG_LEVELS:
        env.refuse("LOG_LEVEL", f"must be one of {', '.join(LOG_LEVELS)}, not {level!r}")
    return level


def near_misses(environment: Mapping[str, str]) -> list[str]:
    """Sentences about variables that are not ours, but look like a slip of one that is not set."""
    missing = [name for name in VARIABLES if not environment.get(name) and "_" in name]
    sentences = []
    for name in sorted(environment):
        near = get_close_matches(name.upper().replace("-", "_"), missing, 1, _NEAR)
        # What ends in one of ours is another program's.
        if name not in VARIABLES and near and not name.endswith(f"_{near[0]}"):
            sentences.append(f"{name} is not read: did you mean {near[0]}?")
    return sentences
