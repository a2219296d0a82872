"""Which protected requests were carried out, so that a repeat of one is not a second one.

Only successes are noted: a request that was refused changed nothing, and its repeat is a first try.
Bounded: the sessions not heard of for longest are forgotten first, and of a session its lowest
numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from msgspec import msgpack

from flashq.coordinator.outbox import Outbox
from flashq.protocol.base import Mutation
from flashq.storage.port import Put

SESSIONS_MAX: Final = 1000
NUMBERS_MAX: Final = 1000

_PARTS: Final = "session."
_decode_numbers: Final = msgpack.Decoder(list[int]).decode


class Repeats:
    """The requests carried out, by session and number.

    Args:
        outbox: where writes go.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        #: ascending numbers, the session noted last at the end
        self._sessions: OrderedDict[bytes, list[int]] = OrderedDict()

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored."""
        for name, content in parts.items():
            if name.startswith(_PARTS):
                session = bytes.fromhex(name.removeprefix(_PARTS))
                self._sessions[session] = _decode_numbers(content)

    def has(self, request: Mutation) -> bool:
        """Tell whether the request was carried out before."""
        return request.session is not None and request.n in self._sessions.get(request.session, ())

    def note(self, request: Mutation) -> None:
        """Write that the request is carried out, if it is protected."""
        session, n = request.session, request.n
        if session is None or n is None:
            return
        numbers = [
            number
            for number in self._sessions.pop(session, [])
            if number >= (request.done_below or 0)
        ]
        self._sessions[session] = sorted([*numbers, n])[-NUMBERS_MAX:]
        self._write(session)
        if len(self._sessions) > SESSIONS_MAX:
            forgotten, _ = self._sessions.popitem(last=False)
            self._write(forgotten)

    def _write(self, session: bytes) -> None:
        numbers = self._sessions.get(session)
        content = msgpack.encode(numbers) if numbers else b""
        self._outbox.write(Put(_PARTS + session.hex(), content))
