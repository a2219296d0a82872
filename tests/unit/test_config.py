"""`flashq.config`: sources and their order, refusals, relations, the hash, and what is derived."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from flashq.config import (
    Settings,
    configuration_hash,
    flag_parser,
    load_settings,
    names_without_effect,
    setting_specs,
    settings_of,
)
from flashq.errors import ConfigError
from flashq.protocol.limits import EngineLimits
from tools.settings_reference import render_markdown, render_toml

ROOT = Path(__file__).parents[2]


def test_defaults_are_those_of_the_struct() -> None:
    """A server that nobody has configured runs with what the documents say."""
    assert load_settings(environ={}) == Settings()


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    """Each source is closer to this very start than the one before."""
    file = tmp_path / "flashq.toml"
    file.write_text('shards = 2\nzmq_port = 1002\ngather_timeout_ms = 102\nlog_level = "debug"\n')
    settings = load_settings(
        {"shards": "4", "zmq_port": "1004"},
        environ={
            "FLASHQ_SHARDS": "3",
            "FLASHQ_ZMQ_PORT": "1003",
            "FLASHQ_GATHER_TIMEOUT_MS": "103",
        },
        config_file=str(file),
    )
    assert settings.shards == 4
    assert settings.zmq_port == 1004
    assert settings.gather_timeout_ms == 103
    assert settings.log_level == "debug"
    assert settings.drain_timeout_ms == Settings().drain_timeout_ms


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"FLASHQ_SHARDS": "0"},
            'FLASHQ_SHARDS is "0", but must be a whole number from 1 to 1024 processes',
        ),
        (
            {"FLASHQ_SHARDS": "many"},
            'FLASHQ_SHARDS is "many", but must be a whole number from 1 to 1024 processes',
        ),
        (
            {"FLASHQ_DURABILITY": "maybe"},
            'FLASHQ_DURABILITY is "maybe", but must be one of async, durable, memory',
        ),
        ({"FLASHQ_INSECURE": "2"}, 'FLASHQ_INSECURE is "2", but must be true or false'),
        ({"FLASHQ_HOST": ""}, 'FLASHQ_HOST is "", but must be a text that is not empty'),
        ({"FLASHQ_SHARD": "4"}, "FLASHQ_SHARD is not a setting; did you mean FLASHQ_SHARDS?"),
        ({"FLASHQ_QQQQQQ": "4"}, "FLASHQ_QQQQQQ is not a setting"),
        (
            {"FLASHQ_ANSWERS_MS": "1000"},
            "answers_ms is 1000, but must be at least session_timeout_ms (10000)",
        ),
        (
            {"FLASHQ_HEARTBEAT_INTERVAL_MS": "6000"},
            (
                "session_timeout_ms is 10000, but must be at least "
                "2 times heartbeat_interval_ms (6000)"
            ),
        ),
        (
            {"FLASHQ_STORAGE": "mysql://user:secret@host/jobs"},
            'storage is "mysql://…", but must be memory:, sqlite:///path or postgresql://…',
        ),
        (
            {"FLASHQ_STORAGE": "postgresql:user:secret@host/jobs"},
            'storage is "postgresql:…", but must be memory:, sqlite:///path or postgresql://…',
        ),
        (
            {"FLASHQ_STORAGE": "user:secret@host/jobs"},
            'storage is "user:…", but must be memory:, sqlite:///path or postgresql://…',
        ),
        (
            {"FLASHQ_HOST": "0.0.0.0"},
            (
                'host is "0.0.0.0", which others can reach, and nothing asks them for a token; '
                "set tokens, or say --insecure if that is meant"
            ),
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(environ: dict[str, str], sentence: str) -> None:
    """A typing error in a setting must not become a server that runs with something else."""
    with pytest.raises(ConfigError) as refused:
        load_settings(environ=environ)
    assert str(refused.value) == sentence


def test_a_socket_path_that_the_kernel_would_cut_is_refused() -> None:
    """ZeroMQ would fail at bind, in 34 processes, without the path."""
    with pytest.raises(ConfigError, match="at most 107"):
        load_settings(environ={"FLASHQ_RUN_DIR": "/" + "r" * 100})


@pytest.mark.parametrize("spec", setting_specs(), ids=lambda spec: spec.name)
def test_every_bound_holds_on_both_sides(spec: object) -> None:
    """The bounds in the documents are the bounds of the server."""
    found = next(one for one in setting_specs() if one == spec)
    if found.kind is int:
        for value in (found.minimum - 1, found.maximum + 1):
            with pytest.raises(ConfigError, match=rf"{found.env} is \"{value}\""):
                load_settings(environ={found.env: str(value)})


def test_names_of_clients_and_tests_are_never_refused() -> None:
    """Servers are started from shells and test runs that have these set."""
    environ = {
        "FLASHQ_URL": "tcp://elsewhere:1",
        "FLASHQ_TOKEN": "secret",
        "FLASHQ_TEST_DATABASE_URL": "postgresql://",
        "PATH": "/bin",
    }
    assert load_settings(environ=environ) == Settings()


def test_older_name_of_the_storage_is_read_and_gives_way_to_the_newer() -> None:
    """A deployment that sets DATABASE_URL expects durability: to ignore it would lose its jobs."""
    older = load_settings(environ={"DATABASE_URL": "postgresql://user:secret@host/db"})
    assert older.storage == "postgresql://user:secret@host/db"
    assert older.durability == "durable"
    environ = {"DATABASE_URL": "postgresql://host/db", "FLASHQ_STORAGE": "memory:"}
    assert load_settings(environ=environ).storage == "memory:"


def test_without_a_word_about_it_storage_is_a_file_in_the_data_directory() -> None:
    """A restart keeps everything without any set-up."""
    settings = load_settings({"data_dir": "/var/lib/flashq"}, environ={})
    assert settings.storage == "sqlite:////var/lib/flashq/flashq.db"
    assert settings.durability == "durable"
    assert load_settings({"storage": "memory:"}, environ={}).durability == "async"


def test_older_names_of_modes_are_recognised_but_change_nothing() -> None:
    """Existing deployments have them set; they are told, not refused."""
    environ = {"SNAPSHOT_MODE": "1", "HTTP": "", "HOME": "/"}
    assert load_settings(environ=environ) == Settings()
    assert names_without_effect(environ) == ["HTTP", "SNAPSHOT_MODE"]


def test_older_names_of_the_gateway_set_its_doors() -> None:
    """A deployment of the older server keeps its ports and its tokens; an empty name is none."""
    environ = {"PORT": "1", "HTTP_PORT": "2", "GRPC_PORT": "3", "AUTH_TOKENS": "a,, b"}
    settings = load_settings(environ=environ)
    assert (settings.port, settings.http_port, settings.grpc_port) == (1, 2, 3)
    assert settings.tokens() == ("a", " b")
    assert load_settings(environ={"AUTH_TOKENS": "", "PORT": ""}) == Settings()
    with pytest.raises(ConfigError, match="PORT"):
        load_settings(environ={"PORT": "70000"})


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("1", "/tmp/flashq.sock"),
        ("", "/tmp/flashq.sock"),
        ("true", "/tmp/flashq.sock"),
        ("/run/x.sock", "/run/x.sock"),
        ("0", ""),
        ("false", ""),
    ],
)
def test_older_unix_socket_was_a_switch_and_can_be_a_path(said: str, path: str) -> None:
    """Its presence alone opened a fixed path; that it is off with `0` is what everybody means."""
    assert load_settings(environ={"UNIX_SOCKET": said}).unix_socket == path


def test_run_directory_follows_the_users_runtime_directory() -> None:
    """Without root and without a setting the server still finds a place."""
    assert load_settings(environ={"XDG_RUNTIME_DIR": "/run/user/7"}).run_dir == "/run/user/7/flashq"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("shrads = 1", r"shrads in .* is not a setting; did you mean shards\?"),
        ("shards = true", r"shards in .* is true, but must be a whole number"),
        ("shards = 1.5", r"shards in .* is 1.5, but must be a whole number"),
        ("host = 5", r"host in .* is a number, but must be a text"),
        ('auth_tokens = ["one", "two"]', r"auth_tokens in .* is a list, but must be a text"),
        ('storage = {url = "x:secret@y"}', r"storage in .* is a table, but must be a text"),
        ("shards =", r"is not TOML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_name(
    tmp_path: Path, text: str, sentence: str
) -> None:
    """The sentence says in which file to look."""
    file = tmp_path / "flashq.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_settings(environ={}, config_file=str(file))


def test_a_missing_file_is_refused() -> None:
    """`--config` with a typing error must not start a server with the defaults."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(environ={}, config_file="/nonexistent/flashq.toml")


