"""Settings of the server's programs.

Owns what can be set, by which name, within which bounds, and in which order sources win: `settings`
is the struct, `specs` what derives from it, `loading` reads it, `flags` is its command line.
"""

from __future__ import annotations

from flashq.config.flags import flag_parser, settings_of
from flashq.config.loading import (
    OLDER_NAMES,
    OLDER_NAMES_WITHOUT_EFFECT,
    load_settings,
    names_without_effect,
)
from flashq.config.settings import (
    MEMORY,
    POSTGRES,
    SQLITE,
    Durability,
    LogFormat,
    LogLevel,
    Settings,
    configuration_hash,
)
from flashq.config.specs import SettingSpec, setting_specs, toml_value

__all__ = [
    "MEMORY",
    "OLDER_NAMES",
    "OLDER_NAMES_WITHOUT_EFFECT",
    "POSTGRES",
    "SQLITE",
    "Durability",
    "LogFormat",
    "LogLevel",
    "SettingSpec",
    "Settings",
    "configuration_hash",
    "flag_parser",
    "load_settings",
    "names_without_effect",
    "setting_specs",
    "settings_of",
    "toml_value",
]
