"""How lives of peers are named.

Each process of a shard, and each coordinator, is a new life to those it sends mail to. Its name has
to be greater than those before it, also than one that storage has forgotten since, in a fail-over:
so it rises with the clock; and where the clock was ahead once, by a step that the clock gives.
"""

from __future__ import annotations

from typing import Final

STEPS: Final = 4096


def next_incarnation(last: int, now_ms: int) -> int:
    """Return the name of a life that begins.

    Args:
        last: that of the life before, as far as storage knows; 0 for none.
        now_ms: the wall clock.
    """
    return max(last + 1 + now_ms % STEPS, now_ms)
