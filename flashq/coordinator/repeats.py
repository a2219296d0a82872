"""How protected requests ended, so that a repeat of one is not a second one.

Refusals are noted too: of two copies of a request the second must not be carried out when the
first was refused. Bounded: the sessions not heard of for longest are forgotten first, and of a
session its lowest numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.errors import FlashQError, error_from
from flashq.protocol.base import Mutation
from flashq.protocol.crons import SetCron

SESSIONS_MAX: Final = 1000
NUMBERS_MAX: Final = 1000

Ends = dict[int, tuple[str, str] | int | None]
"""By request number: code and text of a refusal; for a success the number that its answer tells, or
None."""

FORM: Final[Form[Ends]] = Form("session.", Ends)


class Repeats:
    """The requests that have ended, by session and number.

    Args:
        outbox: where writes go.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        #: numbers ascend; the session noted last stands at the end
        self._sessions: OrderedDict[bytes, Ends] = OrderedDict()

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored.

        Raises:
            ConfigError, StorageDamaged: it cannot be read.
        """
        for session, ends in FORM.stored(parts):
            self._sessions[bytes.fromhex(session)] = ends

    def has(self, request: Mutation | SetCron) -> bool:
        """Tell whether the request was carried out before.

        Raises:
            FlashQError: it was refused before.
        """
        session, n = request.session, request.n
        if session is None or n is None:
            return False
        ends = self._sessions.get(session, {})
        end = ends.get(n)
        if isinstance(end, tuple):
            raise error_from(*end)
        return n in ends

    def number_of(self, request: Mutation | SetCron) -> int:
        """Return the number that the answer to a request told that was carried out before."""
        assert request.session is not None
        assert request.n is not None
        number = self._sessions[request.session][request.n]
        assert isinstance(number, int), "no number was noted for this request"
        return number

    def note(
        self,
        request: Mutation | SetCron,
        refusal: FlashQError | None = None,
        *,
        number: int | None = None,
    ) -> None:
        """Write how the request ended, if it is protected.

        Args:
            refusal: why it was not carried out; None when it was.
            number: what its answer tells, for `number_of`.
        """
        session, n = request.session, request.n
        if session is None or n is None:
            return
        ends = self._sessions.pop(session, {})
        ends[n] = number if refusal is None else (refusal.code, refusal.text)
        kept = sorted(known for known in ends if known >= (request.done_below or 0))
        self._sessions[session] = {known: ends[known] for known in kept[-NUMBERS_MAX:]}
        self._write(session)
        if len(self._sessions) > SESSIONS_MAX:
            forgotten, _ = self._sessions.popitem(last=False)
            self._write(forgotten)

    def _write(self, session: bytes) -> None:
        ends, name = self._sessions.get(session), session.hex()
        self._outbox.write(FORM.put(name, ends) if ends else FORM.drop(name))
