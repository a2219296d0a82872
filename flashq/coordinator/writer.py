"""Writes to storage what the engine hands out, and tells the loop what became of it.

`WriterThread` owns the storage from its start on. It takes everything that has queued up since the
last commit and writes it as one transaction, so that groups grow by themselves while a commit is
under way. After an error it asks storage what it has before it writes on: the groups that were
under way are written again, or were safe, or storage is not what it was, and then the engine has to
begin anew with what is there. `DirectWriter` is the same without a thread, for a storage in memory.

Everything that happens on the way to the loop is a result; the loop takes them when `wake_fd` is
readable.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from msgspec.structs import replace

from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.errors import ConfigError, StorageDamaged, StorageUnavailable
from flashq.protocol.internal import Append, CheckpointSlice, Recovered, Reserve
from flashq.storage.port import Grant, Opened, Storage, StoredShard, Write

RECOVERED_BYTES_MAX: Final = 4 * 1024 * 1024
RETRY_MS_MIN: Final = 50
RETRY_MS_MAX: Final = 1000
"""How long to wait before storage is tried again: longer with each time."""


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
    """Storage is not what it was: nothing more is written before `restart`."""

    opened: Opened


class Broken(NamedTuple):
    """The writer has ended by an error that waiting does not cure."""

    error: BaseException


Result: TypeAlias = Committed | Read | Unreadable | Trouble | Changed | Broken
Task: TypeAlias = Group | Recovery


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
        """End, and let go of the storage."""
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
                self._storage.write(task.writes)
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


class WriterThread:
    """See the module.

    Args:
        storage: open; only the writer uses it from now on.
        opened: what it has.
    """

    def __init__(self, storage: Storage, opened: Opened) -> None:
        self._storage = storage
        self._mirror = Mirror(opened)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: guards the fields below; notified when there is something to do
        self._news = threading.Condition()
        self._tasks: deque[Task] = deque()
        self._results: list[Result] = []
        #: submitted, and without a result yet
        self._open_tasks = 0
        self._is_closing = False
        #: storage has changed, and the loop does not know yet: its tasks are void
        self._is_void = False
        #: of the thread: how long to wait before the next try; 0 while storage works
        self._retry_ms = 0
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
        return not self._open_tasks

    def submit(self, task: Task) -> None:
        """Queue a task."""
        with self._news:
            if not self._is_void:
                self._open_tasks += 1
                self._tasks.append(task)
                self._news.notify()

    def take_results(self) -> list[Result]:
        """Return what has been done since the last call."""
        with self._news:
            results, self._results = self._results, []
            if results:
                os.eventfd_read(self._wake_fd)
        for result in results:
            if isinstance(result, Committed):
                self._open_tasks -= len(result.groups)
            elif isinstance(result, Read | Unreadable):
                self._open_tasks -= 1
        return results

    def restart(self) -> None:
        """Go on after `Changed`."""
        with self._news:
            self._is_void = False
            self._open_tasks = 0

    def close(self) -> None:
        """Write what is queued, if that is possible at once, and end."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        self._thread.join()
        os.close(self._wake_fd)

    # --- the thread

    def _run(self) -> None:
        try:
            while True:
                try:
                    tasks = self._next_tasks()
                    if tasks is None:
                        return
                    self._carry_out(tasks)
                except _VoidTasks:
                    continue
        except Exception as error:  # noqa: BLE001  the edge of the thread: the loop raises it again
            self._tell(Broken(error))
        finally:
            self._storage.close()

    def _next_tasks(self) -> list[Task] | None:
        """Return everything that has queued up, None at the end; tidy while there is nothing."""
        is_untidy = True
        while True:
            with self._news:
                while not self._tasks and not self._is_closing and not is_untidy:
                    self._news.wait()
                if self._tasks:
                    tasks = list(self._tasks)
                    self._tasks.clear()
                    return tasks
                if self._is_closing:
                    return None
            try:
                is_untidy = self._storage.tidy()
            except StorageUnavailable as error:
                self._reopen(error, [])
            else:
                self._note_success()

    def _carry_out(self, tasks: Sequence[Task]) -> None:
        groups: list[Group] = []
        for task in tasks:
            if isinstance(task, Group):
                groups.append(task)
                continue
            self._commit(groups)
            groups = []
            self._read(task)
        self._commit(groups)

    def _read(self, recovery: Recovery) -> None:
        while True:
            try:
                result = _read(self._storage, recovery)
            except StorageUnavailable as error:
                self._reopen(error, [])
            else:
                self._note_success()
                self._tell(result)
                return

    def _commit(self, groups: Sequence[Group]) -> None:
        """Write groups as one transaction."""
        if not groups:
            return
        writes = [write for group in groups for write in group.writes]
        while writes:
            try:
                self._storage.write(writes)
            except StorageUnavailable as error:
                opened = self._reopen(error, writes)
                if self._mirror.has_written(opened, writes):
                    break
            else:
                break
        if writes:
            self._mirror.note(writes)
            self._note_success()
        self._tell(Committed(groups))

    def _note_success(self) -> None:
        """Storage has carried something out: whatever was wrong with it is over."""
        if self._retry_ms:
            self._retry_ms = 0
            self._tell(Trouble(""))

    def _reopen(self, error: StorageUnavailable, writes: Sequence[Write]) -> Opened:
        """Try storage until it answers, and return what it has.

        Args:
            error: why it has to be tried.
            writes: those of which it is not known whether they are stored.

        Raises:
            _VoidTasks: the end came first, or storage is not what it was.
        """
        self._tell(Trouble(error.text))
        while True:
            self._retry_ms = min(2 * self._retry_ms, RETRY_MS_MAX) or RETRY_MS_MIN
            with self._news:
                if self._news.wait_for(lambda: self._is_closing, self._retry_ms / 1000):
                    self._tasks.clear()
                    raise _VoidTasks
            try:
                opened = self._storage.open(self._mirror.shard_count)
            except (StorageUnavailable, ConfigError) as again:
                self._tell(Trouble(again.text))
                continue
            if self._mirror.fits(opened, writes):
                return opened
            self._mirror = Mirror(opened)
            with self._news:
                self._is_void = True
                self._tasks.clear()
            self._tell(Changed(opened))
            raise _VoidTasks

    def _tell(self, result: Result) -> None:
        with self._news:
            if not self._results:
                os.eventfd_write(self._wake_fd, 1)
            self._results.append(result)


