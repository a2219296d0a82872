"""Mail between the coordinator and shards: numbered, kept until acknowledged, taken once."""

from __future__ import annotations

import pytest

from flashq.coordinator.history import ANSWER_MS
from flashq.coordinator.mailboxes import MESSAGES, RESEND_MS, Mailboxes
from flashq.coordinator.outbox import Outbox
from flashq.errors import StorageDamaged
from flashq.ids import shard_of_queue
from flashq.protocol.base import Reply
from flashq.protocol.crons import CronsReply
from flashq.protocol.internal import (
    COORDINATOR,
    Fire,
    Mail,
    MailAck,
    Obliterated,
    ShardHello,
)
from tests.unit.coordinator.bench import HASH, SHARDS, Bench

SHARD = shard_of_queue("reports", SHARDS)
IDENTITY = b"shard-%d" % SHARD


def add_cron(bench: Bench, name: str = "c", queue: str = "reports", every: int = 60_000) -> None:
    """Set a cron."""
    reply = bench.ask(Reply, cmd="CRON", name=name, queue=queue, data=None, repeat_every=every)
    assert reply.ok


def mails(bench: Bench, identity: bytes = IDENTITY) -> list[Mail]:
    """The mail sent to a shard in the last turn."""
    return [message for message in bench.said_to(identity) if isinstance(message, Mail)]


def pass_time(bench: Bench, ms: int) -> list[Mail]:
    """Let time pass and return the mail sent."""
    bench.sent.clear()
    bench.pass_time(ms)
    return mails(bench)


@pytest.fixture
def bench() -> Bench:
    """A coordinator with a cron every minute, whose shard serves."""
    bench = Bench()
    add_cron(bench)
    bench.start_shard(SHARD, IDENTITY)
    return bench


def test_mail_is_numbered_and_sent_again_until_it_is_acknowledged(bench: Bench) -> None:
    """Each second, in order; an acknowledgement covers everything up to its number."""
    [first] = pass_time(bench, 60_000)
    assert (first.sender, first.number) == (COORDINATOR, 1)
    assert pass_time(bench, RESEND_MS - 1) == []
    assert pass_time(bench, 1) == [first]
    sent = pass_time(bench, 59_000)
    assert [mail.number for mail in sent][-1] == 2
    assert [mail.number for mail in pass_time(bench, RESEND_MS)] == [1, 2]
    bench.say(IDENTITY, MailAck(receiver=SHARD, incarnation=first.incarnation, number=1))
    assert [mail.number for mail in pass_time(bench, RESEND_MS)] == [2]
    bench.say(IDENTITY, MailAck(receiver=SHARD, incarnation=first.incarnation, number=2))
    assert pass_time(bench, RESEND_MS) == []
    assert not [name for name in bench.storage.open(SHARDS).parts if name.startswith("mail.")]


def test_the_coordinator_wakes_for_mail_only_while_the_shard_is_there(bench: Bench) -> None:
    """An idle coordinator sleeps, also when a shard stays away."""
    pass_time(bench, 60_000)
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == RESEND_MS
    bench.coordinator.undeliverable(IDENTITY)
    bench.pass_time(ANSWER_MS)  # it was asked for its figures
    bench.pass_time(60_000 - ANSWER_MS)
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == 60_000


def test_an_acknowledgement_for_another_incarnation_counts_nothing(bench: Bench) -> None:
    """It is about the mail of a coordinator that is no more."""
    [first] = pass_time(bench, 60_000)
    for incarnation, number in ((first.incarnation - 1, 1), (first.incarnation, 9)):
        bench.say(IDENTITY, MailAck(receiver=SHARD, incarnation=incarnation, number=number))
    assert pass_time(bench, RESEND_MS) == [first]


def test_a_shard_that_recovers_gets_its_mail_when_it_is_ready(bench: Bench) -> None:
    """Not before: it could not take it yet."""
    [granted] = bench.say(b"S-new", ShardHello(shard=SHARD, config_hash=HASH))
    assert granted.epoch
    bench.pass_time(60_000)
    assert mails(bench, b"S-new") == []
    bench.start_shard(SHARD, b"S-new")
    assert [mail.number for mail in mails(bench, b"S-new")] == [1]


def test_numbers_go_on_after_a_restart_that_lost_nothing(bench: Bench) -> None:
    """Also when everything posted was acknowledged and removed."""
    [first] = pass_time(bench, 60_000)
    bench.say(IDENTITY, MailAck(receiver=SHARD, incarnation=first.incarnation, number=1))
    bench.restart(lose=False)
    bench.start_shard(SHARD, IDENTITY)
    [second] = pass_time(bench, 60_000)
    assert second.incarnation > first.incarnation
    assert (second.number, second.confirmed) == (2, 1)


def test_mail_keeps_the_incarnation_in_which_it_was_posted(bench: Bench) -> None:
    """And tells that of the message before, so that a shard which has not taken exactly that one
    waits for what it lacks."""
    [first] = pass_time(bench, 60_000)
    bench.restart(lose=False)
    bench.start_shard(SHARD, IDENTITY)
    again, second = pass_time(bench, 60_000)
    assert again == first
    assert (second.number, second.previous) == (2, first.incarnation)
    assert second.incarnation > first.incarnation
    ack = MailAck(receiver=SHARD, incarnation=second.incarnation, number=2)
    bench.say(IDENTITY, ack)
    assert pass_time(bench, RESEND_MS) == []


