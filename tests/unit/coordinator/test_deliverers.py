"""Who delivers: leases, their ends, and calls that are lost, late or said twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flashq.coordinator.deliverers import DELIVERIES_MAX, Deliverers
from flashq.errors import StorageDamaged, WebhookLeaseLost
from flashq.protocol import webhooks as w
from tests.unit.coordinator.bench import NOW_MS
from tests.unit.coordinator.test_webhooks import Table, jobs, pending

ALICE = b"alice-0123456789"
BOB = b"bob-012345678901"
LEASE_MS = 1000


class Office:
    """A table of webhooks, and who delivers."""

    def __init__(self, **limits: int) -> None:
        self.table = Table(webhook_lease_ms=LEASE_MS, webhook_backoff_ms=100, **limits)
        self.now_ms = NOW_MS
        self.mono_ms = 5000
        self._calls = 0
        #: answers by the number of their call
        self.answers: dict[int, w.WebhookLease | None] = {}
        self._make()

    def _make(self) -> None:
        outbox = self.table._outbox
        self.deliverers = Deliverers(self.table.table, self.table.limits, outbox, self.now_ms)
        self.deliverers.load(self.table.parts)

    def restart(self) -> None:
        """Start the coordinator anew, a moment later."""
        self.now_ms += 5
        self.table.reload()
        self._make()

    def pull(self, holder: bytes, call: int = 0, *, held: Sequence[int] = (), **more: Any) -> int:
        """Make a call, and return its number."""
        self._calls += 1
        call = call or self._calls
        request = w.PullDeliveries(
            holder=holder, call=call, held=list(held), **({"timeout": 500} | more)
        )

        def answer(reply: w.PullDeliveriesReply) -> None:
            self.answers[call] = reply.lease

        self.deliverers.pull(request, answer, self.mono_ms)
        return call

    def leased(self, holder: bytes, **more: Any) -> w.WebhookLease:
        """Make a call that is given something at once."""
        lease = self.answers[self.pull(holder, **more)]
        assert lease is not None
        return lease

    def done(self, lease: w.WebhookLease, **fields: Any) -> None:
        """Report."""
        request = w.DeliveriesDone(token=lease.token, **fields)
        self.deliverers.done(request, self.now_ms, self.mono_ms)

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.now_ms += ms
        self.mono_ms += ms
        self.deliverers.tick(self.mono_ms)


def test_a_webhook_is_one_deliverers_at_a_time() -> None:
    """Two at once would break the order."""
    office = Office()
    endpoint = office.table.add("*", secret="s")
    office.table.happen(1, 2)
    lease = office.leased(ALICE)
    assert (lease.webhook, lease.secret, jobs(lease.deliveries)) == (
        endpoint.webhook.id, "s", [1, 2],
    )  # fmt: skip
    parked = office.pull(BOB)
    assert parked not in office.answers
    office.done(lease, delivered=lease.deliveries[0].delivery, more=True)
    office.done(lease, delivered=lease.deliveries[1].delivery)
    assert pending(endpoint) == []
    office.table.happen(3)
    office.wait(0)
    given = office.answers[parked]
    assert given is not None
    assert jobs(given.deliveries) == [3]


def test_a_parked_call_gets_the_next_thing_that_happens_or_nothing_in_time() -> None:
    """Nobody polls."""
    office = Office()
    office.table.add("*")
    call = office.pull(ALICE)
    assert office.deliverers.next_at_ms() == office.mono_ms + 500
    office.wait(499)
    assert call not in office.answers
    office.wait(1)
    assert office.answers[call] is None
    call = office.pull(ALICE)
    office.table.happen(1)
    office.wait(0)
    assert office.answers[call] is not None


def test_a_silent_deliverers_webhook_goes_to_another() -> None:
    """Alice was killed in the middle; what she had reported is not told again."""
    office = Office()
    office.table.add("*")
    office.table.happen(1, 2, 3)
    lease = office.leased(ALICE)
    office.done(lease, delivered=lease.deliveries[0].delivery, more=True)
    call = office.pull(BOB, timeout=10_000)
    office.wait(LEASE_MS - 1)
    assert call not in office.answers
    assert office.deliverers.next_at_ms() == office.mono_ms + 1
    office.wait(1)
    given = office.answers[call]
    assert given is not None
    assert jobs(given.deliveries) == [2, 3]
    with pytest.raises(WebhookLeaseLost):
        office.done(lease, delivered=lease.deliveries[1].delivery)


def test_calls_renew_what_they_name() -> None:
    """For as long as its holder works on it, and no other's."""
    office = Office()
    office.table.add("*")
    office.table.happen(1)
    lease = office.leased(ALICE)
    for _ in range(3):
        office.wait(LEASE_MS - 1)
        office.pull(ALICE, held=[lease.token], renew_only=True, timeout=0)
        office.pull(BOB, held=[lease.token], timeout=0)
    office.wait(LEASE_MS - 1)
    office.done(lease, delivered=lease.deliveries[0].delivery)


