"""What the tests of the shard share."""

from __future__ import annotations

import pytest

from tests.unit.shard.harness import Shard


@pytest.fixture
def shard() -> Shard:
    """Return a fresh shard, the only one, at level async."""
    return Shard()
