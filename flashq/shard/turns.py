"""A shard's turn of requests: how many are carried out before replies leave and others have theirs.

Pure: sending, and the time, are functions that are given. Owns the requests that have come and are
not carried out yet. A turn is bounded in the bytes of its replies and in time, whatever one message
asks for; and a peer that leaves much unread has nothing carried out until it has read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from flashq.protocol.base import ErrorReply, Reply
from flashq.protocol.jobs import PushBatchReply, PushReply, StateReply
from flashq.protocol.leases import AckBatchReply, EmptyPullBatchReply, PullReply
from flashq.protocol.sessions import HeartbeatReply

REPLIES_MAX: Final = 32
"""With so many replies decided they are sent before the next request is looked at."""
REPLIES_BYTES_MAX: Final = 1_048_576
"""The same for so many bytes of payloads in them."""
TURN_BYTES_MAX: Final = 16_777_216
"""A turn that has sent so much is over."""
TURN_MS_MAX: Final = 20
"""A turn that took so long is over."""
UNREAD_BYTES_MAX: Final = 16_777_216
"""A peer that leaves so much unread has to read before more of its requests are carried out."""

_LIGHT: Final = frozenset(
    {
        Reply,
        PushReply,
        PushBatchReply,
        StateReply,
        AckBatchReply,
        HeartbeatReply,
        EmptyPullBatchReply,
        ErrorReply,
    }
)
"""Replies without payloads; there is nothing to count in them."""

LOOK_REQUESTS: Final = 16
"""So often the time is looked at, also while there is nothing to send."""

Pair = list[bytes]
"""Header and body."""


class Shard(Protocol):
    """What carries requests out: a node."""

    @property
    def decided(self) -> Sequence[Answer]:
        """The replies that are not sent."""
        ...

    def receive_front(self, peer: bytes, frames: Pair) -> None:
        """Carry a request out."""
        ...


class Answer(Protocol):
    """A reply on its way out."""

    @property
    def body(self) -> Any:
        """The reply object, or its encoding."""
        ...


class Turns:
    """The requests of all peers.

    Args:
        shard: carries them out.
        send: sends what is decided, and returns how many bytes that was.
        unread_bytes: tells how much a peer has not read.
        hold: told of a peer of which nothing is to be read for now (True), or again (False).
        mono_ms: the monotonic clock.
    """

    def __init__(
        self,
        shard: Shard,
        send: Callable[[], int],
        unread_bytes: Callable[[bytes], int],
        hold: Callable[[bytes, bool], None],
        mono_ms: Callable[[], int],
    ) -> None:
        self._shard: Final = shard
        self._send: Final = send
        self._unread_bytes: Final = unread_bytes
        self._hold: Final = hold
        self._mono_ms: Final = mono_ms
        #: by peer, in the order of their turns: what has come and is not carried out
        self._waiting: dict[bytes, deque[Pair]] = {}
        #: replies that were looked at and are not sent, and the bytes of payloads in them
        self._seen = 0
        self._payload_bytes = 0
        #: of the turn under way
        self._sent_bytes = 0
        self._ends_ms = 0

    @property
    def is_waiting(self) -> bool:
        """Whether there is a request that can be carried out now."""
        return any(self._may_ask(peer) for peer in self._waiting)

    def begin(self) -> None:
        """Begin a turn with what waits, one peer after the other."""
        self._seen = self._payload_bytes = self._sent_bytes = 0
        self._ends_ms = self._mono_ms() + TURN_MS_MAX
        for peer in list(self._waiting):
            if self._is_over():
                return
            pairs = self._waiting.pop(peer)
            self._carry_out(peer, pairs)
            if pairs:
                self._waiting[peer] = pairs  # behind the others
            else:
                self._hold(peer, False)

    def take(self, peer: bytes, frames: Pair) -> None:
        """Take a peer's message, and carry out as much of it as the turn has room for. Half a pair
        is no message: nothing in it says whom to answer."""
        if len(frames) & 1:
            return
        waiting = self._waiting.get(peer)
        if waiting is None and len(frames) == 2 and not self._is_over() and self._may_ask(peer):
            self._shard.receive_front(peer, frames)
            self._send_if_enough()
            return
        pairs = deque(_split(frames))
        if waiting is not None:
            waiting.extend(pairs)
            return
        self._carry_out(peer, pairs)
        if pairs:
            self._waiting[peer] = pairs
            self._hold(peer, True)

    def _carry_out(self, peer: bytes, pairs: deque[Pair]) -> None:
        """Carry out requests while there is room."""
        shard, left = self._shard, 0
        while pairs:
            if not left:
                if self._is_over() or not self._may_ask(peer):
                    return
                left = LOOK_REQUESTS
            shard.receive_front(peer, pairs.popleft())
            left = left - 1 if not self._send_if_enough() else 0

    def _send_if_enough(self) -> bool:
        """Look at what was decided, and send it when it is enough; tell whether it was."""
        decided = self._shard.decided
        for answer in decided[self._seen :]:
            self._payload_bytes += payload_bytes(answer.body)
        self._seen = len(decided)
        if self._seen < REPLIES_MAX and self._payload_bytes < REPLIES_BYTES_MAX:
            return False
        self._sent_bytes += self._send()
        self._seen = self._payload_bytes = 0
        return True

    def _is_over(self) -> bool:
        return self._sent_bytes >= TURN_BYTES_MAX or self._mono_ms() >= self._ends_ms

    def _may_ask(self, peer: bytes) -> bool:
        return self._unread_bytes(peer) < UNREAD_BYTES_MAX


def _split(frames: list[bytes]) -> Iterator[Pair]:
    return (frames[at : at + 2] for at in range(0, len(frames), 2))


def payload_bytes(body: Any) -> int:
    """Return how many bytes of payloads are in a reply, roughly: one with many jobs, or of a kind
    that is not frequent, counts as enough to be sent."""
    kind = type(body)
    if kind in _LIGHT:
        return 0
    if kind is PullReply:
        return 0 if body.job is None else memoryview(body.job.data).nbytes
    if kind is bytes:
        return len(body)
    return REPLIES_BYTES_MAX
