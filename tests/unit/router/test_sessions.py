"""What the router says to clients of itself: hello, heartbeat, auth, subscriptions."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.protocol.framing import JSON, NOTICE, ROUTE_ANY, ROUTE_ROUTER, pack_header
from flashq.protocol.limits import EngineLimits
from flashq.tokens import ATTEMPTS_MAX, Keyring
from tests.unit.router.bench import CLIENT, SESSION, SHARDS, Bench

OTHER = bytes(16)


def outcome(bench: Bench, **request: Any) -> Any:
    """Send a request to the router, and return its reply: True, or the error's code."""
    bench.ask(**request)
    reply = bench.reply()
    return reply["ok"] or reply["code"]


@pytest.mark.parametrize("route", [ROUTE_ROUTER, ROUTE_ANY])
@pytest.mark.parametrize("flags", [0, JSON])
def test_hello_tells_how_to_talk_to_the_server(route: int, flags: int) -> None:
    """Version, boot, shards and their epochs, times and limits."""
    bench = Bench()
    bench.epochs(3, 0, 4, 5)
    assert bench.hello(route=route, flags=flags) == {
        "ok": True,
        "version": "1.2.3",
        "boot": 42,
        "shard_count": SHARDS,
        "epochs": [3, 0, 4, 5],
        "heartbeat_interval": 2000,
        "session_timeout": 10_000,
        "batch_jobs_max": 10_000,
        "payload_bytes_max": 1 << 20,
        "message_bytes_max": 1 << 20,
    }


def test_a_heartbeat_tells_whether_the_router_is_another() -> None:
    """By boot, epochs, and whether it knows the session: after a restart it does not."""
    bench = Bench()
    bench.ask(cmd="SESSIONHEARTBEAT", session=SESSION)
    expected = {"ok": True, "boot": 42, "epochs": [0] * SHARDS}
    assert bench.reply() == expected | {"known": False}
    bench.hello()
    bench.ask(cmd="SESSIONHEARTBEAT", session=SESSION, leases=[1])
    assert bench.reply() == expected
    bench.ask(cmd="SESSIONHEARTBEAT", session=OTHER)
    assert bench.reply()["known"] is False


def test_a_client_is_known_until_its_connection_ends() -> None:
    """However long it says nothing; nothing more is put together for it after that."""
    bench = Bench()
    bench.hello()
    bench.pass_time(3_600_000)
    bench.epochs(1, 0, 0, 0)
    assert len(bench.to_clients()) == 1
    bench.router.client_left(CLIENT)
    bench.epochs(2, 0, 0, 0)
    assert bench.to_clients() == []


def test_a_session_moves_to_the_connection_that_says_it() -> None:
    """A client opened another socket: the old connection gets no notices and listens to nothing,
    and its end is not the session's."""
    bench = Bench()
    bench.hello()
    assert outcome(bench, cmd="SUBSCRIBE", queue="q", events=["*"]) is True
    assert outcome(bench, cmd="HELLO", session=SESSION, identity=b"new") is True
    assert not bench.router.wants_events
    bench.router.client_left(CLIENT)
    bench.epochs(1, 0, 0, 0)
    assert [notice.to for notice in bench.to_clients()] == [b"new"]


def test_a_client_that_is_gone_is_forgotten() -> None:
    """Nothing more is put together for it; one that only reads slowly stays."""
    bench = Bench()
    bench.hello()
    for gone, notices in ((False, 1), (True, 0)):
        bench.router.undeliverable(CLIENT, [pack_header(NOTICE, 0, 0), b"x"], 0, gone=gone)
        bench.epochs(1 + notices, 0, 0, 0)
        assert len(bench.to_clients()) == notices


def test_a_goodbye_ends_what_the_router_knows() -> None:
    """No notices after it."""
    bench = Bench()
    bench.hello()
    bench.ask(cmd="GOODBYE", session=SESSION)
    bench.epochs(1, 0, 0, 0)
    assert bench.to_clients() == []


def test_clients_are_bounded() -> None:
    """A hello too many is answered busy; a known client's is not."""
    bench = Bench(limits=EngineLimits(sessions_max=1))
    bench.hello()
    assert outcome(bench, cmd="HELLO", session=SESSION, identity=b"b") == "busy"
    assert outcome(bench, cmd="HELLO", session=SESSION) is True


# --- tokens


def test_without_tokens_everybody_may_come_in() -> None:
    """And any token is right."""
    assert outcome(Bench(), cmd="AUTH", token="anything") is True


