"""Who is let in over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from flashq.errors import AuthenticationRequired, NotAllowed, TokenInvalid
from flashq.gateway.http_access import Access, is_local


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


def test_without_tokens_everybody_may_ask() -> None:
    """Whatever he shows."""
    Access(()).check(asker(authorization="Bearer x"))


@pytest.mark.parametrize("shown", ["Bearer two", "bearer two", "BEARER  two "])
def test_a_token_that_fits_is_let_in(shown: str) -> None:
    """The scheme's case is nobody's business."""
    Access(("one", "two")).check(asker(authorization=shown))


@pytest.mark.parametrize("shown", ["Basic two", "two", ""])
def test_another_scheme_shows_no_token(shown: str) -> None:
    """It is as if nothing was shown."""
    with pytest.raises(AuthenticationRequired):
        Access(("two",)).check(asker(authorization=shown))


def test_a_token_beyond_ascii_is_compared_as_its_bytes() -> None:
    """In a header as in the address."""
    access = Access(("sésame",))
    access.check(asker(query="token=s%C3%A9same"))
    access.check(asker(authorization="Bearer s\u00c3\u00a9same"))
    with pytest.raises(TokenInvalid):
        access.check(asker(authorization="Bearer s\u00e9same"))


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


def test_an_operator_with_a_token_may_come_from_anywhere() -> None:
    """And without it from nowhere."""
    access = Access(("two",))
    access.check_operator(asker("10.0.0.1", authorization="Bearer two", host="h"))
    with pytest.raises(AuthenticationRequired):
        access.check_operator(asker("127.0.0.1", host="localhost:6790"))


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
        Access(()).check_operator(asker(client, **headers))


@pytest.mark.parametrize("host", ["localhost:6790", "127.0.0.1:6790", "[::1]:6790", "localhost"])
def test_without_tokens_this_hosts_programs_are(host: str) -> None:
    """And the server's own page."""
    access = Access(())
    access.check_operator(asker(host=host))
    access.check_operator(asker(host=host, origin=f"http://{host}"))
