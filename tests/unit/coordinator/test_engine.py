"""The coordinator as a whole: routers, garbage, clients' requests, going down."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.coordinator import engine
from flashq.coordinator.history import FIRST_MS
from flashq.coordinator.outbox import Group
from flashq.errors import StorageRefused
from flashq.protocol.base import ErrorReply
from flashq.protocol.codec import decode, encode
from flashq.protocol.crons import CronsReply
from flashq.protocol.framing import INTERNAL, ROUTE_COORDINATOR, pack_header, unpack_header
from flashq.protocol.internal import Internal, MailAck, Refused, RouterHello, Safe
from flashq.protocol.internal import ShardHello as Hello
from tests.unit.coordinator.bench import HASH, ROUTER, SHARDS, Bench, Outcome, blob


def told(bench: Bench) -> list[tuple[list[int], str]]:
    """What the router was told of shards and of storage's trouble."""
    return [(message.epochs, message.storage) for message in bench.said_to(ROUTER)]


def test_a_router_is_told_the_epochs_at_each_hello_and_each_change() -> None:
    """0 stands for a shard that is not ready: from its grant on until it says that it serves."""
    bench = Bench()
    assert bench.epochs() == [0] * SHARDS
    bench.sent.clear()
    first = bench.start_shard(1)
    assert told(bench) == [([0, first.epoch, 0, 0], "")]
    [second] = bench.say(b"S-new", Hello(shard=1, config_hash=HASH))
    assert told(bench) == [([0] * SHARDS, "")]
    assert second.epoch > first.epoch


def test_nothing_is_told_when_nothing_has_changed() -> None:
    """Log, blocks and mail do not concern routers."""
    bench = Bench()
    bench.epochs()
    bench.start_shard(1)
    bench.say(b"shard-1", MailAck(receiver=1, incarnation=1, number=1))
    assert bench.said_to(ROUTER) == []


def test_a_router_with_other_settings_is_refused() -> None:
    """It would route by another number of shards."""
    bench = Bench()
    [refused] = bench.say(ROUTER, RouterHello(config_hash="other"))
    assert isinstance(refused, Refused)


def test_a_silent_router_is_forgotten() -> None:
    """It is not told of changes any more; one that says hello is."""
    bench = Bench()
    bench.epochs()
    bench.say(b"router-2", RouterHello(config_hash=HASH))
    bench.pass_time(engine.ROUTER_SILENCE_MS - 1)
    bench.epochs()
    bench.pass_time(1)
    bench.start_shard(1)
    assert len(bench.said_to(ROUTER)) == 1
    assert bench.said_to(b"router-2") == []


def test_a_router_that_cannot_be_reached_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """And makes room for another; their number is bounded."""
    monkeypatch.setattr(engine, "ROUTERS_MAX", 1)
    bench = Bench()
    bench.epochs()
    bench.say(b"router-2", RouterHello(config_hash=HASH))
    bench.start_shard(0)
    assert bench.said_to(b"router-2") == []
    bench.coordinator.undeliverable(ROUTER)
    bench.say(b"router-2", RouterHello(config_hash=HASH))
    bench.start_shard(1)
    assert bench.said_to(ROUTER) == []
    assert len(bench.said_to(b"router-2")) == 1


def test_a_command_of_somebody_else_is_refused() -> None:
    """A client sent it here by its route, past the router's knowledge."""
    bench = Bench()
    reply = bench.ask(ErrorReply, cmd="STATS")
    assert (reply.ok, reply.code) == (False, "invalid")
    reply = bench.ask(ErrorReply, json=True, cmd="NOPE")
    assert "unknown command" in reply.error


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"x"],
        [b"short", b"body"],
        [pack_header(INTERNAL, ROUTE_COORDINATOR, 0)],
        [pack_header(INTERNAL, ROUTE_COORDINATOR, 0), b"\xff"],
        [pack_header(INTERNAL, ROUTE_COORDINATOR, 0), b"\x81\xa3msg\xa4nope"],
        [b"\x09" + bytes(11), b"another version"],
    ],
)
def test_garbage_is_counted_and_hurts_nobody(frames: list[bytes]) -> None:
    """Whatever comes in, the next request is served."""
    bench = Bench()
    bench.coordinator.handle(b"who", frames, bench.now_ms, bench.mono_ms)
    assert bench.coordinator.dropped.total() == 1
    assert bench.epochs() == [0] * SHARDS


def test_messages_that_only_we_send_are_dropped() -> None:
    """A grant or an acknowledgement for a shard that does not exist."""
    bench = Bench()
    messages: list[Internal] = [
        Safe(epoch=1, seq=1),
        MailAck(receiver=SHARDS, incarnation=1, number=1),
    ]
    for message in messages:
        assert bench.say(b"who", message) == []
    assert bench.coordinator.dropped == {"unexpected message": 2}


def test_an_idle_coordinator_sleeps() -> None:
    """Nothing is due within the minute, but for the history of shards that serve."""
    bench = Bench()
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == 60_000
    bench.start_shard(1)
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == FIRST_MS


