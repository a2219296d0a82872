"""When slices of a checkpoint leave: each once, after the one before is confirmed."""

from __future__ import annotations

from msgspec.structs import replace

from flashq.protocol import records as r
from flashq.protocol.internal import CheckpointSafe, CheckpointSlice
from flashq.protocol.records import Entry
from flashq.shard.checkpointing import REPEAT_MS, SLICE_JOBS_MAX, Checkpointing
from flashq.shard.evolve import evolve
from flashq.shard.state import ShardState

EPOCH = 3
NOW_MS = 1_800_000_000_000


def begun(seq: int | None) -> tuple[Checkpointing, list[CheckpointSlice]]:
    """Return a checkpoint of three slices that has begun, and what it has sent so far.

    Args:
        seq: the log is safe up to here.
    """
    state, sent = ShardState(0, 1), list[CheckpointSlice]()
    jobs = [b""] * (3 * SLICE_JOBS_MAX)
    evolve(state, Entry(NOW_MS, [r.Pushed("q", 1, jobs, [0], NOW_MS, None)]))
    checkpoints = Checkpointing(state, EPOCH, sent.append)
    checkpoints.begin()
    checkpoints.send_next(0, seq)
    return checkpoints, sent


def answer_to(piece: CheckpointSlice) -> CheckpointSafe:
    """Return the word that a slice is stored."""
    return CheckpointSafe(
        epoch=piece.epoch, generation=piece.generation, number=piece.number, last=piece.last
    )


def test_each_slice_waits_for_the_one_before() -> None:
    """The last one tells of which sequence the checkpoint is."""
    checkpoints, sent = begun(1)
    while not sent[-1].last:
        checkpoints.send_next(0, 1)
        before = len(sent)
        assert checkpoints.confirmed(answer_to(sent[-1])) is None
        checkpoints.send_next(0, 1)
        assert len(sent) == before + 1
    assert [piece.number for piece in sent] == list(range(len(sent)))
    assert len(sent) > 2
    assert checkpoints.confirmed(answer_to(sent[-1])) == 1
    assert not checkpoints.is_under_way


def test_a_checkpoint_waits_for_the_log_up_to_it() -> None:
    """Unless it takes the log's place."""
    assert not begun(0)[1]
    assert begun(None)[1]


def test_an_answer_to_another_slice_counts_for_none() -> None:
    """It came late, or is of a checkpoint that was given up: the slice on its way may be lost, and
    is sent again."""
    checkpoints, sent = begun(1)
    old = answer_to(sent[0])
    checkpoints.confirmed(old)
    checkpoints.send_next(0, 1)
    right = answer_to(sent[1])
    others = [
        old,
        replace(right, generation=right.generation + 1),
        replace(right, number=right.number + 1),
        replace(right, last=not right.last),
    ]
    for other in others:
        assert checkpoints.confirmed(other) is None
    checkpoints.send_next(0, 1)
    checkpoints.tick(REPEAT_MS)
    assert [piece.number for piece in sent] == [0, 1, 1]
    checkpoints.confirmed(right)
    checkpoints.send_next(REPEAT_MS, 1)
    assert [piece.number for piece in sent] == [0, 1, 1, 2]
