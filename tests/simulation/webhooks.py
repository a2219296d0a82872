"""Webhooks: the address that one leads to, those who deliver to it, and what it has to be told.

`Noticeboard` is the receiver. It compares what it is told with what shards have decided: an event
that happened to a durable job while the webhook was there is told at least once, or is among the
dead deliveries; nothing is told that did not happen; new deliveries come in their order.
`Deliverer` does what a gateway does, which may be killed at any moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from flashq.coordinator.engine import Coordinator
from flashq.errors import FlashQError, WebhookLeaseLost
from flashq.protocol import records as r
from flashq.protocol.codec import decode
from flashq.protocol.records import AnyRecord
from flashq.protocol.webhooks import (
    DeliveriesDone,
    Delivery,
    PullDeliveries,
    PullDeliveriesReply,
    SetWebhook,
    WebhookLease,
    WebhookReply,
)
from flashq.shard.node import Node
from tests.simulation.checkers import ShardHistory, Witness
from tests.simulation.clients import ClientProcess, Outcome
from tests.simulation.facts import COMPLETED
from tests.simulation.workload import Habit
from tests.simulation.world import MS, Violation, World

if TYPE_CHECKING:
    from tests.simulation.workload import Town

EVENTS: Final = ("pushed", "completed", "failed")

Event = tuple[str, int]
"""What happened, and to which job."""


def events_of(history: ShardHistory, record: AnyRecord) -> Iterator[Event]:
    """Say which of the events a record of the log is."""
    match record:
        case r.Pushed(first=first, data=data):
            for place in range(len(data)):
                yield "pushed", history.facts.id_of(first + place)
        case r.Confirmed(id=job_id):
            yield "pushed", job_id
        case r.Acked(ids=ids):
            for job_id in ids:
                yield "completed", job_id
        case r.Failed(id=job_id, final=True):
            yield "failed", job_id
        case _:
            pass


class Noticeboard:
    """See the module.

    Args:
        world: the run's.
        witness: knows what has happened.
    """

    def __init__(self, world: World, witness: Witness) -> None:
        self._world: Final = world
        self._witness: Final = witness
        #: id and events of the webhook, once its owner was answered
        self.webhook = ""
        self.events: list[str] = list(EVENTS)
        #: by shard: it knows of the webhook, and what is later in its log has to be told
        self._known_from: Final[dict[int, int]] = {}
        #: what was told, and the number of the newest delivery, by webhook
        self._told: Final[set[tuple[str, Event]]] = set()
        self._numbers: Final[dict[str, int]] = {}
        self._seen: Final[set[tuple[str, int]]] = set()
        #: deliveries of which an attempt has failed
        self._refused: Final[set[tuple[str, int]]] = set()

    # --- what is to be told

    def shard_turned(self, shard: int, node: Node) -> None:
        """A shard has ended a turn: it may have heard of the webhook by now."""
        if self.webhook and shard not in self._known_from and node._hooks:
            self._known_from[shard] = self._witness.shards[shard].seq

    def shard_recovered(self, shard: int, seq: int) -> None:
        """A shard has lost what is later in its log, and serves only once it knows the webhook."""
        if shard in self._known_from:
            self._known_from[shard] = min(self._known_from[shard], seq)

    def _due(self) -> Iterator[Event]:
        for shard, known_from in self._known_from.items():
            history = self._witness.shards[shard]
            for seq, records, _ in history.entries:
                if seq is None or seq <= known_from:
                    continue
                for record in records:
                    for event, job_id in events_of(history, record):
                        job = history.facts.jobs[job_id]
                        if job.level == "durable" and not job.is_raised and event in self.events:
                            yield event, job_id

    def left(self, coordinator: Coordinator) -> list[object]:
        """Return what has to be told, and has not been."""
        if not self.webhook:
            return []
        endpoint = coordinator._hooks._table.find(self.webhook)
        if endpoint.queue:
            return [f"{len(endpoint.queue)} deliveries wait"]
        dead = {(one.event, one.job_id) for one in endpoint.dead.values()}
        self._world.seen["deliveries that died"] += len(dead)
        return [
            f"the webhook was not told: {due}"
            for due in self._due()
            if (self.webhook, due) not in self._told and due not in dead
        ]

    # --- what is told

    def refuse(self, webhook: str, delivery: Delivery) -> None:
        """A delivery has come, and was not taken; it may come later than those behind it, from a
        gateway that stood still while it died."""
        self._refused.add((webhook, delivery.delivery))

    def tell(self, webhook: str, delivery: Delivery) -> None:
        """A delivery has come."""
        event = (delivery.event, delivery.job_id)
        job = self._witness.facts_of(delivery.job_id)
        did_happen = job is not None and (
            delivery.event == "pushed"
            or (delivery.event == "completed" and job.state == COMPLETED)
            or (delivery.event == "failed" and job.failures > 0)
        )
        if not did_happen and delivery.job_id not in self._witness.volatile:
            raise Violation(f"webhook {webhook} was told {event}, which did not happen: {job!r}")
        if (webhook, delivery.delivery) in self._seen:
            self._world.seen["deliveries that came again"] += 1
        elif (
            delivery.delivery < self._numbers.get(webhook, 0)
            and (webhook, delivery.delivery) not in self._refused
            and not self._world.faults["clock set back"]  # by which deliveries are numbered
        ):
            raise Violation(f"webhook {webhook} is told {event} after what came later")
        self._world.seen["deliveries to a webhook"] += 1
        self._seen.add((webhook, delivery.delivery))
        self._numbers[webhook] = max(delivery.delivery, self._numbers.get(webhook, 0))
        self._told.add((webhook, event))


class Deliverer(Habit):
    """A gateway, as far as it delivers to webhooks. The first one that lives adds the webhook.

    Args:
        town: what the users share.
        board: what deliveries go to.
    """

    def __init__(self, town: Town, board: Noticeboard) -> None:
        super().__init__(town)
        self._board: Final = board

    def begin(self, client: ClientProcess) -> None:
        """A gateway has started."""
        self.client = client
        self._holder = self.world.chance.randbytes(16)
        self._calls = 0
        #: leases that are worked on, by token
        self._held: dict[int, WebhookLease] = {}
        self._define()
        self._pull()

    def _later(self, ms: int, action: object) -> None:
        def act() -> None:
            if not self.client.is_closing:
                assert callable(action)
                action()

        self.client.later(self.world.between(MS // 2, ms * MS), act)

    def _define(self) -> None:
        if self._board.webhook:
            return

        def then(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._later(500, self._define)
            elif not self._board.webhook:
                self._board.webhook = decode(outcome.reply, WebhookReply).id

        self.ask(SetWebhook(url="http://simulated/", events=self._board.events), then)

    def _pull(self) -> None:
        self._calls += 1
        timeout = self.world.chance.choice((100, 1000))
        request = PullDeliveries(
            holder=self._holder, call=self._calls, held=list(self._held), timeout=timeout
        )
        self.ask(request, self._pulled, timeout + 2000)

    def _pulled(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._later(400, self._pull)
            return
        lease = decode(outcome.reply, PullDeliveriesReply).lease
        if lease is not None and lease.token not in self._held:
            self._held[lease.token] = lease
            self._deliver(lease, 0)
        self._later(5, self._pull)

    def _deliver(self, lease: WebhookLease, place: int) -> None:
        """Tell what a lease covers from a place on, up to the first failure."""

        def arrive() -> None:
            delivery = lease.deliveries[place]
            number = delivery.delivery
            if self.world.happens(0.0 if self.town.is_closing else 0.4):
                self._board.refuse(lease.webhook, delivery)
                report = DeliveriesDone(token=lease.token, failed=number, reason="no answer")
                self._report(lease, place, report)
                return
            self._board.tell(lease.webhook, delivery)
            more = place + 1 < len(lease.deliveries)
            report = DeliveriesDone(token=lease.token, delivered=number, more=more)
            self._report(lease, place, report)

        if place < len(lease.deliveries):
            self._later(2 if self.town.is_closing else 8, arrive)
        else:
            self._report(lease, place, DeliveriesDone(token=lease.token))

    def _report(self, lease: WebhookLease, place: int, done: DeliveriesDone) -> None:
        """Report, again and again until it is heard."""

        def then(outcome: Outcome) -> None:
            if self._is_unheard(outcome.error):
                self._later(400, lambda: self._report(lease, place, done))
            elif outcome.error is None and done.more:
                self._deliver(lease, place + 1)
            else:
                self._held.pop(lease.token, None)

        self.ask(done, then, 2000)

    @staticmethod
    def _is_unheard(error: FlashQError | None) -> bool:
        return error is not None and not isinstance(error, WebhookLeaseLost)
