"""Settings: one struct, from which the environment's names, flags, bounds and documents derive.

Owns what can be set, by which name, within which bounds, and in which order sources win: defaults,
then a TOML file, then the environment, then flags. A name that does not exist and a value that does
not fit are refused with name, value and bounds. It opens no socket and logs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from functools import cache
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from flashq.errors import ConfigError
from flashq.ids import SHARD_COUNT_DEFAULT, SHARD_COUNT_MAX
from flashq.protocol.limits import GIB, KIB, MIB, EngineLimits, WebhookLimits
from flashq.rundir import RunDir, default_run_dir
from flashq.version import __version__

ENV_PREFIX: Final = "FLASHQ_"

#: Variables of this prefix that belong to clients and tests; servers never refuse them.
RESERVED_NAMES: Final = ("FLASHQ_URL", "FLASHQ_TOKEN")
RESERVED_PREFIX: Final = "FLASHQ_TEST_"

#: Names from before the prefix, and the setting each of them is today. An empty one sets nothing.
OLDER_NAMES: Final = {
    "AUTH_TOKENS": "auth_tokens",
    "DATABASE_URL": "storage",
    "GRPC_PORT": "grpc_port",
    "HTTP_PORT": "http_port",
    "PORT": "port",
    "UNIX_SOCKET": "unix_socket",
}

#: Names from before that this version reads nothing from: doors that are always open, and modes
#: that the separate processes have replaced. They are recognised, never refused.
OLDER_NAMES_WITHOUT_EFFECT: Final = (
    "CLUSTER_MODE",
    "DISTRIBUTED_PULL",
    "GRPC",
    "HTTP",
    "NODE_HOST",
    "NODE_ID",
    "SNAPSHOT_INTERVAL",
    "SNAPSHOT_MIN_CHANGES",
    "SNAPSHOT_MODE",
)

#: Where the older server's Unix socket was; its UNIX_SOCKET only said that there is one.
OLDER_UNIX_SOCKET: Final = "/tmp/flashq.sock"

LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1", "localhost")

#: The storage that needs nothing: the coordinator's own memory.
MEMORY: Final = "memory:"
#: A storage in a file; a path behind it that begins with another slash is absolute.
SQLITE: Final = "sqlite:///"
POSTGRES: Final = ("postgresql://", "postgres://")
#: The file of a storage that nobody has configured, in the data directory.
STORAGE_FILE: Final = "flashq.db"

Value = int | str | bool
Durability = Literal["durable", "async", "memory"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


class Settings(WebhookLimits, frozen=True, kw_only=True):
    """Everything that can be set. A unit is last in the name, and bounds are in the type.

    `extra["default"]` describes a default that depends on something else.
    """

    run_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Directory of sockets and locks, for the server's user only.",
            extra={"default": "$XDG_RUNTIME_DIR/flashq, without it /run/flashq"},
        ),
    ] = "/run/flashq"
    data_dir: Annotated[
        str, Meta(min_length=1, description="Directory of what has to survive a restart.")
    ] = "./flashq-data"
    storage: Annotated[
        str,
        Meta(
            min_length=1,
            description="URL of the storage: `sqlite:///path`, `postgresql://…`, or `memory:`, "
            "which keeps log and checkpoints in the coordinator, so that a killed shard still "
            "comes back with its jobs, and nothing is left when the server ends.",
            extra={"default": "flashq.db in data_dir, by SQLite"},
        ),
    ] = "sqlite:///./flashq-data/flashq.db"
    durability: Annotated[
        Durability,
        Meta(
            description="When a change is answered: once it is safe, at once, or without a log.",
            extra={"default": "async with memory:, else durable"},
        ),
    ] = "durable"
    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Address to listen on; one that others can reach needs tokens, or "
            "`insecure`.",
        ),
    ] = "127.0.0.1"
    zmq_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the router; 0 takes a free one, also where the router of a "
            "server that runs is started again.",
        ),
    ] = 6788
    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the gateway for JSON lines and MessagePack; 0 takes one that "
            "is free.",
        ),
    ] = 6789
    http_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the gateway for HTTP; 0 takes one that is free.",
        ),
    ] = 6790
    grpc_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port of the gateway for gRPC; 0 takes one that is free.",
        ),
    ] = 6791
    unix_socket: Annotated[
        str,
        Meta(
            description="Path of a Unix socket where the gateway takes what it takes at `port`.",
            extra={"default": "none"},
        ),
    ] = ""
    auth_tokens: Annotated[
        str,
        Meta(
            description="Tokens, with commas between them, that may do everything. Once there are "
            "tokens, here or in `tokens_file`, every client has to show one. Flags can be read by "
            "others for a moment: better set it in the environment.",
            extra={"default": "none: everybody may ask"},
        ),
    ] = ""
    tokens_file: Annotated[
        str,
        Meta(
            description="TOML file with the hashes of tokens, their roles and queues; `flashq "
            "token` makes its entries. Read again on SIGHUP. Nobody but its owner may write it.",
            extra={"default": "none"},
        ),
    ] = ""
    gateway_connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most connections that one gateway holds at a time; more are refused.",
        ),
    ] = 10_000
    insecure: Annotated[
        bool, Meta(description="Listen on an address that others can reach, without tokens.")
    ] = False
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=SHARD_COUNT_MAX,
            description="Shards, chosen once for a data directory.",
            extra={"unit": "processes"},
        ),
    ] = SHARD_COUNT_DEFAULT
    log_level: Annotated[LogLevel, Meta(description="The least that is logged.")] = "info"
    log_format: Annotated[
        LogFormat, Meta(description="Lines for people, or one JSON object per line.")
    ] = "console"

    message_bytes_max: Annotated[
        int, Meta(ge=64 * KIB, le=GIB, description="Largest message that a program takes.")
    ] = 16 * MIB
    peer_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=64 * GIB,
            description="Most that the router has under way to one shard, and keeps for one client "
            "that does not read; above it `busy`.",
        ),
    ] = 64 * MIB
    gather_timeout_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="How long the router waits for all shards before it names the silent ones.",
        ),
    ] = 2000
    drain_timeout_ms: Annotated[
        int,
        Meta(ge=0, le=600_000, description="Time that a program has to finish when it is stopped."),
    ] = 5000
    watchdog_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=3_600_000,
            description="How long a program may hang, so that its loop does not turn, before "
            "`flashq serve` ends it and starts it again: at least 1000, or 0 for ever, as while a "
            "debugger holds one.",
        ),
    ] = 60_000
    checkpoint_log_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB, le=64 * GIB, description="Size of a shard's log that starts a checkpoint."
        ),
    ] = 64 * MIB

    def engine_limits(self) -> EngineLimits:
        """Return what a pure engine may know of the settings."""
        return EngineLimits(
            **{name: getattr(self, name) for name in EngineLimits.__struct_fields__}
        )

    def tokens(self) -> tuple[str, ...]:
        """Return the tokens that stand in the settings themselves."""
        return tuple(token for token in self.auth_tokens.split(",") if token)

    @property
    def is_guarded(self) -> bool:
        """Whether every client has to show a token."""
        return bool(self.tokens_file or self.tokens())

    def run(self) -> RunDir:
        """Return the names in the run directory."""
        return RunDir(self.run_dir)


class SettingSpec(NamedTuple):
    """One setting as documents and parsers see it, derived from its field of `Settings`."""

    name: str
    kind: type[Value]
    default: Value
    default_text: str
    """The default in words where it depends on something else, else as it is written."""
    minimum: int
    maximum: int
    choices: tuple[str, ...]
    unit: str
    description: str

    @property
    def default_literal(self) -> str:
        """The default as TOML writes it."""
        return toml_value(self.default)

    @property
    def env(self) -> str:
        """Name of the environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Name of the flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """What a value has to be, as the end of a sentence."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is int:
            unit = f" {self.unit}" if self.unit else ""
            return f"a whole number from {self.minimum} to {self.maximum}{unit}"
        return "a text that is not empty" if self.minimum else "a text"


#: Units of bounds whose names say them in another word.
_BOUND_UNITS: Final = {"logs": "lines", "on": "jobs"}


def _unit_of(name: str) -> str:
    """Return the unit that a setting's name ends in: `_ms`, `_bytes`, `_bytes_max`, `_jobs_max`."""
    last = name.removesuffix("_max").rsplit("_", 1)[-1]
    if name.endswith("_max"):
        return _BOUND_UNITS.get(last, last)
    return last if last in ("ms", "bytes") else ""


