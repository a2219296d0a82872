"""Compare the packages that are installed here with a lock: `python -m tools.locked FILE`.

Owns the list that a run against the newest releases prints first, so that a failure can be laid to
one of them. It installs nothing.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    """Return the version of each package in a lock, by the package's name."""
    return dict(_PIN.findall(text))


def differences(text: str) -> list[str]:
    """Return a line for each package of a lock that is installed here in another version."""
    lines = []
    for name, locked in pins(text).items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # for other machines only
        if installed != locked:
            lines.append(f"{name}: locked {locked}, installed {installed}")
    return lines


def main() -> int:
    """Print the differences to the lock that the command line names."""
    (path,) = sys.argv[1:]
    found = differences(Path(path).read_text())
    print("\n".join(found) if found else f"{path} has the versions that are installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
