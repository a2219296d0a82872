"""The seeds that `make test` plays, in sets, and those that once failed.

A seed names a run of this version of the simulation: when the workload or the faults change, it
names another one. So what a seed has found is also held by a unit test where that was possible; the
list keeps those whose runs were the hardest on the server.
"""

from __future__ import annotations

from typing import Final

SET_SEEDS: Final = 100
SETS: Final = tuple(range(first, first + SET_SEEDS) for first in range(1, 501, SET_SEEDS))
"""500 seeds; in each set every kind of fault has to strike."""

REGRESSIONS: Final = {
    9: "a restart brought an expired session back to life",
    14: "a lost piece of the recovery was never asked for again",
    46: "a shard under load did not say hello to a new coordinator, which fired no crons there",
    54: "a job waited for one of level memory, of which nobody knew after a crash",
    60: "a storage that came back with less had forgotten which sequences were reserved",
    62: "a batch raised a job of level memory twice, and it was counted twice",
    76: "a lost piece of the log was never sent again under a steady load",
    548: "a shard that had lost a part of its state could not read its own mail any more",
}
"""Seeds that failed, and of what."""