def test_with_tokens_a_stranger_may_only_show_one() -> None:
    """By any route: every other request is refused, and garbage too."""
    bench = Bench(tokens=("secret", "other"))
    for route in (0, ROUTE_ANY, ROUTE_ROUTER):
        refused = outcome(bench, route=route, cmd="PUSH", queue="q", data=1)
        assert refused == "authentication_required"
    assert outcome(bench, cmd="HELLO", session=SESSION) == "authentication_required"
    bench.send(pack_header(0, 0, 1), b"\xc1", b"", b"")
    codes = [reply.fields["code"] for reply in bench.to_clients()]
    assert codes == ["authentication_required"] * 2
    assert bench.to_peers() == []
    assert outcome(bench, cmd="AUTH", token="wrong") == "token_invalid"
    assert outcome(bench, cmd="AUTH", token="sécret") == "token_invalid"
    assert outcome(bench, cmd="AUTH") == "invalid"
    assert outcome(bench, flags=JSON, cmd="AUTH", token="other") is True
    assert outcome(bench, cmd="HELLO", session=SESSION) is True
    assert outcome(bench, cmd="AUTH", token="wrong") == "token_invalid"
    bench.ask(route=0, cmd="PUSH", queue="q", data=1)
    assert bench.to_shard().to == 0
    assert outcome(bench, cmd="HELLO", session=SESSION, identity=b"b") == "authentication_required"


def test_a_token_counts_for_the_connection_that_showed_it() -> None:
    """Under any session and for as long as it lasts; a new connection has to show one."""
    bench = Bench(tokens=("secret",))
    assert outcome(bench, cmd="AUTH", token="secret") is True
    bench.hello()
    assert outcome(bench, cmd="HELLO", session=OTHER) is True
    bench.pass_time(3_600_000)
    assert outcome(bench, cmd="HELLO", session=SESSION) is True
    bench.router.client_left(CLIENT)
    assert outcome(bench, cmd="HELLO", session=SESSION) == "authentication_required"


def test_a_session_is_taken_over_with_its_own_token_only() -> None:
    """
    1. A session is begun with one token. Somebody with another token says that it is theirs: that
       is refused, and the first goes on.
    2. Its owner comes back over another connection, with the token it was begun with.
    """
    bench = Bench(tokens=("secret", "other"))
    for who, token in ((CLIENT, "secret"), (b"thief", "other"), (b"back", "secret")):
        assert outcome(bench, cmd="AUTH", token=token, identity=who) is True
    bench.hello()
    assert outcome(bench, cmd="HELLO", session=SESSION, identity=b"thief") == "not_allowed"
    bench.epochs(1, 0, 0, 0)
    assert [notice.to for notice in bench.to_clients()] == [CLIENT]
    assert outcome(bench, cmd="HELLO", session=SESSION, identity=b"back") is True
    bench.epochs(2, 0, 0, 0)
    assert [notice.to for notice in bench.to_clients()] == [b"back"]


def test_a_token_can_be_shown_in_the_handshake() -> None:
    """It counts like one of AUTH; wrong ones are limited by address."""
    bench = Bench(tokens=("secret",))
    router = bench.router
    assert router.log_in(CLIENT, b"secret", bench.now_ms, None)
    bench.hello()
    assert router.take_changed_standings() == {CLIENT: True}
    for _ in range(ATTEMPTS_MAX):
        assert not router.log_in(b"guesser", b"guess", bench.now_ms, "10.0.0.1")
    assert not router.log_in(b"guesser", b"secret", bench.now_ms, "10.0.0.1")
    assert outcome(bench, cmd="LISTQUEUES", identity=b"guesser") == "authentication_required"
    router.replace_tokens(Keyring(["new"]))
    assert router.take_changed_standings() == {CLIENT: False}


def test_a_connection_may_change_its_session() -> None:
    """What the old one listened to ends."""
    bench = Bench()
    bench.hello()
    assert outcome(bench, cmd="SUBSCRIBE", queue="q", events=["*"]) is True
    assert outcome(bench, cmd="HELLO", session=OTHER) is True
    assert not bench.router.wants_events


# --- subscriptions


def test_events_are_wanted_only_while_somebody_listens() -> None:
    """Then the process connects to the shards' publishers."""
    bench = Bench()
    bench.hello()
    assert not bench.router.wants_events
    for queue in ("a", "b"):
        assert outcome(bench, cmd="SUBSCRIBE", queue=queue, events=["pushed"]) is True
    assert bench.router.wants_events
    assert outcome(bench, cmd="UNSUBSCRIBE", queue="a") is True
    assert outcome(bench, cmd="UNSUBSCRIBE", queue="never") is True
    assert bench.router.wants_events
    assert outcome(bench, cmd="UNSUBSCRIBE", queue="b") is True
    assert not bench.router.wants_events


def test_a_subscription_that_makes_no_sense_is_refused() -> None:
    """Unknown events, none at all, or a client that has not said hello."""
    bench = Bench()
    assert outcome(bench, cmd="SUBSCRIBE", queue="q", events=["pushed"]) == "invalid"
    assert outcome(bench, cmd="UNSUBSCRIBE", queue="q") is True
    bench.hello()
    for events in (["push"], [], ["pushed", "nope"]):
        assert outcome(bench, cmd="SUBSCRIBE", queue="q", events=events) == "invalid"
    assert not bench.router.wants_events


def test_a_listener_that_is_gone_is_forgotten() -> None:
    """And with the last one the events."""
    bench = Bench()
    bench.hello()
    outcome(bench, cmd="SUBSCRIBE", queue="q", events=["*"])
    bench.router.client_left(CLIENT)
    assert not bench.router.wants_events
