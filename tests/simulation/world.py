"""Virtual time, seeded chance, and the record of what happened in a run.

Owns the queue of what happens next, both clocks, the one source of randomness and the digest by
which two runs are told apart. Everything in a run is ordered by it: the same seed gives the same
run. Knows nothing of flashq.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final

WALL_START_MS: Final = 1_800_000_000_000
MONO_START_MS: Final = 1_000_000
MS: Final = 1000
"""Microseconds, the world's unit, in a millisecond."""
SECOND: Final = 1000 * MS


class Violation(AssertionError):
    """The server broke a promise; the text tells which, and about what."""


class Killed(Exception):
    """The process dies here."""


class World:
    """One run's time and chance.

    Args:
        seed: names the run.
        tell: is told of everything that happens, as a line; None for nobody.
    """

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed: Final = seed
        self.chance: Final = Random(seed)
        self.now_us = 0
        #: how far the wall clock was set
        self._wall_moved_ms = 0
        self._tell: Final = tell
        #: (when, in which order, what)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._stamp = 0
        self._digest: Final = hashlib.blake2b(digest_size=16)
        #: how often each kind of fault has struck
        self.faults: Final[Counter[str]] = Counter()
        #: how often this and that has happened, for people
        self.seen: Final[Counter[str]] = Counter()

    # --- time

    @property
    def mono_ms(self) -> int:
        """The monotonic clock of all processes."""
        return MONO_START_MS + self.now_us // MS

    @property
    def wall_ms(self) -> int:
        """The machine's wall clock; a process sees it never go back."""
        return WALL_START_MS + self.now_us // MS + self._wall_moved_ms

    def move_wall(self, by_ms: int) -> None:
        """Set the wall clock forward or back."""
        self._wall_moved_ms += by_ms

    def at(self, when_us: int, action: Callable[[], None]) -> None:
        """Let something happen at a moment, not before now, after what was to happen then
        already."""
        self._stamp += 1
        heappush(self._agenda, (when_us, self._stamp, action))

    def after(self, wait_us: int, action: Callable[[], None]) -> None:
        """Let something happen after a while."""
        self.at(self.now_us + wait_us, action)

    def run_until(self, when_us: int) -> None:
        """Let everything happen that is due up to a moment."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= when_us:
            self.now_us, _, action = heappop(agenda)
            action()
        self.now_us = when_us

    @property
    def steps(self) -> int:
        """How much has happened so far."""
        return self._stamp - len(self._agenda)

    # --- chance

    def between(self, low_us: int, high_us: int) -> int:
        """Return a whole number of microseconds, both ends included."""
        return low_us + int(self.chance.random() * (high_us - low_us + 1))

    def happens(self, probability: float) -> bool:
        """Decide by chance."""
        return self.chance.random() < probability

    # --- record

    def mark(self, number: int) -> None:
        """Add to the digest."""
        self._digest.update(b"%d %d\n" % (self.now_us, number))

    def tell(self, line: str) -> None:
        """Tell something that the digest knows already, or does not need."""
        if self._tell is not None:
            self._tell(f"{self.now_us / SECOND:10.6f} {line}")

    def note(self, *what: object) -> None:
        """Add to the digest, and tell it."""
        line = " ".join(map(str, what))
        self._digest.update(b"%d %s\n" % (self.now_us, line.encode()))
        self.tell(line)

    @property
    def is_traced(self) -> bool:
        """Whether somebody listens, so that details are worth writing."""
        return self._tell is not None

    def fault(self, kind: str, *details: object) -> None:
        """Count a fault that has struck."""
        self.faults[kind] += 1
        self.note("!!", kind, *details)

    @property
    def digest(self) -> str:
        """What tells this run from another."""
        return self._digest.hexdigest()
