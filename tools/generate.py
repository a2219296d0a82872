"""Writes the files that are derived from others, or checks that they are fresh.

    python -m tools.generate            write what has changed
    python -m tools.generate --check    exit 1 and name what is stale

Owns the list of generated files. To add one, add its path and a function that returns its text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flashq.gateway import openapi
from tools import async_twin, command_table, grpc_descriptor, settings_reference

ROOT: Final = Path(__file__).resolve().parent.parent

GENERATED: Final[tuple[tuple[str, Callable[[], str]], ...]] = (
    ("configs/flashq.toml", settings_reference.render_toml),
    ("docs/COMMANDS.md", command_table.render),
    ("docs/SETTINGS.md", settings_reference.render_markdown),
    ("docs/openapi.json", openapi.render),
    ("flashq/gateway/proto/descriptor.py", grpc_descriptor.render),
    *async_twin.twins().items(),
)


def stale() -> dict[str, str]:
    """Return path and right text of each generated file that says something else."""
    found = {}
    for path, render in GENERATED:
        text = render()
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            found[path] = text
    return found


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    found = stale()
    if arguments:
        for path in found:
            print(f"{path} is stale: run `python -m tools.generate`", file=sys.stderr)
        return 1 if found else 0
    for path, text in found.items():
        file = ROOT / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
