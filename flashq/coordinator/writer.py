"""Writes to storage what the engine hands out, and tells the loop what became of it.

`WriterEngine` decides, and is pure: it says which step comes next, and is told how that ended. It
takes everything that has queued up since the last commit and writes it as one transaction, so that
groups grow by themselves while a commit is under way. After an error it asks storage what it has
before it writes on: the groups that were under way are written again, or were safe, or storage is
not what it was, and then the coordinator has to begin anew with what is there.

`WriterThread` carries its steps out, and owns the storage from its start on. `DirectWriter` is for
a storage in memory, which is never away and needs neither.

Everything that happens on the way to the loop is a result; the loop takes them when `wake_fd` is
readable.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from flashq.coordinator.mirror import Mirror
from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.errors import ConfigError, FlashQError, StorageDamaged, StorageUnavailable
from flashq.protocol.internal import Recovered
from flashq.storage.port import Opened, Put, Storage, Write

RECOVERED_BYTES_MAX: Final = 4 * 1024 * 1024
RETRY_MS_MIN: Final = 50
RETRY_MS_MAX: Final = 1000
"""How long to wait before storage is tried again: longer with each time."""
PROBE_MS: Final = 3000
"""After so long without anything to do it is looked whether storage is still there."""
CLOSE_MS: Final = 2000
"""How long an end waits for what storage is doing; storage that hangs ends with the process."""


class Committed(NamedTuple):
    """The groups are stored."""

    groups: Sequence[Group]


class Read(NamedTuple):
    """What a recovering shard asked for."""

    recovery: Recovery
    part: Recovered


class Unreadable(NamedTuple):
    """What a recovering shard asked for is damaged."""

    recovery: Recovery
    reason: str


class Trouble(NamedTuple):
    """What is wrong with storage; empty when it works again."""

    sentence: str


class Changed(NamedTuple):
    """Storage is not what it was: nothing more is written before `restart`.

    Args:
        opened: what counts from now on: its shards, and the coordinator's parts as acknowledged.
        again: what storage has to be given for that.
    """

    opened: Opened
    again: Sequence[Put]


class Took(NamedTuple):
    """How long storage took for a commit."""

    seconds: float


class Broken(NamedTuple):
    """The writer has ended by an error that waiting does not cure."""

    error: BaseException


Result: TypeAlias = Committed | Took | Read | Unreadable | Trouble | Changed | Broken
Task: TypeAlias = Group | Recovery


class Commit(NamedTuple):
    """Step: write this as one transaction."""

    writes: Sequence[Write]


class Recover(NamedTuple):
    """Step: read what a recovering shard asks for."""

    recovery: Recovery


class Tidy(NamedTuple):
    """Step: delete some of what is superseded."""


class Probe(NamedTuple):
    """Step: see that storage is there, after nothing has been asked of it for a while."""


class Open(NamedTuple):
    """Step: wait, unless the end comes first, and ask storage what it has."""

    after_ms: int
    shard_count: int


class Rest(NamedTuple):
    """Step: nothing, until there is something to do."""


class End(NamedTuple):
    """Step: let go of the storage, for good."""


Call: TypeAlias = Commit | Recover | Tidy | Probe | Open
Step: TypeAlias = Call | Rest | End
Outcome: TypeAlias = Opened | Read | Unreadable | bool | None
"""What a call gives: of `Open`, of `Recover`, of `Tidy` whether there is more, of `Commit`."""


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
            self._results.append(_read(self._storage, task))

    def take_results(self) -> list[Result]:
        """Return what was done."""
        results, self._results = self._results, []
        return results

    def restart(self) -> None:
        """Nothing changes behind our back."""

    def close(self) -> None:
        """Close the storage."""
        self._storage.close()


class WriterEngine:
    """See the module. Between a step and its `done` or `failed` everything else may be called.

    Args:
        opened: what storage has.
    """

    def __init__(self, opened: Opened) -> None:
        self._mirror = Mirror(opened)
        self._tasks: deque[Task] = deque()
        #: what is being carried out: groups as one transaction, or else a recovery
        self._groups: list[Group] = []
        self._recovery: Recovery | None = None
        self._results: list[Result] = []
        #: submitted, and without a result yet that was taken
        self._open_tasks = 0
        #: storage has failed, and has not said yet what it has
        self._is_lost = False
        #: storage has changed, and the loop does not know yet: its tasks are void
        self._is_void = False
        #: there may be something to tidy
        self._is_untidy = True
        self._is_closing = False
        #: how long to wait before the next try; 0 while storage works
        self._retry_ms = 0

    # --- the loop's side

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has its result."""
        return not self._open_tasks

    @property
    def is_closing(self) -> bool:
        """Whether the end has come."""
        return self._is_closing

    @property
    def has_results(self) -> bool:
        """Whether there is something to take."""
        return bool(self._results)

    def submit(self, task: Task) -> None:
        """Queue a task."""
        if not self._is_void:
            self._open_tasks += 1
            self._tasks.append(task)

    def take_results(self) -> list[Result]:
        """Return what has been done since the last call, in order."""
        results, self._results = self._results, []
        for result in results:
            if isinstance(result, Committed):
                self._open_tasks -= len(result.groups)
            elif isinstance(result, Read | Unreadable):
                self._open_tasks -= 1
        return results

    def restart(self) -> None:
        """Go on after `Changed`."""
        self._is_void = False
        self._open_tasks = 0

    def close(self) -> None:
        """Write what is queued, if that is possible at once, and end."""
        self._is_closing = True

    def took(self, seconds: float) -> None:
        """Storage has carried out a commit, in so long."""
        self._results.append(Took(seconds))

    def break_off(self, error: BaseException) -> None:
        """End by an error that waiting does not cure."""
        self._results.append(Broken(error))

    # --- the storage's side

    def next_step(self) -> Step:
        """Return what to do now."""
        if self._is_lost:
            if self._is_closing:
                return End()
            return Open(self._retry_ms, self._mirror.shard_count)
        while self._take_task():
            if self._recovery is not None:
                return Recover(self._recovery)
            writes = self._writes()
            if writes:
                return Commit(writes)
            self._finish_groups()
        if self._is_closing:
            return End()
        return Tidy() if self._is_untidy else Rest()

    def _take_task(self) -> bool:
        """See that there is something to carry out: a recovery, or all groups up to the next one.
        What storage has not carried out comes again."""
        tasks = self._tasks
        if self._recovery is None and not self._groups:
            while tasks and isinstance(tasks[0], Group):
                self._groups.append(tasks.popleft())  # type: ignore[arg-type]
            if tasks and not self._groups:
                self._recovery = tasks.popleft()  # type: ignore[assignment]
        return self._recovery is not None or bool(self._groups)

    def _writes(self) -> list[Write]:
        return [write for group in self._groups for write in group.writes]

    def done(self, outcome: Outcome) -> None:
        """Storage has carried out the step.

        Args:
            outcome: what that gave.
        """
        match outcome:
            case Opened():
                self._opened(outcome)
                return
            case Read() | Unreadable():
                self._recovery = None
                self._is_untidy = True
                self._results.append(outcome)
            case None:
                self._finish_groups()
            case is_untidy:
                self._is_untidy = is_untidy
        self._note_success()

    def failed(self, error: FlashQError) -> None:
        """Storage could not carry out the step, or it is not known whether it has."""
        self._is_lost = True
        self._retry_ms = min(2 * self._retry_ms, RETRY_MS_MAX) or RETRY_MS_MIN
        self._results.append(Trouble(error.text))

    def _opened(self, opened: Opened) -> None:
        """Compare what storage has with what it must have."""
        self._is_lost = False
        writes = self._writes()
        if not self._mirror.fits(opened, writes):
            changed = Changed(*self._mirror.reconciled(opened))
            self._mirror = Mirror(opened)
            self._is_void = True
            self._tasks.clear()
            self._groups, self._recovery = [], None
            self._results.append(changed)
            return
        if writes and self._mirror.has_written(opened, writes):
            self._finish_groups()
            self._note_success()
        self._is_untidy = True  # at least to tidy shows whether it works

    def _finish_groups(self) -> None:
        self._mirror.note(self._writes())
        self._is_untidy = True
        self._results.append(Committed(self._groups))
        self._groups = []

    def _note_success(self) -> None:
        """Storage has carried something out: whatever was wrong with it is over."""
        if self._retry_ms:
            self._retry_ms = 0
            self._results.append(Trouble(""))


