"""The router's way of requests and replies, and what it does with everything else."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.errors import Busy
from flashq.ids import shard_of_queue
from flashq.protocol.codec import encode
from flashq.protocol.command import Scope
from flashq.protocol.framing import (
    BOUNCED,
    DELIVERY,
    FULL,
    INTERNAL,
    JSON,
    NOTICE,
    OLDER,
    REPLY,
    ROUTE_ANY,
    ROUTE_COORDINATOR,
    ROUTE_ROUTER,
    pack_header,
)
from flashq.protocol.internal import (
    Internal,
    Refused,
    RouterHello,
    Safe,
    decode_internal,
    encode_internal,
)
from flashq.protocol.registry import COMMANDS
from flashq.router import outbox
from flashq.router.outbox import PAIR_OVERHEAD_BYTES
from flashq.router.routing import COORDINATOR_ROUTING_ID
from tests.unit.router.bench import (
    CLIENT,
    MESSAGE_BYTES_MAX,
    PEER_BYTES_MAX,
    SESSION,
    SHARDS,
    Bench,
    jobs_body,
)

# --- there and back


@pytest.mark.parametrize("flags", [0, JSON, FULL, JSON | FULL])
@pytest.mark.parametrize("route", [0, SHARDS - 1, ROUTE_COORDINATOR])
def test_a_request_with_a_route_goes_there_unread(route: int, flags: int) -> None:
    """Its body may be anything; corr and flags are kept, and the reply finds its way home with
    nothing but its tail."""
    bench = Bench()
    bench.send(pack_header(flags, route, 99), b"whatever")
    asked = bench.to_shard()
    assert (asked.to, asked.flags, asked.route, asked.corr) == (route, flags, route, 99)
    assert asked.body == b"whatever"
    bench.answer(asked, b"the reply", flags=DELIVERY)
    [reply] = bench.to_clients()
    assert (reply.to, reply.corr, reply.tail, reply.body) == (CLIENT, 99, b"", b"the reply")
    assert reply.flags == REPLY | DELIVERY | (flags & JSON)
    assert bench.router.bytes_under_way == 0


def test_pairs_of_a_turn_are_one_message_to_each_peer() -> None:
    """Requests of several clients to one shard, and replies of several shards to one client."""
    bench = Bench()
    for identity in (b"a", b"b"):
        for shard in (0, 1):
            bench.send(pack_header(0, shard, shard), b"x", identity=identity)
    parcels = bench.router.take_peer_parcels()
    assert [len(frames) for _, frames in parcels] == [4, 4]
    for shard, (_, frames) in enumerate(parcels):
        replies = []
        for header, body in zip(frames[::2], frames[1::2], strict=True):
            replies += [bytes([1, REPLY]) + header[2:], body]
        bench.router.handle_shard(shard, replies, bench.now_ms)
    parcels = bench.router.take_client_parcels()
    assert [(to, len(frames)) for to, frames in parcels] == [(b"a", 4), (b"b", 4)]
    assert bench.router.take_client_parcels() == []


def test_the_longest_identity_fits() -> None:
    """ZeroMQ allows 255 bytes, and a header may be followed by a tail of 280."""
    bench = Bench()
    identity = b"i" * 255
    bench.send(pack_header(0, 1, 1), b"x", identity=identity)
    bench.answer(bench.to_shard())
    [reply] = bench.to_clients()
    assert reply.to == identity


# --- working out the route


@pytest.mark.parametrize(
    ("request_fields", "shard"),
    [
        ({"cmd": "PUSH", "queue": "orders", "data": 1}, shard_of_queue("orders", SHARDS)),
        ({"cmd": "PULL", "queue": "队列"}, shard_of_queue("队列", SHARDS)),
        ({"cmd": "GETJOBS", "queue": "orders"}, shard_of_queue("orders", SHARDS)),
        (
            {"cmd": "GETJOBBYCUSTOMID", "queue": "q", "job_id": "1"},
            shard_of_queue("q", SHARDS),
        ),
        ({"cmd": "ACK", "id": 4 * SHARDS + 3}, 3),
        ({"cmd": "HEARTBEAT", "job_id": 4 * SHARDS + 2}, 2),
        ({"cmd": "LOG", "job_id": 4 * SHARDS + 1, "message": "m"}, 1),
        ({"cmd": "GETCHILDREN", "parent_id": 4 * SHARDS + 3}, 3),
        ({"cmd": "UPDATE", "id": 4 * SHARDS + 2, "data": 1}, 2),
        ({"cmd": "ACKB", "ids": [1, 1 + SHARDS, 1 + 2 * SHARDS]}, 1),
        ({"cmd": "RELEASE", "ids": [2]}, 2),
        ({"cmd": "GETJOBSBATCH", "ids": []}, 0),
        ({"cmd": "CRON", "name": "n", "queue": "q", "data": 1}, ROUTE_COORDINATOR),
        ({"cmd": "CRONLIST"}, ROUTE_COORDINATOR),
    ],
)
@pytest.mark.parametrize("flags", [0, JSON | FULL])
def test_the_router_works_out_who_is_asked(
    request_fields: dict[str, Any], shard: int, flags: int
) -> None:
    """By queue, by id under each of its names, by the one shard of all ids, or the coordinator.
    The body goes on as it is."""
    bench = Bench()
    bench.ask(flags=flags, **request_fields)
    asked = bench.to_shard()
    assert (asked.to, asked.route, asked.flags) == (shard, shard, flags)
    assert asked.fields == request_fields
    bench.answer(asked)
    assert bench.reply() == {"ok": True}


def test_every_command_of_one_shard_is_routed_by_what_it_has_to_have() -> None:
    """The registry's scope is enough: without queue or id each is refused with the field's name."""
    for command in COMMANDS:
        bench = Bench()
        bench.ask(cmd=command.word)
        match command.scope:
            case Scope.QUEUE:
                missing = "queue"
            case Scope.JOB:
                missing = command.id_field
            case Scope.JOBS:
                missing = "ids"
            case _:
                continue
        reply = bench.reply()
        assert reply["code"] == "invalid", command.word
        assert f"missing field `{missing}`" in reply["error"], command.word
        assert bench.to_peers() == []


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"", "bad_message", "Invalid: "),
        (b"\xc1garbage", "bad_message", "Invalid: "),
        (b"\x90", "invalid", "Invalid: "),
        (encode({"cmd": "NOPE"}), "invalid", "Invalid: unknown command 'NOPE'"),
        (encode({"queue": "q"}), "invalid", "Invalid: missing field `cmd`"),
        (encode({"cmd": "PUSH", "queue": 5}), "invalid", "Invalid: invalid type"),
        (encode({"cmd": "ACK", "id": "5"}), "invalid", "Invalid: invalid type"),
        (encode({"cmd": "ACKB", "ids": 5}), "invalid", "Invalid: invalid type"),
        (encode({"cmd": "HELLO", "session": b"short"}), "invalid", "Invalid: "),
    ],
)
def test_what_cannot_be_routed_is_answered_in_words(body: bytes, code: str, text: str) -> None:
    """Garbage, unknown commands, wrong types."""
    bench = Bench()
    bench.send(pack_header(0, ROUTE_ANY, 5), body)
    reply = bench.reply()
    assert (reply["ok"], reply["code"], reply["retryable"]) == (False, code, False)
    assert reply["error"].startswith(text)
    assert bench.to_peers() == []


def test_an_error_comes_in_the_encoding_of_its_request() -> None:
    """JSON for a request in JSON, also when that cannot be read."""
    bench = Bench()
    bench.send(pack_header(JSON, ROUTE_ANY, 5), b"{")
    [reply] = bench.to_clients()
    assert reply.flags == REPLY | JSON
    assert reply.fields["code"] == "bad_message"


# --- what is not ours


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (pack_header(0, 1, 5, b"tail"), "header of 16 bytes"),
        (pack_header(0, 1, 5, b"t" * 281), "header of 293 bytes"),
        (b"\x02" + pack_header(0, 1, 5)[1:], "protocol version 2"),
        (pack_header(REPLY, 1, 5), "flags 0x04"),
        (pack_header(INTERNAL, ROUTE_COORDINATOR, 5), "flags 0x40"),
        (pack_header(BOUNCED | DELIVERY, 1, 5), "flags 0x30"),
        (pack_header(OLDER | REPLY, ROUTE_ANY, 5), "flags 0x84"),
        (pack_header(0, SHARDS, 5), f"there are {SHARDS} shards"),
        (pack_header(0, 0xFFFC, 5), f"there are {SHARDS} shards"),
    ],
)
def test_a_header_that_is_not_a_clients_is_refused(header: bytes, text: str) -> None:
    """A tail would be a way into somebody else's box; only flags a client may set pass."""
    bench = Bench()
    bench.send(header, b"body")
    [reply] = bench.to_clients()
    assert reply.corr == 5
    assert reply.fields["code"] == "bad_message"
    assert text in reply.fields["error"]
    assert bench.to_peers() == []


