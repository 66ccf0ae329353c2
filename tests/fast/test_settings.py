"""Settings: one place reads the environment, and fails with one line that names the variable."""

from __future__ import annotations

import socket
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from pydantic import ValidationError

from stream_service import __version__
from stream_service.__main__ import main
from stream_service.settings import VARIABLES, Settings, SettingsError, near_misses, variables
from tests.support.processes import ROOT, Service

RENAMED = {"GATEWAY_TOKEN": "gateway_tokens", "OPERATOR_TOKEN": "operator_tokens"}
KEPT_BY_ITS_LIBRARY = "PROMETHEUS_MULTIPROC_DIR"
TOKEN = "0123456789abcdef"
OLD_TOKEN = "old.one-012345=="

VALID = [
    ("HOST", "::1", "::1"),
    ("PORT", "0", 0),
    ("PORT", "65535", 65_535),
    ("MONGO_URL", "mongodb://a,b/?replicaSet=r", "mongodb://a,b/?replicaSet=r"),
    ("MONGO_URL", "mongodb+srv://cluster.example", "mongodb+srv://cluster.example"),
    ("MONGO_DB", "a-B_9", "a-B_9"),
    ("STREAM_LIMIT", "1", 1),
    ("STREAM_LIMIT", "100", 100),
    ("ENFORCE", "0", False),
    ("ENFORCE", "1", True),
    ("DIGEST_KEY_CHANGE", "1", True),
    ("STREAM_TTL_SECONDS", "5", 5),
    ("STREAM_TTL_SECONDS", "86400", 86_400),
    ("STREAM_RETENTION_SECONDS", "0", 0),
    ("STREAM_RETENTION_SECONDS", "31536000", 31_536_000),
    ("STREAM_LIMIT_HEADER", "X-Plan-Streams", "X-Plan-Streams"),
    ("GATEWAY_TOKEN", TOKEN, (TOKEN,)),
    ("GATEWAY_TOKEN", f"{TOKEN}, {OLD_TOKEN}", (TOKEN, OLD_TOKEN)),
    ("OPERATOR_TOKEN", f"{TOKEN},{OLD_TOKEN}", (TOKEN, OLD_TOKEN)),
    ("DIGEST_KEY", "k" * 16, "k" * 16),
    ("DIGEST_KEY", "a key\n of several lines", "a key\n of several lines"),
    ("PLAYBACK_KEYS", "new.pem, keys/old.pem", (Path("new.pem"), Path("keys/old.pem"))),
    ("PLAYBACK_AUDIENCE", "https://cdn.example", "https://cdn.example"),
    ("FILM_URL", "/film/{playback_token}/1", "/film/{playback_token}/1"),
    ("POLICY_FILE", "policy.toml", Path("policy.toml")),
    ("LISTENER_DIR", "run", Path("run")),
    ("KEEPALIVE_SECONDS", "620", 620),
    ("DRAIN_SECONDS", "5", 5),
    ("PLATFORMS", "web, ios,android", ("web", "ios", "android")),
    ("REQUEST_LOG", "errors", "errors"),
    ("EVENTS", "labels", "labels"),
    ("LOG_LEVEL", "debug", "DEBUG"),
    (KEPT_BY_ITS_LIBRARY, "/tmp", "/tmp"),
    ("NODE_CHANNEL_FD", "3", 3),
    ("NOTIFY_SOCKET", "@ready", "@ready"),
]

