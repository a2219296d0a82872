"""The life of one program: it starts, says that it is ready or why it is not, is told to stop.

Owns the signal handlers of a program and the three ways to report: a pipe to the supervisor, the
notify socket of systemd, or the terminal. A handler only sets a flag; the wake-up pipe makes a
poller notice it, since a Python signal handler by itself does not end a ZeroMQ poll. It may not
know what the program does.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Final, Protocol

from setproctitle import setproctitle

from flashq.config import Settings, settings_of
from flashq.errors import FlashQError
from flashq.observability.logging import STDERR_FILENO, STDOUT_FILENO, configure_log, write_all

READY_WORD: Final = "ready"
FAILED_WORD: Final = "failed"
"""The first word of the one line that a program writes to its supervisor's pipe."""

REPORT_BYTES_MAX: Final = 4096
"""Longest such line: `PIPE_BUF`, so that it arrives in one piece."""


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

    def _notify(self, state: str) -> None:
        """Send one state as `sd_notify(3)` does: a datagram to a Unix or abstract address.

        Nobody there is no reason to end: the variable may be somebody else's, inherited.
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
            self.failed(f"NOTIFY_SOCKET {self._notify_address} is not heard ({error.strerror})")


def _say(fd: int, *lines: str) -> None:
    """Write lines for whoever started the program; nobody who reads them is no reason to end."""
    with suppress(OSError):
        write_all(fd, "\n".join(lines) + "\n")


class Stopped(Exception):
    """The program was told to stop while it waited to start: it has nothing to finish."""


class Lifecycle:
    """What a program's loop needs to know of its own life.

    Args:
        report: where the start is reported.
        supervised: whether somebody else handles the terminal's signals for this process.
    """

    def __init__(self, report: Report, *, supervised: bool = False) -> None:
        self._report = report
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

    def pause(self, seconds: float) -> None:
        """Let some time pass during the start, as for a lock that another process holds.

        Args:
            seconds: how long, at most.

        Raises:
            Stopped: a signal to stop has come.
        """
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if poll.poll(seconds * 1000):
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
        environ: the environment, for settings and systemd's `NOTIFY_SOCKET`.
    """
    report = TerminalReport(program, environ.get("NOTIFY_SOCKET"))
    setproctitle(program)  # instead of the flags, which everybody on the machine could read
    try:
        settings = settings_of(arguments, environ)
    except FlashQError as error:
        report.failed(str(error))
        return 1
    configure_log(settings.log_level, settings.log_format)
    return carry_out(lambda lifecycle: run(settings, lifecycle), Lifecycle(report))
