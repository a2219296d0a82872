"""What a connection writes, and in how many pieces it leaves."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from flashq.gateway.http_connection import HELD_BYTES_MAX, JoiningTransport


class Loop:
    """A loop whose turns a test makes."""

    def __init__(self) -> None:
        self._soon: list[Any] = []

    def call_soon(self, call: Any) -> None:
        self._soon.append(call)

    def turn(self) -> None:
        """Run what was to run soon."""
        soon, self._soon = self._soon, []
        for call in soon:
            call()


class Transport:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def joining() -> tuple[JoiningTransport, Transport, Loop]:
    """One over a transport and a loop of the test's own."""
    transport, loop = Transport(), Loop()
    made = JoiningTransport(
        cast("asyncio.Transport", transport), cast("asyncio.AbstractEventLoop", loop)
    )
    return made, transport, loop


def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    """Head and body."""
    made, transport, loop = joining()
    made.write(b"head")
    made.write(b"body")
    assert transport.sent == []
    loop.turn()
    made.write(b"more")
    loop.turn()
    loop.turn()
    assert transport.sent == [b"headbody", b"more"]


def test_much_leaves_at_once() -> None:
    """So that the transport can say that nobody reads."""
    made, transport, loop = joining()
    made.write(b"head")
    made.write(bytes(HELD_BYTES_MAX))
    assert transport.sent == [b"head" + bytes(HELD_BYTES_MAX)]
    made.write(b"more")
    loop.turn()
    assert transport.sent[1:] == [b"more"]


def test_a_close_comes_after_what_was_written() -> None:
    """The answer that says why."""
    made, transport, loop = joining()
    made.write(b"why")
    made.close()
    assert transport.sent == [b"why"]
    assert made.is_closing()
    loop.turn()


def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    """Story: the client went in the turn in which its answer was written."""
    made, transport, loop = joining()
    made.write(b"answer")
    made.abort()
    loop.turn()
    assert transport.sent == []
