"""`flashq.shard.gate`: how much the reads may carry that wait for storage."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from flashq.protocol.base import ErrorReply, Reply
from flashq.protocol.jobs import JobReply, JobsReply, ResultReply
from flashq.protocol.leases import PullColumnsReply, PullReply
from flashq.protocol.objects import JobColumns, JobView, StateView
from flashq.shard import outbox
from flashq.shard.carrying import carried_bytes
from flashq.shard.gate import READ_BYTES_MAX, ReplyGate
from flashq.shard.outbox import Origin

LARGE = JobView(id=1, queue="q", data=Raw(bytes(READ_BYTES_MAX // 4)))


def reply(body: Any, *, corr: int = 0, is_read: bool = True) -> outbox.Reply:
    """Return a reply on its way out."""
    return outbox.Reply(Origin(b"peer", corr), body, 5, 5, is_read=is_read)


def test_what_carries_payloads_is_counted() -> None:
    """Wherever they are in it."""
    job = JobView(id=1, queue="q", data=Raw(b"12345"))
    listed = StateView(id=1, queue="q", data=Raw(b"12345"), state="waiting")
    assert carried_bytes(Reply()) == 0
    assert carried_bytes(JobReply(job=job, state="waiting")) == 5
    assert carried_bytes(JobReply(job=None, state="unknown")) == 0
    assert carried_bytes(JobsReply(ok=True, jobs=[listed, listed])) == 10
    assert carried_bytes(ResultReply(id=1, result=Raw(b"1234567"))) == 7
    assert carried_bytes(b"123") == 3
    columns = JobColumns(
        queue="q", token=1, ids=[1, 2], data=[b"12", b"345"], priority=[0],
        created_at=[1], run_at=[1], started_at=[1], attempts=[0],
    )  # fmt: skip
    assert carried_bytes(PullColumnsReply(ok=True, columns=columns)) == 5


def test_a_read_too_many_is_refused_and_nothing_else() -> None:
    """
    1. Storage takes its time. Reads of large jobs wait for it, up to a bound; above it they are
       told to come again, at once.
    2. Changes and deliveries wait all the same: they have happened. So do reads of nothing large.
    3. Storage answers: everything leaves in order, and there is room again.
    """
    gate = ReplyGate()
    read = JobReply(job=LARGE, state="waiting")
    assert [gate.admit(reply(read), 5, is_late=False) for _ in range(4)] == [None] * 4
    assert gate.read_bytes == READ_BYTES_MAX
    refused = gate.admit(reply(read, corr=9), 5, is_late=False)
    assert refused is not None
    assert refused.origin.corr == 9
    assert isinstance(refused.body, ErrorReply)
    assert (refused.body.code, refused.body.retryable) == ("busy", True)
    delivery = reply(PullReply(job=LARGE), is_read=False)
    assert gate.admit(delivery, 5, is_late=False) is None
    assert gate.admit(reply(Reply()), 5, is_late=False) is None
    assert [type(one.body) for one in gate.release(5)] == [*[JobReply] * 4, PullReply, Reply]
    assert (len(gate), gate.read_bytes, gate.reads) == (0, 0, 0)
    passing = reply(read)
    assert gate.admit(passing, 5, is_late=False) is passing


def test_refused_reads_make_room() -> None:
    """Once the log is late none of them waits."""
    gate = ReplyGate()
    gate.admit(reply(JobReply(job=LARGE, state="waiting")), 5, is_late=False)
    assert len(gate.refuse_reads()) == 1
    assert gate.read_bytes == 0