@cache
def setting_specs() -> tuple[SettingSpec, ...]:
    """Return every setting: the server's own first, then the limits of its engines."""
    limits = set(WebhookLimits.__struct_fields__)
    info = msgspec.inspect.type_info(Settings)
    assert isinstance(info, msgspec.inspect.StructType)
    own = [field for field in info.fields if field.name not in limits]
    return tuple(_spec_of(field) for field in (*own, *(f for f in info.fields if f.name in limits)))


def _spec_of(field: msgspec.inspect.Field) -> SettingSpec:
    metadata = field.type
    assert isinstance(metadata, msgspec.inspect.Metadata), f"{field.name} has no description"
    schema, extra, inner = metadata.extra_json_schema or {}, metadata.extra or {}, metadata.type
    choices: tuple[str, ...] = ()
    minimum = maximum = 0
    kind: type[Value] = str
    match inner:
        case msgspec.inspect.IntType(ge=int(ge), le=int(le)):
            kind, minimum, maximum = int, ge, le
        case msgspec.inspect.BoolType():
            kind = bool
        case msgspec.inspect.StrType(min_length=int(shortest)):
            minimum = shortest
        case msgspec.inspect.LiteralType(values=values):
            choices = tuple(str(value) for value in values)
    default = field.default
    return SettingSpec(
        name=field.name,
        kind=kind,
        default=default,
        default_text=extra.get("default", toml_value(default)),
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        unit=extra.get("unit", _unit_of(field.name) if kind is int else ""),
        description=schema["description"],
    )