def test_new_mail_of_a_shard_that_lost_its_log_is_not_taken_for_old(bench: Bench) -> None:
    """
    1. Two messages are taken. Storage loses the second with the shard, which dies.
    2. The shard comes back and writes another second one. It is carried out.
    """
    for number in (1, 2):
        bench.say(IDENTITY, Mail(sender=SHARD, incarnation=5, number=number, body=Obliterated("x")))
    mail = Mail(
        sender=SHARD,
        incarnation=6,
        number=2,
        body=Obliterated("reports"),
        previous=5,
        confirmed=1,
    )
    [ack] = bench.say(IDENTITY, mail)
    assert (ack.incarnation, ack.number) == (6, 2)
    assert bench.ask(CronsReply, cmd="CRONLIST").crons == []


def test_a_coordinator_that_lost_its_state_is_another_one(bench: Bench) -> None:
    """Its numbers begin anew, so its incarnation has to differ."""
    [first] = pass_time(bench, 60_000)
    bench.now_ms += 1
    bench.restart(lose=True)
    add_cron(bench)
    bench.start_shard(SHARD, IDENTITY)
    [again] = pass_time(bench, 60_000)
    assert again.number == 1
    assert again.incarnation > first.incarnation


def test_an_obliterated_queue_takes_its_crons_along(bench: Bench) -> None:
    """And only its own. The acknowledgement leaves after that is safe; a repeat is acknowledged
    and not carried out again."""
    add_cron(bench, "other", "elsewhere")
    mail = Mail(sender=SHARD, incarnation=5, number=1, body=Obliterated("reports"))
    ack = MailAck(receiver=COORDINATOR, incarnation=5, number=1)
    bench.sent.clear()
    bench.hear(IDENTITY, mail)
    bench.take_sent()
    assert bench.said_to(IDENTITY) == []
    bench.turn()
    assert bench.said_to(IDENTITY) == [ack]
    names = [cron.name for cron in bench.ask(CronsReply, cmd="CRONLIST").crons]
    assert names == ["other"]
    add_cron(bench, "new")
    assert bench.say(IDENTITY, mail) == [ack]
    names = [cron.name for cron in bench.ask(CronsReply, cmd="CRONLIST").crons]
    assert names == ["new", "other"]


def test_mail_with_a_hole_before_it_waits(bench: Bench) -> None:
    """It is not acknowledged, and the sender repeats it with the missing one."""
    bench.say(IDENTITY, Mail(sender=SHARD, incarnation=5, number=1, body=Obliterated("x")))
    mail = Mail(sender=SHARD, incarnation=5, number=3, body=Obliterated("reports"))
    assert bench.say(IDENTITY, mail) == []
    assert len(bench.ask(CronsReply, cmd="CRONLIST").crons) == 1


def test_what_was_taken_is_known_after_a_restart(bench: Bench) -> None:
    """The number is stored with what the mail caused."""
    mail = Mail(sender=SHARD, incarnation=5, number=1, body=Obliterated("reports"))
    bench.say(IDENTITY, mail)
    bench.restart(lose=False)
    add_cron(bench)
    bench.say(IDENTITY, mail)
    assert len(bench.ask(CronsReply, cmd="CRONLIST").crons) == 1


def test_the_first_mail_to_a_coordinator_that_lost_its_state_counts(bench: Bench) -> None:
    """What the mail says is confirmed was taken by the one before. Then numbers count."""
    for number in (7, 8):
        mail = Mail(sender=SHARD, incarnation=5, number=number, body=Obliterated("x"), confirmed=6)
        [ack] = bench.say(IDENTITY, mail)
        assert ack.number == number


def test_the_very_first_mail_is_waited_for_too(bench: Bench) -> None:
    """It got lost on the way, and the second one overtook its repeat: the first was taken for
    confirmed, and its crons went on."""
    add_cron(bench)
    bench.say(IDENTITY, Mail(sender=SHARD, incarnation=5, number=2, body=Obliterated("x")))
    mail = Mail(sender=SHARD, incarnation=5, number=1, body=Obliterated("reports"))
    [ack] = bench.say(IDENTITY, mail)
    assert ack.number == 1
    assert bench.ask(CronsReply, cmd="CRONLIST").crons == []


def test_new_mail_does_not_put_off_the_repeat_of_older_mail(bench: Bench) -> None:
    """A cron that fires more often than mail is repeated: what was lost on the way was never sent
    again."""
    add_cron(bench, "often", every=400)
    numbers = [mail.number for _ in range(4) for mail in pass_time(bench, 400)]
    assert numbers.count(1) == 2


def test_stored_mail_beyond_its_counter_is_damage() -> None:
    """A message whose number was never posted cannot be."""
    mail = Mail(
        sender=COORDINATOR, incarnation=1, number=4, body=Fire("n", 1, 2, "q", b"", False, b"\x80")
    )
    boxes = Mailboxes(SHARDS, 1, Outbox())
    stored = MESSAGES.put("0.4", mail)
    with pytest.raises(StorageDamaged, match=r"mail 0\.4"):
        boxes.load({stored.name: stored.content})
