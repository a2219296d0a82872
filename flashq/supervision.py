"""The page where a supervisor notes what it did, and the programs of its server read it.

Owns its layout. It is memory that a fork shares: to note something is one store, cannot block or
fail and makes no file that outlives the server. Each fact is one word, so that nobody reads half of
it; what a supervisor never changes is copied by the fork itself.
"""

from __future__ import annotations

import errno
import mmap
import signal
from collections.abc import Sequence
from typing import Final, get_args

from flashq.protocol.server import ProgramStats, Restart, RestartReason, SupervisorStats

REASONS: Final[tuple[RestartReason, ...]] = get_args(RestartReason)

_WORD_BYTES: Final = 8
_TURNED: Final = 0
"""The word with the monotonic time of the supervisor's last turn."""
_HEADER_WORDS: Final = 1
_STARTED: Final = 0
_LAST: Final = 1
_COUNTS: Final = 2
_PROGRAM_WORDS: Final = _COUNTS + len(REASONS)
"""Of each program: when it was started, its last restart, and the restarts for each reason."""
_NUMBER_BITS: Final = 12
"""Enough for an exit status, a signal or an error of the system."""
_REASON_BITS: Final = 4


class SupervisionPage:
    """What a supervisor did. It writes, everybody else reads.

    Args:
        names: of the programs; each is there once.
        pid: the supervisor's.
        started_at: when it was started, in Unix ms.
        watchdog_ms: how long a loop may not turn before it hangs; 0 for ever.
    """

    def __init__(
        self, names: Sequence[str], *, pid: int, started_at: int, watchdog_ms: int
    ) -> None:
        self._pid: Final = pid
        self._started_at: Final = started_at
        self._watchdog_ms: Final = watchdog_ms
        self._places: Final = {
            name: _HEADER_WORDS + at * _PROGRAM_WORDS for at, name in enumerate(names)
        }
        words = _HEADER_WORDS + len(names) * _PROGRAM_WORDS
        self._words: Final = memoryview(mmap.mmap(-1, words * _WORD_BYTES)).cast("Q")

    def turned(self, mono_ms: int) -> None:
        """Note that the supervisor's loop turns.

        Args:
            mono_ms: now, by the machine's monotonic clock, which all programs share.
        """
        self._words[_TURNED] = mono_ms

    def started(self, name: str, wall_ms: int) -> None:
        """Note that a program is started."""
        self._words[self._places[name] + _STARTED] = wall_ms

    def restarted(self, name: str, reason: RestartReason, number: int, wall_ms: int) -> None:
        """Note that a program is started again.

        Args:
            name: which.
            reason: why.
            number: the exit status, the signal, or the system's error number.
            wall_ms: now.
        """
        code, place = REASONS.index(reason), self._places[name]
        self._words[place + _LAST] = (wall_ms << _REASON_BITS | code) << _NUMBER_BITS | number
        self._words[place + _COUNTS + code] += 1
        self.started(name, wall_ms)

    def stats(self, mono_ms: int) -> SupervisorStats:
        """Return what is noted.

        Args:
            mono_ms: now.
        """
        return SupervisorStats(
            pid=self._pid,
            started_at=self._started_at,
            silent_ms=max(0, mono_ms - self._words[_TURNED]),
            watchdog_ms=self._watchdog_ms,
            programs=[self._program(name, place) for name, place in self._places.items()],
        )

    def _program(self, name: str, place: int) -> ProgramStats:
        started_at, last, *counts = self._words[place : place + _PROGRAM_WORDS].tolist()
        return ProgramStats(
            program=name,
            started_at=started_at,
            restarts={reason: n for reason, n in zip(REASONS, counts, strict=True) if n},
            last_restart=_restart(last) if last else None,
        )


def _restart(word: int) -> Restart:
    word, number = divmod(word, 1 << _NUMBER_BITS)
    at, code = divmod(word, 1 << _REASON_BITS)
    reason = REASONS[code]
    return Restart(at=at, reason=reason, detail=_detail(reason, number))


def _detail(reason: RestartReason, number: int) -> str | None:
    match reason:
        case "exit":
            return f"status {number}"
        case "signal":
            return signal_name(number)
        case "fork":
            return errno.errorcode.get(number, f"error {number}")
        case "hang":
            return None


def signal_name(number: int) -> str:
    """Return a signal's name, as in `SIGKILL`; those without one are numbered."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
