"""Which queues' jobs exist for an asker that may name some queues only.

Owns the one rule for jobs that somebody may not name: they are answered as jobs that do not exist.
A handler finds a job that a request names by `Context.job`, and nowhere else. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flashq.errors import FieldTooLarge
from flashq.protocol.patterns import pattern_set

NAMES_CHARS_MAX: Final = 65_536
"""So many characters of queue names are compared with the patterns of one request; the time of
each does not depend on the patterns."""


class Sight:
    """What one request may see.

    Args:
        patterns: one of which a queue's name has to fit.

    Raises:
        FieldTooLarge: they are beyond their bounds.
    """

    __slots__ = ("_chars", "_set", "_verdicts", "patterns")

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns: Final = tuple(patterns)
        self._set: Final = pattern_set(self.patterns)
        self._verdicts: Final[dict[str, bool]] = {}
        self._chars = 0

    def has(self, queue: str) -> bool:
        """Tell whether the jobs of a queue are there for the asker.

        Raises:
            FieldTooLarge: too many queues had to be looked at.
        """
        verdict = self._verdicts.get(queue)
        if verdict is None:
            self._chars += len(queue)
            if self._chars > NAMES_CHARS_MAX:
                told = "jobs of many queues with long names"
                raise FieldTooLarge(field="ids", size=told, limit=f"{NAMES_CHARS_MAX} characters")
            verdict = self._verdicts[queue] = self._set.fits(queue)
        return verdict
