"""Waiting until one of a few descriptors is readable, with what this Python has.

`select.poll` is the cheapest, and takes descriptors of any number. Programs that replace blocking
calls by ones of their own (eventlet) take it away and leave `select.select`; others (gevent) put
theirs in its place. So it is looked up when it is needed, not when this module is imported.
"""

from __future__ import annotations

import select
from typing import Any, Final, Protocol


class Poll(Protocol):
    """What waits for a set of descriptors."""

    def register(self, fd: int) -> None:
        """Wait for this one too."""

    def unregister(self, fd: int) -> None:
        """Wait for it no more."""

    def poll(self, timeout_ms: int | None) -> list[int]:
        """Return which are readable, as soon as there is one, or after the time."""


class SystemPoll:
    """`select.poll`."""

    def __init__(self) -> None:
        self._poll: Final[Any] = select.poll()
        self._events: Final[int] = select.POLLIN

    def register(self, fd: int) -> None:
        """Wait for this one too."""
        self._poll.register(fd, self._events)

    def unregister(self, fd: int) -> None:
        """Wait for it no more."""
        self._poll.unregister(fd)

    def poll(self, timeout_ms: int | None) -> list[int]:
        """Return which are readable, as soon as there is one, or after the time."""
        return [fd for fd, _ in self._poll.poll(timeout_ms)]


class SelectPoll:
    """`select.select`."""

    def __init__(self) -> None:
        self._fds: Final[set[int]] = set()

    def register(self, fd: int) -> None:
        """Wait for this one too."""
        self._fds.add(fd)

    def unregister(self, fd: int) -> None:
        """Wait for it no more."""
        self._fds.discard(fd)

    def poll(self, timeout_ms: int | None) -> list[int]:
        """Return which are readable, as soon as there is one, or after the time."""
        timeout = None if timeout_ms is None else timeout_ms / 1000
        return list(select.select(list(self._fds), [], [], timeout)[0])


def make_poll() -> Poll:
    """Return the best there is."""
    return SystemPoll() if hasattr(select, "poll") else SelectPoll()
