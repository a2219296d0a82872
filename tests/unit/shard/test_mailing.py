"""When mail leaves, when it leaves again, and what the receiver is told with it."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from flashq.protocol.internal import COORDINATOR, Fire, Mail, Watch
from flashq.shard.mailing import REPEAT_MS, Mailing
from flashq.shard.state import ShardState
from tests.unit.shard.harness import Shard

PEER = 2


class Office:
    """A shard's mailbox for one peer, and what was sent of it."""

    def __init__(self) -> None:
        self.state = ShardState(1, 3)
        self.sent: list[Mail] = []
        self.mailing = Mailing(self.state, lambda _peer, mail: self.sent.append(mail))

    def post(self, seq: int = 1) -> None:
        mailbox = self.state.mailbox(PEER)
        mailbox.pending.append((mailbox.next_number, seq, Watch(5, 7)))
        mailbox.next_number += 1

    def confirm(self, number: int, mono_ms: int) -> None:
        pending = self.state.mailbox(PEER).pending
        while pending and pending[0][0] <= number:
            pending.popleft()
        self.mailing.confirmed(PEER, mono_ms)

    def send(self, mono_ms: int, safe_seq: int = 1) -> list[tuple[int, int]]:
        """Send what is due; return number and what is confirmed."""
        self.sent.clear()
        self.mailing.send(mono_ms, safe_seq)
        return [(mail.number, mail.confirmed) for mail in self.sent]


def test_mail_leaves_once_and_again_when_nothing_is_confirmed_for_long() -> None:
    """A second without a confirmation, and everything that is not confirmed leaves again."""
    office = Office()
    office.post()
    office.post()
    assert office.send(0) == [(1, 0), (2, 0)]
    assert office.send(REPEAT_MS - 1) == []
    assert office.mailing.next_deadline_ms() == REPEAT_MS
    assert office.send(REPEAT_MS) == [(1, 0), (2, 0)]


