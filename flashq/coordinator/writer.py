"""Writes to storage what the engine hands out, and tells the loop what became of it.

`WriterThread` carries out what `WriterEngine` says, and owns the storage from its start on. One
thread writes. Each read has a thread for as long as it takes: a daemon as that one is, so that what
hangs in storage ends with the process. (A pool of threads would wait for it.) `DirectWriter` is for
a storage in memory, which is never away and needs neither.

Everything that happens on the way to the loop is a result; the loop takes them when `wake_fd` is
readable.
"""

from __future__ import annotations

import os
import time
from threading import Condition, Thread
from typing import Final, Protocol

from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.coordinator.writer_engine import (
    Call,
    Commit,
    Committed,
    End,
    Open,
    Outcome,
    Probe,
    Probed,
    Read,
    Recover,
    Rest,
    Result,
    Task,
    Tidy,
    Took,
    Unreadable,
    WriterEngine,
)
from flashq.errors import ConfigError, StorageDamaged, StorageRefused, StorageUnavailable
from flashq.storage.marksfile import SYNC_MS, MarksFile
from flashq.storage.port import Opened, Storage

RECOVERED_BYTES_MAX: Final = 4 * 1024 * 1024
PROBE_MS: Final = 3000
"""After so long it is looked again whether storage is still there, and ours alone, also between two
commits: one that is given to somebody else takes writes as before."""
CLOSE_MS: Final = 2000
"""How long an end waits for what storage is doing; storage that hangs ends with the process."""


class Writer(Protocol):
    """What the loop needs of either."""

    @property
    def wake_fd(self) -> int | None:
        """Becomes readable with a result; None when results are there at once."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has its result."""
        ...

    def submit(self, task: Task) -> None:
        """Take on a group or a recovery, after what was submitted before."""
        ...

    def take_results(self) -> list[Result]:
        """Return what has become of it, in order."""
        ...

    def restart(self) -> None:
        """Go on after `Changed`, with tasks that fit what storage has."""
        ...

    def close(self) -> None:
        """End, and let go of the storage; there may be results after this."""
        ...


class DirectWriter:
    """Writes at once.

    Args:
        storage: open, and never away.
    """

    wake_fd = None
    is_idle = True

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._results: list[Result] = []

    def submit(self, task: Task) -> None:
        """Write or read."""
        if isinstance(task, Group):
            if task.writes:
                began_s = time.perf_counter()
                self._storage.write(task.writes)
                self._results.append(Took(time.perf_counter() - began_s))
            self._results.append(Committed([task]))
        else:
            self._results.append(read(self._storage, task))

    def take_results(self) -> list[Result]:
        """Return what was done."""
        results, self._results = self._results, []
        return results

    def restart(self) -> None:
        """Nothing changes behind our back."""

    def close(self) -> None:
        """Close the storage."""
        self._storage.close()


def carry_out(call: Call, storage: Storage) -> Outcome:
    """Carry out a step.

    Raises:
        StorageUnavailable, ConfigError: to be told to the engine by `failed`.
    """
    match call:
        case Commit(writes):
            storage.write(writes)
            return None
        case Tidy():
            return storage.tidy()
        case Probe():
            storage.probe()
            return Probed(storage.ahead_bytes())
        case Open(shard_count=shard_count):
            return storage.open(shard_count)


def read(storage: Storage, recovery: Recovery) -> Read | Unreadable:
    """Read what a recovering shard asks for.

    Raises:
        StorageUnavailable: to be told to the engine by `read_failed`.
    """
    try:
        part = storage.recover(recovery.shard, recovery.cursor, RECOVERED_BYTES_MAX)
    except StorageDamaged as error:
        return Unreadable(recovery, error.text)
    if part.epoch < recovery.epoch:
        # A storage that keeps its promise never does this. One that lags must not be believed.
        raise StorageUnavailable(
            detail=f"of shard {recovery.shard} epoch {part.epoch} was read, "
            f"though {recovery.epoch} was granted"
        )
    return Read(recovery, part)