INVALID = [
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("PORT", "http"),
    ("PORT", "3001 "),
    ("PORT", "\u0663"),
    ("MONGO_URL", "127.0.0.1:27017"),
    ("MONGO_URL", "http://127.0.0.1"),
    ("MONGO_URL", "mongodb://host:port"),
    ("MONGO_URL", "mongodb://user:12/s3cret@host/db"),
    ("MONGO_URL", "mongodb://host/no spaces"),
    ("MONGO_URL", "mongodb://host/?readPreference=foo"),
    ("MONGO_URL", "mongodb+srv://cluster.example/$database"),
    ("MONGO_URL", "mongodb://host/?tls=true&tlsCAFile=/no/such/file"),
    ("MONGO_DB", "a.b"),
    ("MONGO_DB", "a" * 64),
    ("ENFORCE", "perhaps"),
    ("ENFORCE", "no"),
    ("ENFORCE", "off"),
    ("DIGEST_KEY_CHANGE", "yes"),
    ("STREAM_LIMIT", "0"),
    ("STREAM_LIMIT", "101"),
    ("STREAM_LIMIT", "3.5"),
    ("STREAM_LIMIT", "3.0"),
    ("STREAM_LIMIT", "1_0"),
    ("STREAM_LIMIT", "9" * 5000),
    ("STREAM_TTL_SECONDS", "4"),
    ("STREAM_TTL_SECONDS", "86401"),
    ("STREAM_RETENTION_SECONDS", "-1"),
    ("STREAM_RETENTION_SECONDS", "31536001"),
    ("STREAM_LIMIT_HEADER", "X Plan"),
    ("STREAM_LIMIT_HEADER", "session-id"),
    ("STREAM_LIMIT_HEADER", "Authorization"),
    ("GATEWAY_TOKEN", TOKEN[1:]),
    ("GATEWAY_TOKEN", "two words of a token"),
    ("GATEWAY_TOKEN", f"{TOKEN},,{OLD_TOKEN}"),
    ("GATEWAY_TOKEN", ","),
    ("OPERATOR_TOKEN", TOKEN[1:]),
    ("OPERATOR_TOKEN", f"{TOKEN},"),
    ("DIGEST_KEY", "k" * 15),
    ("PLAYBACK_KEYS", "a.pem,,b.pem"),
    ("PLAYBACK_AUDIENCE", "two words"),
    ("PLAYBACK_AUDIENCE", "x" * 201),
    ("FILM_URL", "/film/index.m3u8"),
    ("KEEPALIVE_SECONDS", "0"),
    ("DRAIN_SECONDS", "soon"),
    ("DRAIN_SECONDS", "3601"),
    ("PLATFORMS", "web,,ios"),
    ("PLATFORMS", "Web 3"),
    ("REQUEST_LOG", "some"),
    ("EVENTS", "yes"),
    ("LOG_LEVEL", "LOUD"),
    (KEPT_BY_ITS_LIBRARY, ""),
    (KEPT_BY_ITS_LIBRARY, "/no/such/directory"),
    ("NODE_CHANNEL_FD", "2"),
]

ANYTHING_GOES = {"POLICY_FILE", "HOST", "LISTENER_DIR", "NOTIFY_SOCKET"}


def test_an_empty_value_counts_as_unset() -> None:
    # Its library takes an empty directory for one: that is refused instead.
    names = set(VARIABLES) - {KEPT_BY_ITS_LIBRARY}
    assert Settings.from_environment(dict.fromkeys(names, "")) == Settings()


def test_settings_that_are_made_in_code_read_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Settings()
    for variable, text, _ in VALID:
        monkeypatch.setenv(variable, text)
    assert Settings() == Settings.from_environment({}) == before


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(("variable", "text", "value"), VALID)
def test_a_valid_value_is_taken(variable: str, text: str, value: object) -> None:
    settings = Settings.from_environment({variable: text})
    assert getattr(settings, RENAMED.get(variable, variable.lower())) == value


def test_every_variable_has_a_valid_value_that_is_tried() -> None:
    assert {variable for variable, _, _ in VALID} == set(VARIABLES)