def test_new_mail_does_not_put_off_the_repeat_of_older_mail() -> None:
    """1 is lost on the way, and every half second there is new mail: each put the repeat off by a
    second, so that for a busy peer it never came."""
    office = Office()
    office.post()
    office.send(0)
    office.post()
    assert office.send(REPEAT_MS // 2) == [(2, 0)]
    office.post()
    assert office.send(REPEAT_MS) == [(1, 0), (2, 0), (3, 0)]


def test_what_is_confirmed_is_told_to_a_receiver_that_may_have_lost_it() -> None:
    """A receiver that has lost its state waited for number 1, which nobody had any more."""
    office = Office()
    for _ in range(3):
        office.post()
    office.send(0)
    office.confirm(2, 10)
    assert office.send(REPEAT_MS) == []
    assert office.send(10 + REPEAT_MS) == [(3, 2)]
    office.confirm(3, 2000)
    assert office.mailing.next_deadline_ms() is None


def test_mail_that_is_not_safe_yet_asks_for_no_repeat() -> None:
    """Everything that was sent is confirmed, and what is left waits for storage that is away: the
    shard woke up for its repeat at once, again and again."""
    office = Office()
    office.post()
    office.send(0)
    office.post(seq=2)
    office.confirm(1, 10)
    assert office.mailing.next_deadline_ms() is None
    assert office.send(10 + REPEAT_MS) == []
    assert office.mailing.next_deadline_ms() is None
    assert office.send(5000, safe_seq=2) == [(2, 1)]
    assert office.mailing.next_deadline_ms() == 5000 + REPEAT_MS


def test_mail_that_is_safe_no_longer_waits_for_storage_again() -> None:
    """Storage came back with less than it had confirmed."""
    office = Office()
    office.post(seq=2)
    assert office.send(0, safe_seq=2) == [(1, 0)]
    assert office.send(REPEAT_MS, safe_seq=1) == []
    assert office.mailing.next_deadline_ms() is None
    assert office.send(5000, safe_seq=2) == [(1, 0)]


def test_mail_tells_in_which_life_it_was_written_and_the_one_before_it() -> None:
    """What is written after a restart has another incarnation than what is left from before it."""
    shard = Shard()
    shard.push()
    sent: list[Mail] = []
    mailing = Mailing(shard.state, lambda _peer, mail: sent.append(mail))
    for incarnation, queue in ((10, "a"), (20, "b"), (30, "c")):
        shard.engine.start(shard.now_ms, shard.mono_ms, incarnation)
        shard.ask("OBLITERATE", queue=queue)
        mailing.send(0, shard.state.seq)
    mailing.send(REPEAT_MS, shard.state.seq)
    said = [(mail.number, mail.incarnation, mail.previous) for mail in sent]
    assert said == 2 * [(1, 10, 0), (2, 20, 10), (3, 30, 20)]
    shard.check_recovery()


def test_lives_are_forgotten_when_their_mail_is_confirmed() -> None:
    """A shard that is restarted often does not remember each of them."""
    shard = Shard()
    for incarnation in (10, 20, 30):
        shard.engine.start(shard.now_ms, shard.mono_ms, incarnation)
        shard.ask("OBLITERATE", queue="q")
    assert len(shard.state.lives) == 3
    shard.engine.mail_taken(COORDINATOR, 20, 2)
    shard.engine.start(shard.now_ms, shard.mono_ms, 40)
    shard._collect()
    assert [incarnation for _, incarnation in shard.state.lives] == [30, 40]
    shard.engine.mail_taken(COORDINATOR, 30, 3)
    shard.engine.start(shard.now_ms, shard.mono_ms, 50)
    shard._collect()
    assert [incarnation for _, incarnation in shard.state.lives] == [40, 50]
    shard.check_recovery()


def test_an_acknowledgement_of_mail_that_is_lost_says_nothing_of_what_has_its_number() -> None:
    """It was on its way when the shard died, and storage lost what it was about."""
    shard = Shard()
    shard.engine.start(shard.now_ms, shard.mono_ms, 10)
    shard.ask("OBLITERATE", queue="q")
    shard.ask("OBLITERATE", queue="lost")
    again = shard.crash(lose=1)
    again.engine.start(again.now_ms, again.mono_ms, 20)
    again.ask("OBLITERATE", queue="new")
    pending = again.state.mailboxes[COORDINATOR].pending
    again.engine.mail_taken(COORDINATOR, 10, 2)
    again.engine.mail_taken(COORDINATOR, 10, 3)
    assert len(pending) == 2
    again.engine.mail_taken(COORDINATOR, 10, 1)
    again._collect()
    assert [number for number, _, _ in pending] == [2]
    again.engine.mail_taken(COORDINATOR, 20, 2)
    again._collect()
    assert not pending


FIRE: Final = Fire("c", 1, 1, "q", b"\x01", False, b"\x80")


def taken(*mails: tuple[int, int, int, int]) -> list[int]:
    """Return which of a peer's messages are carried out: each is its number, its incarnation, that
    of the one before and what is confirmed."""
    shard = Shard()
    counts = [0]
    for number, incarnation, previous, confirmed in mails:
        shard.mail(COORDINATOR, number, FIRE, incarnation, confirmed=confirmed, previous=previous)
        counts.append(shard.ask("COUNT", queue="q")["count"])
    return [after - before for before, after in pairwise(counts)]


def test_new_mail_is_not_taken_for_old_when_its_writer_lost_the_end_of_its_log() -> None:
    """
    1. Messages 1 to 3 are taken. Storage loses 2 and 3 with the shard that wrote them.
    2. It comes back, and writes others under these numbers. They are carried out, and once.
    """
    old = [(1, 10, 0, 0), (2, 10, 0, 0), (3, 10, 0, 0)]
    new = [(1, 10, 0, 0), (2, 20, 10, 1), (3, 20, 0, 1), (2, 20, 0, 1), (3, 20, 0, 2)]
    assert taken(*old, *new) == [1, 1, 1, 0, 1, 1, 0, 0]


def test_nor_when_the_life_that_wrote_it_was_never_heard() -> None:
    """
    1. Messages 1 to 3 are taken, and 2 and 3 get lost.
    2. A process of which nothing arrives writes 2 and 3, and dies. Its successor repeats them, and
       writes 4, which overtakes them: it has to wait, though its number would be the next one.
    """
    old = [(1, 10, 0, 0), (2, 10, 0, 0), (3, 10, 0, 0)]
    new = [(4, 30, 20, 1), (2, 20, 0, 1), (3, 20, 0, 1), (4, 30, 20, 1)]
    assert taken(*old, *new) == [1, 1, 1, 0, 1, 1, 1]


def test_mail_that_is_repeated_by_another_process_is_taken_once() -> None:
    """Nothing is lost: each message keeps its incarnation, whoever sends it."""
    mails = [(1, 10, 0, 0), (2, 10, 0, 0), (1, 10, 0, 0), (2, 10, 0, 0), (3, 20, 10, 0)]
    assert taken(*mails) == [1, 1, 0, 0, 1]


def test_a_shard_that_lost_its_state_takes_up_a_peers_mail_where_it_had_confirmed() -> None:
    """Storage and shard had died together; then flows of that peer stood still for ever."""
    shard = Shard()
    fire = Fire("c", 1, 1, "q", b"\x01", False, b"\x80")
    assert not shard.mail(COORDINATOR, 6, fire, confirmed=4)
    assert shard.mail(COORDINATOR, 5, fire, confirmed=4)
    assert shard.mail(COORDINATOR, 6, fire, confirmed=4)
    assert shard.ask("COUNT", queue="q")["count"] == 2
