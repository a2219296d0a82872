"""The life of one program: it starts, says that it is ready or why it is not, is told to stop.

Owns the signal handlers of a program and the three ways to report: a pipe to the supervisor, the
notify socket of systemd, or the terminal. A handler only sets a flag; the wake-up pipe makes a
poller notice it, since a Python signal handler by itself does not end a ZeroMQ poll. It may not
know what the program does.

A program's loop also shows here that it turns, to whoever watches: its supervisor or systemd. It
does so itself and not from a thread, which would go on while the loop hangs.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol

from setproctitle import setproctitle

from flashq.clock import SystemClock
from flashq.config import Settings, settings_of
from flashq.errors import FlashQError
from flashq.observability.logging import configure_log
from flashq.observability.output import (
    STDERR_FILENO,
    STDOUT_FILENO,
    close_outputs,
    flush_outputs,
    output,
    replace_stderr,
)
from flashq.privacy import keep_to_owner
from flashq.protocol.server import SupervisorStats
from flashq.supervision import SupervisionPage

READY_WORD: Final = "ready"
FAILED_WORD: Final = "failed"
"""The first word of the one line that a program writes to its supervisor's pipe."""

REPORT_BYTES_MAX: Final = 4096
"""Longest such line: `PIPE_BUF`, so that it arrives in one piece."""


IDLE_MS_MAX: Final = 3_600_000
"""How long a loop may wait that nobody watches."""


class Report(Protocol):
    """Where a program says how its start went."""

    def ready(self, endpoints: tuple[str, ...]) -> None:
        """Say that requests are taken, at these endpoints."""
        ...

    def failed(self, sentence: str) -> None:
        """Say why the program cannot run."""
        ...

    def stopping(self) -> None:
        """Say that the program has been told to stop."""
        ...


class PipeReport:
    """Reports to the supervisor: one line, then the pipe is closed.

    Args:
        fd: the writing end.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def ready(self, endpoints: tuple[str, ...]) -> None:
        """Send the endpoints."""
        self._send(READY_WORD, *endpoints)

    def failed(self, sentence: str) -> None:
        """Send the sentence; after `ready` there is nobody who reads it."""
        self._send(FAILED_WORD, " ".join(sentence.split()))

    def stopping(self) -> None:
        """Say nothing: it was the supervisor who said so."""

    def _send(self, *words: str) -> None:
        if self._fd is None:
            return
        line = "\t".join(words).encode()[: REPORT_BYTES_MAX - 1] + b"\n"
        fd, self._fd = self._fd, None
        try:
            os.write(fd, line)
        except BrokenPipeError:
            pass  # the supervisor is gone; the parent-death signal is on its way
        finally:
            os.close(fd)


class TerminalReport:
    """Reports to whoever started the program by hand, or by systemd, which is also notified.

    Args:
        program: name in front of a failure.
        notify_address: systemd's `NOTIFY_SOCKET`, if there is one.
    """

    def __init__(self, program: str, notify_address: str | None = None) -> None:
        self._program = program
        self._notify_address = notify_address
        self._is_deaf = False

    def ready(self, endpoints: tuple[str, ...]) -> None:
        """Print each endpoint, then `ready`."""
        _say(STDOUT_FILENO, *endpoints, READY_WORD)
        self._notify("READY=1")

    def failed(self, sentence: str) -> None:
        """Print the sentence as an error."""
        _say(STDERR_FILENO, f"{self._program}: {sentence}")

    def stopping(self) -> None:
        """Tell systemd, which then waits its own time for the end."""
        self._notify("STOPPING=1")

    def beat(self) -> None:
        """Tell systemd that the loop turns."""
        self._notify("WATCHDOG=1")

    def _notify(self, state: str) -> None:
        """Send one state as `sd_notify(3)` does: a datagram to a Unix or abstract address.

        Nobody there is no reason to end: the variable may be somebody else's, inherited. That is
        said once, since a loop says again and again that it turns.
        """
        if not self._notify_address:
            return
        address = self._notify_address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.connect(address)
                notify.send(state.encode())
        except OSError as error:
            if not self._is_deaf:
                self.failed(f"NOTIFY_SOCKET {self._notify_address} is not heard ({error.strerror})")
            self._is_deaf = True


def _say(fd: int, *lines: str) -> None:
    """Write lines for the person who started the program; without a reader it goes on."""
    output(fd).write("\n".join(lines) + "\n")


class Beat(Protocol):
    """Where a program's loop shows that it turns."""

    @property
    def interval_ms(self) -> int:
        """How long the loop may wait at most before it turns again."""
        ...

    def beat(self) -> None:
        """Show that the loop turns."""
        ...

    def suspend(self) -> None:
        """Say that the next turn may come at any time."""
        ...


