"""Which web pages may ask over HTTP, in a browser that lends them its place.

Owns the judgement of Host and Origin, and of what browsers say besides. A page from anywhere can
send a browser on this host to the server's port: what the page may read is the browser's business,
what is carried out is this one's. A page whose name was made to lead here (DNS rebinding) has the
server's own origin for its browser, and is known only by the name in Host. Programs that are no
browsers are let through. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from msgspec import Struct

from flashq.addresses import is_local_name, is_loopback, read_address
from flashq.errors import NotAllowed

EVERYTHING: Final = "*"
HOSTS_KNOWN_MAX: Final = 256
"""Hosts remembered as judged well, so that the usual one costs a look-up."""
TEXT_CHARS_MAX: Final = 128
"""How much of what a client has said is told back."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s]+)(:[0-9]*)?")
_OWN_SITE: Final = (b"same-origin", b"none")
"""What a browser says in Sec-Fetch-Site of the server's own pages, and of what a person types."""


class Headers(Struct):
    """What of a request's headers tells of a page; None for one that is not there."""

    hosts: int = 0
    host: bytes = b""
    origin: bytes | None = None
    site: bytes | None = None
    mode: bytes | None = None
    agent: bytes = b""
    has_own: bool = False
    """One that no page can send without being asked: a token, or X-Requested-With."""


def headers_of(raw: Collection[tuple[bytes, bytes]]) -> Headers:
    """Return what a request's headers tell of a page, in one pass."""
    found = Headers()
    for name, value in raw:
        match name:
            case b"host":
                found.hosts += 1
                found.host = value
            case b"origin":
                found.origin = value
            case b"sec-fetch-site":
                found.site = value
            case b"sec-fetch-mode":
                found.mode = value
            case b"user-agent":
                found.agent = value
            case b"authorization" | b"x-requested-with":
                found.has_own = True
    return found


class Origins:
    """The judgement.

    Args:
        listening: the address that the server listens on.
        is_open: whether the server asks nobody for a token.
        hosts: names by which it is reached, beside its host's own; `*` for any.
        origins: of pages elsewhere that may ask; `*` for any.
        own_names: of the host, where others can reach it.
    """

    def __init__(
        self,
        listening: str = "127.0.0.1",
        *,
        is_open: bool = True,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        own_names: Collection[str] = (),
    ) -> None:
        address = read_address(listening)
        self._is_local: Final = (
            is_local_name(listening) if address is None else is_loopback(address)
        )
        #: A page that was led here has no token: where one is asked for, any name will do.
        self._any_host: Final = EVERYTHING in hosts or not (hosts or is_open)
        self._are_hosts_set: Final = bool(hosts)
        self._hosts: Final = frozenset(map(_bare, (*hosts, *own_names)))
        self._any_origin: Final = EVERYTHING in origins
        self._origins: Final = frozenset(origin.lower().encode() for origin in origins)
        self._known: Final[set[bytes]] = set()

    def check_host(self, headers: Headers) -> None:
        """Refuse a request to a name that is not the server's.

        Raises:
            NotAllowed: its Host is another's.
        """
        if self._any_host or headers.host in self._known:
            if headers.hosts <= 1:
                return
        elif headers.hosts == 0:
            return  # HTTP/1.0: no browser is that old
        if headers.hosts > 1:
            raise NotAllowed(detail="the request has more than one Host")
        if not self._is_own(headers.host):
            raise NotAllowed(
                detail=f"{_shown(headers.host)} in Host is no name of this server; "
                "the setting http_hosts adds one"
            )
        if len(self._known) < HOSTS_KNOWN_MAX:
            self._known.add(headers.host)

    def check(self, headers: Headers, *, changes: bool = False) -> None:
        """Refuse a request that a page of another site has sent, or one that goes to another host.

        Args:
            headers: of the request.
            changes: whether it may change something.

        Raises:
            NotAllowed: it is such a one.
        """
        self.check_host(headers)
        if self._any_origin:
            return
        if headers.origin is not None:
            if not self._is_allowed(headers.origin, headers.host):
                raise NotAllowed(
                    detail=f"{_shown(headers.origin)} in Origin is another site than this server; "
                    "the setting http_origins lets its pages in"
                )
        elif headers.site is not None and headers.site not in _OWN_SITE:
            if changes or headers.mode != b"navigate":
                raise NotAllowed(
                    detail=f"a page of another site has sent this ({_shown(headers.site)} in "
                    "Sec-Fetch-Site); the setting http_origins lets its requests with Origin in"
                )
        elif changes and _is_old_browser(headers):
            raise NotAllowed(
                detail="a browser that does not say for which page it asks may change nothing; "
                "programs show a token, or the header X-Requested-With"
            )

    def _is_own(self, host: bytes) -> bool:
        found = _HOST.fullmatch(host.decode("latin-1"))
        if found is None:
            return False
        name = _bare(found[1])
        if name in self._hosts or is_local_name(name):
            return True
        address = read_address(name)
        if address is not None and is_loopback(address):
            return True
        if self._is_local or self._are_hosts_set:
            return False
        # Rebinding needs a name that somebody can register: neither addresses nor bare words are.
        return address is not None or "." not in name

    def _is_allowed(self, origin: bytes, host: bytes) -> bool:
        lower = origin.lower()
        return lower in self._origins or lower.partition(b"://")[2] == host.lower() != b""


def _bare(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _is_old_browser(headers: Headers) -> bool:
    """Tell whether a browser asks that is too old to say for whom."""
    return headers.agent.startswith(b"Mozilla/") and headers.site is None and not headers.has_own


def _shown(value: bytes) -> str:
    return value[:TEXT_CHARS_MAX].decode("latin-1")
