"""When a subscription is answered: once nothing that happens after it is missed."""

from __future__ import annotations

from flashq.ids import shard_of_queue
from flashq.protocol.framing import wished_queue
from tests.unit.router.bench import CLIENT, SESSION, SHARDS, Bench

OWNER = shard_of_queue("q", SHARDS)
OTHERS = [shard for shard in range(SHARDS) if shard != OWNER]


def subscribing(queue: str = "q") -> tuple[Bench, bytes]:
    """A router whose client subscribes, and that hears no shard yet; and the topic it asks for."""
    bench = Bench(is_heard=False)
    bench.hello()
    return bench, subscribe(bench, queue)


def subscribe(bench: Bench, queue: str = "q") -> bytes:
    """Subscribe, and return the topic that the router asks for."""
    bench.ask(cmd="SUBSCRIBE", queue=queue, events=["*"], corr=5)
    assert bench.to_clients() == []
    [(topic, wanted)] = bench.router.take_topics()
    assert wanted
    assert wished_queue(topic) == queue
    return topic


def test_a_subscription_is_answered_when_the_queues_shard_heeds_it() -> None:
    """Story: SUBSCRIBE was answered at once, the next push too, and its event was never seen,
    because the shard had not heard of a listener yet."""
    bench, topic = subscribing()
    bench.heed(topic, *OTHERS)
    assert bench.to_clients() == []
    bench.heed(topic, OWNER)
    [reply] = bench.to_clients()
    assert (reply.corr, reply.fields) == (5, {"ok": True})
    bench.ask(cmd="SUBSCRIBE", queue="q", events=["pushed"], identity=CLIENT)
    assert bench.reply() == {"ok": True}


def test_one_for_all_queues_is_answered_when_every_shard_heeds_it() -> None:
    """Each of them has some."""
    bench, topic = subscribing("*")
    bench.heed(topic, *range(1, SHARDS))
    assert bench.to_clients() == []
    bench.heed(topic, 0)
    assert bench.reply() == {"ok": True}


def test_a_shard_that_is_away_does_not_hold_it_up() -> None:
    """For longer than a gather waits. When it is heard then, what it did before was not."""
    bench, topic = subscribing()
    assert bench.router.next_deadline_ms() <= bench.now_ms + 2000
    bench.pass_time(1999)
    assert bench.to_clients() == []
    bench.pass_time(1)
    assert bench.reply() == {"ok": True}
    bench.heed(topic, *OTHERS)
    assert bench.to_clients() == []
    bench.heed(topic, OWNER)
    [told] = bench.to_clients()
    assert told.fields == {"notice": "gap", "shard": OWNER, "first_missed": 1, "next": 1}


def test_who_listens_to_a_shard_that_is_started_again_is_told() -> None:
    """Story: the shard was back before the router's subscription had reached it, and what it did
    until then was missed without a word."""
    bench, topic = subscribing()
    bench.heed(topic, OWNER)
    assert bench.reply() == {"ok": True}
    bench.hello(identity=b"client-2")
    bench.ask(cmd="SUBSCRIBE", queue="*", events=["*"], identity=b"client-2")
    [(every, _)] = bench.router.take_topics()
    bench.heed(every, *range(SHARDS))
    assert [pair.to for pair in bench.to_clients()] == [b"client-2"]
    bench.heed(topic, *range(SHARDS))
    [told] = bench.to_clients()
    assert told.to == CLIENT
    assert told.fields == {"notice": "gap", "shard": OWNER, "first_missed": 1, "next": 1}
    bench.heed(every, OTHERS[0])
    [told] = bench.to_clients()
    assert (told.to, told.fields["shard"]) == (b"client-2", OTHERS[0])


def test_each_queue_waits_for_itself() -> None:
    """What is heard of one says nothing of the next."""
    bench, topic = subscribing()
    bench.heed(topic, OWNER)
    bench.to_clients()
    other = subscribe(bench, "other")
    bench.heed(topic, *OTHERS)
    assert bench.to_clients() == []
    bench.heed(other, shard_of_queue("other", SHARDS))
    assert bench.reply() == {"ok": True}


def test_the_next_listener_waits_anew() -> None:
    """Story: 1. nobody listens any more; 2. somebody does; 3. a shard's word for the first wish
    comes late: it does not stand for the second."""
    bench, first = subscribing()
    bench.ask(cmd="UNSUBSCRIBE", queue="q")
    assert bench.reply() == {"ok": True}
    assert bench.router.take_topics() == [(first, False)]
    second = subscribe(bench)
    bench.heed(first, *range(SHARDS))
    assert bench.to_clients() == []
    bench.heed(second, OWNER)
    assert bench.reply() == {"ok": True}


def test_a_queue_is_followed_as_long_as_anybody_listens() -> None:
    """The shards are asked once, however many clients do."""
    bench, topic = subscribing()
    bench.heed(topic, OWNER)
    assert bench.reply() == {"ok": True}
    bench.hello(identity=b"client-2")
    bench.ask(cmd="SUBSCRIBE", queue="q", events=["*"], identity=b"client-2")
    bench.ask(cmd="UNSUBSCRIBE", queue="q")
    assert bench.router.take_topics() == []
    bench.ask(cmd="GOODBYE", session=SESSION, identity=b"client-2")
    assert bench.router.take_topics() == [(topic, False)]


def test_no_shard_is_asked_for_what_is_no_queue() -> None:
    """A name that none can have, of any length: there is nothing to wait for."""
    bench = Bench(is_heard=False)
    bench.hello()
    bench.ask(cmd="SUBSCRIBE", queue="no name" * 1000, events=["*"])
    assert bench.reply() == {"ok": True}
    assert bench.router.take_topics() == []


def test_a_refused_subscription_is_answered_at_once() -> None:
    """There is nothing to wait for."""
    bench = Bench(is_heard=False)
    bench.hello()
    bench.ask(cmd="SUBSCRIBE", queue="q", events=["nope"], identity=CLIENT)
    assert bench.reply()["code"] == "invalid"
    bench.ask(cmd="HELLO", session=SESSION)
    assert bench.reply()["ok"]
