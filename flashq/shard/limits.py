"""The rate limit of a queue: a token bucket on monotonic time.

Volatile on purpose: the limit is state, how full the bucket is is not. After a restart a bucket
starts empty, so that a crash never lets more through than the limit allows.
"""

from __future__ import annotations

from math import ceil


class TokenBucket:
    """At most `limit` takes a second over any stretch, with bursts up to `limit`.

    Args:
        limit: tokens a second, and the most that can be saved up; 0 gives none ever.
        mono_ms: now.
        full: start with `limit` tokens instead of none.
    """

    __slots__ = ("_at_ms", "_tokens", "limit")

    def __init__(self, limit: int, mono_ms: int, *, full: bool) -> None:
        self.limit = limit
        self._tokens = float(limit if full else 0)
        self._at_ms = mono_ms

    def change_limit(self, limit: int, mono_ms: int) -> None:
        """Earn at another rate from now on. What is saved up stays, as far as the limit lets it, so
        that a limit which is set over and over gives no more than its rate."""
        tokens = self._earned(mono_ms)
        self.limit = limit
        self._tokens = min(float(limit), tokens)

    def available(self, mono_ms: int) -> int:
        """Return how many whole tokens there are now."""
        return int(self._earned(mono_ms) + 1e-9)

    def _earned(self, mono_ms: int) -> float:
        """Bring the tokens up to date, and return them."""
        if mono_ms > self._at_ms:
            earned = (mono_ms - self._at_ms) * self.limit / 1000
            self._tokens = min(float(self.limit), self._tokens + earned)
            self._at_ms = mono_ms
        return self._tokens

    def spend(self, count: int) -> None:
        """Take `count` tokens that `available` has just shown."""
        self._tokens -= count

    def give_back(self, count: int, mono_ms: int) -> None:
        """Put back tokens of what was handed out for nothing."""
        self._tokens = min(float(self.limit), self._earned(mono_ms) + count)

    def next_at_ms(self) -> int | None:
        """Return when there will be a whole token, on the monotonic clock; None for never."""
        if not self.limit:
            return None
        missing = max(0.0, 1.0 - self._tokens)
        return self._at_ms + max(1, ceil(missing * 1000 / self.limit - 1e-6))
