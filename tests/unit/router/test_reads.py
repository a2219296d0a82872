"""`flashq.router.reads`: replies that may be large, counted before they are made."""

from __future__ import annotations

from typing import Any, Final

import pytest

from flashq.errors import Busy
from flashq.protocol.codec import encode
from flashq.protocol.framing import JSON, REPLY, ROUTE_ANY, pack_header
from flashq.protocol.limits import MIB
from flashq.protocol.registry import COMMANDS
from flashq.router.reads import (
    HELD_BYTES_MAX,
    JOB_BYTES,
    JOBS_BYTES,
    LIGHT_HEADS,
    READ_MS_MAX,
    READS_SHARE,
    Held,
    Reads,
    cost_of,
)
from tests.unit.router.bench import CLIENT, SHARDS, Bench, Pair

UNREAD_BYTES_MAX: Final = 64 * MIB
AT_ONCE: Final = UNREAD_BYTES_MAX // READS_SHARE // JOB_BYTES
"""Reads of one job that one client may have under way."""
REMOTE: Final = "10.0.0.1"


# --- which they are


@pytest.mark.parametrize("flags", [0, JSON])
def test_the_cost_of_a_request_is_that_of_its_command(flags: int) -> None:
    """Wherever its word stands, and under an older word too; what cannot be read costs nothing."""
    for word, cost in (
        ("GETJOB", JOB_BYTES), ("GETRESULT", JOB_BYTES), ("GETLOGS", JOB_BYTES),
        ("GETJOBS", JOBS_BYTES), ("DLQ", JOBS_BYTES), ("GETSTATE", 0), ("PUSH", 0), ("PULL", 0),
        ("WAITJOB", 0), ("GETJOBCOUNTS", 0), ("SESSIONHEARTBEAT", 0), ("UPDATE", 0), ("NOPE", 0),
    ):  # fmt: skip
        header = pack_header(flags, ROUTE_ANY, 1)
        for fields in ({"cmd": word, "id": 1}, {"id": 1, "queue": "q" * 300, "cmd": word}):
            assert cost_of(header, encode(fields, json=bool(flags))) == cost, word
    for body in (b"", b"\xc1", b"{", b"[1]", bytes(100)):
        assert cost_of(pack_header(flags, ROUTE_ANY, 1), body) == 0
    assert cost_of(b"", b"\x81\xa3cmd\xa6GETJOB") == JOB_BYTES


def test_frequent_commands_are_told_by_their_first_bytes() -> None:
    """Nothing of their bodies is decoded for it."""
    for word in ("PUSH", "PUSHB", "PULL", "PULLB", "ACK", "ACKB", "FAIL", "SESSIONHEARTBEAT"):
        assert encode({"cmd": word, "queue": "q"})[1:9] in LIGHT_HEADS
    for command in COMMANDS:
        body = encode({"cmd": command.word})
        assert not (body[1:9] in LIGHT_HEADS and cost_of(b"", b"\x82\xa1x\x01" + body[1:]))


# --- how many


class Counted:
    """Reads under a clock, and clients that ask by number."""

    def __init__(self, unread_bytes_max: int = UNREAD_BYTES_MAX, all_bytes_max: int = 0) -> None:
        self.reads = Reads(unread_bytes_max, all_bytes_max or 100 * UNREAD_BYTES_MAX)
        self.now_ms = 0
        self.numbers: dict[bytes, list[bytes]] = {}

    def ask(self, client: bytes, count: int, cost: int = JOB_BYTES) -> int:
        """Ask so often; return how much was let through at once."""
        through = 0
        for _ in range(count):
            number = self.reads.begin(client, cost, self.now_ms)
            if number is None:
                self.reads.hold(Held(client, b"", b"", cost))
            else:
                through += 1
                self.numbers.setdefault(client, []).append(number)
        return through

    def answer(self, client: bytes, size: int, count: int = 1) -> None:
        """Let the oldest replies of a client come, and be sent."""
        for _ in range(count):
            self.reads.end(self.numbers[client].pop(0), size)
        self.reads.sent()

    def go_on(self) -> list[bytes]:
        """Return whose requests go on, in order."""
        found = []
        while (taken := self.reads.take_next(self.now_ms)) is not None:
            held, number = taken
            found.append(held.identity)
            self.numbers.setdefault(held.identity, []).append(number)
        return found


def test_a_client_has_so_many_under_way() -> None:
    """The rest waits, in order, and goes on as replies come that are read at once."""
    counted = Counted()
    assert counted.ask(b"a", 400) == AT_ONCE
    assert counted.go_on() == []
    counted.answer(b"a", 1000, 5)
    assert counted.go_on() == [b"a"] * 5
    assert counted.ask(b"b", 1) == 1
    left = 400 - AT_ONCE - 5
    while counted.numbers[b"a"]:
        counted.answer(b"a", 1000)
        left -= len(counted.go_on())
    assert left == 0
    counted.answer(b"b", 1000)
    assert counted.reads.expected_bytes == 0
    assert not counted.reads._accounts


