"""Who may ask over HTTP.

Owns the reading of tokens and the rule for what only the server's own operators may do. The rights
of each token are not this module's: a token of the settings may do everything.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from flashq.errors import AuthenticationRequired, NotAllowed, TokenInvalid

_BEARER: Final = "bearer "
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Access:
    """The door's keeper.

    Args:
        tokens: one of which has to be shown; none when everybody may ask.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens: Final = [token.encode() for token in tokens]

    @property
    def tokens_count(self) -> int:
        """How many tokens there are."""
        return len(self._tokens)

    def check(self, asker: HTTPConnection) -> None:
        """Refuse somebody who has to show a token, and shows none that fits.

        Raises:
            AuthenticationRequired, TokenInvalid: in this order of checks.
        """
        if not self._tokens:
            return
        shown = shown_token(asker)
        if shown is None:
            raise AuthenticationRequired
        # All are compared, so that the time taken does not tell which one nearly fits.
        fits = [hmac.compare_digest(shown, token) for token in self._tokens]
        if not any(fits):
            raise TokenInvalid

    def check_operator(self, asker: HTTPConnection) -> None:
        """Refuse somebody who may not stop or empty the server.

        Without tokens only this host's own programs may: not another host, and not a web page of
        another site in a browser on this one (which sends its origin, or comes by another name).

        Raises:
            AuthenticationRequired, TokenInvalid, NotAllowed: in this order of checks.
        """
        self.check(asker)
        if self._tokens:
            return
        if not is_local(asker):
            raise NotAllowed(detail="without tokens this is for the server's own host only")
        host = asker.headers.get("host", "")
        origin = asker.headers.get("origin")
        if not _is_local_name(host) or (origin is not None and urlsplit(origin).netloc != host):
            raise NotAllowed(detail="without tokens this is not for pages of other sites")


def shown_token(asker: HTTPConnection) -> bytes | None:
    """Return the token that comes with a request: as Bearer, else as `?token=`."""
    header = asker.headers.get("authorization", "")
    if header[: len(_BEARER)].lower() == _BEARER:
        return header[len(_BEARER) :].strip().encode("latin-1")
    token = asker.query_params.get("token")
    return None if token is None else token.encode("utf-8", "surrogatepass")


def is_local(asker: HTTPConnection) -> bool:
    """Tell whether a request comes from this host."""
    if asker.client is None:
        return False
    try:
        address = ipaddress.ip_address(asker.client.host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_local_name(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname if host else None
    return name in _LOCAL_NAMES
