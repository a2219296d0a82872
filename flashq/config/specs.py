"""One setting as documents and parsers see it, derived from its field of `Settings`."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import msgspec

from flashq.config.settings import Settings
from flashq.protocol.limits import WebhookLimits

ENV_PREFIX: Final = "FLASHQ_"

Value = int | str | bool


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
