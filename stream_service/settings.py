"""The one place that reads the environment."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import unquote

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    AliasGenerator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

MAX_LIMIT = 100
"""The most streams that one session may be allowed; a slot number stays below it."""

MIN_SECRET = 16
"""Least length of a token and of DIGEST_KEY, in characters."""

MIN_LEASE = 5
"""The least lease that the player client can keep, in seconds.

It sends a heartbeat after a third of a lease, 10 % later at most, and one request a second.
"""

_DATABASE_NAME = r"[A-Za-z0-9_-]{1,63}"

_NEAR = 0.8
"""From which similarity on a name is taken for a slip of one of ours: of `difflib`, 0 to 1."""


class SettingsError(ValueError):
    """Environment variables hold what cannot be used. The message has one line for each."""


def _matching(pattern: str, must: str) -> AfterValidator:
    """Refuse a text or path that does not match, and say what it must be."""

    def check(value: Any) -> Any:
        if not re.fullmatch(pattern, str(value)):
            raise ValueError(f"must be {must}")
        return value

    return AfterValidator(check)


def _parts(value: Any) -> Any:
    """The parts of a text between its commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _digits(value: Any) -> Any:
    # Pydantic would take blanks, points, underscores and the digits of other scripts.
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise PydanticCustomError("digits", "no whole number")
    return value


def _switch(value: Any) -> Any:
    # Pydantic would take a dozen words: of one that was misread, the limit would be off.
    if isinstance(value, str) and value not in ("0", "1"):
        raise PydanticCustomError("switch", "neither 0 nor 1")
    return value


def _capitals(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _writable(directory: str) -> str:
    # An empty one is no directory either: its library takes it for a path.
    if not (Path(directory).is_dir() and os.access(directory, os.W_OK | os.X_OK)):
        raise ValueError(
            "must be a directory that the service may write to (make it with mkdir -p, or unset it)"
        )
    return directory


def _usable_url(url: str) -> str:
    name = _database_in(url)
    if "@" in name:
        raise ValueError("must have / in the user name or the password as %2F, and @ as %40")
    # What the driver says of a bad URL may quote a password, so its message is not passed on,
    # and a name that is not in the DNS yet is no fault of the URL: only the form is checked.
    if not url.startswith("mongodb+srv://"):
        try:
            parse_uri(url, warn=False)
        except OSError as error:
            raise ValueError(unusable_file(error)) from None
        except (PyMongoError, ValueError):
            raise ValueError(
                "must look like "
                "mongodb://[user:password@]host[:port][,host...][/database][?options], "
                "with options that the driver knows"
            ) from None
    if name and not re.fullmatch(_DATABASE_NAME, name):
        raise ValueError("must name a database of 1 to 63 of A-Z a-z 0-9 _ -, or none")
    return url


def _hosts(url: str) -> str:
    return url.partition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2]


def _database_in(url: str) -> str:
    """The database that a MongoDB URL names. A collection may be named after a dot."""
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    return unquote(path).partition(".")[0]


def _database(before: dict[str, Any]) -> str:
    # The users are in "admin", and no streams.
    name = _database_in(before["mongo_url"])
    return name if name not in ("", "admin") else "stream_service"


def unusable_file(error: OSError) -> str:
    """What to say of a file that a variable names, and that cannot be used."""
    file = "a file" if error.filename is None else f"the file {error.filename}"
    return f"names {file} that cannot be used: {error.strerror or type(error).__name__}"