def test_an_unreadable_header_is_counted_and_its_neighbours_are_served() -> None:
    """Without a corr it is answered under 0, which a client that is being written may print."""
    bench = Bench()
    bench.send(b"short", b"x", pack_header(0, 1, 5), b"y", b"", b"")
    assert bench.to_shard().body == b"y"
    replies = bench.to_clients()
    assert [(reply.corr, reply.fields["code"]) for reply in replies] == [(0, "bad_message")] * 2
    assert bench.router.dropped == {"unreadable header": 2}


@pytest.mark.parametrize("frames", [[b"lonely"], [b"", b"", b""], []])
def test_half_messages_are_counted(frames: list[bytes]) -> None:
    """They never stop the router; what there is of them is answered."""
    bench = Bench()
    bench.send(*frames)
    replies = bench.to_clients()
    assert [reply.corr for reply in replies] == [0] * len(frames[::2])
    assert bench.router.dropped["half message"] == 1


def test_a_half_message_is_refused_whole() -> None:
    """Which frame is missing is not known, so none of its requests is carried out; each whose
    header can be read is answered."""
    bench = Bench()
    bench.send(pack_header(0, 1, 5), b"body", pack_header(0, 1, 6))
    replies = bench.to_clients()
    assert [(reply.corr, reply.fields["code"]) for reply in replies] == [
        (5, "bad_message"),
        (6, "bad_message"),
    ]
    assert bench.to_peers() == []


