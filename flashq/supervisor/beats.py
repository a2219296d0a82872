"""The page where programs count the turns of their loops, and their supervisor reads them.

It is memory that a fork shares, with a cache line for each program. To count costs a program one
store and no system call, cannot block and wakes nobody.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Final

SLOT_BYTES: Final = 64
"""A cache line, so that programs on different cores do not take it from each other."""
COUNT_BYTES: Final = 8
FORKED: Final = 1
"""The count of a program whose loop has not turned yet."""


class BeatPage:
    """One count for each program.

    Args:
        names: of the programs; each is there once.
    """

    def __init__(self, names: Sequence[str]) -> None:
        page = memoryview(mmap.mmap(-1, SLOT_BYTES * max(1, len(names))))
        self._slots: Final = {
            name: page[at * SLOT_BYTES : at * SLOT_BYTES + COUNT_BYTES].cast("Q")
            for at, name in enumerate(names)
        }

    def begin(self, name: str) -> memoryview[int]:
        """Begin a program's count anew, and return where it counts: at index 0."""
        slot = self._slots[name]
        slot[0] = FORKED
        return slot

    def count(self, name: str) -> int:
        """Return a program's count."""
        return self._slots[name][0]
