"""`flashq.shard.turns`: how much one turn of a shard carries out, whatever is asked of it."""

from __future__ import annotations

from typing import Any, Final

import pytest
from msgspec import Raw

from flashq.protocol.base import ErrorReply, Reply
from flashq.protocol.jobs import JobReply, JobsReply, PushBatchReply, PushReply
from flashq.protocol.leases import EmptyPullBatchReply, PullBatchReply, PullReply
from flashq.protocol.objects import JobView
from flashq.shard import outbox
from flashq.shard.outbox import Origin
from flashq.shard.turns import (
    REPLIES_BYTES_MAX,
    REPLIES_MAX,
    TURN_BYTES_MAX,
    TURN_MS_MAX,
    UNREAD_BYTES_MAX,
    Turns,
    payload_bytes,
)

A, B = b"a", b"b"
MIB: Final = 1024 * 1024


class Shard:
    """Answers every request with a body of the size that it names, and takes its time for it."""

    def __init__(self) -> None:
        self.decided: list[outbox.Reply] = []
        self.carried_out: list[tuple[bytes, int]] = []
        self.now_ms = 0
        #: what each request takes
        self.request_ms = 0
        #: what was sent, flush by flush: how many replies, and their bytes
        self.sent: list[tuple[int, int]] = []
        self.unread: dict[bytes, int] = {}
        self.held: set[bytes] = set()
        #: whether peers leave unread what is sent to them
        self.are_lazy = False
        self.turns = Turns(self, self.send, self.unread_bytes, self.hold, lambda: self.now_ms)

    def receive_front(self, peer: bytes, frames: list[bytes]) -> None:
        """Carry a request out."""
        header, body = frames
        self.carried_out.append((peer, int(header)))
        self.now_ms += self.request_ms
        reply: Any = bytes(int(body)) if body else Reply()
        self.decided.append(outbox.Reply(Origin(peer, 0), reply, 0, 0))

    def send(self) -> int:
        """Send what is decided."""
        size = 0
        for reply in self.decided:
            one = len(reply.body) if isinstance(reply.body, bytes) else 10
            size += one
            if self.are_lazy:
                peer = reply.origin.peer
                self.unread[peer] = self.unread_bytes(peer) + one
        self.sent.append((len(self.decided), size))
        self.decided.clear()
        return size

    def unread_bytes(self, peer: bytes) -> int:
        """Tell what a peer has not read."""
        return self.unread.get(peer, 0)

    def hold(self, peer: bytes, is_held: bool) -> None:
        """Read nothing of a peer, or again."""
        if is_held:
            self.held.add(peer)
        else:
            self.held.discard(peer)

    def ask(self, peer: bytes, count: int, *, size: int = 0) -> None:
        """Let one message ask for so many replies."""
        frames: list[bytes] = []
        for number in range(count):
            frames += (b"%d" % number, b"%d" % size if size else b"")
        self.turns.take(peer, frames)

    def turn(self) -> int:
        """Have a turn with what waits, and return how much was carried out in it."""
        before = len(self.carried_out)
        self.turns.begin()
        self.send()
        return len(self.carried_out) - before


@pytest.fixture
def shard() -> Shard:
    """A shard in a turn."""
    shard = Shard()
    shard.turns.begin()
    return shard


def test_small_requests_are_carried_out_as_they_come(shard: Shard) -> None:
    """However many: their replies are sent some at a time, and nobody is held."""
    shard.ask(A, 1)
    shard.ask(B, 1000)
    assert len(shard.carried_out) == 1001
    assert not shard.held
    assert not shard.turns.is_waiting
    assert {count for count, _ in shard.sent} == {REPLIES_MAX}


def test_half_a_pair_is_no_message(shard: Shard) -> None:
    """Nothing of it is carried out."""
    shard.turns.take(A, [b"0", b"", b"1"])
    shard.turns.take(A, [b"0"])
    assert shard.carried_out == []


