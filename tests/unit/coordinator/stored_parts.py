"""What each part of the coordinator is stored as, beside the version that its form has.

`python -m tests.unit.coordinator.stored_parts` writes it anew into `stored_parts.json`; it refuses
to change what a version stands for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec.inspect as inspect

from flashq.coordinator.engine import _FORMS
from flashq.coordinator.parts import Form
from tests.unit.shard.stored_form import describe

FILE: Final = Path(__file__).with_name("stored_parts.json")


def written() -> dict[str, Any]:
    """Return version and description of each form, by the prefix of its names."""
    return {form.prefix: _described(form) for form in _FORMS}


def _described(form: Form[Any]) -> dict[str, Any]:
    found: dict[str, str] = {}
    whole = describe(inspect.type_info(form.kind), found)
    return {"version": form._version, "whole": whole, "types": found}


def committed() -> dict[str, Any]:
    """Return what was committed."""
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def changed_under_one_version() -> list[str]:
    """Return the prefixes of the forms that have changed without another version."""
    known, now = committed(), written()
    return [
        prefix
        for prefix, form in now.items()
        if prefix in known and form != known[prefix] and form["version"] <= known[prefix]["version"]
    ]


def main() -> int:
    """Write the file anew, if all that has changed has another version."""
    if FILE.exists() and (changed := changed_under_one_version()):
        print(f"raise the version of these forms first: {', '.join(changed)}")
        return 1
    FILE.write_text(json.dumps(written(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