def test_a_client_that_does_not_read_has_no_more_made() -> None:
    """
    1. All that it may have comes, and it reads nothing: what it has asked for besides waits.
    2. It reads half: as much goes on. It is gone: nothing of it is left.
    """
    counted = Counted()
    counted.ask(b"a", 100)
    for number in counted.numbers[b"a"]:
        counted.reads.end(number, JOB_BYTES)
    assert counted.ask(b"a", 1) == 0
    counted.reads.unread(b"a", AT_ONCE * JOB_BYTES)
    counted.reads.sent()
    assert counted.go_on() == []
    counted.reads.unread(b"a", AT_ONCE * JOB_BYTES // 2)
    assert counted.go_on() == [b"a"] * (AT_ONCE // 2)
    counted.reads.leave(b"a")
    assert counted.go_on() == []


def test_one_is_always_let_through() -> None:
    """Also where it counts more than there is, as on a server with small bounds."""
    counted = Counted(unread_bytes_max=1000, all_bytes_max=1000)
    assert counted.ask(b"a", 3, JOBS_BYTES) == 1
    counted.answer(b"a", 500)
    assert counted.go_on() == [b"a"]


def test_all_clients_share_a_bound_and_take_turns() -> None:
    """None of them has all of it for long, however much it asks for."""
    counted = Counted(all_bytes_max=AT_ONCE * JOB_BYTES)
    assert counted.ask(b"a", 100) == AT_ONCE
    assert counted.ask(b"b", 100) == 0
    counted.answer(b"a", 0, 6)
    assert sorted(counted.go_on()) == [b"a"] * 3 + [b"b"] * 3
    assert counted.reads.expected_bytes == AT_ONCE * JOB_BYTES


def test_what_waits_is_bounded() -> None:
    """In bytes, with what each takes besides."""
    counted = Counted()
    counted.ask(b"a", AT_ONCE)
    with pytest.raises(Busy, match="read the replies"):
        counted.ask(b"a", 1_000_000)
    assert counted.reads._accounts[b"a"].held_bytes <= HELD_BYTES_MAX


def test_answers_that_never_come_do_not_count_for_ever() -> None:
    """A shard was started anew, or lost some."""
    counted = Counted()
    counted.ask(b"a", AT_ONCE + 5)
    counted.reads.forget_under_way()
    assert counted.go_on() == [b"a"] * 5
    assert counted.reads.next_deadline_ms() == READ_MS_MAX
    counted.ask(b"a", AT_ONCE)
    counted.reads.tick(READ_MS_MAX)
    assert counted.go_on() == [b"a"] * 5
    counted.answer(b"a", 100)  # late: it counts no more


# --- in the router


def ask(bench: Bench, count: int, **request: Any) -> list[Pair]:
    """Let a client ask so often, and return what shards are asked for."""
    for corr in range(count):
        bench.ask(corr=corr, address=REMOTE, **request)
    return bench.to_peers()


def test_a_read_goes_there_and_back() -> None:
    """By any route; its reply finds its way, and a refusal of the router's own counts nothing."""
    bench = Bench()
    for route in (1, ROUTE_ANY):
        bench.ask(route=route, corr=9, cmd="GETJOB", id=SHARDS + 1, address=REMOTE)
        asked = bench.to_shard()
        assert (asked.to, asked.corr) == (1, 9)
        bench.answer(asked, {"job": None})
        [reply] = bench.to_clients()
        assert (reply.to, reply.flags, reply.corr) == (CLIENT, REPLY, 9)
    bench.ask(cmd="GETJOB", address=REMOTE)
    assert bench.reply()["code"] == "invalid"
    assert bench.router._reads.expected_bytes == 0


def test_reads_wait_and_changes_do_not() -> None:
    """
    1. A client asks for a job 400 times: so many go to the shard. Its push goes too.
    2. Replies come and it reads none of them: nothing more goes to the shard.
    3. It reads: the rest goes on.
    """
    bench = Bench()
    asked = ask(bench, 400, cmd="GETJOB", id=SHARDS)
    assert len(asked) == AT_ONCE
    bench.ask(route=0, corr=999, cmd="PUSH", queue="q", data=1, address=REMOTE)
    assert bench.to_shard().corr == 999
    for pair in asked:
        bench.answer(pair, {"job": None})
    assert len(bench.to_clients()) == AT_ONCE
    bench.router.unread(CLIENT, AT_ONCE * JOB_BYTES)
    assert bench.to_peers() == []
    bench.router.unread(CLIENT, 0)
    assert [pair.corr for pair in bench.to_peers()] == list(range(AT_ONCE, 2 * AT_ONCE))
    bench.router.client_left(CLIENT)
    for pair in asked:
        bench.answer(pair, {"job": None})
    bench.to_clients()
    assert bench.to_peers() == []


def test_a_gather_counts_until_its_answer() -> None:
    """All shards are asked for a list of jobs; two such lists are what one client may have."""
    bench = Bench()
    asked = ask(bench, 3, cmd="GETJOBS")
    assert len(asked) == 2 * SHARDS
    for pair in asked[::2]:  # of each shard the first
        bench.answer(pair, {"jobs": [], "total": 0})
    assert len(bench.to_clients()) == 1
    assert len(bench.to_peers()) == SHARDS


def test_a_shard_that_begins_anew_frees_what_it_was_asked() -> None:
    """Its clients ask again, and must find room."""
    bench = Bench()
    bench.epochs(1, 1, 1, 1)
    assert len(ask(bench, 400, cmd="GETJOB", id=SHARDS)) == AT_ONCE
    bench.epochs(2, 1, 1, 1)
    bench.to_clients()
    assert len(bench.to_peers()) == AT_ONCE
