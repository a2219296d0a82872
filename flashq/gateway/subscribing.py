"""What a gateway has asked the router to be told of: one subscription for each queue.

Owns whether the shards' events come yet, and who waits to hear that they do. What happens before
the router has said so may be missed; what happens after it is told. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from flashq.errors import FlashQError, error_from
from flashq.gateway.pending import Pending
from flashq.protocol.codec import decode

Ready = Callable[[FlashQError | None], None]
"""Called once events come (with None), or when they will not."""


class _Verdict(Struct):
    error: str = ""
    code: str = "error"


class Subscription:
    """The wish for one queue's events.

    Args:
        queue: `*` for all.
    """

    __slots__ = ("_waiting", "is_confirmed", "pending", "queue")

    def __init__(self, queue: str) -> None:
        self.queue: Final = queue
        #: the router has said that the shards' events come
        self.is_confirmed = False
        #: the request for them that has no answer yet
        self.pending: Pending | None = None
        self._waiting: list[Ready] = []

    def tell(self, ready: Ready) -> None:
        """Call `ready` once events come."""
        if self.is_confirmed:
            ready(None)
        else:
            self._waiting.append(ready)

    def answered(self, body: bytes, ok: bool) -> None:
        """Take the router's answer."""
        self.pending = None
        self.is_confirmed = ok
        error = None
        if not ok:
            verdict = decode(body, _Verdict)
            error = error_from(verdict.code, verdict.error)
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready(error)