def toml_value(value: object) -> str:
    """Return a value as TOML writes it, for which JSON will do."""
    return msgspec.json.encode(value).decode()


# --- loading


def load_settings(
    flags: Mapping[str, str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    config_file: str | None = None,
) -> Settings:
    """Return the settings of this start: defaults, then file, then environment, then flags.

    Args:
        flags: values by setting name, as they were written; what is absent was not given.
        environ: the environment.
        config_file: path of a TOML file with settings by name.

    Raises:
        ConfigError: one sentence with the name, the value and the bounds.
    """
    values: dict[str, Value] = {}
    if config_file is not None:
        values |= _from_file(config_file)
    values |= _from_environment(environ)
    values |= {
        name: _convert(_spec(name), text, _spec(name).flag) for name, text in (flags or {}).items()
    }
    values.setdefault("run_dir", default_run_dir(environ))
    data_dir = values.get("data_dir", _spec("data_dir").default)
    values.setdefault("storage", f"{SQLITE}{data_dir}/{STORAGE_FILE}")
    values.setdefault("durability", "async" if values["storage"] == MEMORY else "durable")
    settings = msgspec.convert(values, Settings)
    _check_relations(settings)
    return settings


def names_without_effect(environ: Mapping[str, str]) -> list[str]:
    """Return the older names in the environment that this version reads nothing from."""
    return [name for name in OLDER_NAMES_WITHOUT_EFFECT if name in environ]


def _spec(name: str) -> SettingSpec:
    return next(spec for spec in setting_specs() if spec.name == name)


def _from_file(path: str) -> dict[str, Value]:
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} is not TOML: {error}") from error
    known = {spec.name: spec for spec in setting_specs()}
    for name in found:
        if name not in known:
            raise ConfigError(f"{name} in {path} is not a setting{_similar(name, known)}")
    return {name: _convert(known[name], raw, f"{name} in {path}") for name, raw in found.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    known = {spec.env: spec for spec in setting_specs()}
    values = {
        name: _convert(_spec(name), text, older)
        for older, name in OLDER_NAMES.items()
        if (text := _older_value(older, environ)) is not None
    }
    for name in sorted(environ):
        if name in known:
            values[known[name].name] = _convert(known[name], environ[name], name)
        elif (
            name.startswith(ENV_PREFIX)
            and name not in RESERVED_NAMES
            and not name.startswith(RESERVED_PREFIX)
        ):
            raise ConfigError(f"{name} is not a setting{_similar(name, known)}")
    return values


def _older_value(name: str, environ: Mapping[str, str]) -> str | None:
    """Return what an older name sets today; None for nothing."""
    text = environ.get(name)
    if name != "UNIX_SOCKET" or text is None or "/" in text:
        return text or None
    return OLDER_UNIX_SOCKET if _TRUTH.get(text.lower(), True) else None


def _similar(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the setting which was probably meant."""
    import difflib  # seldom needed, and never by a server that starts

    return "".join(
        f"; did you mean {close}?" for close in difflib.get_close_matches(name, known, 1)
    )


_TRUTH: Final = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
    ("0", "false", "no", "off"), False
)
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,19}")


def _convert(spec: SettingSpec, raw: object, place: str) -> Value:
    """Return `raw`, a text or a TOML value, as the setting's type, or refuse it by `place`."""
    if spec.kind is bool:
        if (truth := _TRUTH.get(str(raw).lower())) is not None:
            return truth
    elif spec.kind is int:
        text = str(raw).strip()
        if _WHOLE_NUMBER.fullmatch(text) and spec.minimum <= int(text) <= spec.maximum:
            return int(text)
    elif not isinstance(raw, str):
        # Not shown: a list of tokens would be.
        raise ConfigError(f"{place} is {_TOML_KINDS[type(raw)]}, but must be {spec.bounds}")
    elif len(raw) >= spec.minimum and (not spec.choices or raw in spec.choices):
        return raw
    raise ConfigError(f"{place} is {toml_value(raw)}, but must be {spec.bounds}")


_TOML_KINDS: Final[dict[type, str]] = {
    bool: "true or false",
    date: "a date",
    datetime: "a date",
    dict: "a table",
    float: "a number",
    int: "a number",
    list: "a list",
    time: "a time",
}


def _without_secret(url: str) -> str:
    """Return a URL as it may be shown: it loses what follows its scheme."""
    found = re.match(r"[a-z]+:(//)?", url)
    return f"{found[0]}…" if found else "…"


def _check_relations(settings: Settings) -> None:
    """Refuse values that are possible each by itself, but not together."""
    for smaller, larger, factor in _ORDERED:
        low, high = getattr(settings, smaller), getattr(settings, larger)
        if low * factor > high:
            times = f"{factor} times " if factor > 1 else ""
            raise ConfigError(f"{larger} is {high}, but must be at least {times}{smaller} ({low})")
    if 0 < settings.watchdog_ms < 1000:  # a busy machine lets a program wait for its turn
        raise ConfigError(f"watchdog_ms is {settings.watchdog_ms}, but must be 0 or at least 1000")
    storage = settings.storage
    is_known = storage == MEMORY or storage.startswith((SQLITE, *POSTGRES))
    if not is_known or storage == SQLITE:
        raise ConfigError(
            f"storage is {toml_value(_without_secret(storage))}, but must be "
            f"{MEMORY}, sqlite:///path or postgresql://…"
        )
    is_safe = settings.insecure or settings.is_guarded
    if settings.host not in LOOPBACK_HOSTS and not is_safe:
        raise ConfigError(
            f"host is {toml_value(settings.host)}, which others can reach, and nothing asks them "
            "for a token; set tokens, or say --insecure if that is meant"
        )
    settings.run().check(settings.shards)


#: Pairs of which the first, so many times, may not be more than the second.
_ORDERED: Final = (
    ("heartbeat_interval_ms", "session_timeout_ms", 2),
    ("session_timeout_ms", "answers_ms", 1),
    ("payload_bytes_max", "message_bytes_max", 1),
    ("message_bytes_max", "peer_bytes_max", 1),
    ("message_bytes_max", "unsafe_bytes_max", 1),
    ("payload_bytes_max", "shard_bytes_max", 1),
    ("checkpoint_log_bytes", "log_bytes_max", 1),
)


# --- what all processes of one server must agree on


def configuration_hash(settings: Settings) -> str:
    """Return what two programs compare before they talk: equal if they can work together.

    It covers the version, since the messages between processes carry none, and every setting that
    changes what a process answers or stores; not addresses, paths and logging.
    """
    agreed = {name: getattr(settings, name) for name in _AGREED}
    text = msgspec.json.encode([__version__, agreed], order="sorted")
    return hashlib.sha256(text).hexdigest()[:16]


_AGREED: Final = (
    *EngineLimits.__struct_fields__,
    "durability",
    "message_bytes_max",
    "shards",
    "storage",
)


# --- flags


def flag_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with `--config`, `--version` and one flag for every setting."""
    parser = argparse.ArgumentParser(
        program,
        description=description,
        epilog="Settings come from defaults, then the file, then the environment, then flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"flashq {__version__}")
    parser.add_argument("--config", metavar="PATH", help="TOML file with settings by name")
    for spec in setting_specs():
        text = f"{spec.description} {spec.bounds}; default {spec.default_text} [{spec.env}]"
        option = parser.add_argument(
            spec.flag,
            dest=_FLAG_DEST + spec.name,
            metavar=spec.unit.upper() or "VALUE",
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )
        if spec.kind is bool:
            option.nargs, option.const = "?", "true"
    return parser


_FLAG_DEST: Final = "setting:"


def settings_of(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a start whose flags a `flag_parser` has read.

    Raises:
        ConfigError: one sentence with the name, the value and the bounds.
    """
    flags = {
        name.removeprefix(_FLAG_DEST): text
        for name, text in vars(arguments).items()
        if name.startswith(_FLAG_DEST)
    }
    return load_settings(flags, environ=environ, config_file=arguments.config)
