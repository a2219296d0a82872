"""The coordinator's conversation with shards: grants, fencing, recovery, log, checkpoints."""

from __future__ import annotations

from copy import deepcopy

import pytest

from flashq.coordinator import shards
from flashq.coordinator.shards import SAFE_DELAY_MS, SEQUENCES_SKIPPED
from flashq.protocol.internal import (
    CheckpointSafe,
    CheckpointSlice,
    Fetch,
    Granted,
    Recovered,
    Refused,
    Reserve,
    ReservedUpTo,
    Resumed,
    Safe,
    ShardHello,
    ShardReady,
)
from flashq.protocol.limits import EngineLimits
from tests.unit.coordinator.bench import HASH, NEW, OLD, SHARDS, Bench, blob, hello


def whole(epoch: int, seq: int, *, full: bool = True) -> CheckpointSlice:
    """A checkpoint of shard 1 in one slice."""
    return CheckpointSlice(
        shard=1,
        epoch=epoch,
        generation=1,
        seq=seq,
        full=full,
        parts=[("rest", b"state at %d" % seq)],
        last=True,
    )


def test_a_shard_that_holds_nothing_back_is_told_later_and_once() -> None:
    """Being told after each blob would cost a shard as much as a request does."""
    bench = Bench()
    epoch = bench.start_shard(1, NEW).epoch
    assert bench.say(NEW, blob(1, epoch, 1, 4, awaited=False)) == []
    assert bench.say(NEW, blob(1, epoch, 5, 9, awaited=False)) == []
    bench.pass_time(SAFE_DELAY_MS)
    assert bench.said_to(NEW) == [Safe(epoch=epoch, seq=9)]


# --- hello and grant


def test_a_fresh_shard_is_granted_an_epoch_that_is_safe_first() -> None:
    """The grant leaves only after it is stored, and is greater than all before."""
    bench = Bench()
    before = bench.storage.open(SHARDS).shards[1]
    bench.hear(OLD, hello())
    bench.take_sent()
    assert bench.said_to(OLD) == []
    bench.turn()
    [granted] = bench.said_to(OLD)
    assert isinstance(granted, Granted)
    stored = bench.storage.open(SHARDS).shards[1]
    assert granted.epoch == stored.epoch > before.epoch
    assert granted.incarnation == stored.incarnation > 0
    assert granted.reserved == before.reserved


def test_the_same_process_gets_the_same_grant_again() -> None:
    """Its first answer was late, so it said hello twice: the second grant must not fence it."""
    bench = Bench()
    [first] = bench.say(OLD, hello())
    assert bench.say(OLD, hello()) == [first]
    assert bench.say(OLD, hello(), hello()) == [first, first]


def test_a_successor_gets_a_new_epoch_and_a_new_incarnation() -> None:
    """Nobody has to know what of the log of its forerunner is lost: what it writes has another name
    in any case."""
    bench = Bench()
    first = bench.start_shard(1, OLD)
    [second] = bench.say(NEW, hello())
    assert second.epoch > first.epoch
    assert second.incarnation > first.incarnation


def test_other_settings_are_refused() -> None:
    """A shard started with another configuration must not serve."""
    bench = Bench()
    [refused] = bench.say(OLD, ShardHello(shard=1, config_hash="other"))
    assert isinstance(refused, Refused)
    assert "settings" in refused.reason
    [refused] = bench.say(OLD, ShardHello(shard=SHARDS, config_hash=HASH))
    assert isinstance(refused, Refused)


# --- fencing


def test_an_older_epoch_is_fenced() -> None:
    """
    1. A shard is stopped (SIGSTOP) and taken for dead; its successor is granted an epoch.
    2. It wakes and sends log, a checkpoint, a wish for sequences, and says hello.
    3. Each is refused, and nothing of it is stored.
    """
    bench = Bench()
    old = bench.start_shard(1, OLD).epoch
    bench.start_shard(1, NEW)
    for message in (
        blob(1, old, 1, 2),
        whole(old, 2),
        Reserve(shard=1, epoch=old, upto=2**52),
        ShardReady(shard=1, epoch=old),
        hello(old),
    ):
        [refused] = bench.say(OLD, message)
        assert isinstance(refused, Refused), message
        assert "fenced" in refused.reason
    assert bench.say(OLD, Fetch(epoch=old, cursor=0)) == []
    stored = bench.storage.open(SHARDS).shards[1]
    assert stored.last_seq == 0
    assert stored.reserved < 2**52


