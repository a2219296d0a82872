"""Who delivers to webhooks: one at a time to each, under a lease with a deadline.

Owns leases and parked calls of those who deliver. A lease is stored, so that a coordinator that is
started anew does not hand the same deliveries to a second one while the first is at work; one that
nobody renews ends, and its webhook goes to whoever asks next. Pure.

Who delivers names in each call the leases that it works on; others of it are void, because their
answer was lost on the way. Its calls are numbered: a late copy of an older call voids nothing, and
a copy of the last one is given the same lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from msgspec import Struct

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.coordinator.webhooks import Endpoint, WebhookTable, told
from flashq.errors import StorageDamaged, WebhookLeaseLost
from flashq.protocol import webhooks as w
from flashq.protocol.limits import MIB, WebhookLimits

DELIVERIES_MAX: Final = 64
BYTES_MAX: Final = MIB
"""How much is given with one lease; at least one delivery is."""
TIMEOUT_MS_MAX: Final = 60_000
FORGET_MS: Final = 600_000
"""Silence after which the number of somebody's last call is forgotten."""
HOLDERS_MAX: Final = 1000

_TOKENS_PER_MS: Final = 1024

Answer = Callable[[w.PullDeliveriesReply], None]


class Lease(Struct, array_like=True):
    """A lease as it is stored: of which webhook, whose, and what it covers."""

    token: int
    webhook: int
    holder: bytes
    upto: int


FORM: Final = Form("webhook-lease.", Lease)


class _Holder:
    """One who delivers."""

    __slots__ = ("answer", "call", "heard_ms", "json", "renew_only", "token", "until_ms")

    def __init__(self) -> None:
        #: number of its last call
        self.call = 0
        #: the lease that call was given; 0 for none
        self.token = 0
        self.heard_ms = 0
        #: its parked call: how to answer it, and until when; None without one
        self.answer: Answer | None = None
        self.until_ms = 0
        self.json = False
        self.renew_only = False

    @property
    def wants(self) -> bool:
        """Whether it waits for a lease."""
        return self.answer is not None and not self.renew_only


