"""The requests of one connection of the older protocol that have no answer yet.

Owns how many there may be: in number, in bytes, and by what their replies may cost. A client that
asks and does not read is bounded before its replies are made. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from flashq.gateway.asking import Ask
from flashq.gateway.frames import REQUEST_BYTES_MAX

OPEN_MAX: Final = 1000
OPEN_BYTES_MAX: Final = 2 * REQUEST_BYTES_MAX
"""Requests without an answer, and their size, above which nothing more is read."""
READS_OPEN_MAX: Final = 8
"""Requests under way whose replies may be large: they count against the connection before they are
made, since nobody knows how much of them its client will take."""
WAITS_OPEN_MAX: Final = 256
"""Pulls and waits under way, which may all be answered at once."""


class Talk(Protocol):
    """The conversation, as one of its requests knows it."""

    def answered(self, exchange: Exchange, body: bytes, *, ok: bool) -> None:
        """Take a shard's reply."""
        ...


class Exchange:
    """One request on its way to its reply.

    Args:
        talk: the conversation.
        ask: the request; None for one that could not be read.
        request_id: encoded, None for none.
    """

    __slots__ = ("ask", "is_repaired", "is_shortened", "reply", "request_id", "size", "talk")

    def __init__(self, talk: Talk, ask: Ask | None, request_id: bytes | None, size: int) -> None:
        self.talk: Final = talk
        self.ask = ask
        self.request_id: Final = request_id
        self.size: Final = size
        self.is_repaired = False
        #: it is a pull that did not say how long to wait
        self.is_shortened = False
        #: framed; None until it is there
        self.reply: bytes | None = None

    @property
    def waits(self) -> bool:
        """Whether it may wait for something that happens."""
        return self.ask is not None and self.ask.command.waits

    @property
    def reads(self) -> bool:
        """Whether it is answered at once, and the answer may be large."""
        return self.ask is not None and not (self.ask.command.mutates or self.ask.command.waits)

    @property
    def blocks(self) -> bool:
        """Whether requests behind it have to wait for its answer."""
        return self.request_id is None and self.waits

    def done(self, body: bytes, ok: bool) -> None:
        """Take the shard's reply."""
        self.talk.answered(self, body, ok=ok)


class OpenExchanges:
    """All of a connection, in the order in which they came."""

    def __init__(self) -> None:
        self._all: Final[dict[Exchange, None]] = {}
        self._bytes = 0
        self._reads = 0
        #: how many wait for something that happens
        self.waits = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._all)

    def __contains__(self, exchange: Exchange) -> bool:
        return exchange in self._all

    @property
    def is_full(self) -> bool:
        """Whether no more should be read."""
        return (
            len(self._all) >= OPEN_MAX
            or self._bytes > OPEN_BYTES_MAX
            or self._reads >= READS_OPEN_MAX
            or self.waits >= WAITS_OPEN_MAX
        )

    def add(self, exchange: Exchange) -> None:
        """Take one on."""
        self._all[exchange] = None
        self._bytes += exchange.size
        self._reads += exchange.reads
        self.waits += exchange.waits

    def remove(self, exchange: Exchange) -> None:
        """Let one go: it is answered."""
        del self._all[exchange]
        self._bytes -= exchange.size
        self._reads -= exchange.reads
        self.waits -= exchange.waits

    def clear(self) -> None:
        """Let all go: nobody is there any more."""
        self._all.clear()
        self._bytes = self._reads = self.waits = 0
