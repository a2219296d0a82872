"""The settings as files for people, derived from `flashq.config.Settings`.

Owns the shape of `configs/flashq.toml` and `docs/SETTINGS.md`; what they say comes from the struct.
"""

from __future__ import annotations

import textwrap
from typing import Final

from flashq.config import OLDER_NAMES, SettingSpec, setting_specs

_GENERATED: Final = (
    "Generated from flashq/config/settings.py by `python -m tools.generate`; do not edit."
)

_TOML_HEAD: Final = f"""\
# flashq: every setting with its default.
# {_GENERATED}
#
#     flashq serve --config flashq.toml
#
# The environment wins over this file (FLASHQ_SHARDS), and flags win over both (--shards).
# The unit of a number is last in its name. What is not set here keeps its default.
"""


_MARKDOWN_HEAD: Final = f"""\
# Settings

<!-- {_GENERATED} -->

Sources, each winning over the one before: defaults, a TOML file (`--config`), the environment,
flags. In the file a setting has the name of its flag with `_` for `-`. An unknown name and a value
out of its bounds are refused at start. `FLASHQ_URL`, `FLASHQ_TOKEN` and `FLASHQ_TEST_*` belong to
clients and tests.
"""

_TABLE_HEAD: Final = ("| environment | flag | default | takes | meaning |", "|---|---|---|---|---|")


def render_toml() -> str:
    """Return `configs/flashq.toml`."""
    return "\n".join([_TOML_HEAD, *(_toml_entry(spec) for spec in setting_specs())])


def _toml_entry(spec: SettingSpec) -> str:
    depends = spec.default_text != spec.default_literal
    notes = f"{spec.description} Takes {spec.bounds}."
    if depends:
        notes += f" Default: {spec.default_text}."
    comment = textwrap.indent(textwrap.fill(notes, 98), "# ")
    return f"{comment}\n{'# ' if depends else ''}{spec.name} = {spec.default_literal}\n"


def render_markdown() -> str:
    """Return `docs/SETTINGS.md`."""
    rows = [
        f"| `{spec.env}` | `{spec.flag}` | `{spec.default_text}` | {spec.bounds} "
        f"| {spec.description} |"
        for spec in setting_specs()
    ]
    older = [f"- `{older}` is the older name of `{name}`." for older, name in OLDER_NAMES.items()]
    return "\n".join([_MARKDOWN_HEAD, *older, "", *_TABLE_HEAD, *rows, ""])