def test_flags_derive_from_the_struct() -> None:
    """What a program takes on its command line is what can be set; --insecure needs no value."""
    parser = flag_parser("flashq-router", "Routes.")
    arguments = parser.parse_args(["--host", "0.0.0.0", "--insecure", "--shards", "2"])
    settings = settings_of(arguments, environ={})
    assert (settings.host, settings.insecure, settings.shards) == ("0.0.0.0", True, 2)
    shown = parser.format_help()
    assert all(spec.flag in shown and spec.env in shown for spec in setting_specs())


def test_engines_get_exactly_their_limits() -> None:
    """An engine that held the settings could read a path or a port."""
    limits = load_settings({"results_max": "7"}, environ={}).engine_limits()
    assert type(limits) is EngineLimits
    assert limits == EngineLimits(results_max=7)


def test_hash_differs_by_what_processes_must_agree_on_and_by_nothing_else() -> None:
    """Another shard count means other owners of jobs; another log level means nothing."""
    base = configuration_hash(Settings())
    assert base == configuration_hash(Settings(run_dir="/tmp/x", log_level="debug", zmq_port=1))
    for other in (Settings(shards=4), Settings(durability="async"), Settings(results_max=1)):
        assert configuration_hash(other) != base


def test_every_number_has_its_unit_last_in_its_name_or_declares_it() -> None:
    """A limit without a unit is read wrong sooner or later."""
    unitless = [spec.name for spec in setting_specs() if spec.kind is int and not spec.unit]
    assert all(name == "port" or name.endswith("_port") for name in unitless)


def test_committed_settings_file_is_fresh_and_loads_as_the_defaults() -> None:
    """The example is derived: run `python -m tools.generate` after a change of a setting."""
    text = (ROOT / "configs" / "flashq.toml").read_text()
    assert text == render_toml()
    assert msgspec.convert(tomllib.loads(text), Settings) == Settings()
    assert (
        load_settings(environ={}, config_file=str(ROOT / "configs" / "flashq.toml")) == Settings()
    )


def test_reference_has_a_row_for_every_setting() -> None:
    """The table in the documents is the whole of what can be set."""
    text = render_markdown()
    assert all(f"| `{spec.env}` | `{spec.flag}` |" in text for spec in setting_specs())


def test_a_watchdog_is_off_or_patient() -> None:
    """A program on a busy machine waits for its turn for some time without hanging."""
    assert load_settings({"watchdog_ms": "0"}, environ={}).watchdog_ms == 0
    assert load_settings({"watchdog_ms": "1000"}, environ={}).watchdog_ms == 1000
    with pytest.raises(ConfigError, match="watchdog_ms is 999, but must be 0 or at least 1000"):
        load_settings({"watchdog_ms": "999"}, environ={})