def test_a_grant_in_the_same_turn_fences_what_came_before_it() -> None:
    """The old process's last blob is stored, but its Safe does not go to the new process."""
    bench = Bench()
    old = bench.start_shard(1, OLD)
    bench.sent.clear()
    bench.hear(OLD, blob(1, old.epoch, 1, 1))
    bench.hear(NEW, hello())
    bench.turn()
    assert [type(message) for message in bench.said_to(NEW)] == [Granted]
    assert bench.storage.open(SHARDS).shards[1].last_seq == 1


# --- the log


def test_blobs_of_one_turn_are_one_group_and_one_answer() -> None:
    """What has queued up is committed together, and each shard hears once how far it is safe."""
    bench = Bench()
    epochs = {shard: bench.start_shard(shard).epoch for shard in (1, 2)}
    bench.sent.clear()
    bench.hear(b"shard-1", blob(1, epochs[1], 1, 3), blob(1, epochs[1], 4, 4))
    bench.hear(b"shard-2", blob(2, epochs[2], 1, 1))
    bench.hear(b"shard-1", blob(1, epochs[1], 5, 9))
    bench.take_sent()
    assert bench.sent == []
    bench.turn()
    assert bench.said_to(b"shard-1") == [Safe(epoch=epochs[1], seq=9)]
    assert bench.said_to(b"shard-2") == [Safe(epoch=epochs[2], seq=1)]


def test_a_hole_a_repeat_and_a_broken_blob_are_answered_with_what_is_safe() -> None:
    """The shard sends again from there; nothing of them is stored."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    bench.say(OLD, blob(1, epoch, 1, 3))
    broken = blob(1, epoch, 4, 4)
    broken.checksum ^= 1
    backwards = blob(1, epoch, 4, 3)
    for message in (blob(1, epoch, 5, 5), blob(1, epoch, 1, 3), broken, backwards):
        assert bench.say(OLD, message) == [Safe(epoch=epoch, seq=3)]
    assert bench.storage.open(SHARDS).shards[1].last_seq == 3
    assert bench.say(OLD, blob(1, epoch, 4, 4)) == [Safe(epoch=epoch, seq=4)]


def test_blocks_of_sequences_are_safe_before_they_are_told() -> None:
    """And a successor starts above them."""
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    upto = granted.reserved + 1_000_000
    bench.sent.clear()
    bench.hear(OLD, Reserve(shard=1, epoch=granted.epoch, upto=upto))
    bench.take_sent()
    assert bench.sent == []
    bench.turn()
    assert bench.said_to(OLD) == [ReservedUpTo(epoch=granted.epoch, upto=upto)]
    [successor] = bench.say(NEW, hello())
    assert successor.reserved == upto


def test_what_is_asked_for_twice_is_read_once() -> None:
    """While storage is slow a recovering shard asks again every second; the answer says to which
    question it is one."""
    bench = Bench()
    [granted] = bench.say(OLD, hello())
    fetch = Fetch(epoch=granted.epoch, cursor=0)
    piece = Recovered(epoch=granted.epoch, cursor=0)
    assert bench.say(OLD, fetch, fetch) == [piece]
    assert bench.say(OLD, fetch) == [piece]


def test_a_checkpoint_is_answered_slice_by_slice() -> None:
    """Each slice once it is stored, so that the shard can bound what is under way."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    bench.say(OLD, blob(1, epoch, 1, 3))
    part = CheckpointSlice(shard=1, epoch=epoch, generation=5, seq=3, pages=[(0, b"page")])
    assert bench.say(OLD, part) == [CheckpointSafe(epoch=epoch, generation=5)]
    part.last, part.number = True, 1
    confirmed = CheckpointSafe(epoch=epoch, generation=5, number=1, last=True)
    assert bench.say(OLD, part) == [confirmed]
    assert bench.say(OLD, blob(1, epoch, 4, 4)) == [Safe(epoch=epoch, seq=4)]
    [granted] = bench.say(NEW, hello())
    [part_of_it] = bench.say(NEW, Fetch(epoch=granted.epoch, cursor=0))
    log = [(4, 4, b"4-4")]
    assert part_of_it == Recovered(epoch=granted.epoch, cursor=0, pages=[(0, b"page")], log=log)


# --- a coordinator that comes back


