"""Settings of one start: defaults, then a TOML file, then the environment, then flags.

Owns the order in which sources win, and the refusal of a name that does not exist and of a value
that does not fit, with name, value and bounds. It opens no socket and logs nothing.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Final

import msgspec

from flashq.config.settings import MEMORY, POSTGRES, SQLITE, STORAGE_FILE, Settings
from flashq.config.specs import ENV_PREFIX, SettingSpec, Value, setting_specs, toml_value
from flashq.errors import ConfigError
from flashq.rundir import default_run_dir

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
    if not settings.is_local and not is_safe:
        raise ConfigError(
            f"host is {toml_value(settings.host)}, which others can reach, and nothing asks them "
            "for a token; set tokens, or say --insecure if that is meant"
        )
    _check_names(settings)
    settings.run().check(settings.shards)


def _check_names(settings: Settings) -> None:
    """Refuse hosts and origins that no request can have."""
    for name, values, pattern, example in (
        ("http_hosts", settings.hosts(), _HOST_NAME, "queue.example.com"),
        ("http_origins", settings.origins(), _ORIGIN, "https://example.com:8443"),
    ):
        for value in values:
            if value != "*" and pattern.fullmatch(value) is None:
                raise ConfigError(
                    f"{name} has {toml_value(value)}, but must have names like {example}, with "
                    "commas between them, or *"
                )


_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")
_ORIGIN: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?"
)

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
