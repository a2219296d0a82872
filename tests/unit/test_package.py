"""What `import flashq` gives, and what it does not carry along."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flashq


def test_public_names_are_there() -> None:
    """Each in `__all__` can be had, and is documented."""
    for name in flashq.__all__:
        assert getattr(flashq, name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = flashq.Nothing


def test_a_server_does_not_carry_the_client() -> None:
    """32 shards are forked from one process: what it imports, all of them hold."""
    code = "import flashq, sys; print([m for m in sys.modules if m.startswith('flashq.')])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "['flashq.version']"