@pytest.mark.parametrize(("variable", "text"), INVALID)
def test_an_invalid_value_is_refused_by_one_line_that_names_its_variable(
    variable: str, text: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({variable: text})
    [line] = str(refused.value).splitlines()
    assert line.startswith((f"{variable} must ", f"{variable} names "))


def test_every_variable_that_has_an_invalid_value_is_tried_with_one() -> None:
    assert {variable for variable, _ in INVALID} == set(VARIABLES) - ANYTHING_GOES


def test_settings_do_not_show_their_secrets() -> None:
    settings = Settings.from_environment(
        {
            "GATEWAY_TOKEN": "s3cret-of-the-gateway",
            "OPERATOR_TOKEN": "s3cret-of-operators",
            "DIGEST_KEY": "s3cret-key-of-digests",
            "MONGO_URL": "mongodb://user:s3cret@host",
        }
    )
    for shown in (repr(settings), str(settings)):
        assert "s3cret" not in shown
        assert "stream_limit=3" in shown


@pytest.mark.parametrize(
    "values",
    [
        {"gateway_tokens": ("s3cret words",)},
        {"operator_tokens": ("s3cret",)},
        {"digest_key": "s3cret"},
        {"mongo_url": "mongodb://user:s3cret@host:port"},
        {"gateway_tokens": ("s3cret-0123456789",), "operator_tokens": ("s3cret-0123456789",)},
    ],
)
def test_what_the_library_says_of_an_invalid_secret_does_not_tell_it(
    values: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**values)
    assert "s3cret" not in f"{refused.value} {refused.value!r}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("GATEWAY_TOKEN", "s3cret words"),
        ("OPERATOR_TOKEN", "s3cret words"),
        ("DIGEST_KEY", "s3cret"),
        ("MONGO_URL", "mongodb://user:s3cret@host:port"),
        ("MONGO_URL", "mongodb://user:12/s3cret@host/db"),
        ("MONGO_URL", "mongodb+srv://user:12/s3cret@host/db"),
        ("MONGO_URL", "mongodb://user:s3@cret@host/db"),
        ("MONGO_URL", "mongodb://user:12?s3cret=word@host"),
    ],
)
def test_what_is_said_of_an_invalid_secret_does_not_tell_it(variable: str, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({variable: text})
    assert "s3cret" not in "".join(format_exception(refused.value))
    # What pydantic raised holds the text.
    assert refused.value.__context__ is None


def test_all_that_is_wrong_is_told_at_once_a_line_for_each_variable() -> None:
    wrong = dict(INVALID)
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(wrong)
    lines = str(refused.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(wrong)


@pytest.mark.parametrize(
    ("url", "name", "database"),
    [
        ("mongodb://host/films", None, "films"),
        ("mongodb://a:1,b:2,c/films?replicaSet=rs0", None, "films"),
        ("mongodb://user:pass%2Fword%40@host/films", None, "films"),
        ("mongodb+srv://user:password@cluster.example/films?w=majority", None, "films"),
        ("mongodb://host/films", "series", "series"),
        ("mongodb://host", None, "stream_service"),
        ("mongodb://host/", None, "stream_service"),
        ("mongodb://host/?appName=films", None, "stream_service"),
        ("mongodb://host/films.collection", None, "films"),
        # The database of the users, named to log in; never meant for data.
        ("mongodb://user:password@host/admin", None, "stream_service"),
    ],
)
def test_the_database_is_the_one_that_the_url_names_unless_mongo_db_does(
    url: str, name: str | None, database: str
) -> None:
    variables = {"MONGO_URL": url} if name is None else {"MONGO_URL": url, "MONGO_DB": name}
    settings = Settings.from_environment(variables)
    assert settings.mongo_db == database
    assert settings.mongo_url == url


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("mongodb://user:pass%2Fw0rd@a:1,b:2/films?tls=true", "a:1,b:2/films"),
        ("mongodb://user:pass%2Fw0rd@a:1", "a:1/stream_service"),
        ("mongodb+srv://user:pass%2Fw0rd@cluster.example/", "cluster.example/stream_service"),
    ],
)
def test_what_is_shown_of_the_database_has_neither_user_nor_password(
    url: str, database: str
) -> None:
    assert Settings.from_environment({"MONGO_URL": url}).database == database


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STREAM_LIMT", "STREAM_LIMIT"),
        ("stream_limit", "STREAM_LIMIT"),
        ("STREAM_TTL_SECS", "STREAM_TTL_SECONDS"),
        ("STREAM_RETENTION_SECOND", "STREAM_RETENTION_SECONDS"),
        ("MONGO_URI", "MONGO_URL"),
        ("MONGODB_URI", "MONGO_URL"),
        ("GATEWAY_TOKENS", "GATEWAY_TOKEN"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("DIGESTKEY", "DIGEST_KEY"),
        ("LISTEN_DIR", "LISTENER_DIR"),
    ],
)
def test_a_near_miss_of_a_variables_name_is_told(name: str, meant: str) -> None:
    assert near_misses({name: "s3cret"}) == [f"{name} is not read: did you mean {meant}?"]
    # Whoever has set it does not mean it.
    assert near_misses({name: "s3cret", meant: "5"}) == []


