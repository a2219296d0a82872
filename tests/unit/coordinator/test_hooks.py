"""Webhooks in the coordinator: what shards are told, and what requests and their repeats do."""

from __future__ import annotations

from typing import Any

from flashq.coordinator.wanting import PATIENCE_MS
from flashq.ids import shard_of_queue
from flashq.protocol import webhooks as w
from flashq.protocol.base import CountReply, Reply
from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import ROUTE_COORDINATOR, pack_header
from flashq.protocol.internal import (
    COORDINATOR,
    Happened,
    Heeded,
    Mail,
    MailAck,
    ShardHello,
    Wanted,
)
from tests.unit.coordinator.bench import HASH, NOW_MS, ROUTER, SHARDS, Bench, Outcome, blob

SHARD = shard_of_queue("mail", SHARDS)
IDENTITY = b"shard-%d" % SHARD
SESSION = b"0123456789abcdef"
URL = "https://example.com/"


def ask_later(bench: Bench, **request: Any) -> None:
    """Send a request whose answer may come later."""
    frames = [pack_header(0, ROUTE_COORDINATOR, 1, b""), encode(request)]
    bench.coordinator.handle(ROUTER, frames, bench.now_ms, bench.mono_ms)
    bench.turn()


def answers(bench: Bench, kind: Any) -> list[Any]:
    """What the router has been sent since somebody last looked."""
    found = [decode(body, kind) for to, _, body in bench.sent if to == ROUTER]
    bench.sent.clear()
    return found


def add(bench: Bench, **fields: Any) -> str:
    """Add a webhook where no shard is there to be waited for."""
    request = {"cmd": "WEBHOOK", "url": URL, "events": ["*"]} | fields
    reply = bench.ask(w.WebhookReply, **request)
    assert isinstance(reply, w.WebhookReply)
    return reply.id


def mail(number: int) -> Mail:
    """What a shard tells of job 5."""
    body = Happened("failed", "mail", NOW_MS, [5])
    return Mail(sender=SHARD, incarnation=7, number=number, body=body)


def listed(bench: Bench) -> list[w.WebhookView]:
    """The list of webhooks."""
    reply = bench.ask(w.WebhooksReply, cmd="WEBHOOKLIST")
    assert isinstance(reply, w.WebhooksReply)
    return reply.webhooks


def test_a_new_webhook_is_answered_when_every_shard_has_heeded_it() -> None:
    """A job pushed right after the answer must not be missed."""
    bench = Bench()
    for shard in (0, 1):
        bench.start_shard(shard)
    bench.sent.clear()
    ask_later(bench, cmd="WEBHOOK", url=URL, events=["failed"])
    told = [bench.said_to(b"shard-%d" % shard) for shard in (0, 1)]
    assert [one[0].pairs for one in told] == [[(None, "failed")]] * 2
    version = told[0][0].version
    assert answers(bench, Outcome) == []
    for shard in (0, 1):
        assert answers(bench, Outcome) == []
        bench.hear(b"shard-%d" % shard, Heeded(shard=shard, version=version))
        bench.turn()
    assert [reply.ok for reply in answers(bench, Outcome)] == [True]


def test_a_shard_that_says_nothing_is_not_waited_for_for_ever() -> None:
    """It is stopped, or about to be found dead."""
    bench = Bench()
    bench.start_shard(0)
    bench.sent.clear()
    ask_later(bench, cmd="WEBHOOK", url=URL, events=["failed"])
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) <= PATIENCE_MS
    answers(bench, Outcome)
    bench.pass_time(PATIENCE_MS - 1)
    assert answers(bench, Outcome) == []
    bench.pass_time(1)
    assert [reply.ok for reply in answers(bench, Outcome)] == [True]


def test_a_shard_is_told_of_its_own_queues_only_and_before_it_serves() -> None:
    """Behind the grant; one that nobody asks about is told nothing at all."""
    bench = Bench()
    hello = ShardHello(shard=SHARD, config_hash=HASH)
    assert len(bench.say(IDENTITY, hello)) == 1
    add(bench, queue="mail", events=["failed"])
    other = next(n for n in range(SHARDS) if n != SHARD)
    identity = b"shard-%d" % other
    _, told = bench.say(identity, ShardHello(shard=other, config_hash=HASH))
    assert isinstance(told, Wanted)
    assert told.pairs == []
    _, told = bench.say(b"new", hello)
    assert isinstance(told, Wanted)
    assert told.pairs == [("mail", "failed")]