class Deliverers:
    """All leases, and all who wait for one.

    Args:
        table: what is to be told.
        limits: the bounds.
        outbox: where writes go.
        now_ms: the wall clock; tokens count on from it, so that none is used again.
    """

    def __init__(
        self, table: WebhookTable, limits: WebhookLimits, outbox: Outbox, now_ms: int
    ) -> None:
        self._table = table
        self._lease_ms = limits.webhook_lease_ms
        self._outbox = outbox
        #: by token, and in step with it by webhook
        self._leases: dict[int, Lease] = {}
        self._by_webhook: dict[int, Lease] = {}
        #: when each ends, on the monotonic clock; None until the first look at it
        self._ends_ms: dict[int, int | None] = {}
        self._holders: dict[bytes, _Holder] = {}
        self._token_last = now_ms * _TOKENS_PER_MS

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored; each lease gets its time anew.

        Raises:
            ConfigError: a lease cannot be read.
            StorageDamaged: nor that, or it is one of no webhook.
        """
        for name, lease in FORM.stored(parts):
            endpoint = self._table.get(lease.webhook)
            if endpoint is None:
                raise StorageDamaged(
                    detail=f"coordinator's part {FORM.prefix}{name}: of no webhook"
                )
            self._keep(endpoint, lease, None)
            self._token_last = max(self._token_last, lease.token)

    def _keep(self, endpoint: Endpoint, lease: Lease, ends_ms: int | None) -> None:
        self._leases[lease.token] = self._by_webhook[lease.webhook] = lease
        self._ends_ms[lease.token] = ends_ms
        endpoint.leased_upto = lease.upto

    def end(self, webhook: int) -> None:
        """End the lease of a webhook, if there is one."""
        lease = self._by_webhook.pop(webhook, None)
        if lease is None:
            return
        del self._leases[lease.token]
        del self._ends_ms[lease.token]
        endpoint = self._table.get(webhook)
        if endpoint is not None:
            endpoint.leased_upto = 0
        self._outbox.write(FORM.drop(webhook))

    # --- calls

    def pull(
        self, request: w.PullDeliveries, answer: Answer, mono_ms: int, *, json: bool = False
    ) -> None:
        """Take a call of one who delivers: `answer` is called once, maybe much later."""
        holder = self._holders.setdefault(request.holder, _Holder())
        holder.heard_ms = mono_ms
        if request.call < holder.call:
            answer(w.PullDeliveriesReply(lease=None))  # a late copy: nobody waits for this
            return
        if request.call > holder.call:
            self._dismiss(holder)
            holder.call, holder.token = request.call, 0
            self._void(request)
        for token in request.held or ():
            lease = self._leases.get(token)
            if lease is not None and lease.holder == request.holder:
                self._ends_ms[token] = mono_ms + self._lease_ms
        same = self._leases.get(holder.token)
        if same is not None:
            answer(w.PullDeliveriesReply(lease=self._view(same, json=json)))
            return
        holder.answer, holder.json = answer, json
        holder.until_ms = mono_ms + min(request.timeout or 0, TIMEOUT_MS_MAX)
        holder.renew_only = bool(request.renew_only)
        if holder.wants:
            self._serve(request.holder, holder, mono_ms)

    def _void(self, request: w.PullDeliveries) -> None:
        """End the leases that one who delivers does not know of."""
        unknown = [
            lease.webhook
            for lease in self._leases.values()
            if lease.holder == request.holder and lease.token not in (request.held or ())
        ]
        for webhook in unknown:
            self.end(webhook)

    def _dismiss(self, holder: _Holder) -> None:
        """Answer a parked call: there is nothing."""
        answer, holder.answer = holder.answer, None
        if answer is not None:
            answer(w.PullDeliveriesReply(lease=None))

    def done(self, request: w.DeliveriesDone, now_ms: int, mono_ms: int) -> None:
        """Take a report.

        Raises:
            WebhookLeaseLost: the lease it is about has ended.
        """
        lease = self._leases.get(request.token)
        endpoint = None if lease is None else self._table.get(lease.webhook)
        if lease is None or endpoint is None:
            raise WebhookLeaseLost
        self._table.delivered(endpoint, min(request.delivered or 0, lease.upto))
        if request.failed:
            reason = request.reason or "no reason given"
            self._table.failed(endpoint, request.failed, reason, now_ms, mono_ms)
        if request.more and not request.failed:
            self._ends_ms[lease.token] = mono_ms + self._lease_ms
        else:
            self.end(lease.webhook)

    # --- time

    def tick(self, mono_ms: int) -> None:
        """End what is due, and hand out what waits."""
        for token, ends_ms in list(self._ends_ms.items()):
            if ends_ms is None:
                self._ends_ms[token] = mono_ms + self._lease_ms
            elif ends_ms <= mono_ms:
                self.end(self._leases[token].webhook)
        for name, holder in list(self._holders.items()):
            if holder.answer is None:
                if mono_ms - holder.heard_ms >= FORGET_MS or len(self._holders) > HOLDERS_MAX:
                    del self._holders[name]
            elif holder.until_ms <= mono_ms:
                self._dismiss(holder)
            elif holder.wants:
                self._serve(name, holder, mono_ms)

    def next_at_ms(self) -> int | None:
        """Return when `tick` has something to do, on the monotonic clock."""
        due = [0 if ends_ms is None else ends_ms for ends_ms in self._ends_ms.values()]
        due += [one.until_ms for one in self._holders.values() if one.answer is not None]
        if any(one.wants for one in self._holders.values()):
            due += [endpoint.blocked_until_ms for endpoint in self._free()]
        return min(due, default=None)

    def _free(self) -> list[Endpoint]:
        return [
            one for number, one in self._table.waiting.items() if number not in self._by_webhook
        ]

    def _serve(self, name: bytes, holder: _Holder, mono_ms: int) -> None:
        """Give a webhook that has to be told something to a parked call, if there is one."""
        due = (one for one in self._free() if one.blocked_until_ms <= mono_ms)
        endpoint = next(due, None)
        if endpoint is None or holder.answer is None:
            return
        number = endpoint.webhook.number
        self._table.waiting.move_to_end(number)
        upto, size = 0, 0
        for delivery in islice(endpoint.queue.values(), DELIVERIES_MAX):
            size += delivery.size
            if upto and size > BYTES_MAX:
                break
            upto = delivery.number
        self._token_last = token = self._token_last + 1
        lease = Lease(token, number, name, upto)
        self._keep(endpoint, lease, mono_ms + self._lease_ms)
        self._outbox.write(FORM.put(number, lease))
        answer, holder.answer, holder.token = holder.answer, None, token
        answer(w.PullDeliveriesReply(lease=self._view(lease, json=holder.json)))

    def _view(self, lease: Lease, *, json: bool) -> w.WebhookLease:
        endpoint = self._table.get(lease.webhook)
        assert endpoint is not None, "a lease of a webhook that is gone"
        covered = [one for one in endpoint.queue.values() if one.number <= lease.upto]
        return w.WebhookLease(
            token=lease.token,
            webhook=endpoint.webhook.id,
            url=endpoint.webhook.url,
            secret=endpoint.webhook.secret,
            lease_ms=self._lease_ms,
            deliveries=[told(one, json=json) for one in covered],
        )
