"""The command line of a program of the server: `--config`, `--version`, one flag a setting."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Final

from flashq.config.loading import load_settings
from flashq.config.settings import Settings
from flashq.config.specs import setting_specs
from flashq.version import __version__


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