@pytest.mark.parametrize("route", [1, ROUTE_ANY, ROUTE_ROUTER])
def test_a_body_that_is_too_large_is_refused(route: int) -> None:
    """Before it is copied anywhere."""
    bench = Bench()
    bench.send(pack_header(0, route, 5), bytes(MESSAGE_BYTES_MAX + 1))
    assert bench.reply()["code"] == "message_too_large"
    assert bench.to_peers() == []


def test_replies_that_nobody_can_read_are_counted() -> None:
    """A shard of another version must not stop the router."""
    bench = Bench()
    for frames in (
        [b"short", b"x"],
        [pack_header(REPLY, 1, 5), b"without a tail"],
        [pack_header(REPLY, 1, 5, b"\x09" + bytes(20)), b"for whom?"],
    ):
        bench.router.handle_shard(1, frames, bench.now_ms)
    assert bench.to_clients() == []
    assert bench.router.dropped == {"unreadable reply": 3}


# --- bounds


def test_a_shard_that_does_not_answer_makes_busy() -> None:
    """Bytes under way are bounded for each peer; others are not touched, and an answer makes
    room."""
    bench = Bench()
    size = MESSAGE_BYTES_MAX - PAIR_OVERHEAD_BYTES
    for corr in range(PEER_BYTES_MAX // MESSAGE_BYTES_MAX):
        bench.send(pack_header(0, 1, corr), bytes(size))
    asked = bench.to_peers()
    assert len(asked) == 4
    assert bench.to_clients() == []
    bench.send(pack_header(0, 1, 50), b"x")
    reply = bench.reply()
    assert (reply["code"], reply["retryable"]) == (Busy.code, True)
    bench.ask(cmd="ACK", id=1)
    assert bench.reply()["code"] == Busy.code
    bench.ask(cmd="ACKB", ids=[0, *range(1, 4 * 2000, 4)])
    assert bench.reply()["code"] == Busy.code
    bench.send(pack_header(0, 2, 51), b"x")
    bench.answer(asked[0])
    bench.send(pack_header(0, 1, 52), b"x")
    assert {pair.corr for pair in bench.to_peers()} == {51, 52}


def test_a_new_epoch_makes_room() -> None:
    """What was under way died with the shard's process, and late replies do not count twice."""
    bench = Bench()
    bench.epochs(1, 1, 1, 1)
    bench.send(pack_header(0, 1, 1), bytes(1000))
    old = bench.to_shard()
    bench.epochs(1, 0, 1, 1)
    bench.epochs(1, 2, 1, 1)
    assert bench.router.bytes_under_way == 0
    bench.answer(old)
    assert bench.router.bytes_under_way == 0
    bench.send(pack_header(0, 1, 2), bytes(1000))
    assert bench.router.bytes_under_way == 1000 + PAIR_OVERHEAD_BYTES


def test_requests_that_are_never_answered_do_not_add_up() -> None:
    """The pulls of a dead session are dropped by their shard without a word: they are forgotten
    after two eras, or they would make the shard busy for good."""
    bench = Bench()
    bench.send(pack_header(0, 1, 1), bytes(1000))
    lost = bench.to_shard()
    bench.pass_time(outbox.ERA_MS)
    assert bench.router.bytes_under_way > 0
    bench.pass_time(outbox.ERA_MS)
    assert bench.router.bytes_under_way == 0
    bench.answer(lost)
    assert bench.router.bytes_under_way == 0


# --- undeliverable


@pytest.mark.parametrize("gone", [False, True])
def test_a_delivery_that_cannot_be_delivered_goes_back(gone: bool) -> None:
    """The very reply returns to its shard at once, marked, so that the jobs need not wait for
    their leases; other replies are dropped and counted."""
    bench = Bench()
    bench.send(pack_header(0, 3, 5), b"pull", pack_header(0, 3, 6), b"ack")
    pull, ack = bench.to_peers()
    bench.answer(pull, b"jobs", flags=DELIVERY)
    bench.answer(ack, b"done")
    [(to, frames)] = bench.router.take_client_parcels()
    bench.router.undeliverable(to, frames, bench.now_ms, gone=gone)
    back = bench.to_shard()
    assert (back.to, back.route, back.corr, back.tail) == (3, 3, 5, b"")
    assert back.flags == REPLY | DELIVERY | BOUNCED
    assert back.body == b"jobs"
    assert bench.router.dropped["bounced delivery"] == 1
    assert bench.router.dropped.total() == 2


# --- the coordinator


def test_the_router_says_hello_every_two_seconds() -> None:
    """So that a coordinator that is new learns of it, and it of the epochs."""
    bench = Bench()
    hellos = []
    for _ in range(5):
        bench.pass_time(1000)
        hellos += [
            decode_internal(frames[1])
            for to, frames in bench.router.take_peer_parcels()
            if to == COORDINATOR_ROUTING_ID
        ]
    assert hellos == [RouterHello(config_hash="agreed")] * 3


def internal(bench: Bench, message: Internal) -> None:
    """Let the coordinator say something."""
    frames = [pack_header(INTERNAL, ROUTE_COORDINATOR, 0), encode_internal(message)]
    bench.router.handle_coordinator(frames, bench.now_ms)


def test_a_refused_router_says_why() -> None:
    """Its process exits with that."""
    bench = Bench()
    internal(bench, Refused(reason="other settings"))
    assert bench.router.refused == "other settings"


def test_only_the_coordinator_is_heard() -> None:
    """Words that are not for a router, for another number of shards, or from a shard."""
    bench = Bench()
    internal(bench, Safe(epoch=1, seq=1))
    bench.epochs(1, 2)
    frames = [pack_header(INTERNAL, 0, 0), encode_internal(Refused(reason="x"))]
    bench.router.handle_shard(1, frames, bench.now_ms)
    bench.router.handle_coordinator([frames[0], b"\xc1"], bench.now_ms)
    assert bench.router.dropped == {"unreadable reply": 4}
    assert bench.router.epochs == [0] * SHARDS
    assert bench.router.refused is None


def test_clients_are_told_of_a_shard_that_is_back() -> None:
    """What was outstanding there has to be repeated: once for each new epoch, to all who said
    hello, and not while there is none."""
    bench = Bench()
    bench.hello()
    bench.send(pack_header(0, 1, 1), b"no hello", identity=b"other")
    bench.epochs(0, 5, 0, 0)
    [notice] = bench.to_clients()
    assert (notice.to, notice.flags, notice.corr) == (CLIENT, NOTICE, 0)
    assert notice.fields == {"notice": "shard", "shard": 1, "epoch": 5}
    bench.epochs(0, 5, 0, 0)
    bench.epochs(0, 0, 0, 0)
    assert bench.to_clients() == []
    bench.epochs(0, 6, 0, 0)
    assert [notice.fields["epoch"] for notice in bench.to_clients()] == [6]


# --- going down


def test_going_down_tells_clients_and_takes_nothing_more() -> None:
    """Each who said hello hears it once, new requests can be repeated elsewhere, and replies
    still pass."""
    bench = Bench()
    bench.hello(flags=JSON)
    bench.send(pack_header(0, 1, 1), b"before")
    before = bench.to_shard()
    bench.router.drain(bench.now_ms)
    bench.router.drain(bench.now_ms)
    [notice] = bench.to_clients()
    assert notice.flags == NOTICE | JSON
    assert notice.fields == {"notice": "closing"}
    for route in (1, ROUTE_ANY, ROUTE_ROUTER):
        bench.ask(route=route, cmd="SESSIONHEARTBEAT", session=SESSION)
        reply = bench.reply()
        assert (reply["code"], reply["retryable"]) == ("shutting_down", True)
    assert bench.to_peers() == []
    assert not bench.router.is_drained(bench.now_ms, 100)
    bench.answer(before)
    assert bench.reply() == {"ok": True}
    assert bench.router.is_drained(bench.now_ms, 100)


def test_parked_pulls_do_not_hold_up_the_end() -> None:
    """They may stay under way for a minute: it is enough that nothing passed for a while."""
    bench = Bench()
    bench.send(pack_header(0, 1, 1), b"pull")
    bench.pass_time(1000)
    bench.router.drain(bench.now_ms)
    assert not bench.router.is_drained(bench.now_ms + 99, 100)
    assert bench.router.is_drained(bench.now_ms + 100, 100)


def test_a_gather_is_finished_before_the_end() -> None:
    """Its asker gets what there is."""
    bench = Bench()
    bench.ask(cmd="GETJOBS")
    asked = bench.to_peers()
    bench.router.drain(bench.now_ms)
    bench.answer(asked[0], jobs_body(4, total=1))
    bench.pass_time(1999)
    assert not bench.router.is_drained(bench.now_ms, 100)
    bench.pass_time(1)
    assert bench.reply()["missing_shards"] == [1, 2, 3]
    assert bench.router.is_drained(bench.now_ms, 100)