def test_a_restarted_coordinator_tells_the_shards_again() -> None:
    """What they know is that of another one; those that have heeded it are not told twice."""
    bench = Bench()
    granted = bench.start_shard(SHARD)
    ask_later(bench, cmd="WEBHOOK", url=URL, events=["*"])
    bench.restart(lose=False)
    hello = ShardHello(
        shard=SHARD, config_hash=HASH, epoch=granted.epoch, incarnation=granted.incarnation
    )
    told = [one for one in bench.say(IDENTITY, hello) if isinstance(one, Wanted)]
    assert [one.pairs for one in told] == [[(None, "*")]]
    bench.say(IDENTITY, Heeded(shard=SHARD, version=told[0].version))
    assert not [one for one in bench.say(IDENTITY, hello) if isinstance(one, Wanted)]


def test_a_restarted_coordinator_tells_shards_that_do_not_ask() -> None:
    """They serve under a steady load, and see no reason to say hello."""
    bench = Bench()
    granted = bench.start_shard(SHARD)
    ask_later(bench, cmd="WEBHOOK", url=URL, events=["*"])
    bench.restart(lose=False)
    said = bench.say(IDENTITY, blob(SHARD, granted.epoch, 1, 1))
    assert [one.pairs for one in said if isinstance(one, Wanted)] == [[(None, "*")]]
    said = bench.say(IDENTITY, blob(SHARD, granted.epoch, 2, 2))
    assert not [one for one in said if isinstance(one, Wanted)]


def test_mail_counts_once_also_across_a_restart() -> None:
    """Delivery and acknowledgement are stored together."""
    bench = Bench()
    add(bench)
    bench.start_shard(SHARD)
    ack = MailAck(receiver=COORDINATOR, incarnation=7, number=1)
    assert ack in bench.say(IDENTITY, mail(1))
    assert ack in bench.say(IDENTITY, mail(1))
    bench.restart(lose=False)
    bench.start_shard(SHARD)
    assert ack in bench.say(IDENTITY, mail(1))
    (webhook,) = listed(bench)
    assert webhook.pending == 1


def test_a_shard_that_tells_in_vain_is_put_right() -> None:
    """Its last webhook was removed while it was away."""
    bench = Bench()
    bench.start_shard(SHARD)
    said = bench.say(IDENTITY, mail(1))
    assert [one.pairs for one in said if isinstance(one, Wanted)] == [[]]


def test_a_repeat_adds_no_second_webhook() -> None:
    """And is told the id of the first; so is the count of a retry, and a refusal."""
    bench = Bench()
    protected: dict[str, Any] = {"session": SESSION, "n": 1}
    first = add(bench, **protected)
    assert add(bench, **protected) == first
    assert len(listed(bench)) == 1
    bench.restart(lose=False)
    assert add(bench, **protected) == first
    retry: dict[str, Any] = {"cmd": "WEBHOOKRETRY", "session": SESSION, "n": 2}
    assert bench.ask(CountReply, **retry) == bench.ask(CountReply, **retry) == CountReply(count=0)
    delete: dict[str, Any] = {"cmd": "WEBHOOKDELETE", "webhook": first, "session": SESSION, "n": 3}
    assert bench.ask(Reply, **delete) == bench.ask(Reply, **delete) == Reply()
    refused: dict[str, Any] = {"cmd": "WEBHOOKDELETE", "webhook": first, "session": SESSION, "n": 4}
    assert bench.ask(Outcome, **refused).code == "webhook_not_found"
    assert bench.ask(Outcome, **refused).code == "webhook_not_found"


def test_a_lease_is_answered_and_reported_by_requests() -> None:
    """The whole way of one delivery."""
    bench = Bench()
    webhook = add(bench, secret="s")
    bench.start_shard(SHARD)
    bench.sent.clear()
    ask_later(bench, cmd="WEBHOOKPULL", holder=SESSION, call=1, timeout=1000)
    assert answers(bench, Outcome) == []
    bench.say(IDENTITY, mail(1))
    (reply,) = answers(bench, w.PullDeliveriesReply)
    assert (reply.lease.webhook, reply.lease.secret) == (webhook, "s")
    (delivery,) = reply.lease.deliveries
    done: dict[str, Any] = {
        "cmd": "WEBHOOKDONE",
        "token": reply.lease.token,
        "delivered": delivery.delivery,
    }
    assert bench.ask(Reply, **done) == Reply()
    assert bench.ask(Outcome, **done).code == "webhook_lease_lost"
    assert listed(bench)[0].pending == 0
    dead = bench.ask(w.DeadDeliveriesReply, cmd="WEBHOOKDEAD", webhook=webhook)
    assert dead == w.DeadDeliveriesReply(deliveries=[], total=0)