def test_a_running_shard_goes_on_with_a_coordinator_that_lost_nothing() -> None:
    """It is told what is stored, and sends the rest again."""
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    bench.say(OLD, blob(1, granted.epoch, 1, 3))
    bench.restart(lose=False)
    assert bench.say(OLD, hello(granted.epoch, 2)) == [Resumed(last_seq=3)]
    bench.say(OLD, ShardReady(shard=1, epoch=granted.epoch))
    assert bench.epochs()[1] == granted.epoch
    assert bench.say(OLD, blob(1, granted.epoch, 4, 4)) == [Safe(epoch=granted.epoch, seq=4)]


def test_a_shard_that_writes_serves_though_it_has_not_said_hello() -> None:
    """
    1. The coordinator is killed, and its successor has lost nothing.
    2. A shard under load is told in time that its log is safe, and so does not say hello.
    3. It serves all the same: routers hear of it, and mail for it does not wait.
    """
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    bench.say(OLD, blob(1, epoch, 1, 3))
    bench.restart(lose=False)
    assert bench.epochs()[1] == 0
    bench.say(OLD, blob(1, epoch, 4, 4))
    assert bench.epochs()[1] == epoch
    # One that was granted an epoch by this coordinator has to recover first, whatever it says.
    [granted] = bench.say(NEW, hello())
    bench.say(NEW, blob(1, granted.epoch, 5, 5))
    assert bench.epochs()[1] == 0


def test_a_reservation_that_storage_has_forgotten_is_made_again() -> None:
    """
    1. The database fails over to a copy that lacks a shard's last reservation.
    2. The shard says hello to the coordinator that has begun anew.
    3. It is killed, and the end of its log with it: ids must not be given again.
    """
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    reserved = granted.reserved + 1000
    bench.restart(lose=False)
    bench.say(OLD, hello(granted.epoch, reserved=reserved))
    assert bench.storage.open(SHARDS).shards[1].reserved == reserved
    [successor] = bench.say(NEW, hello())
    assert successor.reserved == reserved


def test_sequences_are_passed_over_when_nobody_says_which_were_reserved() -> None:
    """
    1. The database has failed over, and the shard dies before it can say hello: what it had
       reserved may be forgotten.
    2. Its next successor starts where this one has reserved.
    3. The database fails over once more, to a copy that lacks both grants: the next one starts
       above them all the same.
    """
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    copy = deepcopy(bench.storage)
    bench.restart(lose=False)
    bench.say(OLD, blob(1, granted.epoch, 1, 1))
    [first] = bench.say(NEW, hello())
    assert first.reserved >= granted.reserved + SEQUENCES_SKIPPED
    [second] = bench.say(b"S-newer", hello())
    assert second.reserved == first.reserved
    bench.storage = copy
    bench.now_ms += 1000
    bench.start()
    [third] = bench.say(b"S-newest", hello())
    assert third.reserved > second.reserved + EngineLimits().sequence_block


def test_a_running_shard_gives_everything_to_a_coordinator_that_lost_it() -> None:
    """
    1. The coordinator is killed with its memory; log up to 3 was safe.
    2. The shard goes on under its epoch, although the new one's epochs begin higher.
    3. Log is not taken before a checkpoint of everything is whole; a partial one is not either.
    4. Then the log goes on from there, and a successor recovers all of it, under a higher epoch,
       with a higher incarnation and above the sequences that were reserved.
    """
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    epoch, reserved = granted.epoch, granted.reserved + 2**30
    bench.say(OLD, blob(1, epoch, 1, 3))
    bench.now_ms += 60_000
    bench.restart(lose=True)
    again = hello(epoch, 3, incarnation=granted.incarnation, reserved=reserved)
    assert bench.say(OLD, again) == [Resumed(last_seq=0, resync=True)]
    assert bench.epochs()[1] == epoch
    assert bench.say(OLD, blob(1, epoch, 4, 4)) == []
    assert bench.say(OLD, whole(epoch, 5, full=False)) == []
    assert bench.say(OLD, whole(epoch, 5)) == [CheckpointSafe(epoch=epoch, generation=1, last=True)]
    assert bench.say(OLD, blob(1, epoch, 6, 6)) == [Safe(epoch=epoch, seq=6)]

    [successor] = bench.say(NEW, hello())
    assert successor.epoch > epoch
    assert successor.incarnation > granted.incarnation
    assert successor.reserved >= reserved
    [part] = bench.say(NEW, Fetch(epoch=successor.epoch, cursor=0))
    assert part == Recovered(
        epoch=successor.epoch, cursor=0, parts=[("rest", b"state at 5")], log=[(6, 6, b"6-6")]
    )