def test_variables_of_other_programs_are_no_near_misses() -> None:
    others = ["PATH", "HOME", "HOSTNAME", "PWD", "PORTS", "PIP_LOG_LEVEL", "RUST_LOG_LEVEL"]
    kubernetes = ["SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_3001_TCP", "PORT_3001_TCP_ADDR"]
    others += [f"{name}_{end}" for name in ("STREAM_SERVICE", "MONGO") for end in kubernetes]
    others += ["NODE_CHANNEL_SERIALIZATION_MODE", "PM2_HOME", "DEPLOY_HOST", "OTEL_LOG_LEVEL"]
    assert near_misses(dict.fromkeys([*others, *VARIABLES], "x")) == []
    assert near_misses(dict.fromkeys(others, "x")) == []


@pytest.mark.parametrize("arguments", [[], ["--check"]])
@pytest.mark.parametrize(
    ("variable", "text"), [("STREAM_LIMIT", "many"), ("MONGO_URL", "mongodb://host:port")]
)
def test_a_near_miss_is_told_also_when_another_setting_is_invalid(
    arguments: list[str],
    variable: str,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, text)
    monkeypatch.setenv("STREAM_TTL_SECS", "90")
    assert main(arguments) == (2 if arguments else 1)
    invalid, missed = capsys.readouterr().err.splitlines()
    assert invalid.startswith(f"stream-service: {variable} must ")
    assert missed.startswith("stream-service: STREAM_TTL_SECS is not read: did you mean STREAM_TTL")


def test_the_table_of_the_readme_is_what_the_settings_declare() -> None:
    rows = [f"| `{name}` | {default or 'unset'} | {text} |" for name, default, text in variables()]
    table = "\n".join(["| variable | default | |", "|---|---|---|", *rows]) + "\n\n"
    assert table in (ROOT / "README.md").read_text(), f"README.md needs this table:\n{table}"


def test_help_tells_every_variable_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, default, _ in variables():
        assert f"  {name} {default}".rstrip() in lines
    assert any("--embedded" in line for line in lines)
    assert any("--data-dir" in line for line in lines)


def test_a_data_directory_without_the_embedded_database_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data-dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "--data-dir is for --embedded" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "text"), [("PORT", "http"), ("STREAM_LIMIT", "many")])
def test_a_bad_value_ends_the_start_with_one_line(
    variable: str,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, text)
    assert main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith(f"stream-service: {variable} must be ")
    assert repr(text) in line


def test_two_bad_values_end_the_start_with_two_lines() -> None:
    with Service(STREAM_LIMIT="many", LOG_LEVEL="LOUD") as service:
        assert service.status() == 1
    assert [line.split(" must ")[0] for line in service.log] == [
        "stream-service: STREAM_LIMIT",
        "stream-service: LOG_LEVEL",
    ]