class _VoidTasks(Exception):
    """What is queued or under way does not count any more."""


def _read(storage: Storage, recovery: Recovery) -> Read | Unreadable:
    try:
        part = storage.recover(recovery.shard, recovery.cursor, RECOVERED_BYTES_MAX)
    except StorageDamaged as error:
        return Unreadable(recovery, error.text)
    return Read(recovery, part)


class Mirror:
    """What storage must have of each shard, by what has been written.

    Args:
        opened: what it had when it was opened.
    """

    def __init__(self, opened: Opened) -> None:
        self._uuid = opened.uuid
        self._shards = [_essence(shard) for shard in opened.shards]

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    def note(self, writes: Sequence[Write]) -> None:
        """Take in that something is stored."""
        for write in writes:
            match write:
                case Append(shard=shard):
                    self._set(shard, last_seq=write.last_seq)
                case CheckpointSlice(shard=shard, last=True):
                    self._set(shard, last_seq=max(self._shards[shard].last_seq, write.seq))
                case Reserve(shard=shard):
                    self._set(shard, reserved=max(self._shards[shard].reserved, write.upto))
                case Grant(shard=shard):
                    reserved = max(self._shards[shard].reserved, write.reserved)
                    self._set(
                        shard,
                        epoch=write.epoch,
                        incarnation=write.incarnation,
                        reserved=reserved,
                    )

    def _set(self, shard: int, **changes: int) -> None:
        self._shards[shard] = replace(self._shards[shard], **changes)

    def fits(self, opened: Opened, writes: Sequence[Write]) -> bool:
        """Tell whether storage has what was written, with or without the last writes."""
        return opened.uuid == self._uuid and (
            self._equals(opened) or self._after(writes)._equals(opened)
        )

    def has_written(self, opened: Opened, writes: Sequence[Write]) -> bool:
        """Tell whether storage has the last writes too.

        When they change nothing that tells, they can be written again: what is neither log nor
        grant is set to the same once more.
        """
        return not self._equals(opened) and self._after(writes)._equals(opened)

    def _after(self, writes: Sequence[Write]) -> Mirror:
        after = Mirror.__new__(Mirror)
        after._uuid, after._shards = self._uuid, list(self._shards)
        after.note(writes)
        return after

    def _equals(self, opened: Opened) -> bool:
        return [_essence(shard) for shard in opened.shards] == self._shards


def _essence(shard: StoredShard) -> StoredShard:
    """Return what a shard is compared by; how far a checkpoint has come does not count."""
    return StoredShard(
        epoch=shard.epoch,
        incarnation=shard.incarnation,
        reserved=shard.reserved,
        last_seq=shard.last_seq,
    )
