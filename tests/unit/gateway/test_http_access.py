"""Who is let in over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from flashq.errors import AuthenticationRequired, NotAllowed, TokenInvalid, TooManyAttempts
from flashq.gateway.http_access import Access, is_local
from flashq.gateway.http_requests import ask_with_body, ask_with_parameters
from flashq.protocol.registry import BY_WORD
from flashq.tokens import ATTEMPTS_MAX, Guard, Keyring, TokenEntry, digest_of


def asker(client: str | None = "127.0.0.1", query: str = "", **headers: str) -> HTTPConnection:
    """Return a request with these headers from that address."""
    scope: dict[str, Any] = {
        "type": "http",
        "client": None if client is None else (client, 5000),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "query_string": query.encode(),
        "path": "/",
    }
    return HTTPConnection(scope)


def access(*tokens: str, entries: Sequence[TokenEntry] = ()) -> Access:
    """Return the way into a server with these tokens."""
    guard = Guard(Keyring(tokens, entries)) if tokens or entries else Guard()
    return Access(guard, lambda: 1000)


def limited(token: str, role: Any, *queues: str) -> TokenEntry:
    """Return a token of a tokens file."""
    return TokenEntry(hash=f"sha256:{digest_of(token).hex()}", role=role, queues=queues)


def test_without_tokens_everybody_may_ask() -> None:
    """Whatever he shows."""
    visitor = access().admit(asker(authorization="Bearer x"))
    assert visitor.grant.is_everything
    assert visitor.is_welcome


@pytest.mark.parametrize("shown", ["Bearer two", "bearer two", "BEARER  two "])
def test_a_token_that_fits_is_let_in(shown: str) -> None:
    """The scheme's case is nobody's business."""
    assert access("one", "two").admit(asker(authorization=shown)).grant.is_everything


@pytest.mark.parametrize("shown", ["Basic two", "two", ""])
def test_another_scheme_shows_no_token(shown: str) -> None:
    """It is as if nothing was shown."""
    with pytest.raises(AuthenticationRequired):
        access("two").admit(asker(authorization=shown))


def test_a_token_beyond_ascii_is_compared_as_its_bytes() -> None:
    """In a header as in the address."""
    way = access("sésame")
    way.admit(asker(query="token=s%C3%A9same"))
    way.admit(asker(authorization="Bearer s\u00c3\u00a9same"))
    with pytest.raises(TokenInvalid):
        way.admit(asker(authorization="Bearer s\u00e9same"))


def test_an_address_may_not_guess_for_ever() -> None:
    """Not even whether the next one is right; others are let in all the same."""
    way = access("right")
    for n in range(ATTEMPTS_MAX):
        with pytest.raises(TokenInvalid):
            way.admit(asker("10.0.0.1", authorization=f"Bearer wrong-{n}"))
    with pytest.raises(TooManyAttempts):
        way.admit(asker("10.0.0.1", authorization="Bearer right"))
    assert way.admit(asker("10.0.0.2", authorization="Bearer right")).is_welcome


def test_a_command_is_checked_with_what_it_says() -> None:
    """Its role, its queue; and for jobs by id the shard is told in which queues they have to be."""
    entries = (limited("w", "worker", "mail-*"),)
    visitor = access(entries=entries).admit(asker(authorization="Bearer w"))
    ask = ask_with_body(BY_WORD["ACK"], {"id": "7"}, b"{}")
    visitor.check(ask)
    assert json.loads(ask.body)["within"] == ["mail-*"]
    visitor.check(ask_with_parameters(BY_WORD["PULLB"], {"queue": "mail-1"}, {"count": "1"}))
    for refused in (
        ask_with_parameters(BY_WORD["PULLB"], {"queue": "other"}, {"count": "1"}),
        ask_with_body(BY_WORD["PUSH"], {"queue": "mail-1"}, b'{"data":1}'),
        ask_with_parameters(BY_WORD["STATS"], {}, {}),
    ):
        with pytest.raises(NotAllowed):
            visitor.check(refused)


def test_events_are_for_who_may_read_that_queue() -> None:
    """And all events for who may read all."""
    entries = (limited("r", "read", "mail-*"),)
    visitor = access(entries=entries).admit(asker(authorization="Bearer r"))
    visitor.check_listening("mail-1")
    for queue in ("other", "*"):
        with pytest.raises(NotAllowed):
            visitor.check_listening(queue)


def test_a_token_that_is_taken_away_is_not_welcome_any_more() -> None:
    """Also not to who was let in with it."""
    guard = Guard(Keyring(("one",)))
    visitor = Access(guard, lambda: 1000).admit(asker(authorization="Bearer one"))
    guard.replace(Keyring(("one", "two")))
    assert visitor.is_welcome
    guard.replace(Keyring(("two",)))
    assert not visitor.is_welcome


@pytest.mark.parametrize(
    ("client", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("nonsense", False),
        (None, False),
    ],
)
def test_local_is_who_comes_over_the_loopback(client: str | None, local: bool) -> None:
    """In all of its forms."""
    assert is_local(asker(client)) is local


def test_with_tokens_an_operator_may_come_from_anywhere() -> None:
    """It is the token that counts."""
    access("two").check_operator(asker("10.0.0.1", host="h", origin="https://elsewhere.example"))


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("10.0.0.1", {"host": "localhost:6790"}),
        ("127.0.0.1", {"host": "evil.example:6790"}),
        ("127.0.0.1", {"host": "localhost.evil.example"}),
        ("127.0.0.1", {"host": "localhost:6790", "origin": "http://evil.example"}),
        ("127.0.0.1", {"host": "localhost:6790", "origin": "http://localhost:3000"}),
        ("127.0.0.1", {"host": "localhost:6790", "origin": "null"}),
        ("127.0.0.1", {}),
    ],
)
def test_without_tokens_strangers_are_no_operators(client: str, headers: dict[str, str]) -> None:
    """Other hosts, other names for this one, and pages of other sites."""
    with pytest.raises(NotAllowed):
        access().check_operator(asker(client, **headers))


@pytest.mark.parametrize("host", ["localhost:6790", "127.0.0.1:6790", "[::1]:6790", "localhost"])
def test_without_tokens_this_hosts_programs_are(host: str) -> None:
    """And the server's own page."""
    access().check_operator(asker(host=host))
    access().check_operator(asker(host=host, origin=f"http://{host}"))
