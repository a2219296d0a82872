"""What the router lets a client do whose token does not allow everything."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.protocol.framing import JSON, ROUTE_ANY, pack_header
from flashq.tokens import ATTEMPTS_MAX, Keyring, entry_text, read_entries
from tests.unit.router.bench import CLIENT, Bench, Pair

ENTRIES = read_entries(
    entry_text("reader", "read")
    + entry_text("worker", "worker", ["mail-*"])
    + entry_text("producer", "producer", ["mail-*"]),
    "tokens.toml",
)


def bench_for(token: str) -> Bench:
    """Return a router to which a client has shown a token and said hello."""
    bench = Bench(tokens=["plain"], entries=ENTRIES)
    assert outcome(bench, cmd="AUTH", token=token) is True
    bench.hello()
    return bench


def outcome(bench: Bench, **request: Any) -> Any:
    """Send a request, and return its reply: True, or the error's code."""
    bench.ask(**request)
    reply = bench.reply()
    return reply["ok"] or reply["code"]


def passed(bench: Bench, **request: Any) -> Pair:
    """Send a request that goes on, and return it as its shard gets it."""
    bench.ask(**request)
    assert bench.to_clients() == []
    return bench.to_shard()


@pytest.mark.parametrize("route", [0, ROUTE_ANY])
@pytest.mark.parametrize("flags", [0, JSON])
def test_roles_count_whatever_the_header_says(route: int, flags: int) -> None:
    """A request whose header names its shard is not read otherwise."""
    reader = bench_for("reader")
    how: Any = {"route": route, "flags": flags}
    assert passed(reader, cmd="COUNT", queue="q", **how).fields == {"cmd": "COUNT", "queue": "q"}
    assert outcome(reader, cmd="PUSH", queue="q", data=1, **how) == "not_allowed"
    assert outcome(reader, cmd="ACK", id=4, **how) == "not_allowed"
    worker = bench_for("worker")
    assert outcome(worker, cmd="PUSH", queue="mail-1", data=1, **how) == "not_allowed"
    assert passed(worker, cmd="PULL", queue="mail-1", **how).fields["cmd"] == "PULL"
    assert outcome(worker, cmd="PULL", queue="other", **how) == "not_allowed"
    assert outcome(worker, cmd="STATS", **how) == "not_allowed"
    assert outcome(worker, cmd="NOPE", **how) == "invalid"


@pytest.mark.parametrize("route", [0, ROUTE_ANY])
@pytest.mark.parametrize("flags", [0, JSON])
def test_jobs_by_id_go_on_with_the_tokens_queues(route: int, flags: int) -> None:
    """Also when the client says others itself."""
    worker = bench_for("worker")
    asked: dict[str, Any] = {"cmd": "ACK", "id": 4, "result": {"a": [1]}}
    pair = passed(worker, route=route, flags=flags, within=["*"], **asked)
    assert pair.fields == asked | {"within": ["mail-*"]}


def test_many_jobs_too() -> None:
    """Each shard gets the condition with its part."""
    worker = bench_for("worker")
    worker.ask(cmd="ACKB", ids=[4, 5])
    assert [pair.fields["within"] for pair in worker.to_peers()] == [["mail-*"]] * 2


def test_a_plain_token_is_not_looked_at() -> None:
    """Its bodies go on as they are."""
    bench = bench_for("plain")
    bench.send(pack_header(0, 1, 9), b"\xc1")
    assert bench.to_shard().body == b"\xc1"


def test_what_cannot_be_read_is_refused() -> None:
    """Its shard could read it otherwise."""
    bench = bench_for("reader")
    bench.send(pack_header(0, 1, 9), b"\xc1", b"", b"", pack_header(0, 1, 9), b"x" * (1 << 21))
    codes = [pair.fields["code"] for pair in bench.to_clients()]
    assert codes == ["bad_message", "bad_message", "message_too_large"]
    assert bench.to_peers() == []


def test_other_tokens_end_what_was_granted() -> None:
    """Subscriptions too, where the queue is no longer the token's."""
    bench = bench_for("worker")
    for queue in ("mail-1", "mail-2"):
        assert outcome(bench, cmd="SUBSCRIBE", queue=queue, events=["*"]) is True
    entries = read_entries(entry_text("worker", "worker", ["mail-2"]), "tokens.toml")
    bench.router.replace_tokens(Keyring([], entries))
    assert bench.router.wants_events
    assert outcome(bench, cmd="PULL", queue="mail-1") == "not_allowed"
    bench.router.replace_tokens(Keyring(["plain"]))
    assert not bench.router.wants_events
    assert outcome(bench, cmd="PULL", queue="mail-2") == "authentication_required"


def test_wrong_tokens_are_limited_by_address() -> None:
    """Whatever identity somebody makes up for each of them."""
    bench = Bench(tokens=["plain"])
    for number in range(ATTEMPTS_MAX):
        who: Any = {"identity": b"c%d" % number, "address": "10.0.0.1"}
        assert outcome(bench, cmd="AUTH", token="wrong", **who) == "token_invalid"
    there: Any = {"identity": b"new", "address": "10.0.0.1"}
    bench.ask(cmd="AUTH", token="plain", **there)
    reply = bench.reply()
    assert (reply["code"], reply["retryable"]) == ("too_many_attempts", True)
    assert outcome(bench, cmd="AUTH", token="plain", identity=CLIENT) is True
