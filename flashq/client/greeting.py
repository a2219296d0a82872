"""What a connection says first on each socket: its token, if it has one, and then hello.

Owns which of the two is under way, how long an answer may take, and when it is said again. Pure;
time is an argument, in ms.
"""

from __future__ import annotations

from typing import Final

from flashq.client.requests import RETRY_MAX_MS, RETRY_MIN_MS
from flashq.protocol.sessions import Auth, Hello

HELLO_TIMEOUT_MIN_MS: Final = 1000
HELLO_TIMEOUT_MAX_MS: Final = 5000


class Greeting:
    """The greeting of one connection, said anew on each of its sockets."""

    def __init__(self) -> None:
        #: of the request under way; 0 when there is none
        self.corr = 0
        #: the request under way, or the last one
        self.request: Auth | Hello | None = None
        #: when the request under way is given up
        self.deadline: int | None = None
        #: when the greeting is said again, after it was refused
        self.retry_at: int | None = None
        self._backoff = 0
        self._timeout = HELLO_TIMEOUT_MIN_MS

    @property
    def is_hello(self) -> bool:
        """Whether it is the hello that is under way, or was last."""
        return isinstance(self.request, Hello)

    def say(self, request: Auth | Hello, corr: int, now: int) -> None:
        """Note what is said, under which corr."""
        self.request = request
        self.corr = corr
        self.deadline = now + self._timeout
        self.retry_at = None

    def answered(self) -> None:
        """Note that what was said has its answer."""
        self.corr = 0
        self.deadline = None

    def refused(self, now: int) -> None:
        """Say it again after a while, longer each time."""
        self._backoff = min(max(2 * self._backoff, RETRY_MIN_MS), RETRY_MAX_MS)
        self.retry_at = now + self._backoff

    def unanswered(self) -> None:
        """Give the next server more time."""
        self._timeout = min(self._timeout * 2, HELLO_TIMEOUT_MAX_MS)

    def done(self) -> None:
        """Note that the server has answered hello."""
        self._backoff = 0
        self._timeout = HELLO_TIMEOUT_MIN_MS

    def stop(self) -> None:
        """Wait for nothing any more."""
        self.answered()
        self.retry_at = None

    def next_deadline(self) -> int | None:
        """Return when it is given up or said again."""
        return self.deadline if self.retry_at is None else self.retry_at
