"""Who may ask over HTTP.

Owns the reading of tokens from requests, and the rule who is an operator while there are no tokens.
What a token allows is `flashq.tokens`' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from flashq.addresses import is_loopback
from flashq.errors import NotAllowed
from flashq.gateway.asking import Ask
from flashq.gateway.http_connection import LET_IN, PEER
from flashq.gateway.http_origins import Origins, headers_of
from flashq.protocol.command import Role
from flashq.tokens import Grant, Guard, Shown

_BEARER: Final = "bearer "
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Visitor:
    """Somebody who was let in, and what he may do.

    Args:
        guard: who let him in.
        shown: what he has shown.
        grant: what that allows.
    """

    __slots__ = ("_guard", "_shown", "grant")

    def __init__(self, guard: Guard, shown: Shown, grant: Grant) -> None:
        self._guard: Final = guard
        self._shown: Final = shown
        self.grant: Final = grant

    @property
    def is_welcome(self) -> bool:
        """Whether what he has shown still opens the door: tokens may be replaced any time."""
        return self._shown.grant(self._guard) is not None

    def check(self, ask: Ask) -> None:
        """Refuse a command that he may not have carried out; see `Grant.check`.

        Raises:
            NotAllowed: he may not.
        """
        if self.grant.is_everything:
            return
        within = self.grant.check(ask.command, ask.outline.queue, ask.body, json=True)
        if within:
            ask.add(within=within)

    def check_listening(self, queue: str) -> None:
        """Refuse somebody who may not follow a queue's events (`*` for all).

        Raises:
            NotAllowed: he may not.
        """
        self.grant.check_role(Role.READ)
        self.grant.check_queue(queue)


class Access:
    """The way in.

    Args:
        guard: knows the tokens.
        now_ms: the monotonic clock.
        origins: judges which web pages may ask.
    """

    def __init__(
        self, guard: Guard, now_ms: Callable[[], int], origins: Origins | None = None
    ) -> None:
        self._guard: Final = guard
        self._origins: Final = origins or Origins(is_open=guard.is_open)
        self._now_ms: Final = now_ms

    @property
    def tokens_count(self) -> int:
        """How many tokens there are."""
        return self._guard.tokens_count

    def check_host(self, asker: HTTPConnection) -> None:
        """Refuse somebody who asks for another server than this, as a page does that was led here.

        Raises:
            NotAllowed: he does.
        """
        self._origins.check_host(headers_of(asker.scope["headers"]))

    def admit(self, asker: HTTPConnection, *, changes: bool = False) -> Visitor:
        """Let somebody in.

        Args:
            asker: the request.
            changes: whether it may change something.

        Raises:
            NotAllowed: a page of another site asks.
            AuthenticationRequired, TokenInvalid, TooManyAttempts: see `Guard.show`.
        """
        self._origins.check(headers_of(asker.scope["headers"]), changes=changes)
        token = None if self._guard.is_open else shown_token(asker)
        address = "" if asker.client is None else asker.client.host
        shown = self._guard.show(token, address, self._now_ms())
        grant = shown.grant(self._guard)
        assert grant is not None, "a token was accepted and then was none"
        peer = asker.scope.get("extensions", {}).get(PEER)
        if peer is not None:
            peer[LET_IN]()
        return Visitor(self._guard, shown, grant)

    def check_operator(self, asker: HTTPConnection) -> None:
        """Refuse somebody who may not stop or empty the server, while there are no tokens.

        Then only this host's own programs may: not another host, and not a web page of another
        site in a browser on this one (which sends its origin, or comes by another name).

        Raises:
            NotAllowed: he may not.
        """
        if not self._guard.is_open:
            return
        if not is_local(asker):
            raise NotAllowed(detail="without tokens this is for the server's own host only")
        host = asker.headers.get("host", "")
        origin = asker.headers.get("origin")
        if not _is_local_name(host) or (origin is not None and urlsplit(origin).netloc != host):
            raise NotAllowed(detail="without tokens this is not for pages of other sites")


def shown_token(asker: HTTPConnection) -> bytes | None:
    """Return the token that comes with a request: as Bearer, else as `?token=`; an empty one is
    none."""
    header = asker.headers.get("authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return header[len(_BEARER) :].strip().encode("latin-1")
    token = asker.query_params.get("token")
    return token.encode("utf-8", "surrogatepass") if token else None


def is_local(asker: HTTPConnection) -> bool:
    """Tell whether a request comes from this host."""
    if asker.client is None:
        return False
    try:
        return is_loopback(asker.client.host)
    except ValueError:
        return False


def _is_local_name(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname if host else None
    return name in _LOCAL_NAMES