def test_going_down_waits_until_the_shards_have_gone() -> None:
    """
    1. The server is stopped; shards still send the end of their log.
    2. The coordinator serves on, and looks whether they are there by telling them what is safe.
    3. Nobody is left: it is drained.
    """
    bench = Bench()
    epoch = bench.start_shard(1).epoch
    assert not bench.coordinator.is_drained
    bench.coordinator.drain(bench.mono_ms)
    bench.sent.clear()
    bench.pass_time(0)
    assert bench.said_to(b"shard-1") == [Safe(epoch=epoch, seq=0)]
    assert not bench.coordinator.is_drained
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == engine.PROBE_MS
    bench.coordinator.undeliverable(b"shard-1")
    assert bench.coordinator.is_drained


def test_without_shards_it_goes_down_at_once() -> None:
    """There is nobody to wait for."""
    bench = Bench()
    bench.coordinator.drain(bench.mono_ms)
    assert bench.coordinator.is_drained


def test_routers_are_told_what_is_wrong_with_storage() -> None:
    """At once, and at each hello, until nothing is."""
    bench = Bench()
    bench.epochs()
    bench.sent.clear()
    assert bench.coordinator.set_trouble("disk full")
    assert not bench.coordinator.set_trouble("disk full")
    bench.turn()
    none = [0] * SHARDS
    assert told(bench) == [(none, "disk full")]
    bench.say(ROUTER, RouterHello(config_hash=HASH))
    assert told(bench) == [(none, "disk full")]
    assert bench.coordinator.set_trouble("")
    bench.say(ROUTER, RouterHello(config_hash=HASH))
    assert told(bench)[-1] == (none, "")


def test_reading_goes_on_while_storage_takes_nothing() -> None:
    """
    1. Storage is away with a shard's log on its way to it: who asks for crons gets them.
    2. A cron is made. It is not stored, so nobody is told of it, also who asks for all of them.
    3. Storage is back: both are answered.
    """
    bench = Bench()
    epoch = bench.start_shard(1).epoch
    bench.hear(b"shard-1", blob(1, epoch, 1, 1))
    log = bench.coordinator.take_group()
    assert log is not None

    def ask(corr: int, **request: Any) -> None:
        header = pack_header(0, ROUTE_COORDINATOR, corr)
        frames = [header, encode(request, json=False)]
        bench.coordinator.handle(ROUTER, frames, bench.now_ms, bench.mono_ms)

    def answered() -> list[int]:
        bench.sent.clear()
        bench.take_sent()
        return [unpack_header(header).corr for to, header, _ in bench.sent if to == ROUTER]

    ask(1, cmd="CRONLIST")
    assert answered() == [1]
    ask(2, cmd="CRON", name="n", queue="q", data=1, schedule="*/5")
    ask(3, cmd="CRONLIST")
    crons = bench.coordinator.take_group()
    assert crons is not None
    ask(4, cmd="CRONLIST")
    assert answered() == []
    groups = [log, crons]
    while (taken := bench.coordinator.take_group()) is not None:
        groups.append(taken)
    for group in groups:
        bench.storage.write(group.writes)
        bench.coordinator.committed(group)
    assert answered() == [2, 3, 4]


def test_routers_are_told_how_storage_does() -> None:
    """What was measured of commits, how old what is not stored yet is, and the size of the log."""
    bench = Bench()
    epoch = bench.start_shard(1).epoch
    bench.say(b"shard-1", blob(1, epoch, 1, 1, size=100))
    bench.measures.commit_seconds.add(0.003)
    bench.measures.submitted(Group(), bench.mono_ms)
    bench.pass_time(250)
    [epochs] = bench.say(ROUTER, RouterHello(config_hash=HASH))
    figures = epochs.coordinator
    assert (figures.log_bytes, figures.log_bytes_max) == (100, bench.limits.log_bytes_max)
    assert (figures.lag_ms, figures.commit_seconds.count) == (250, 1)


def test_what_storage_refuses_is_refused_to_who_asked_alone() -> None:
    """
    1. Two clients set crons in one turn: each is a group by itself.
    2. Storage refuses the second. Its client gets the reason; another coordinator sends that, and
       knows the first cron alone.
    """
    bench = Bench()

    def ask(corr: int, name: str) -> None:
        request = {"cmd": "CRON", "name": name, "queue": "q", "data": 1, "schedule": "*/5"}
        frames = [pack_header(0, ROUTE_COORDINATOR, corr), encode(request, json=False)]
        bench.coordinator.handle(ROUTER, frames, bench.now_ms, bench.mono_ms)

    ask(1, "good")
    ask(2, "bad")
    good = bench.coordinator.take_group()
    bad = bench.coordinator.take_group()
    assert good is not None
    assert bad is not None
    bench.storage.write(good.writes)
    bench.coordinator.committed(good)
    bench.take_sent()
    parcels = bench.coordinator.refuse(bad, StorageRefused(detail="no"))
    bench.start()
    bench.coordinator.go_on_after(parcels, bench.now_ms)
    bench.turn()
    replies = {
        unpack_header(header).corr: decode(body, Outcome, json=False)
        for to, header, body in bench.sent
        if to == ROUTER
    }
    assert replies[1].ok
    assert replies[2].code == "storage_refused"
    crons = bench.ask(CronsReply, cmd="CRONLIST").crons
    assert [cron.name for cron in crons] == ["good"]
