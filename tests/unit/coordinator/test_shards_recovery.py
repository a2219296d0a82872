"""A shard's recovery as the coordinator sees it: under which epoch, and what is handed on."""

from __future__ import annotations

from flashq.protocol.internal import (
    CheckpointSlice,
    Fetch,
    Granted,
    Recovered,
    Reserve,
    ReservedUpTo,
    ShardReady,
)
from tests.unit.coordinator.bench import NEW, OLD, Bench, blob, hello


def test_a_shard_is_not_fenced_by_its_own_second_grant() -> None:
    """
    1. A shard is granted an epoch, recovers, and asks for sequences; its coordinator dies.
    2. It says hello to the next one, which grants it a new epoch. Before it hears of that it asks
       for its sequences once more, under the epoch that it knows.
    3. It is not refused, or it would exit: it gets the grant, and begins anew under that.
    """
    bench = Bench()
    [first] = bench.say(OLD, hello())
    bench.restart(lose=False)
    [second] = bench.say(OLD, hello(), Reserve(shard=1, epoch=first.epoch, upto=2000))
    assert isinstance(second, Granted)
    assert second.epoch > first.epoch


def test_a_successor_recovers_everything_piece_by_piece() -> None:
    """The shard asks for each piece, so that nobody has to hold all of it."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    state = CheckpointSlice(
        shard=1, epoch=epoch, generation=1, seq=0, parts=[("rest", b"state at 0")], last=True
    )
    bench.say(OLD, state, *[blob(1, epoch, n, n) for n in range(1, 1001)])
    [granted] = bench.say(NEW, hello())
    log: list[int] = []
    parts: list[tuple[str, bytes]] = []
    cursor, fetches = 0, 0
    while fetches == 0 or cursor:
        [part] = bench.say(NEW, Fetch(epoch=granted.epoch, cursor=cursor))
        assert isinstance(part, Recovered)
        parts += part.parts
        log += [first for first, _, _ in part.log]
        cursor = part.cursor
        fetches += 1
    assert parts == [("rest", b"state at 0")]
    assert log == list(range(1, 1001))
    assert fetches > 3


def test_who_does_not_recover_gets_nothing() -> None:
    """
    1. A shard is in the midst of its recovery when the coordinator dies with its memory.
    2. It asks the new coordinator for the next piece. Were it answered "that was all", it would
       serve with half its jobs: it gets no answer.
    3. So it says hello again, is granted another epoch, and begins anew.
    """
    bench = Bench()
    [granted] = bench.say(OLD, hello())
    bench.now_ms += 60_000
    bench.restart(lose=True)
    assert bench.say(OLD, Fetch(epoch=granted.epoch, cursor=3)) == []
    [again] = bench.say(OLD, hello())
    assert again.epoch > granted.epoch
    nothing = Recovered(epoch=again.epoch, cursor=0)
    assert bench.say(OLD, Fetch(epoch=again.epoch, cursor=0)) == [nothing]
    bench.say(OLD, ShardReady(shard=1, epoch=again.epoch))
    assert bench.say(OLD, Fetch(epoch=again.epoch, cursor=0)) == []


def test_a_shard_that_asked_under_a_lost_grant_is_granted_anew() -> None:
    """
    1. A shard has read all and asks for sequences; the coordinator dies.
    2. The next one hears that question before the hello, and knows the epoch from storage.
    3. It has not granted it: taken for a repeat of its own, it would never answer a recovery.
    """
    bench = Bench()
    [first] = bench.say(OLD, hello())
    bench.say(OLD, Fetch(epoch=first.epoch, cursor=0))
    bench.restart(lose=False)
    [reserved] = bench.say(OLD, Reserve(shard=1, epoch=first.epoch, upto=first.reserved + 1000))
    assert isinstance(reserved, ReservedUpTo)
    [second] = bench.say(OLD, hello())
    assert second.epoch > first.epoch
    [recovered] = bench.say(OLD, Fetch(epoch=second.epoch, cursor=0))
    assert isinstance(recovered, Recovered)


def test_what_is_read_too_late_for_its_epoch_is_not_handed_on() -> None:
    """
    1. While storage reads for a shard it is killed; its successor is granted an epoch and asks.
    2. What was read first may have something of the successor's: it is nobody's.
    """
    bench = Bench()
    [old] = bench.say(OLD, hello())
    bench.hear(OLD, Fetch(epoch=old.epoch, cursor=0))
    [late] = bench.coordinator.take_recoveries()
    [new] = bench.say(NEW, hello())
    bench.hear(NEW, Fetch(epoch=new.epoch, cursor=0))
    [wanted] = bench.coordinator.take_recoveries()
    part = bench.storage.recover(1, 0, 1000)
    bench.sent.clear()
    bench.coordinator.recovered(late, part)
    bench.turn()
    assert bench.sent == []
    bench.hear(NEW, Fetch(epoch=new.epoch, cursor=0))
    assert bench.coordinator.take_recoveries() == [], "it is being read"
    bench.coordinator.recovered(wanted, part)
    bench.turn()
    assert [type(message) for message in bench.said_to(NEW)] == [Recovered]