@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile"])
def test_a_file_for_tls_that_is_not_there_is_named(option: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(SettingsError, match=f"^MONGO_URL names the file {missing} that cannot"):
        Settings.from_environment(
            {"MONGO_URL": f"mongodb://127.0.0.1/?tls=true&{option}={missing}"}
        )


def test_a_file_for_tls_that_holds_no_certificate_ends_the_start_with_one_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.pem").touch()
    url = f"mongodb://127.0.0.1/?tls=true&tlsCAFile={tmp_path}/empty.pem"
    with Service(MONGO_URL=url) as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith("stream-service: MONGO_URL ")


def test_the_start_says_version_limit_lease_and_database_and_what_it_does_not_read(
    mongo_url: str, database: str
) -> None:
    with Service(
        MONGO_URL=mongo_url,
        MONGO_DB=database,
        STREAM_LIMIT="5",
        STREAM_TTL_SECONDS="90",
        GATEWAY_TOKENS="s3cret",
    ) as service:
        serving = service.wait_for(lambda event: event["event"] == "serving")
    assert serving["url"] == service.url
    assert serving["version"] == __version__
    assert serving["limit"] == 5
    assert serving["enforced"] is True
    assert serving["lease_seconds"] == 90
    assert serving["database"].endswith(f"/{database}")
    [warning] = [line for line in service.events if line["level"] == "WARNING"]
    assert warning["event"] == "GATEWAY_TOKENS is not read: did you mean GATEWAY_TOKEN?"
    assert not any("s3cret" in line for line in service.log)


def test_a_limit_that_is_not_enforced_is_warned_of_at_the_start(
    mongo_url: str, database: str
) -> None:
    with Service(MONGO_URL=mongo_url, MONGO_DB=database, ENFORCE="0") as service:
        serving = service.wait_for(lambda event: event["event"] == "serving")
    assert serving["enforced"] is False
    [warning] = [line for line in service.events if line["level"] == "WARNING"]
    assert warning["event"] == "the limit is only counted, not enforced: ENFORCE is 0"


def test_a_url_that_only_the_driver_refuses_ends_the_start_with_one_line() -> None:
    with Service(MONGO_URL="mongodb://127.0.0.1/?replicaSet=a&directConnection=perhaps") as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith("stream-service: MONGO_URL ")


def test_a_port_in_use_ends_the_start_with_one_line(mongo_url: str, database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Service(MONGO_URL=mongo_url, MONGO_DB=database, PORT=port) as service:
            assert service.status() == 1
    [line] = service.log
    assert line.startswith(f"stream-service: HOST 127.0.0.1, PORT {port}: address already in use.")


def test_a_host_that_is_not_of_this_machine_is_told_in_plain_words(
    mongo_url: str, database: str
) -> None:
    with Service(MONGO_URL=mongo_url, MONGO_DB=database, HOST="203.0.113.7") as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith("stream-service: HOST 203.0.113.7, PORT 0: this machine has no such")


def test_a_host_that_no_address_is_known_of_is_told_in_plain_words(
    mongo_url: str, database: str
) -> None:
    with Service(MONGO_URL=mongo_url, MONGO_DB=database, HOST="no host") as service:
        assert service.status() == 1
    [line] = service.log
    assert line.endswith("HOST is neither an address nor a known name")


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_directory_of_metrics_that_is_none_ends_the_start_with_one_line(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    directory = "" if kind == "empty" else str(tmp_path / kind)
    with Service(PROMETHEUS_MULTIPROC_DIR=directory) as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith("stream-service: PROMETHEUS_MULTIPROC_DIR must ")
    assert directory in line
    assert "unset it" in line


def test_without_its_packages_one_line_says_how_to_install_them() -> None:
    with Service(program=("-S", "-m", "stream_service")) as service:
        assert service.status() == 1
    [line] = service.log
    assert line.startswith("stream-service: this Python has no ")
    assert "`make install`" in line
    assert ".venv/bin/python" in line
