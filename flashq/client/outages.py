"""What a client says in the log of a server that is away: once when it goes, once when it is back.

Owns the two lines, and the knowledge whether the server is away. Time is an argument, in ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


class Outages:
    """The log of one client's outages.

    Args:
        url: the server.
        warn: called with each line, as a logger's `warning` is.
    """

    def __init__(self, url: str, warn: Callable[..., object]) -> None:
        self._url: Final = url
        self._warn: Final = warn
        #: since when the server has been away; None while it is there
        self._since_ms: int | None = None

    def gone(self, reason: str, now_ms: int) -> None:
        """Note that the server does not answer."""
        if self._since_ms is None:
            self._since_ms = now_ms
            self._warn("no server at %s: %s; trying on", self._url, reason)

    def back(self, now_ms: int) -> None:
        """Note that the server answers."""
        if self._since_ms is not None:
            away_s = (now_ms - self._since_ms) / 1000
            self._since_ms = None
            self._warn("the server at %s is back after %.1f s", self._url, away_s)