class NoBeat:
    """Nobody watches."""

    interval_ms: Final = IDLE_MS_MAX

    def beat(self) -> None:
        """Show nobody."""

    def suspend(self) -> None:
        """Tell nobody."""


class CountedBeat:
    """Counts turns where the supervisor reads them.

    Args:
        slot: memory that both share; the count is at index 0, and 0 means that nobody may wait.
        interval_ms: how long the loop may wait at most.
    """

    def __init__(self, slot: memoryview[int], interval_ms: int) -> None:
        self._slot = slot
        self.interval_ms: Final = interval_ms
        self._count = slot[0]

    def beat(self) -> None:
        """Count one more."""
        self._count += 1
        self._slot[0] = self._count

    def suspend(self) -> None:
        """Take the count away until the next turn."""
        self._slot[0] = 0


class NotifyBeat:
    """Tells systemd, at least twice in the time after which that would act.

    It watches from `READY=1` on, and so never while a start reads what storage has.

    Args:
        notify: sends one beat.
        limit_ms: systemd's time.
        mono_ms: the monotonic clock.
    """

    def __init__(
        self,
        notify: Callable[[], None],
        limit_ms: int,
        mono_ms: Callable[[], int],
    ) -> None:
        self._notify = notify
        # A loop turns within this time and tells when it has passed, so within twice of it.
        self.interval_ms: Final = max(1, limit_ms // 4)
        self._mono_ms = mono_ms
        self._next_ms = 0

    def beat(self) -> None:
        """Tell, if the last time was long enough ago."""
        now_ms = self._mono_ms()
        if now_ms >= self._next_ms:
            self._next_ms = now_ms + self.interval_ms
            self._notify()

    def suspend(self) -> None:
        """Do nothing: systemd does not watch a start."""


def systemd_beat(report: TerminalReport, environ: Mapping[str, str]) -> Beat:
    """Return where a program that systemd may have started shows that its loop turns.

    Args:
        report: knows systemd's socket.
        environ: has `WATCHDOG_USEC`, and in `WATCHDOG_PID` whom that is meant for, as
            `sd_watchdog_enabled(3)` says.
    """
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID")
    is_meant = pid is None or pid == str(os.getpid())
    if not is_meant or not usec.isdecimal() or not int(usec) or not environ.get("NOTIFY_SOCKET"):
        return NoBeat()
    return NotifyBeat(report.beat, int(usec) // 1000, SystemClock().mono_ms)


def dump_stacks_on_abort() -> None:
    """Let SIGABRT, with which a watchdog ends a program, first write where each thread is."""
    faulthandler.enable(file=STDERR_FILENO)


class Stopped(Exception):
    """The program was told to stop while it waited to start: it has nothing to finish."""


class Lifecycle:
    """What a program's loop needs to know of its own life.

    Args:
        report: where the start is reported.
        supervised: whether somebody else handles the terminal's signals for this process.
        beat: where the loop shows that it turns; None if nobody watches.
        page: where the supervisor of the whole server notes what it does; None without one.
    """

    def __init__(
        self,
        report: Report,
        *,
        supervised: bool = False,
        beat: Beat | None = None,
        page: SupervisionPage | None = None,
    ) -> None:
        self._report = report
        self._beat: Final = beat or NoBeat()
        self._page: Final = page
        self._supervised = supervised
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        #: true from the first signal to stop on; never false again
        self._stopping = False
        self._stopping_reported = False
        #: SIGHUP does not stop: it asks to read again what may change while the program runs
        self._rereads = False
        self._reread_due = False

    @property
    def wake_fd(self) -> int:
        """A descriptor that becomes readable with every signal; register it with the poller."""
        return self._wake_read

    @property
    def stopping(self) -> bool:
        """Whether the program has been told to stop: finish what is under way, take no more."""
        if self._stopping and not self._stopping_reported:
            self._stopping_reported = True
            self._report.stopping()
        return self._stopping

    def install(self) -> None:
        """Handle SIGTERM, SIGINT and SIGHUP; the last two reach a supervised process from the
        terminal at the same time as its supervisor, who decides, so there they are ignored."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            taken = number in self.stop_signals
            signal.signal(number, self._on_stop if taken else signal.SIG_IGN)

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        """The signals that mean to stop, for a loop that handles signals itself: see `stop`."""
        if self._supervised:
            return (signal.SIGTERM,)
        if self._rereads:
            return (signal.SIGTERM, signal.SIGINT)
        return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    @property
    def is_supervised(self) -> bool:
        """Whether the process above this one is the supervisor of the whole server."""
        return self._supervised

    def supervision(self) -> SupervisorStats | None:
        """Return what the supervisor of the whole server has noted; None without one."""
        return None if self._page is None else self._page.stats(SystemClock().mono_ms())

    def reread_on_hangup(self) -> None:
        """From now on SIGHUP does not stop the program: `take_reread` tells that it has come."""
        self._rereads = True
        signal.signal(signal.SIGHUP, self._on_hangup)

    def take_reread(self) -> bool:
        """Tell whether SIGHUP has come since the last call."""
        due, self._reread_due = self._reread_due, False
        return due

    def stop(self) -> None:
        """Note that one of the `stop_signals` has come."""
        self._stopping = True

    def clear_wake(self) -> None:
        """Read the wake-up pipe empty, so that it can wake the poller again."""
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            pass

    def beat(self, wait_ms: int | None) -> int:
        """Show that the loop turns. It is called before each wait.

        Args:
            wait_ms: how long the loop wants to wait; None for until something comes.

        Returns:
            How long it may wait, so that also an idle loop shows that it turns.
        """
        self._beat.beat()
        longest_ms = self._beat.interval_ms
        if (retry_ms := flush_outputs()) is not None:
            longest_ms = min(longest_ms, retry_ms)
        return longest_ms if wait_ms is None or wait_ms > longest_ms else wait_ms

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Do something that may take any time and does not turn the loop."""
        self._beat.suspend()
        try:
            yield
        finally:
            self._beat.beat()

    def pause(self, seconds: float) -> None:
        """Let some time pass during the start, as for a lock that another process holds.

        Args:
            seconds: how long, at most.

        Raises:
            Stopped: a signal to stop has come.
        """
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if poll.poll(self.beat(round(seconds * 1000))):
            self.clear_wake()
        if self._stopping:
            raise Stopped

    def ready(self, *endpoints: str) -> None:
        """Report that the program takes requests.

        Args:
            endpoints: what to show to people, as in `tcp://127.0.0.1:6788`.
        """
        self._report.ready(endpoints)

    def failed(self, sentence: str) -> None:
        """Report in one sentence why the program cannot run; it ends after that."""
        self._report.failed(sentence)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self._reread_due = True

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()


def carry_out(run: Callable[[Lifecycle], None], lifecycle: Lifecycle) -> int:
    """Run a program from its first signal handler to its exit status.

    Args:
        run: the program; it returns after a drain, and raises what it cannot run with.
        lifecycle: its life.

    Returns:
        0 after a drain or a stop before there was anything to drain, 1 after a reported failure.
    """
    lifecycle.install()
    try:
        run(lifecycle)
    except Stopped:
        return 0
    except FlashQError as error:
        lifecycle.failed(str(error))
        return 1
    except Exception as error:  # noqa: BLE001  the edge of the process: report, then end
        _say(STDERR_FILENO, traceback.format_exc().rstrip("\n"))
        lifecycle.failed(f"{type(error).__name__}: {error}")
        return 1
    finally:
        close_outputs()
    return 0


def run_alone(
    program: str,
    arguments: argparse.Namespace,
    run: Callable[[Settings, Lifecycle], None],
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Run a program that was started by hand or by systemd, and return its exit status.

    Args:
        program: its name, as in `flashq-router`.
        arguments: what its `flashq.config.flag_parser` has read.
        run: the program.
        environ: the environment, for settings, systemd's `NOTIFY_SOCKET` and its watchdog.
    """
    keep_to_owner()
    report = TerminalReport(program, environ.get("NOTIFY_SOCKET"))
    setproctitle(program)  # instead of the flags, which everybody on the machine could read
    try:
        settings = settings_of(arguments, environ)
    except FlashQError as error:
        report.failed(str(error))
        close_outputs()
        return 1
    replace_stderr()
    configure_log(settings.log_level, settings.log_format)
    dump_stacks_on_abort()
    lifecycle = Lifecycle(report, beat=systemd_beat(report, environ))
    return carry_out(lambda life: run(settings, life), lifecycle)
