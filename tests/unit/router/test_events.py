"""Events on their way to listeners: who gets which, and that no loss goes untold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flashq.protocol.codec import encode
from flashq.protocol.framing import JSON, NOTICE
from flashq.protocol.objects import Event
from flashq.router.clients import SUBSCRIPTIONS_MAX
from flashq.router.events import RETRY_MS
from tests.unit.router.bench import CLIENT, Bench, Pair


def listener(queue: str = "q", events: list[str] | None = None, **more: Any) -> Bench:
    """A router with one client that listens."""
    bench = Bench()
    bench.hello(**more)
    listen(bench, queue, events, **more)
    return bench


def listen(
    bench: Bench, queue: str = "q", events: list[str] | None = None, corr: int = 77, **more: Any
) -> None:
    """Let a client listen to a queue."""
    bench.ask(cmd="SUBSCRIBE", queue=queue, events=events or ["*"], corr=corr, **more)
    assert bench.reply()["ok"]


def publish(bench: Bench, seq: int, *, queue: str = "q", shard: int = 1, **more: Any) -> None:
    """Let a shard publish an event."""
    fields: dict[str, Any] = {"event": "pushed", "epoch": 5, "at": 9, "ids": [seq]} | more
    event = Event(seq=seq, shard=shard, queue=queue, **fields)
    bench.router.handle_event([queue.encode(), encode(event)])


def seen(bench: Bench) -> list[Any]:
    """What listeners got: sequences of events, and (first missed, next) of gaps."""
    return [_short(pair) for pair in bench.to_clients()]


def _short(pair: Pair) -> Any:
    fields = pair.fields
    if fields["notice"] == "event":
        return fields["event"]["seq"]
    return fields["first_missed"], fields["next"]


def drop_all(bench: Bench, *, flags: int = 0) -> None:
    """Let nothing of what stands in the client's box be sent: it reads too slowly."""
    for to, frames in bench.router.take_client_parcels():
        assert all(frame[1] == NOTICE | flags for frame in frames[::2])
        bench.router.undeliverable(to, frames, bench.now_ms, gone=False)


@pytest.mark.parametrize("flags", [0, JSON])
def test_an_event_comes_as_a_notice_under_the_subscriptions_corr(flags: int) -> None:
    """In the encoding of the subscription, payloads included."""
    bench = listener(flags=flags)
    publish(bench, 1, data=[msgspec.Raw(encode({"a": b"\x00\x01"}))])
    [notice] = bench.to_clients()
    assert (notice.to, notice.flags, notice.corr) == (CLIENT, NOTICE | flags, 77)
    payload = {"a": "AAE="} if flags else {"a": b"\x00\x01"}
    assert notice.fields == {
        "notice": "event",
        "event": {
            "seq": 1,
            "shard": 1,
            "epoch": 5,
            "event": "pushed",
            "queue": "q",
            "at": 9,
            "ids": [1],
            "data": [payload],
        },
    }


def test_a_payload_without_a_json_form_is_left_out() -> None:
    """The event itself still counts."""
    bench = listener(flags=JSON)
    publish(bench, 1, data=[msgspec.Raw(b"\x81\xc0\x01")])
    [notice] = bench.to_clients()
    assert "data" not in notice.fields["event"]


def test_a_listener_gets_what_it_asked_for() -> None:
    """By queue and by event; `*` is all of either; a second wish for a queue replaces the first."""
    bench = listener("q", ["completed", "failed"])
    publish(bench, 1)
    publish(bench, 2, event="failed")
    publish(bench, 3, event="failed", queue="other")
    assert seen(bench) == [2]
    listen(bench, "*", ["pushed"])
    publish(bench, 4, event="failed", queue="other")
    publish(bench, 5, queue="other")
    publish(bench, 6, event="failed")
    publish(bench, 7)
    assert seen(bench) == [5, 6, 7]
    listen(bench, "q", ["stalled"])
    publish(bench, 8, event="failed")
    assert seen(bench) == []


def test_an_event_reaches_a_listener_once() -> None:
    """Also one that asked for its queue and for all."""
    bench = listener("q")
    listen(bench, "*", corr=78)
    publish(bench, 1)
    assert [notice.corr for notice in bench.to_clients()] == [77]


