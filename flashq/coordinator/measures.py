"""What the coordinator has measured of its storage and its clock since its process began.

Owns the figures, not what is done about them; a coordinator that begins anew goes on with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from flashq.coordinator.outbox import Group
from flashq.protocol.histogram import SECONDS, Histogram
from flashq.protocol.server import CoordinatorStats


class Measures:
    """See the module."""

    def __init__(self) -> None:
        #: how long storage took for each commit
        self.commit_seconds: Final = Histogram(SECONDS)
        #: size of the log that was committed
        self.committed_bytes = 0
        #: how often storage came back without something that it had acknowledged
        self.losses = 0
        #: how far the wall clock is off, and how many of its jumps have been believed
        self.clock_off_ms = 0
        self.clock_jumps = 0
        #: what was wrong with storage last, and when that began, on the wall clock; 0 for never
        self.trouble = ""
        self.trouble_at = 0
        #: how much storage has written ahead
        self.ahead_bytes = 0
        #: of each group that is not committed yet: when it was submitted, on the monotonic clock,
        #: and how much log it has
        self._submitted: deque[tuple[int, int]] = deque()

    def submitted(self, group: Group, mono_ms: int) -> None:
        """A group has been given to storage."""
        self._submitted.append((mono_ms, group.log_bytes))

    @property
    def groups_waiting(self) -> int:
        """How many groups are not committed yet."""
        return len(self._submitted)

    @property
    def bytes_waiting(self) -> int:
        """How much log is not committed yet."""
        return sum(log_bytes for _, log_bytes in self._submitted)

    def committed(self, groups: Sequence[Group]) -> None:
        """The oldest groups that were submitted are stored."""
        for group in groups:
            self._submitted.popleft()
            self.committed_bytes += group.log_bytes

    def begun_anew(self) -> None:
        """Storage has come back with less than it had."""
        self.forget_groups()
        self.losses += 1

    def forget_groups(self) -> None:
        """What is not committed yet never will be."""
        self._submitted.clear()

    def troubled(self, sentence: str, now_ms: int) -> None:
        """Storage has failed."""
        self.trouble, self.trouble_at = sentence, now_ms

    def lag_ms(self, mono_ms: int) -> int:
        """Return for how long the oldest group has waited for its commit; 0 when none does."""
        return mono_ms - self._submitted[0][0] if self._submitted else 0

    def told(self, mono_ms: int, log_bytes: int, log_bytes_max: int) -> CoordinatorStats:
        """Return what everybody may know.

        Args:
            mono_ms: the monotonic clock.
            log_bytes, log_bytes_max: of all shards.
        """
        return CoordinatorStats(
            lag_ms=self.lag_ms(mono_ms),
            log_bytes=log_bytes,
            log_bytes_max=log_bytes_max,
            committed_bytes=self.committed_bytes,
            losses=self.losses,
            commit_seconds=self.commit_seconds.snapshot(),
            clock_off_ms=self.clock_off_ms,
            clock_jumps=self.clock_jumps,
            trouble=self.trouble,
            trouble_at=self.trouble_at,
            ahead_bytes=self.ahead_bytes,
        )