def test_a_turn_is_bounded_in_bytes(shard: Shard) -> None:
    """
    1. One message asks for 400 replies of a megabyte. They are sent one after the other, and the
       turn ends soon; nothing more is read of that peer.
    2. Each later turn goes on, in order, until all are answered.
    """
    shard.ask(A, 400, size=MIB)
    assert len(shard.carried_out) == TURN_BYTES_MAX // MIB
    assert max(size for _, size in shard.sent) == MIB
    assert shard.held == {A}
    turns = 0
    while shard.turns.is_waiting:
        assert shard.turn() <= TURN_BYTES_MAX // MIB
        turns += 1
    assert turns == 400 * MIB // TURN_BYTES_MAX - 1
    assert shard.carried_out == [(A, number) for number in range(400)]
    assert not shard.held


def test_a_turn_is_bounded_in_time(shard: Shard) -> None:
    """Also when what is asked for has no reply yet, and nothing is sent."""
    shard.request_ms = 1
    shard.ask(A, 1000)
    assert len(shard.carried_out) <= 2 * TURN_MS_MAX
    started_ms = shard.now_ms
    shard.turn()
    assert shard.now_ms - started_ms <= 2 * TURN_MS_MAX
    while shard.turns.is_waiting:
        shard.turn()
    assert len(shard.carried_out) == 1000


def test_peers_take_turns(shard: Shard) -> None:
    """One that asks for much holds up the others for a turn, and not for all of it."""
    shard.ask(A, 400, size=MIB)
    shard.ask(B, 1)
    assert (B, 0) not in shard.carried_out
    shard.turn()
    shard.turn()
    assert (B, 0) in shard.carried_out
    assert shard.held == {A}


def test_what_comes_later_stays_behind_what_waits(shard: Shard) -> None:
    """Requests of one peer are carried out in the order sent."""
    shard.ask(A, 20, size=MIB)
    shard.turns.take(A, [b"99", b""])
    while shard.turns.is_waiting:
        shard.turn()
    assert shard.carried_out == [*((A, number) for number in range(20)), (A, 99)]


def test_a_peer_that_does_not_read_waits(shard: Shard) -> None:
    """
    1. A asks for far more than it reads: what it gets unread stays near the bound, turn after turn,
       and others go on.
    2. It reads: its requests go on too.
    """
    shard.are_lazy = True
    shard.ask(A, 400, size=MIB)
    for _ in range(50):
        shard.turn()
    assert UNREAD_BYTES_MAX <= shard.unread[A] <= UNREAD_BYTES_MAX + MIB
    assert not shard.turns.is_waiting
    shard.ask(B, 5)
    assert len([peer for peer, _ in shard.carried_out if peer == B]) == 5
    shard.are_lazy, shard.unread = False, {}
    assert shard.turns.is_waiting
    while shard.turns.is_waiting:
        shard.turn()
    assert len(shard.carried_out) == 405


def test_payloads_are_counted_where_they_are(shard: Shard) -> None:
    """Replies without any count nothing; what may have many is sent at once."""
    job = JobView(id=1, queue="q", data=Raw(b'"' + b"x" * 998 + b'"'))
    for light in (Reply(), PushReply(id=1), PushBatchReply(ok=True, ids=[1] * 10_000)):
        assert payload_bytes(light) == 0
    assert payload_bytes(ErrorReply(error="x", code="x", retryable=False)) == 0
    assert payload_bytes(EmptyPullBatchReply()) == 0
    assert payload_bytes(PullReply(job=None)) == 0
    assert payload_bytes(PullReply(job=job)) == 1000
    assert payload_bytes(b"x" * 70) == 70
    for heavy in (
        JobReply(job=job, state="waiting"),
        JobsReply(ok=True, jobs=[]),
        PullBatchReply(ok=True, jobs=[]),
    ):
        assert payload_bytes(heavy) == REPLIES_BYTES_MAX