def test_a_lease_whose_answer_was_lost_is_void_at_the_next_call() -> None:
    """Nobody works on it; it need not wait for its end."""
    office = Office()
    office.table.add("*")
    office.table.happen(1)
    lost = office.leased(ALICE)
    again = office.leased(ALICE)
    assert again.token != lost.token
    with pytest.raises(WebhookLeaseLost):
        office.done(lost)


def test_a_copy_of_a_call_is_given_the_same_and_an_older_one_nothing() -> None:
    """1 is said twice, because its answer seemed lost: both answers are the same lease. After 2,
    a third copy of 1 voids nothing of what 2 was given."""
    office = Office()
    office.table.add("*")
    office.table.add("*")
    office.table.happen(1)
    one = office.leased(ALICE, call=1)
    assert office.leased(ALICE, call=1).token == one.token
    two = office.leased(ALICE, call=2, held=[one.token])
    assert two.webhook != one.webhook
    office.pull(ALICE, call=1)
    assert office.answers[1] is None
    office.done(one)
    office.done(two)


def test_a_failure_frees_the_webhook_after_its_delay() -> None:
    """And somebody else may have it then."""
    office = Office()
    endpoint = office.table.add("*")
    office.table.happen(1)
    lease = office.leased(ALICE)
    office.done(lease, failed=lease.deliveries[0].delivery, reason="no", more=True)
    call = office.pull(BOB, timeout=10_000)
    assert call not in office.answers
    assert office.deliverers.next_at_ms() == endpoint.blocked_until_ms
    office.wait(100)
    assert office.answers[call] is not None


def test_webhooks_take_turns() -> None:
    """One with much to tell does not keep others waiting."""
    office = Office()
    busy = office.table.add("*").webhook.id
    other = office.table.add("*").webhook.id
    office.table.happen(*range(1, DELIVERIES_MAX + 3))
    turns = []
    for _ in range(4):
        lease = office.leased(ALICE)
        assert len(lease.deliveries) <= DELIVERIES_MAX
        turns.append(lease.webhook)
        office.done(lease, delivered=lease.deliveries[0].delivery)
    assert turns == [busy, other, busy, other]


def test_a_lease_survives_a_restart_of_the_coordinator() -> None:
    """Alice has told 1 while the coordinator was away: her report counts, and Bob does not tell it
    a second time. If she is gone too, the lease ends in its time."""
    office = Office()
    endpoint = office.table.add("*")
    office.table.happen(1, 2)
    lease = office.leased(ALICE)
    office.restart()
    office.wait(0)
    call = office.pull(BOB, timeout=10_000)
    assert call not in office.answers
    office.done(lease, delivered=lease.deliveries[0].delivery, more=True)
    office.wait(LEASE_MS)
    given = office.answers[call]
    assert given is not None
    assert jobs(given.deliveries) == [2]
    assert given.token > lease.token
    office.done(given, delivered=given.deliveries[0].delivery)
    office.restart()
    assert office.deliverers.next_at_ms() is None
    assert pending(office.table.table.find(endpoint.webhook.id)) == []


def test_a_webhook_that_is_removed_takes_its_lease_along() -> None:
    """A report on it is refused, and nothing of it is stored."""
    office = Office()
    endpoint = office.table.add("*")
    office.table.happen(1)
    lease = office.leased(ALICE)
    office.deliverers.end(office.table.table.delete(endpoint.webhook.id))
    with pytest.raises(WebhookLeaseLost):
        office.done(lease)
    office.table.settle()
    assert office.table.parts == {}


def test_leases_that_cannot_be_read_or_belong_to_nothing_are_damage() -> None:
    """The name of the part says where to look."""
    office = Office()
    office.table.add("*")
    office.table.happen(1)
    office.leased(ALICE)
    office.table.settle()
    (name,) = [name for name in office.table.parts if name.startswith("webhook-lease.")]
    stored = office.table.parts[name]
    for parts in ({name: b"\x01\xc1"}, {name: stored}):
        with pytest.raises(StorageDamaged, match="webhook-lease"):
            Office().deliverers.load(parts)


def test_deliverers_that_are_gone_are_forgotten() -> None:
    """A gateway has a name of its own at each start."""
    office = Office()
    office.pull(ALICE, timeout=0)
    office.wait(0)
    office.wait(600_000)
    assert not office.deliverers._holders
