"""The pulse: keeps an asyncio client's session alive while its event loop is blocked.

Owns a thread that looks at the loop again and again. As long as the loop turns, the client's own
timer sends the heartbeats and the thread does nothing. Once the loop has not turned from one look
to the next, the thread does the client's work in its place (so that leases live on), and a warning
says what blocks it, with the stack. When the loop has been blocked for longer than the program may
be stuck, the heartbeats end, and the server gives the jobs to others.

A look counts only time in which the process can have run: a process that was stopped for a minute
and goes on has not been blocked for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

STUCK_TIMEOUT_MS: Final = 300_000
"""How long an event loop may be blocked before its session's heartbeats end."""
LOOK_MS_MIN: Final = 20
LOOK_MS_MAX: Final = 1000
FRAMES_MAX: Final = 30
"""Innermost frames shown of what blocks the loop."""


class Finding(Enum):
    """What a look at the loop says."""

    TURNS = "it turns"
    BLOCKED = "it has just been found blocked"
    STILL_BLOCKED = "it is blocked as it was at the last look"
    STUCK = "it has just been found blocked for too long"
    STILL_STUCK = "it is blocked for too long as it was at the last look"
    TURNS_AGAIN = "it turns after it was blocked"


class LoopWatch:
    """What looks at an event loop find out. Pure; times are arguments, in ms.

    Args:
        stuck_timeout_ms: a loop blocked for longer than this is stuck.
    """

    def __init__(self, stuck_timeout_ms: float) -> None:
        self._stuck_timeout_ms: Final = stuck_timeout_ms
        #: how long the loop has not turned; 0 while it turns
        self.blocked_ms = 0.0

    def look(self, *, turned: bool, since_ms: float, planned_ms: float) -> Finding:
        """Take in whether the loop has turned since the last look.

        Args:
            turned: whether it has.
            since_ms: time since the last look.
            planned_ms: what that time was to be; much more than it was no time for the loop either.
        """
        before = self.blocked_ms
        if turned:
            self.blocked_ms = 0.0
            return Finding.TURNS_AGAIN if before else Finding.TURNS
        self.blocked_ms += min(since_ms, 2 * planned_ms)
        if self.blocked_ms > self._stuck_timeout_ms:
            return Finding.STILL_STUCK if before > self._stuck_timeout_ms else Finding.STUCK
        return Finding.STILL_BLOCKED if before else Finding.BLOCKED


class Pulse:
    """The thread.

    Args:
        loop: the event loop, running in the calling thread.
        name: of whose session this is, for the log.
        take_over: a method that does in the pulse's thread what the loop does not come to. The
            pulse ends with its object.
        look_ms: gives the time from one look to the next.
        stuck_timeout_ms: how long the loop may be blocked.
        logger: where it says what blocks it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        take_over: Callable[[], None],
        look_ms: Callable[[], float],
        stuck_timeout_ms: float,
        logger: logging.Logger,
    ) -> None:
        self._loop: Final = loop
        self._log: Final = logger
        self._name: Final = name
        self._loop_thread: Final = threading.get_ident()
        self._take_over: Final[weakref.WeakMethod[Callable[[], None]]] = weakref.WeakMethod(
            take_over
        )
        self._look_ms: Final[weakref.WeakMethod[Callable[[], float]]] = weakref.WeakMethod(look_ms)
        self._watch: Final = LoopWatch(stuck_timeout_ms)
        self._ended: Final = threading.Event()
        #: whether the loop has turned since the last look; it says so itself
        self._turned = True
        self._thread: Final = threading.Thread(target=self._run, name="flashq-pulse", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """Look no more.

        Args:
            wait: return when the thread touches nothing any more.
        """
        self._ended.set()
        if wait and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while (look_ms := self._look_ms()) is not None:
            planned_ms = look_ms()
            del look_ms  # while this thread sleeps it holds nobody's client
            if self._ended.wait(planned_ms / 1000) or self._loop.is_closed():
                return
            now = time.monotonic()
            turned, self._turned = self._turned, False
            finding = self._watch.look(
                turned=turned, since_ms=(now - last) * 1000, planned_ms=planned_ms
            )
            last = now
            self._act(finding)
            if turned:
                try:
                    self._loop.call_soon_threadsafe(self._note_turn)
                except RuntimeError:
                    return  # the loop has been closed since

    def _note_turn(self) -> None:
        self._turned = True

    def _act(self, finding: Finding) -> None:
        seconds = self._watch.blocked_ms / 1000
        if finding is Finding.BLOCKED and self._loop.is_running():
            self._log.warning(
                "the event loop of %s is blocked; heartbeats go on without it. It is blocked by:\n"
                "%s",
                self._name,
                stack_of(self._loop_thread),
            )
        elif finding is Finding.STUCK:
            self._log.error(
                "the event loop of %s has been blocked for %.1f s: heartbeats end, and the jobs "
                "that it holds go to others. It is blocked by:\n%s",
                self._name,
                seconds,
                stack_of(self._loop_thread),
            )
        elif finding is Finding.TURNS_AGAIN:
            self._log.warning("the event loop of %s turns again", self._name)
        if finding in (Finding.BLOCKED, Finding.STILL_BLOCKED):
            take_over = self._take_over()
            if take_over is not None:
                take_over()


def look_every_ms(heartbeat_interval_ms: float | None) -> float:
    """Return the time from one look to the next in a session with this interval (None: unknown)."""
    if heartbeat_interval_ms is None:
        return LOOK_MS_MAX
    return min(max(heartbeat_interval_ms / 2, LOOK_MS_MIN), LOOK_MS_MAX)


def stack_of(thread: int) -> str:
    """Return where a thread is right now, innermost call last; empty when it has ended."""
    frame: Any = sys._current_frames().get(thread)
    return "" if frame is None else "".join(traceback.format_stack(frame, FRAMES_MAX)).rstrip()