def test_a_shard_that_dies_before_everything_is_given_has_lost_its_state() -> None:
    """Its successor runs under a new incarnation, so that its peers do not mix up numbers."""
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    bench.restart(lose=True)
    bench.say(OLD, hello(granted.epoch, 3, incarnation=granted.incarnation))
    [successor] = bench.say(NEW, hello())
    assert successor.epoch > granted.epoch
    assert successor.incarnation > granted.incarnation


def test_the_end_of_a_checkpoint_that_began_before_is_no_whole() -> None:
    """
    1. A shard gives everything to a coordinator, which dies with its memory before the end.
    2. The shard says hello to the next one, and repeats the last slice in the same moment.
    3. Only a checkpoint whose first slice came here counts; one is demanded until that is so.
    """
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    epoch = granted.epoch
    bench.restart(lose=True)
    again = hello(epoch, 3, incarnation=granted.incarnation)
    [demand] = bench.say(OLD, again)
    end = CheckpointSlice(
        shard=1,
        epoch=epoch,
        generation=8,
        seq=5,
        full=True,
        pages=[(9, b"nine")],
        last=True,
        number=1,
    )
    assert bench.say(OLD, end) == []
    assert bench.say(OLD, again) == [demand]

    first = CheckpointSlice(
        shard=1, epoch=epoch, generation=9, seq=6, full=True, parts=[("rest", b"r")]
    )
    assert bench.say(OLD, first) == [CheckpointSafe(epoch=epoch, generation=9)]
    assert bench.say(OLD, again) == [Resumed(last_seq=0)]
    assert bench.say(OLD, end) == []
    end.generation = 9
    confirmed = CheckpointSafe(epoch=epoch, generation=9, number=1, last=True)
    assert bench.say(OLD, end) == [confirmed]
    assert bench.say(OLD, blob(1, epoch, 6, 6)) == [Safe(epoch=epoch, seq=6)]


def test_what_cannot_be_judged_is_left_unanswered() -> None:
    """A shard has not noticed that the coordinator is new and knows nothing. Refused as fenced,
    for the new epochs begin higher, it would exit with its jobs. It says hello when it hears
    nothing."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    assert bench.say(OLD, blob(1, epoch + 5, 1, 1)) == []
    for waited_ms in (0, 60_000):
        bench.now_ms += waited_ms
        bench.restart(lose=True)
        bench.hear(OLD, blob(1, epoch, 1, 1), whole(epoch, 1), ShardReady(shard=1, epoch=epoch))
        assert bench.say(OLD, Reserve(shard=1, epoch=epoch, upto=2**40)) == []
        assert bench.epochs() == [0] * SHARDS


# --- a storage that takes its time


def checkpoint_slice(
    epoch: int, number: int, *, generation: int = 5, last: bool = False
) -> CheckpointSlice:
    """A slice of a checkpoint of shard 1."""
    return CheckpointSlice(
        shard=1,
        epoch=epoch,
        generation=generation,
        number=number,
        seq=3,
        parts=[("rest", b"r")] if not number else [],
        pages=[(number, b"page")],
        last=last,
    )


def test_a_slice_that_is_being_stored_is_not_written_twice() -> None:
    """The shard repeats it every second while storage is slow: memory must not fill with it."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    for _ in range(3):
        bench.hear(OLD, checkpoint_slice(epoch, 0))
    group = bench.coordinator.take_group()
    assert group is not None
    assert len(group.writes) == 1
    bench.storage.write(group.writes)
    bench.coordinator.committed(group)
    assert bench.say(OLD) == [CheckpointSafe(epoch=epoch, generation=5)]


