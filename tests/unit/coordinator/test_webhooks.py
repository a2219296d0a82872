"""The table of webhooks: who is told what, within which bounds, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.webhooks import (
    FULL,
    Endpoint,
    WebhookTable,
    backoff_ms,
    event_name,
    told,
)
from flashq.errors import LimitReached, StorageDamaged, WebhookInvalid, WebhookNotFound
from flashq.protocol import webhooks as w
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.internal import Happened
from flashq.protocol.limits import WebhookLimits
from flashq.storage.port import Put
from tests.unit.coordinator.bench import NOW_MS

URL = "https://example.com/hook"


class Table:
    """A table whose writes are kept as a storage keeps them."""

    def __init__(self, **limits: Any) -> None:
        self.limits = WebhookLimits(**limits)
        self.parts: dict[str, bytes] = {}
        self._outbox = Outbox()
        self.table = WebhookTable(self.limits, 256, self._outbox)

    def settle(self) -> None:
        """Store what was written."""
        group = self._outbox.take_group()
        for write in () if group is None else group.writes:
            assert isinstance(write, Put)
            if write.content:
                self.parts[write.name] = write.content
            else:
                del self.parts[write.name]

    def reload(self) -> None:
        """Start anew with what is stored."""
        self.settle()
        self.table = WebhookTable(self.limits, 256, self._outbox)
        self.table.load(self.parts)

    def add(self, *events: str, **fields: Any) -> Endpoint:
        """Add a webhook."""
        request = w.SetWebhook(url=URL, events=list(events or ("*",)), **fields)
        endpoint = self.table.get(self.table.define(request, NOW_MS))
        assert endpoint is not None
        return endpoint

    def happen(self, *ids: int, event: str = "completed", queue: str = "mail") -> bool:
        """Let a shard tell of something."""
        data: list[bytes | None] = [encode_msgpack(job_id) for job_id in ids]
        return self.table.take(Happened(event, queue, NOW_MS, list(ids), None, data), NOW_MS)


def jobs(deliveries: Sequence[Any]) -> list[int]:
    """The jobs that deliveries are about."""
    return [delivery.job_id for delivery in deliveries]


def pending(endpoint: Endpoint) -> list[int]:
    """The jobs that a webhook is still to be told of."""
    return jobs(list(endpoint.queue.values()))


def first(endpoint: Endpoint) -> int:
    """The number of the delivery whose turn it is."""
    return next(iter(endpoint.queue))


def fail_once(table: Table, endpoint: Endpoint, reason: str = "no") -> None:
    """Let one attempt at the first delivery fail."""
    table.table.failed(endpoint, first(endpoint), reason, NOW_MS, 0)


def test_events_match_by_either_name_and_by_queue() -> None:
    """Documents of the older server call them `job.completed`; its server said `completed`."""
    table = Table()
    older = table.add("job.completed", "job.started")
    mail = table.add("failed", queue="mail")
    everything = table.add("*")
    table.happen(1)
    table.happen(2, event="active")
    table.happen(3, event="failed")
    table.happen(4, event="failed", queue="other")
    assert pending(older) == [1, 2]
    assert pending(mail) == [3]
    assert pending(everything) == [1, 2, 3, 4]
    assert table.table.wanted() == {
        (None, "completed"), (None, "active"), ("mail", "failed"), (None, "*"),
    }  # fmt: skip
    assert event_name("started") == "started"


def test_what_no_webhook_wants_is_said_to_be_so() -> None:
    """The shard has to be told again what is wanted."""
    table = Table()
    assert not table.happen(1)
    table.add("failed")
    assert not table.happen(1)
    assert table.happen(1, event="failed")


def test_everything_survives_a_restart_in_order() -> None:
    """Webhooks of the older server were gone with its process."""
    table = Table(webhook_attempts_max=2)
    endpoint = table.add("*", secret="s")
    table.happen(1, 2)
    table.happen(3)
    fail_once(table, endpoint)
    fail_once(table, endpoint)
    fail_once(table, endpoint)
    table.reload()
    again = table.table.find(endpoint.webhook.id)
    assert (again.webhook, pending(again)) == (endpoint.webhook, [2, 3])
    assert again.queue[first(again)].attempts == 1
    assert jobs(list(again.dead.values())) == [1]
    assert table.add("*").webhook.number > again.webhook.number
    table.table.delete(again.webhook.id)
    table.settle()
    assert not [name for name in table.parts if str(again.webhook.number) in name]


def test_a_number_is_never_another_deliverys() -> None:
    """Receivers know a repeat by it, also after a restart with an empty queue."""
    table = Table()
    endpoint = table.add("*")
    table.happen(1)
    before = first(endpoint)
    table.table.delivered(endpoint, before)
    table.reload()
    table.table.take(Happened("failed", "q", NOW_MS, [2]), NOW_MS + 1)
    assert first(table.table.find(endpoint.webhook.id)) > before


def test_what_is_stored_and_cannot_be_read_is_damage() -> None:
    """The name of the part says where to look."""
    for name, content in (("webhook.1", b"\x01\xc1"), ("webhook-queue.1.2", b"\x01\x90")):
        with pytest.raises(StorageDamaged, match=name):
            Table().table.load({name: content})


def test_a_replaced_webhook_keeps_its_secret_unless_it_is_told_otherwise() -> None:
    """Nobody can read it, to give it again."""
    table = Table()
    endpoint = table.add("*", secret="s")
    id_ = endpoint.webhook.id
    table.add("failed", webhook=id_, queue="mail")
    assert (endpoint.webhook.secret, endpoint.webhook.queue) == ("s", "mail")
    table.add("failed", webhook=id_, secret="t")
    assert endpoint.webhook.secret == "t"
    table.add("failed", webhook=id_, secret="")
    assert endpoint.webhook.secret is None
    assert table.table.view().entries[0].signed is False


PRIVATE = (
    "127.0.0.1", "127.0.0.1.", "0x7f.1", "0177.0.0.1", "2130706433", "127.1", "10.0.0.1",
    "169.254.169.254", "0", "192.88.99.1", "[::1]", "[::127.0.0.1]", "[::10.0.0.1]", "[::7f00:1]",
    "[::ffff:127.0.0.1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::808:808]",
    "[2002:7f00:1::]", "[2001:0:808:808::1]", "[fec0::1]", "[fe80::1]", "[3fff::1]", "[fd00::1]",
    "localhost", "LOCALHOST.", "a.localhost",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_what_leads_to_a_private_address_by_its_spelling_is_not_let_in(host: str) -> None:
    """Nothing would ever be sent there, and the answer says which setting allows it."""
    request = w.SetWebhook(url=f"http://{host}:8080/hook", events=["*"])
    with pytest.raises(WebhookInvalid, match="setting webhook_private_targets"):
        Table().table.define(request, NOW_MS)
    assert Table(webhook_private_targets=True).table.define(request, NOW_MS)


@pytest.mark.parametrize(
    "host", ["[fe80::1%25eth0]", "127.0.0.1%2f", "a%2eb", "a\\b", "a_b;c", "[127.0.0.1", "a:x"]
)
def test_a_host_that_is_none_is_not_let_in(host: str) -> None:
    """Two readers of such a URL may find two hosts in it."""
    table = Table(webhook_private_targets=True)
    with pytest.raises(WebhookInvalid):
        table.table.define(w.SetWebhook(url=f"http://{host}/", events=["*"]), NOW_MS)


def test_a_webhook_cannot_be_replaced_by_one_with_a_private_address() -> None:
    """Another way to the same."""
    table = Table()
    known = table.add("*")
    request = w.SetWebhook(url="http://10.0.0.1/", events=["*"], webhook=known.webhook.id)
    with pytest.raises(WebhookInvalid):
        table.table.define(request, NOW_MS)
    assert known.webhook.url == URL


def test_a_webhook_set_again_unchanged_waits_for_its_next_attempt_all_the_same() -> None:
    """An app that is started over and over does not drive the attempts at an address that fails."""
    table = Table()
    endpoint = table.add("failed", secret="s")
    endpoint.blocked_until_ms = 500
    again = table.add("failed", webhook=endpoint.webhook.id)
    assert again is endpoint
    assert endpoint.blocked_until_ms == 500
    table.add("completed", webhook=endpoint.webhook.id)
    assert endpoint.blocked_until_ms == 0


def test_what_cannot_be_told_anything_is_not_let_in() -> None:
    """Bounds on everything that a client says."""
    table = Table(webhooks_max=1)
    bads: tuple[dict[str, Any], ...] = (
        {"url": "x" * 3000},
        {"secret": "x" * 1025},
        {"events": ["finished"]},
    )
    for bad in bads:
        request: dict[str, Any] = {"url": URL, "events": ["*"]} | bad
        with pytest.raises(WebhookInvalid):
            table.table.define(w.SetWebhook(**request), NOW_MS)
    endpoint = table.add("*")
    with pytest.raises(LimitReached):
        table.add("*")
    for unknown in ("wh_1", "1", "", "wh_x", f"wh_0{endpoint.webhook.number}", "wh_" + "9" * 99):
        with pytest.raises(WebhookNotFound):
            table.table.find(unknown)


def test_a_full_queue_moves_its_oldest_to_the_dead() -> None:
    """The newest are told, and the others can be told again; what is being told stays."""
    table = Table(webhook_queue_deliveries_max=3, webhook_dead_deliveries_max=2)
    endpoint = table.add("*")
    table.happen(1)
    endpoint.leased_upto = first(endpoint)
    table.happen(2, 3, 4, 5, 6)
    assert pending(endpoint) == [1, 5, 6]
    dead = table.table.view_dead(endpoint.webhook.id, None).deliveries
    assert [(one.job_id, one.reason) for one in dead] == [(3, FULL), (4, FULL)]
    view = table.table.view().entries[0]
    assert (view.pending, view.dead, view.evicted, view.dropped) == (3, 2, 3, 1)
    table.reload()
    assert pending(table.table.find(endpoint.webhook.id)) == [1, 5, 6]


def test_bytes_are_bounded_too() -> None:
    """A thousand payloads of a megabyte are a gigabyte."""
    table = Table(webhook_queue_bytes_max=1000)
    endpoint = table.add("*")
    table.happen(*range(1, 11))
    assert endpoint.bytes <= 1000
    assert endpoint.dead_bytes <= 1000
    assert endpoint.bytes == sum(one.size for one in endpoint.queue.values())
    assert endpoint.dead_bytes == sum(one.size for one in endpoint.dead.values())


def test_delays_double_up_to_a_bound() -> None:
    """1, 2, 4, ... 1024 times the first."""
    assert [backoff_ms(100, n) for n in (1, 2, 3, 11, 12)] == [100, 200, 400, 102_400, 102_400]


def test_a_failure_holds_up_what_is_behind_it_until_it_is_dead() -> None:
    """Order is kept; a receiver that is away for long costs the deliveries of that time only."""
    table = Table(webhook_attempts_max=3, webhook_backoff_ms=100)
    endpoint = table.add("*")
    table.happen(1, 2)
    for blocked_until_ms in (100, 200):
        table.table.failed(endpoint, first(endpoint), "no", NOW_MS, 0)
        assert endpoint.blocked_until_ms == blocked_until_ms
        assert pending(endpoint) == [1, 2]
    fail_once(table, endpoint, "x" * 1000)
    assert pending(endpoint) == [2]
    (dead,) = table.table.view_dead(None, 5).deliveries
    assert (dead.attempts, dead.reason, dead.died_at) == (3, "x" * 300, NOW_MS)
    table.table.failed(endpoint, dead.delivery, "late copy", NOW_MS, 0)
    assert endpoint.queue[first(endpoint)].attempts == 0
    table.table.delivered(endpoint, first(endpoint))
    assert table.table.view().entries[0].last_error is None
    assert not table.table.waiting


def test_dead_deliveries_are_told_again_behind_all_others() -> None:
    """One, all of a webhook, or all; as far as there is room."""
    table = Table(webhook_attempts_max=1, webhook_queue_deliveries_max=2)
    endpoint = table.add("*")
    for job_id in range(1, 4):
        table.happen(job_id)
        fail_once(table, endpoint)
    table.happen(9)
    dead = table.table.view_dead(None, None)
    assert (jobs(dead.deliveries), dead.total) == ([1, 2, 3], 3)
    assert len(table.table.view_dead(None, 1).deliveries) == 1
    assert table.table.retry(endpoint.webhook.id, dead.deliveries[1].delivery, NOW_MS) == 1
    assert pending(endpoint) == [9, 2]
    assert endpoint.queue[next(reversed(endpoint.queue))].attempts == 0
    assert table.table.retry(None, None, NOW_MS) == 0
    table.table.delivered(endpoint, next(reversed(endpoint.queue)))
    assert table.table.retry(endpoint.webhook.id, None, NOW_MS) == 2
    assert pending(endpoint) == [1, 3]
    table.reload()
    assert pending(table.table.find(endpoint.webhook.id)) == [1, 3]


def test_a_reader_of_json_gets_json() -> None:
    """And null for what it has no form for."""
    table = Table()
    endpoint = table.add("*")
    table.table.take(
        Happened(
            "pushed", "q", 1, [1, 2], None, [encode_msgpack({"a": 1}), encode_msgpack({(1,): 2})]
        ),
        NOW_MS,
    )
    table.happen(3)
    good, bad, plain = (told(one, json=True) for one in endpoint.queue.values())
    assert (bytes(good.data or b""), bytes(bad.data or b"")) == (b'{"a":1}', b"null")
    assert bytes(plain.data or b"") == b"3"


def test_what_became_of_deliveries_is_counted() -> None:
    """Told, failed, and failed with another attempt behind it."""
    table = Table()
    endpoint = table.add("completed")
    table.happen(1, 2, 3)
    fail_once(table, endpoint)
    table.table.delivered(endpoint, first(endpoint) + 1)
    for _ in range(table.limits.webhook_attempts_max):
        fail_once(table, endpoint)
    (view,) = table.table.view().entries
    tries = table.limits.webhook_attempts_max
    assert (view.delivered, view.failed, view.retried) == (2, 1 + tries, tries)
    assert (view.pending, view.dead) == (0, 1)
