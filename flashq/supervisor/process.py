"""The process behind `flashq serve`: forks the programs of a server and waits for their ends.

Owns process ids, readiness pipes and signals; what to do with them the engine decides. This process
forks again and again, so it never makes a ZeroMQ, asyncio, thread or pool object: children of a
process that had initialised such a library crashed. It imports everything once, so that its
children share the memory of it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from setproctitle import setproctitle

from flashq.clock import SystemClock
from flashq.config import Settings, flag_parser, names_without_effect, settings_of
from flashq.errors import FlashQError
from flashq.lifecycle import (
    READY_WORD,
    REPORT_BYTES_MAX,
    Beat,
    CountedBeat,
    Lifecycle,
    NoBeat,
    PipeReport,
    Report,
    TerminalReport,
    carry_out,
    dump_stacks_on_abort,
    systemd_beat,
)
from flashq.observability.logging import configure_log, log_of
from flashq.observability.output import close_outputs, flush_outputs, replace_stderr
from flashq.privacy import keep_to_owner
from flashq.supervision import SupervisionPage, signal_name
from flashq.supervisor.beats import BeatPage
from flashq.supervisor.engine import (
    Abort,
    Announce,
    Ending,
    Engine,
    Exit,
    Fork,
    Kill,
    Log,
    Program,
    Refuse,
    Terminate,
)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HANDLED_SIGNALS: Final = (*STOP_SIGNALS, signal.SIGCHLD)

_PR_SET_PDEATHSIG: Final = 1


class ProgramSpec(NamedTuple):
    """A program to supervise."""

    name: str
    """Also its process title, as in `flashq-shard 3`."""
    drain_stage: int
    """Lower stages are stopped first."""
    run: Callable[[Lifecycle], None]
    """Called in the forked child; returns after a drain."""
    rereads: bool = False
    """It is sent SIGHUP when the supervisor gets one, and reads its tokens again."""


class Supervisor:
    """Keeps programs running until it is told to stop.

    Args:
        specs: the programs, in the order in which they are forked.
        drain_timeout_ms: what a program has to finish in.
        report: where the server's own start is reported.
        watchdog_ms: how long a program's loop may not turn before it is restarted; 0 for ever.
        beat: where this process shows that its own loop turns; None if nobody watches it.
    """

    def __init__(
        self,
        specs: Sequence[ProgramSpec],
        drain_timeout_ms: int,
        report: Report,
        *,
        watchdog_ms: int = 0,
        beat: Beat | None = None,
    ) -> None:
        programs = [Program(spec.name, spec.drain_stage) for spec in specs]
        self._specs = {spec.name: spec for spec in specs}
        self._engine = Engine(programs, drain_timeout_ms, watchdog_ms)
        self._beats = BeatPage([spec.name for spec in specs])
        self._report = report
        self._beat = beat or NoBeat()
        #: SIGHUP does not stop the server, but is passed on
        self._rereads = any(spec.rereads for spec in specs)
        self._clock = SystemClock()
        self._log = log_of("flashq serve")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._pid = os.getpid()
        self._page = SupervisionPage(
            [spec.name for spec in specs],
            pid=self._pid,
            started_at=self._clock.wall_ms(),
            watchdog_ms=watchdog_ms,
        )
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        #: by name: the children that have not been waited for yet
        self._pids: dict[str, int] = {}
        #: by descriptor: who has not said yet how its start went
        self._pipes: dict[int, str] = {}

    def run(self) -> int:
        """Start everything, and return the exit status once everything is gone."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, _wake)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
        dump_stacks_on_abort()  # the children inherit that
        gc.collect()
        gc.freeze()
        self._page.turned(self._clock.mono_ms())  # before there is anybody who may ask
        self._engine.start()
        while (status := self._carry_out()) is None:
            readable = self._wait()
            numbers = self._signals() if self._wake_read in readable else b""
            for fd in readable - {self._wake_read}:
                self._take_report(fd)
            if self._rereads and signal.SIGHUP in numbers:
                self._pass_on_hangup()
            # Before the ends of children: a signal to the whole group has ended those too.
            for _ in (number for number in numbers if number in self._stop_signals):
                self._report.stopping()
                self._engine.stop(self._clock.mono_ms())
            if signal.SIGCHLD in numbers:
                self._reap()
            counts = {name: self._beats.count(name) for name in self._pids}
            self._clock.wall_ms()  # children begin with what is believed of it by then
            self._engine.look(counts, self._clock.mono_ms())
            self._engine.tick(self._clock.mono_ms())
        close_outputs()
        return status

    @property
    def _stop_signals(self) -> tuple[signal.Signals, ...]:
        return (signal.SIGTERM, signal.SIGINT) if self._rereads else STOP_SIGNALS

    def _pass_on_hangup(self) -> None:
        for name in [spec.name for spec in self._specs.values() if spec.rereads]:
            self._signal(name, signal.SIGHUP)

    def _carry_out(self) -> int | None:
        """Do what the engine decided; return the exit status if that was the last of it."""
        while self._engine.actions:
            actions, self._engine.actions = self._engine.actions, []
            for action in actions:
                match action:
                    case Fork(name, ending):
                        self._start(name, ending)
                    case Terminate(name):
                        self._signal(name, signal.SIGTERM)
                    case Abort(name):
                        self._signal(name, signal.SIGABRT)
                    case Kill(name):
                        self._signal(name, signal.SIGKILL)
                    case Announce(endpoints):
                        self._report.ready(endpoints)
                    case Refuse(sentence):
                        self._report.failed(sentence)
                    case Log(text, is_problem):
                        (self._log.warning if is_problem else self._log.info)(text)
                    case Exit(status):
                        return status
        return None

    def _start(self, name: str, before: Ending | None) -> None:
        """Fork a program; one that cannot be forked is as good as one that died at once.

        Args:
            name: which.
            before: how the one before ended; None at the server's start.
        """
        wall_ms = self._clock.wall_ms()
        if before is None:
            self._page.started(name, wall_ms)
        else:
            self._page.restarted(name, before.reason, before.number, wall_ms)
        try:
            self._fork(self._specs[name])
        except OSError as error:
            how = f"could not be forked ({error.strerror})"
            ending = Ending("fork", error.errno or 0, how)
            self._engine.exited(name, ending, self._clock.mono_ms())

    def _signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal, unless the child was waited for after the engine had decided on it."""
        if name in self._pids:
            os.kill(self._pids[name], number)

    def _wait(self) -> set[int]:
        """Wait for a signal, a report or the engine's next deadline; return what is readable."""
        poll = select.poll()
        for fd in (self._wake_read, *self._pipes):
            poll.register(fd, select.POLLIN)
        self._beat.beat()
        self._page.turned(self._clock.mono_ms())
        wait_ms = self._beat.interval_ms
        if (interval_ms := self._engine.beat_interval_ms) is not None:
            wait_ms = min(wait_ms, interval_ms)  # its programs watch it too, also in a drain
        if (retry_ms := flush_outputs()) is not None:
            wait_ms = min(wait_ms, retry_ms)
        deadline_ms = self._engine.next_deadline_ms()
        if deadline_ms is not None:
            wait_ms = min(wait_ms, max(0, deadline_ms - self._clock.mono_ms()))
        return {fd for fd, _ in poll.poll(wait_ms)}

    def _signals(self) -> bytes:
        """Return the numbers of the signals since the last call, as the interpreter wrote them."""
        return os.read(self._wake_read, 4096)

    def _take_report(self, fd: int) -> None:
        name = self._pipes.pop(fd)
        line = os.read(fd, REPORT_BYTES_MAX).decode(errors="replace").rstrip("\n")
        os.close(fd)
        word, *rest = line.split("\t")
        if word == READY_WORD:
            self._engine.ready(name, tuple(rest), self._clock.mono_ms())
        elif word:
            self._engine.failed(name, "\t".join(rest), self._clock.mono_ms())

    def _reap(self) -> None:
        """Wait for the children that have ended; what such a child last reported comes first."""
        for name, pid in list(self._pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            del self._pids[name]
            for fd in [fd for fd, owner in self._pipes.items() if owner == name]:
                self._take_report(fd)
            self._engine.exited(name, _ending_of(status), self._clock.mono_ms())

    def _fork(self, spec: ProgramSpec) -> None:
        """Fork a program. Signals wait until the child has forgotten its parent's handlers.

        Raises:
            OSError: the machine has no process or descriptor to spare.
        """
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        beat = self._beat_of(spec.name)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._become(spec, write_fd, before, beat)
        except OSError:
            os.close(read_fd)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(write_fd)
        self._pids[spec.name], self._pipes[read_fd] = pid, spec.name

    def _beat_of(self, name: str) -> Beat | None:
        slot, interval_ms = self._beats.begin(name), self._engine.beat_interval_ms
        return None if interval_ms is None else CountedBeat(slot, interval_ms)

    def _become(
        self, spec: ProgramSpec, fd: int, mask: set[signal.Signals | int], beat: Beat | None
    ) -> NoReturn:
        """Turn this forked copy of the supervisor into a program, and end with its status.

        SIGTERM, not SIGKILL, follows a supervisor's death: a program that drains loses nothing.
        """
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            # What a terminal sends to the whole group is the supervisor's business.
            for number in HANDLED_SIGNALS:
                is_terminals = number in (signal.SIGINT, signal.SIGHUP)
                signal.signal(number, signal.SIG_IGN if is_terminals else signal.SIG_DFL)
            os.closerange(3, fd)
            os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if os.getppid() == self._pid:  # else the supervisor died before the request above
                setproctitle(spec.name)
                report = PipeReport(fd)
                lifecycle = Lifecycle(report, supervised=True, beat=beat, page=self._page)
                status = carry_out(spec.run, lifecycle)
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the interpreter has written the signal's number to the wake-up pipe."""


def _ending_of(status: int) -> Ending:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Ending("signal", -code, f"was killed by {signal_name(-code)}")
    return Ending("exit", code, f"ended with status {code}")


def server_programs(settings: Settings) -> list[ProgramSpec]:
    """Return the programs of a whole server: the coordinator, its shards, the router, a gateway.

    Their code is imported here and not with this module, which tests use with other programs. The
    gateway's is imported by itself alone: the others would carry its libraries along.
    """
    from flashq.coordinator import process as coordinator
    from flashq.router import process as router
    from flashq.shard import process as shard

    rereads = bool(settings.tokens_file)
    return [
        ProgramSpec("flashq-coordinator", 3, partial(coordinator.run, settings)),
        *(
            ProgramSpec(f"flashq-shard {index}", 2, partial(shard.run, settings, index))
            for index in range(settings.shards)
        ),
        ProgramSpec("flashq-router", 1, partial(router.run, settings), rereads),
        ProgramSpec("flashq-gateway", 0, partial(_run_gateway, settings), rereads),
    ]


def _run_gateway(settings: Settings, lifecycle: Lifecycle) -> None:
    from flashq.gateway import process as gateway

    gateway.run(settings, lifecycle)


def _accept_loss(settings: Settings, report: Report) -> bool:
    """Let the storage go on without what it lacks; in a child, for this process opens none."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            from flashq.coordinator.acceptance import accept_loss_of

            for text in accept_loss_of(settings, SystemClock().wall_ms()):
                log_of("flashq serve").warning("storage goes on without this", lost=text)
            status = 0
        except FlashQError as error:
            report.failed(str(error))
        finally:
            close_outputs()
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(waited) == 0


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run `flashq serve` and return its exit status.

    Args:
        argv: the flags behind `flashq serve`; None takes the process's own.
        environ: the environment.
    """
    parser = flag_parser("flashq serve", "Run all programs of a server under one supervisor.")
    parser.add_argument(
        "--accept-loss",
        action="store_true",
        help="start, this once, on a storage that lacks something; what that is gets noted",
    )
    arguments = parser.parse_args(argv)
    keep_to_owner()
    report = TerminalReport("flashq serve", environ.get("NOTIFY_SOCKET"))
    try:
        settings = settings_of(arguments, environ)
        settings.run().create()
    except FlashQError as error:
        report.failed(str(error))
        close_outputs()
        return 1
    # A signal that comes while everything is imported waits until there is somebody to handle it.
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    replace_stderr()
    configure_log(settings.log_level, settings.log_format)
    for name in names_without_effect(environ):
        log_of("flashq serve").info(f"{name} has no effect in this version")
    setproctitle("flashq serve")
    if arguments.accept_loss and not _accept_loss(settings, report):
        return 1
    return Supervisor(
        server_programs(settings),
        settings.drain_timeout_ms,
        report,
        watchdog_ms=settings.watchdog_ms,
        beat=systemd_beat(report, environ),
    ).run()