def test_a_slice_that_is_stored_is_answered_again() -> None:
    """The first answer was late; that of the last slice also after the coordinator's restart."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    first, last = checkpoint_slice(epoch, 0), checkpoint_slice(epoch, 1, last=True)
    assert bench.say(OLD, first) == bench.say(OLD, first)
    bench.restart(lose=False)
    assert bench.say(OLD, first) == [CheckpointSafe(epoch=epoch, generation=5)]
    confirmed = CheckpointSafe(epoch=epoch, generation=5, number=1, last=True)
    assert bench.say(OLD, last) == [confirmed]
    assert bench.say(OLD, last) == [confirmed]
    bench.restart(lose=False)
    assert bench.say(OLD, last) == [confirmed]


def test_a_checkpoint_without_its_middle_is_not_made_current() -> None:
    """
    1. Storage comes back without a slice that it had acknowledged.
    2. The shard sends the next one: the checkpoint would lack pages.
    3. A checkpoint of everything is demanded instead, once, and the log goes on from it.
    """
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    bench.say(OLD, blob(1, epoch, 1, 3))
    bench.say(OLD, checkpoint_slice(epoch, 0))
    beyond = checkpoint_slice(epoch, 2, last=True)
    assert bench.say(OLD, beyond) == [Resumed(last_seq=3, resync=True)]
    assert bench.say(OLD, beyond) == []
    assert bench.say(OLD, blob(1, epoch, 4, 4)) == []
    assert bench.say(OLD, whole(epoch, 4)) == [CheckpointSafe(epoch=epoch, generation=1, last=True)]
    assert bench.storage.open(SHARDS).shards[1].checkpoint_seq == 4


def test_a_hello_that_waits_is_answered_once() -> None:
    """A shard asks every second while storage is away; each answer would make it send again
    everything that is not safe."""
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    bench.hear(OLD, blob(1, epoch, 1, 3))
    for _ in range(5):
        bench.hear(OLD, hello(epoch))
    bench.sent.clear()
    bench.turn()
    resumed = [message for message in bench.said_to(OLD) if isinstance(message, Resumed)]
    assert resumed == [Resumed(last_seq=3)]
    assert bench.say(OLD, hello(epoch, 3)) == [Resumed(last_seq=3)]


def test_what_waits_for_storage_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    1. Storage is away; log comes in up to the bound, and what is above it is not taken.
    2. Storage is back: the shard is asked to send again from what is safe.
    """
    monkeypatch.setattr(shards, "UNSAFE_BYTES_MAX", 7)
    bench = Bench()
    epoch = bench.start_shard(1, OLD).epoch
    bench.hear(OLD, *(blob(1, epoch, seq, seq) for seq in range(1, 6)))
    group = bench.coordinator.take_group()
    assert group is not None
    assert len(group.writes) == 2
    bench.storage.write(group.writes)
    bench.coordinator.committed(group)
    bench.sent.clear()
    bench.turn()
    assert Resumed(last_seq=2) in bench.said_to(OLD)
    bench.say(OLD, blob(1, epoch, 3, 3))
    assert bench.storage.open(SHARDS).shards[1].last_seq == 3


def test_a_shard_whose_state_is_damaged_is_refused() -> None:
    """It must not run with the rest of it; the reason names the place."""
    bench = Bench()
    granted = bench.start_shard(1, OLD)
    broken = blob(1, granted.epoch, 1, 2)
    bench.say(OLD, broken)
    broken.checksum ^= 1
    [granted] = bench.say(NEW, hello())
    bench.hear(NEW, Fetch(epoch=granted.epoch, cursor=0))
    [recovery] = bench.coordinator.take_recoveries()
    bench.coordinator.unreadable(recovery, "storage damaged: log of shard 1, 1 to 2")
    bench.take_sent()
    assert bench.said_to(NEW)[-1] == Refused(reason="storage damaged: log of shard 1, 1 to 2")


def test_slices_of_many_shards_are_written_one_at_a_time() -> None:
    """All shards take their checkpoint in the same moment: each group has one slice, and the log
    that has come by then."""
    bench = Bench()
    epochs = [bench.start_shard(shard).epoch for shard in range(SHARDS)]
    for shard, epoch in enumerate(epochs):
        part = checkpoint_slice(epoch, 0)
        part.shard = shard
        bench.hear(b"shard-%d" % shard, part)
    for shard in range(SHARDS):
        bench.hear(b"shard-0", blob(0, epochs[0], shard + 1, shard + 1))
        group = bench.coordinator.take_group()
        assert group is not None
        slices = [write for write in group.writes if isinstance(write, CheckpointSlice)]
        assert [part.shard for part in slices] == [shard]
        assert len(group.writes) == 2
        bench.storage.write(group.writes)
        bench.coordinator.committed(group)
    assert bench.coordinator.take_group() is None