def test_a_hole_is_told_to_every_listener() -> None:
    """Whatever it listens to: what was in the hole is not known."""
    bench = listener("q")
    bench.hello(identity=b"b")
    listen(bench, "elsewhere", identity=b"b")
    publish(bench, 4)
    publish(bench, 5)
    assert seen(bench) == [4, 5]
    publish(bench, 9)
    notices = bench.to_clients()
    assert [_short(notice) for notice in notices if notice.to == CLIENT] == [(6, 9), 9]
    assert [_short(notice) for notice in notices if notice.to == b"b"] == [(6, 9)]


def test_sequences_count_per_shard_and_epoch() -> None:
    """Another shard's first event is no hole; a new epoch begins at 1."""
    bench = listener()
    publish(bench, 100)
    publish(bench, 7, shard=2)
    publish(bench, 1, epoch=6)
    assert seen(bench) == [100, 7, 1]
    publish(bench, 3, epoch=4)
    assert seen(bench) == [(1, 3), 3]


def test_what_was_seen_is_not_sent_again() -> None:
    """A repeat of the transport is dropped."""
    bench = listener()
    for seq in (1, 2, 2, 1, 3):
        publish(bench, seq)
    assert seen(bench) == [1, 2, 3]


def test_what_passed_while_nobody_listened_is_no_hole() -> None:
    """The first event after a silence begins anew."""
    bench = listener()
    publish(bench, 1)
    bench.ask(cmd="UNSUBSCRIBE", queue="q")
    bench.to_clients()
    listen(bench)
    publish(bench, 50)
    assert seen(bench) == [50]


@pytest.mark.parametrize("flags", [0, JSON])
def test_a_slow_listener_is_told_what_it_missed(flags: int) -> None:
    """
    1. It does not read, and events and even the notice of the gap cannot be sent.
    2. The next event that can be brings the whole gap before it, per shard.
    """
    bench = listener(flags=flags)
    publish(bench, 1)
    assert seen(bench) == [1]
    publish(bench, 2)
    publish(bench, 40, shard=2)
    drop_all(bench, flags=flags)
    publish(bench, 3)
    drop_all(bench, flags=flags)
    publish(bench, 4)
    assert seen(bench) == [(2, 4), (40, 41), 4]
    publish(bench, 5)
    assert seen(bench) == [5]


def test_a_slow_listener_is_told_even_when_nothing_more_happens() -> None:
    """A second later the gap is told by itself."""
    bench = listener()
    publish(bench, 1)
    drop_all(bench)
    bench.pass_time(RETRY_MS - 1)
    assert seen(bench) == []
    assert bench.router.next_deadline_ms() == bench.now_ms + 1
    bench.pass_time(1)
    assert seen(bench) == [(1, 2)]
    bench.pass_time(RETRY_MS)
    assert seen(bench) == []


def test_other_notices_to_a_slow_listener_are_just_dropped() -> None:
    """A shard's new epoch is in the next heartbeat's reply anyway."""
    bench = listener()
    bench.epochs(1, 0, 0, 0)
    drop_all(bench)
    bench.pass_time(RETRY_MS)
    assert seen(bench) == []


def test_subscriptions_are_bounded() -> None:
    """A client cannot fill the router with wishes; changing one is always possible."""
    bench = listener("q0")
    for number in range(1, SUBSCRIPTIONS_MAX):
        listen(bench, f"q{number}")
    bench.ask(cmd="SUBSCRIBE", queue="more", events=["*"])
    assert bench.reply()["code"] == "busy"
    listen(bench, "q0", ["pushed"])


@pytest.mark.parametrize("frames", [[], [b"q"], [b"q", b"\xc1"], [b"q", b"\x80"], [b""] * 3])
def test_garbage_is_counted(frames: list[bytes]) -> None:
    """A publisher of another version must not stop the router."""
    bench = listener()
    bench.router.handle_event(frames)
    assert bench.router.dropped == {"unreadable event": 1}
    assert seen(bench) == []
