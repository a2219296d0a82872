"""When a subscription is answered: once nothing that happens after it is missed."""

from __future__ import annotations

from flashq.protocol.framing import pack_heard
from tests.unit.router.bench import CLIENT, SESSION, SHARDS, Bench


def subscribing() -> Bench:
    """A router whose client subscribes, and that hears no shard yet."""
    bench = Bench(is_heard=False)
    bench.hello()
    bench.ask(cmd="SUBSCRIBE", queue="q", events=["*"], corr=5)
    assert bench.to_clients() == []
    return bench


def hear(bench: Bench, *shards: int) -> None:
    """Let shards say that they publish to the router."""
    for shard in shards:
        bench.router.handle_event(pack_heard(shard))
    bench.pass_time(0)


def test_a_subscription_is_answered_when_every_shard_is_heard() -> None:
    """Story: SUBSCRIBE was answered at once, the next push too, and its event was never seen,
    because the shard had not heard of a listener yet."""
    bench = subscribing()
    hear(bench, *range(1, SHARDS))
    assert bench.to_clients() == []
    hear(bench, 0)
    [reply] = bench.to_clients()
    assert (reply.corr, reply.fields) == (5, {"ok": True})
    bench.ask(cmd="SUBSCRIBE", queue="other", events=["*"])
    assert bench.reply() == {"ok": True}


def test_a_shard_that_is_away_does_not_hold_it_up() -> None:
    """For longer than a gather waits."""
    bench = subscribing()
    hear(bench, 0)
    assert bench.router.next_deadline_ms() <= bench.now_ms + 2000
    bench.pass_time(1999)
    assert bench.to_clients() == []
    bench.pass_time(1)
    assert bench.reply() == {"ok": True}


def test_the_next_listener_waits_anew() -> None:
    """Nobody listened in between, and the router had let go of the shards' publishers."""
    bench = subscribing()
    hear(bench, *range(SHARDS))
    bench.to_clients()
    bench.ask(cmd="UNSUBSCRIBE", queue="q")
    assert bench.reply() == {"ok": True}
    bench.router.events_unfollowed()
    bench.ask(cmd="SUBSCRIBE", queue="q", events=["*"])
    assert bench.to_clients() == []
    hear(bench, *range(SHARDS))
    assert bench.reply() == {"ok": True}


def test_a_refused_subscription_is_answered_at_once() -> None:
    """There is nothing to wait for."""
    bench = Bench(is_heard=False)
    bench.hello()
    bench.ask(cmd="SUBSCRIBE", queue="q", events=["nope"], identity=CLIENT)
    assert bench.reply()["code"] == "invalid"
    bench.ask(cmd="HELLO", session=SESSION)
    assert bench.reply()["ok"]
