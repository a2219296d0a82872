"""The lock in requirements/ against pyproject.toml: a bound that moves takes the lock with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.locked import differences, pins

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ROOT / "requirements"
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*extras: str) -> list[Requirement]:
    """Return what pyproject.toml asks for with these extras; its own extras are resolved."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            needed = Requirement(line)
            found += requirements(*needed.extras) if needed.name == "flashq" else [needed]
    return found


def locked(name: str) -> dict[str, str]:
    """Return the versions that a lock pins."""
    return {canonicalize_name(key): pin for key, pin in pins(_text(name)).items()}


def _text(name: str) -> str:
    return (LOCKS / f"{name}.lock").read_text()


def unmet(lock: str, *extras: str) -> list[str]:
    """Return the requirements that a lock does not meet."""
    versions = locked(lock)
    return [
        str(needed)
        for needed in requirements(*extras)
        if versions.get(canonicalize_name(needed.name), "0") not in needed.specifier
    ]


def test_the_locks_meet_every_lower_bound() -> None:
    """A fresh clone gets what pyproject.toml promises to users."""
    assert unmet("server", "server", "postgres", "grpc") == []
    assert unmet("dev", "dev") == []
    assert len(requirements("dev")) > 25


def test_both_locks_agree() -> None:
    """A server is tested with the packages that it is started with."""
    server, dev = locked("server"), locked("dev")
    assert {name: pin for name, pin in server.items() if dev[name] != pin} == {}


def test_a_server_needs_no_test_tools() -> None:
    """`make serve` installs what serves, and nothing else."""
    only_for_development = {"pytest", "mypy", "ruff", "hypothesis", "schemathesis", "grpcio-tools"}
    assert not only_for_development & locked("server").keys()


def test_every_pin_has_a_hash_and_no_lock_names_a_host() -> None:
    """A package that was replaced is refused, and any mirror can serve the rest."""
    for name in ("build", "server", "dev"):
        text = _text(name)
        for pin in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
            assert "--hash=sha256:" in pin, pin
        assert "://" not in text


def test_the_comparison_names_what_differs() -> None:
    """It compares with what is installed, and leaves out what is for other machines."""
    assert differences("packaging==0.1\nno-such-package==1.0\n")[0].startswith(
        "packaging: locked 0.1"
    )
    assert len(differences("packaging==0.1\nno-such-package==1.0\n")) == 1