def carry_out(call: Call, storage: Storage) -> Outcome:
    """Carry out a step.

    Raises:
        StorageUnavailable, ConfigError: to be told to the engine by `failed`.
    """
    match call:
        case Commit(writes):
            storage.write(writes)
            return None
        case Recover(recovery):
            return _read(storage, recovery)
        case Tidy():
            return storage.tidy()
        case Probe():
            storage.probe()
            return False  # that there is something to tidy
        case Open(shard_count=shard_count):
            return storage.open(shard_count)


class WriterThread:
    """See the module.

    Args:
        storage: open; only the writer uses it from now on.
        opened: what it has.
    """

    def __init__(self, storage: Storage, opened: Opened) -> None:
        self._storage = storage
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: guards the engine; notified when there is something to do
        self._news = threading.Condition()
        self._engine = WriterEngine(opened)
        #: `wake_fd` is readable
        self._is_awake = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
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
            self._news.notify()

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
            self._news.notify()
        self._thread.join(CLOSE_MS / 1000)
        if not self._thread.is_alive():
            os.close(self._wake_fd)
            self._is_awake = False

    # --- the thread

    def _run(self) -> None:
        try:
            while (call := self._next_call()) is not None:
                began_s = time.perf_counter()
                try:
                    outcome = carry_out(call, self._storage)
                except (StorageUnavailable, ConfigError) as error:
                    with self._news:
                        self._engine.failed(error)
                else:
                    seconds = time.perf_counter() - began_s
                    with self._news:
                        if isinstance(call, Commit):
                            self._engine.took(seconds)
                        self._engine.done(outcome)
        except Exception as error:  # noqa: BLE001  the edge of the thread: the loop raises it again
            with self._news:
                self._engine.break_off(error)
                self._wake_loop()
        finally:
            self._storage.close()

    def _next_call(self) -> Call | None:
        """Wait until there is something to do; return None at the end."""
        engine, news = self._engine, self._news
        with news:
            while True:
                step = engine.next_step()
                self._wake_loop()
                match step:
                    case End():
                        return None
                    case Rest():
                        if not news.wait(PROBE_MS / 1000):
                            return Probe()
                    case Open(after_ms=after_ms) if news.wait_for(
                        lambda: engine.is_closing, after_ms / 1000
                    ):
                        continue
                    case _:
                        return step

    def _wake_loop(self) -> None:
        """Make `wake_fd` readable, if there is something to take."""
        if self._engine.has_results and not self._is_awake:
            self._is_awake = True
            os.eventfd_write(self._wake_fd, 1)


def _read(storage: Storage, recovery: Recovery) -> Read | Unreadable:
    try:
        part = storage.recover(recovery.shard, recovery.cursor, RECOVERED_BYTES_MAX)
    except StorageDamaged as error:
        return Unreadable(recovery, error.text)
    return Read(recovery, part)
