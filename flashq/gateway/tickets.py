"""Tickets of requests that wait for something: by its ticket one is taken back at its shard.

Owns which requests get one, and that nobody else can guess it. Pure.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

from flashq.gateway.asking import Ask
from flashq.gateway.lanes import Holder
from flashq.protocol.registry import COMMANDS

BASE_BYTES: Final = 8
NUMBER_BYTES: Final = 8

_TAKEN_BACK: Final = frozenset(
    command.word for command in COMMANDS if "ticket" in command.request.__struct_fields__
) - {"WITHDRAW"}


class Tickets:
    """The tickets of one gateway.

    Args:
        random: what they begin with, at least 8 random bytes.
    """

    def __init__(self, random: bytes) -> None:
        self._base: Final = random[-BASE_BYTES:]
        self._given = 0

    def give(self, ask: Ask, holder: Holder | None) -> bytes:
        """Give a request its ticket, if it may wait.

        Args:
            ask: the request.
            holder: the connection that asks. A pull of one waits for its session, and ends with it.

        Returns:
            The ticket; none for a request without one.
        """
        if ask.command.word not in _TAKEN_BACK or not ask.wait_ms:
            return b""
        if ask.is_pull and holder is not None:
            return b""
        self._given += 1
        ticket = self._base + self._given.to_bytes(NUMBER_BYTES, "big")
        ask.add(ticket=b64encode(ticket).decode() if ask.json else ticket)
        return ticket
