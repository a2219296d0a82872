"""To which process a client belongs, and what becomes of it in others.

A client that was made before a fork starts anew in the child: with a session, a socket and a thread
of its own, and nothing of what its parent had under way. Two processes with one session would be
one client to the server, which then takes the push of one for the repeat of another's. What the
parent left in the child's memory is kept untouched: its sockets are the parent's.

Owns the clients that are alive, what a fork does to them, and the end of those that are open when
the program ends. A client does not travel to another process by pickling.
"""

from __future__ import annotations

import atexit
import os
import weakref
from abc import ABC, abstractmethod
from typing import Any, Final, NoReturn

_alive: Final[weakref.WeakSet[Owned]] = weakref.WeakSet()
_inherited: Final[list[Any]] = []
"""What clients had at a fork, in the child: to let go of it would touch the parent's sockets."""


class Unportable:
    """What belongs to one process, and to whoever made it there."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: its session is its own. Make "
            "one where it is used"
        )


class Owned(Unportable, ABC):
    """A client, as this module sees it."""

    def __init__(self) -> None:
        _alive.add(self)

    @abstractmethod
    def _start_anew(self) -> Any:
        """Begin as if nothing had been done yet; return what must not be let go of.

        It is called in a child, right after the fork, where locks may be held by threads that are
        no more: nothing is waited for.
        """

    @abstractmethod
    def _end_at_exit(self) -> None:
        """End the session, since the program ends."""


def _after_fork() -> None:
    for owned in list(_alive):
        _inherited.append(owned._start_anew())


def _at_exit() -> None:
    for owned in list(_alive):
        owned._end_at_exit()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
