"""Those that wait for a queue to have jobs and take none: who of them is called, and when.

Owns the calls that are under way. A worker of many queues waits so for each, and takes from one at
a time; so a call is no delivery, and its worker may not come: it has found work elsewhere, or is
dead. The rules:

* There are as many calls under way as there are jobs that may be handed out, first come first. So
  one job does not wake a hundred workers.
* A call ends when its session pulls from the queue, whatever it gets, also nothing: then what is
  left is for the next one. A worker without room pulls 0 jobs, which passes the call on.
* A call ends too when nobody has come for `CALL_MS`; a worker that died costs no more than that.
* Parked pulls go first: they take what there is at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Final

from msgspec import Struct

from flashq.protocol.leases import PullBatchReply
from flashq.shard.core import Core, Waiter

CALL_MS: Final = 200
"""How long a worker that was told of a job has to come for it before the next one is told."""


class _Call(Struct, eq=False):
    """A worker that was told of jobs and has not come yet."""

    queue: str
    who: bytes | int
    open: int = 1


class Calling:
    """Tells workers that a queue has jobs.

    Args:
        core: the engine's middle.
        deliverable: gives of a queue's jobs those that may be handed out now, at most so many.
    """

    def __init__(self, core: Core, deliverable: Callable[[str, int], Sized]) -> None:
        self._core = core
        self._deliverable = deliverable
        #: by queue, and by session or a number for one without
        self._calls: dict[str, dict[bytes | int, _Call]] = {}
        self._strangers = 0

    def call(self, name: str, close: Callable[[Waiter], None]) -> bool:
        """Tell those that wait for a queue, as far as there are jobs that nobody was told of.

        Args:
            close: takes out a waiter that is answered.

        Returns:
            Whether somebody waits on, for want of jobs.
        """
        core = self._core
        while line := core.watches.get(name):
            under_way = len(self._calls.get(name, ()))
            if len(self._deliverable(name, under_way + 1)) <= under_way:
                return not under_way
            waiter = next(iter(line))
            close(waiter)
            self._begin(name, waiter.session)
            core.reply(waiter.origin, PullBatchReply(ok=True, jobs=[], ready=True))
        return False

    def _begin(self, name: str, session: bytes) -> None:
        if not session:
            self._strangers += 1
        core, call = self._core, _Call(name, session or self._strangers)
        calls = self._calls.setdefault(name, {})
        before = calls.get(call.who)
        if before is not None:
            before.open = 0
        calls[call.who] = call
        core.timers.at(core.clock_ms + CALL_MS, self._end, call)

    def came(self, name: str, session: bytes) -> None:
        """A session pulls from a queue: that ends its call, once it has what there is for it."""
        calls = self._calls.get(name)
        if calls is not None and session in calls:
            self._end(calls[session])

    def _end(self, call: _Call) -> None:
        call.open = 0
        calls = self._calls[call.queue]
        del calls[call.who]
        if not calls:
            del self._calls[call.queue]
        if call.queue in self._core.watches:
            self._core.woken.add(call.queue)
