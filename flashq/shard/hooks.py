"""Which events webhooks want to be told of, and the mail that tells the coordinator of them.

Owns the matching. The coordinator says which pairs of queue and event are wanted; mail about others
would do no harm, it would only be in vain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flashq.protocol.codec import encode_msgpack
from flashq.protocol.internal import COORDINATOR, Happened
from flashq.protocol.objects import EVENTS
from flashq.protocol.records import Sent
from flashq.protocol.webhooks import EVERY_EVENT
from flashq.shard.aftermath import Happening

_EVERYTHING: Final = frozenset(EVENTS)
_NOTHING: Final[frozenset[str]] = frozenset()


class Hooks:
    """What is wanted.

    Args:
        pairs: of queue (None for every one) and event (`*` for every one).
    """

    def __init__(self, pairs: Iterable[tuple[str | None, str]]) -> None:
        wanted: dict[str | None, set[str]] = {}
        for queue, event in pairs:
            events = _EVERYTHING if event == EVERY_EVENT else {event}
            wanted.setdefault(queue, set()).update(events)
        #: events wanted of every queue
        self._everywhere: Final = frozenset(wanted.pop(None, ()))
        #: all events wanted of a queue, by queue
        self._by_queue: Final[dict[str | None, frozenset[str]]] = {
            queue: self._everywhere | events for queue, events in wanted.items()
        }

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._by_queue)

    def want(self, event: str, queue: str) -> bool:
        """Tell whether some webhook wants to be told of an event."""
        return event in self._by_queue.get(queue, self._everywhere)

    def mail(self, happenings: Iterable[Happening], now_ms: int) -> list[Sent]:
        """Return the records that tell the coordinator of what is wanted of these happenings."""
        return [
            Sent(COORDINATOR, _message(said, now_ms))
            for said in happenings
            if self.want(said.event, said.queue)
        ]


def _message(said: Happening, now_ms: int) -> Happened:
    data: list[bytes | None] | None = None
    if said.data is not None:
        data = [None if one is None else bytes(one) for one in said.data]
    elif said.progress is not None:
        told = encode_msgpack({"progress": said.progress, "message": said.message})
        data = [told for _ in said.ids]
    return Happened(said.event, said.queue, now_ms, said.ids, said.error, data)
