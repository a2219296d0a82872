"""When mail leaves, when it leaves again, and what the receiver is told with it."""

from __future__ import annotations

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

    def post(self) -> None:
        mailbox = self.state.mailbox(PEER)
        mailbox.pending.append((mailbox.next_number, 1, Watch(5, 7)))
        mailbox.next_number += 1

    def confirm(self, number: int, mono_ms: int) -> None:
        pending = self.state.mailbox(PEER).pending
        while pending and pending[0][0] <= number:
            pending.popleft()
        self.mailing.confirmed(PEER, mono_ms)

    def send(self, mono_ms: int) -> list[tuple[int, int]]:
        """Send what is due; return number and what is confirmed."""
        self.sent.clear()
        self.mailing.send(mono_ms, 1)
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


def test_a_shard_that_lost_its_state_takes_up_a_peers_mail_where_it_had_confirmed() -> None:
    """Storage and shard had died together; then flows of that peer stood still for ever."""
    shard = Shard()
    fire = Fire("c", 1, 1, "q", b"\x01", False, 0)
    assert not shard.mail(COORDINATOR, 6, fire, confirmed=4)
    assert shard.mail(COORDINATOR, 5, fire, confirmed=4)
    assert shard.mail(COORDINATOR, 6, fire, confirmed=4)
    assert shard.ask("COUNT", queue="q")["count"] == 2