_Number = Annotated[int, BeforeValidator(_digits)]
_Switch = Annotated[bool, BeforeValidator(_switch)]
_Token = Annotated[
    str,
    _matching(
        rf"(?=.{{{MIN_SECRET}}})[A-Za-z0-9._~+/-]+=*",  # RFC 6750, section 2.1
        f"a bearer token of at least {MIN_SECRET} characters (A-Z a-z 0-9 - . _ ~ + / and = at the "
        "end; `openssl rand -hex 32` makes one), or several with commas between them while one is "
        "being rotated out",
    ),
]
_Tokens = Annotated[tuple[_Token, ...], BeforeValidator(_parts)]
_Key = Annotated[
    str,
    _matching(
        rf"(?s).{{{MIN_SECRET},}}",
        f"at least {MIN_SECRET} characters; `openssl rand -base64 32` makes one",
    ),
]
_File = Annotated[
    Path, _matching(r"(?!\.$).+", "paths of files with one comma between two of them")
]
_DatabaseName = Annotated[str, _matching(_DATABASE_NAME, "1 to 63 of A-Z a-z 0-9 _ -")]
_Header = Annotated[
    str,
    _matching(
        r"(?i)(?!(session-id|authorization|idempotency-key|content-type|host)$)"
        r"[a-z0-9!#$%&'*+.^_`|~-]+",
        "the name of a header of its own",
    ),
]
_Audience = Annotated[
    str, _matching(r"[!-~]{1,200}", "1 to 200 printable ASCII characters without blanks")
]
_FilmUrl = Annotated[
    str,
    _matching(
        r"(https?://|/)(?=[^{}]*\{playback_token\}[^{}]*$)[!-~]+",
        "an address with {playback_token} in it once, such as "
        "https://cdn.example/film/{playback_token}/index.m3u8",
    ),
]
_Platform = Annotated[
    str,
    _matching(r"[a-z0-9._+-]{1,32}", "names of a-z 0-9 . _ + - with one comma between two of them"),
]
_LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_capitals)
]