class WriterThread:
    """See the module.

    Args:
        storage: open; only the writer uses it from now on, and those who read for it.
        opened: what it has.
        marks: where it is written down what it must have; None for nowhere.
    """

    def __init__(self, storage: Storage, opened: Opened, marks: MarksFile | None = None) -> None:
        self._storage = storage
        self._marks = marks
        #: when the marks have to be forced to the disk, on the monotonic clock; None when they are
        self._sync_s: float | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: guards the engine; notified when there is something to do
        self._news = Condition()
        self._engine = WriterEngine(opened, None if marks is None else marks.marks)
        #: `wake_fd` is readable
        self._is_awake = False
        #: there is no `wake_fd` any more; a read may end after that
        self._is_closed = False
        #: when storage was last looked at or opened, on the monotonic clock; after a failure it is
        #: opened before anything else
        self._looked_s = time.monotonic()
        self._thread = Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    # --- the loop's side

    @property
    def wake_fd(self) -> int:
        """Becomes readable with a result."""
        return self._wake_fd

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has its result."""
        return self._engine.is_idle

    def submit(self, task: Task) -> None:
        """Queue a task."""
        with self._news:
            self._engine.submit(task)
            self._start_reads()
            self._news.notify_all()

    def take_results(self) -> list[Result]:
        """Return what has been done since the last call."""
        with self._news:
            if self._is_awake:
                self._is_awake = False
                os.eventfd_read(self._wake_fd)
            return self._engine.take_results()

    def restart(self) -> None:
        """Go on after `Changed`."""
        with self._news:
            self._engine.restart()

    def close(self) -> None:
        """Write what is queued, if that is possible at once, and end."""
        with self._news:
            self._engine.close()
            self._news.notify_all()
        self._thread.join(CLOSE_MS / 1000)
        if not self._thread.is_alive():
            with self._news:
                os.close(self._wake_fd)
                self._is_awake, self._is_closed = False, True

    # --- the thread that writes

    def _run(self) -> None:
        try:
            while (call := self._next_call()) is not None:
                began_s = time.perf_counter()
                try:
                    outcome = carry_out(call, self._storage)
                except (StorageUnavailable, StorageRefused, ConfigError) as error:
                    with self._news:
                        self._engine.failed(error)
                else:
                    if isinstance(call, Probe | Open):
                        self._looked_s = time.monotonic()
                    seconds = time.perf_counter() - began_s
                    with self._news:
                        if isinstance(call, Commit):
                            self._engine.took(seconds)
                        self._engine.done(outcome)
                self._mark()
        except Exception as error:  # noqa: BLE001  the edge of the thread: the loop raises it again
            with self._news:
                self._engine.break_off(error)
                self._wake_loop()
        finally:
            self._storage.close()
            if self._marks is not None:
                self._marks.close()

    def _mark(self) -> None:
        """Write down what storage must have, before it is told that it is stored; force that to
        the disk now and then."""
        marks, engine = self._marks, self._engine
        if marks is None:
            return
        now_s = time.monotonic()
        try:
            if engine.has_unmarked:
                marks.write()
                self._sync_s = self._sync_s or now_s + SYNC_MS / 1000
            if self._sync_s is not None and now_s >= self._sync_s:
                marks.sync()
                self._sync_s = None
        except StorageUnavailable as error:
            with self._news:
                engine.marks_failed(error)
        else:
            with self._news:
                engine.publish()

    def _rest_s(self) -> float:
        """Return how long there may be nothing to do before something is."""
        return (PROBE_MS if self._sync_s is None else SYNC_MS) / 1000

    def _next_call(self) -> Call | None:
        """Wait until there is something to do; return None at the end."""
        engine, news = self._engine, self._news
        with news:
            while True:
                step = engine.next_step()
                self._start_reads()
                self._wake_loop()
                match step:
                    case End():
                        return None
                    case Commit() if time.monotonic() - self._looked_s >= PROBE_MS / 1000:
                        return Probe()  # the commit comes again
                    case Rest():
                        if not news.wait(self._rest_s()):
                            return Probe()
                    case Open(after_ms=after_ms) if news.wait_for(
                        lambda: engine.is_closing, after_ms / 1000
                    ):
                        continue
                    case _:
                        return step

    def _wake_loop(self) -> None:
        """Make `wake_fd` readable, if there is something to take."""
        if self._engine.has_results and not self._is_awake and not self._is_closed:
            self._is_awake = True
            os.eventfd_write(self._wake_fd, 1)

    # --- threads that read

    def _start_reads(self) -> None:
        """Begin to read what may be read now."""
        while (step := self._engine.next_read()) is not None:
            Thread(target=self._read, args=(step,), name="reader", daemon=True).start()

    def _read(self, step: Recover) -> None:
        engine, news = self._engine, self._news
        with news:
            if news.wait_for(lambda: engine.is_closing, step.after_ms / 1000):
                return
        try:
            outcome = read(self._storage, step.recovery)
        except StorageUnavailable as error:
            with news:
                engine.read_failed(step.number, error)
        except Exception as error:  # noqa: BLE001  the edge of the thread: the loop raises it again
            with news:
                engine.break_off(error)
        else:
            with news:
                engine.read_done(step.number, outcome)
        with news:
            self._start_reads()
            self._wake_loop()
            news.notify_all()