class Settings(BaseSettings):
    """Everything that can be configured: each variable is declared here, and nowhere else.

    A field is read from the variable of its name in capitals. Its description is what `--help` and
    the README say of it, in Markdown. `repr=False` marks what may hold a secret, which no message
    shows.
    """

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=str.upper),
        case_sensitive=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: _Number = Field(default=3001, ge=0, le=65_535, description="0 takes a free one")
    mongo_url: Annotated[str, AfterValidator(_usable_url)] = Field(
        default="mongodb://127.0.0.1:27017",
        repr=False,
        description="the database server; not used with `--embedded`",
    )
    mongo_db: _DatabaseName = Field(
        default_factory=_database,
        description="name of the database, unless `MONGO_URL` names another than `admin`",
    )
    stream_limit: _Number = Field(
        default=3, ge=1, le=MAX_LIMIT, description="active streams per account"
    )
    enforce: _Switch = Field(
        default=True,
        description="0 only counts what would be refused: "
        "[shadow mode](docs/operations.md#shadow-mode)",
    )
    stream_ttl_seconds: _Number = Field(
        default=60,
        ge=MIN_LEASE,
        le=86_400,
        description="the lease: how long a stream lives without a heartbeat",
    )
    stream_retention_seconds: _Number = Field(
        default=300,
        ge=0,
        le=31_536_000,
        description="how long, at least, an ended stream is "
        "[remembered](docs/data-protection.md#for-how-long)",
    )
    stream_limit_header: _Header | None = Field(
        default=None,
        description=f"header with the account's own limit, 0 to {MAX_LIMIT}, from the gateway",
    )
    policy_file: Path | None = Field(
        default=None,
        description="TOML file with [limits by attribute](docs/integration.md#limits-by-attribute)",
    )
    gateway_tokens: _Tokens = Field(
        default=(),
        validation_alias="GATEWAY_TOKEN",
        repr=False,
        description="opens the viewers' API, sent as Bearer. Two, with a comma between, to rotate "
        "it",
    )
    operator_tokens: _Tokens = Field(
        default=(),
        validation_alias="OPERATOR_TOKEN",
        repr=False,
        description="opens everything, as Bearer or as the password that a browser asks for",
    )
    digest_key: _Key | None = Field(
        default=None,
        repr=False,
        description="[key of all digests](docs/deployment.md#the-digest-key), the same in all "
        "processes",
    )
    digest_key_change: _Switch = Field(
        default=False,
        description="1 starts in spite of running processes with another `DIGEST_KEY`",
    )
    playback_keys: Annotated[tuple[_File, ...], BeforeValidator(_parts)] = Field(
        default=(),
        description="PEM files with private keys for [playback tokens](docs/enforcement.md), "
        "separated by commas: the first signs",
    )
    playback_audience: _Audience | None = Field(
        default=None, description="`aud` of the playback tokens"
    )
    film_url: _FilmUrl | None = Field(
        default=None,
        description="the film's address with `{playback_token}`; a start answers it as `film`",
    )
    listener_dir: Path | None = Field(
        default=None,
        description="directory, closed to other users, through which processes share one socket: a "
        "reload loses no connection",
    )
    keepalive_seconds: _Number = Field(
        default=620,
        ge=1,
        le=86_400,
        description="how long an [idle connection](docs/integration.md#the-gateway) is kept",
    )
    drain_seconds: _Number = Field(
        default=0,
        ge=0,
        le=3600,
        description="how long open connections are still served after a signal to stop",
    )
    platforms: Annotated[tuple[_Platform, ...], BeforeValidator(_parts)] = Field(
        default=(),
        description="[platforms](docs/operations.md#metrics) to be told apart, as in `web,ios`",
    )
    log_level: _LogLevel = Field(default="INFO", description="the least level that is logged")
    events: Literal["0", "1", "labels"] = Field(
        default="0",
        description="1 writes [events](docs/events.md), labels with device and content too",
    )
    request_log: Literal["all", "errors", "off"] = Field(
        default="all",
        description="which requests are logged; errors: 400 and above",
    )
    prometheus_multiproc_dir: Annotated[str, AfterValidator(_writable)] | None = Field(
        # Its library reads it for itself.
        default=None,
        description="directory in which processes collect their "
        "[metrics](docs/operations.md#metrics) together",
    )
    node_channel_fd: _Number | None = Field(
        default=None,
        ge=3,
        le=65_535,
        description="set by pm2",
    )
    notify_socket: str | None = Field(default=None, description="set by systemd")

    @field_validator("operator_tokens")
    @classmethod
    def _of_operators_alone(cls, tokens: _Tokens, info: ValidationInfo) -> _Tokens:
        if not set(tokens).isdisjoint(info.data.get("gateway_tokens", ())):
            raise ValueError(
                "must not be the same as GATEWAY_TOKEN: the gateway would be an operator"
            )
        return tokens

    @classmethod
    def settings_customise_sources(
        cls, *_: Any, **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is passed alone: `from_environment` says which environment is read."""
        return (sources["init_settings"],)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings.

        Args:
            environment: Usually `os.environ`. An empty value counts as unset.

        Raises:
            SettingsError: Values are out of their range or form; a line for each variable.
        """
        source = EnvSettingsSource(cls)
        source.env_vars = {
            name: value
            for name, value in environment.items()
            if value or name == "PROMETHEUS_MULTIPROC_DIR"
        }
        try:
            return cls.model_validate(source())
        except ValidationError as error:
            lines = list(_lines(error))
        # Outside, so that what pydantic holds of the values does not go along.
        raise SettingsError("\n".join(lines))

    @property
    def database(self) -> str:
        """Where the streams are, to be shown: hosts and database, without user and password."""
        return f"{_hosts(self.mongo_url)}/{self.mongo_db}"


_FIELDS = {str(field.validation_alias): field for field in Settings.model_fields.values()}

VARIABLES = tuple(_FIELDS)
"""The names of all environment variables of the service, but for OpenTelemetry's."""


def variables() -> Iterator[tuple[str, str, str]]:
    """What `--help` and the README say of each variable.

    Yields:
        Its name; its default, empty if there is none; what it is for, in Markdown.
    """
    for name, default in zip(VARIABLES, dict(Settings()).values(), strict=True):
        text, values = str(_FIELDS[name].description), _values(_FIELDS[name])
        shown = int(default) if isinstance(default, bool) else default
        yield (
            name,
            "" if shown in (None, ()) else str(shown),
            f"{text} ({values})" if values else text,
        )


def _values(field: FieldInfo) -> str:
    """The values that a field takes, if they are few, or numbers within bounds; else empty."""
    limits = {type(bound): bound for bound in field.metadata}
    if Ge in limits and Le in limits:
        return f"{limits[Ge].ge} to {limits[Le].le}"
    if field.annotation is bool:
        return "0 or 1"
    *others, last = [one for one in get_args(field.annotation) if isinstance(one, str)] or [""]
    return f"{', '.join(others)} or {last}" if others else last


def _lines(error: ValidationError) -> Iterator[str]:
    """A line for each variable that cannot be used, in the order of their declaration."""
    wrong: dict[str, ErrorDetails] = {}
    for one in error.errors(include_url=False):
        # While MONGO_URL is wrong, MONGO_DB has no default, which is no fault of its own.
        if one["type"] != "default_factory_not_called":
            wrong.setdefault(str(one["loc"][0]), one)
    for name, one in wrong.items():
        said = one.get("ctx", {}).get("error") or f"must be {_values(_FIELDS[name])}"
        yield f"{name} {said}, not {one['input']!r}" if _FIELDS[name].repr else f"{name} {said}"


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
