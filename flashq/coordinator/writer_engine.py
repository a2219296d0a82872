"""What the writer does next: one step at a time for storage to write, and reads beside that.

`WriterEngine` is pure: it says what comes next, and is told how that ended. It takes everything
that has queued up since the last commit and writes it as one transaction, so that groups grow by
themselves while a commit is under way. After an error it asks storage what it has before it writes
on: the groups that were under way are written again, or were safe, or storage is not what it was,
and then the coordinator has to begin anew with what is there.

Recoveries are read beside that, several at once. A read begins once everything is stored that was
submitted before it, the grant of its shard among it; what is submitted after it does not wait.
Reads use connections of their own, so one that fails says little about the writer's: storage may be
away, or only have no connection left for it. The writer then *probes* at once. If that fails too it
is as any error, and reads go on once storage has been asked what it has; otherwise only the read is
tried again, and commits go on meanwhile. Nothing is tidied while something is read.

A commit has at most `COMMIT_BYTES_MAX`, for one that is too large holds everybody up. What fails is
tried with half as much, down to one group, and with twice as much after each success. A group that
storage *refuses* for what is in it would be refused for ever, and everything behind it with it: it
is taken out. What was decided on top of it is void, as after a loss.

What is stored is told only after the marks of it are written (`flashq.storage.marks`): `done` keeps
it until `publish`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from flashq.coordinator.mirror import Mirror
from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.errors import FlashQError, StorageRefused
from flashq.protocol.internal import Recovered
from flashq.protocol.limits import MIB
from flashq.storage.marks import Marks
from flashq.storage.port import READERS_MAX, Grant, Opened, Put, Write

COMMIT_BYTES_MAX: Final = 8 * MIB
"""So much is written as one transaction, and at least one group."""

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


class Delayed(NamedTuple):
    """Why recoveries cannot be read though storage takes writes; empty when they can again."""

    sentence: str


class Changed(NamedTuple):
    """Storage is not what it was: nothing more is written before `restart`.

    Args:
        opened: what counts from now on: its shards, and the coordinator's parts as acknowledged.
        again: what storage has to be given for that.
    """

    opened: Opened
    again: Sequence[Put]


class Excluded(NamedTuple):
    """Storage refuses a group for what is in it: nothing more is written before `restart`.

    Args:
        group: it was not written.
        error: what storage says.
        void: groups that were submitted after it, which are not written either.
        opened: what counts from now on.
    """

    group: Group
    error: StorageRefused
    void: Sequence[Group]
    opened: Opened


class Took(NamedTuple):
    """How long storage took for a commit."""

    seconds: float


class Ahead(NamedTuple):
    """How much storage has written ahead."""

    size: int


class Broken(NamedTuple):
    """The writer has ended by an error that waiting does not cure."""

    error: BaseException


Result: TypeAlias = (
    Committed | Took | Read | Unreadable | Trouble | Delayed | Changed | Excluded | Ahead | Broken
)
Task: TypeAlias = Group | Recovery


class Commit(NamedTuple):
    """Step: write this as one transaction."""

    writes: Sequence[Write]


class Tidy(NamedTuple):
    """Step: delete some of what is superseded."""


class Probe(NamedTuple):
    """Step: see that storage is there: nothing has been asked of it for a while, or a read has
    failed."""


class Open(NamedTuple):
    """Step: wait, unless the end comes first, and ask storage what it has."""

    after_ms: int
    shard_count: int


class Rest(NamedTuple):
    """Step: nothing, until there is something to do."""


class End(NamedTuple):
    """Step: let go of the storage, for good."""


class Probed(NamedTuple):
    """It is there, and takes writes.

    Args:
        ahead_bytes: how much it has written ahead.
    """

    ahead_bytes: int = 0


Call: TypeAlias = Commit | Tidy | Probe | Open
Step: TypeAlias = Call | Rest | End
Outcome: TypeAlias = Opened | Probed | bool | None
"""What a call gives: of `Open`, of `Probe`, of `Tidy` whether there is more, of `Commit`."""


class Recover(NamedTuple):
    """What a reader does: wait, unless the end comes first, and read what a recovering shard asks
    for.

    Args:
        number: of the read.
    """

    number: int
    recovery: Recovery
    after_ms: int


class _Wanted(NamedTuple):
    """A recovery that waits to be read, or is being read."""

    recovery: Recovery
    #: how many groups were submitted before it
    after_groups: int
    #: it could not be read when it was tried last
    has_failed: bool = False
    #: storage has failed since its read began, and was opened again
    is_outlived: bool = False


class WriterEngine:
    """See the module. Between a step and its `done` or `failed` everything else may be called.

    Args:
        opened: what storage has.
        marks: what it must have; they are kept up to date. None for a storage without.
    """

    def __init__(self, opened: Opened, marks: Marks | None = None) -> None:
        self._mirror = Mirror(opened)
        self._marks = marks
        #: what is stored, and is not told before its marks are written
        self._unmarked: list[Committed] = []
        self._queued: deque[Group] = deque()
        #: a commit has at most so many bytes now; less than it may have after a failure
        self._bytes_max = COMMIT_BYTES_MAX
        #: why the last commit has failed, until storage has said what it has
        self._failure: FlashQError | None = None
        #: what is being written, as one transaction
        self._groups: list[Group] = []
        #: how many groups were submitted, and how many of them are stored
        self._submitted = self._stored = 0
        self._wanted: deque[_Wanted] = deque()
        #: what is being read, by the read's number, and the number of the next
        self._reads: dict[int, _Wanted] = {}
        self._next_number = 0
        #: why a read failed, until the writer has seen whether storage is there
        self._suspicion = ""
        #: recoveries are known to be delayed, and how long to wait before the next try
        self._is_delayed = False
        self._read_retry_ms = 0
        self._results: list[Result] = []
        #: submitted, and without a result yet that was taken
        self._open_tasks = 0
        #: storage has failed, and has not said yet what it has
        self._is_lost = False
        #: storage has changed, and the loop does not know yet: its tasks are void
        self._is_void = False
        #: how much storage had written ahead when it was looked at last
        self._ahead_bytes = 0
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
        if self._is_void:
            return
        self._open_tasks += 1
        if isinstance(task, Group):
            self._submitted += 1
            self._queued.append(task)
        else:
            self._wanted.append(_Wanted(task, self._submitted))

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
        """Write what is queued, if that is possible at once, and end; what is being read is not
        waited for."""
        self._is_closing = True

    def took(self, seconds: float) -> None:
        """Storage has carried out a commit, in so long."""
        self._results.append(Took(seconds))

    def break_off(self, error: BaseException) -> None:
        """End by an error that waiting does not cure."""
        self._results.append(Broken(error))

    # --- the storage's side: writing

    def next_step(self) -> Step:
        """Return what to do now."""
        if self._is_lost:
            if self._is_closing:
                return End()
            return Open(self._retry_ms, self._mirror.shard_count)
        # What storage has not carried out comes again, by itself.
        while self._groups or self._queued:
            if not self._groups:
                self._take_groups()
            writes = self._writes()
            if writes:
                return Commit(writes)
            self._finish_groups()
        if self._is_closing:
            return End()
        if self._suspicion:
            return Probe()
        return Tidy() if self._is_untidy and not self._reads else Rest()

    def _take_groups(self) -> None:
        """Take from the queue what is written next, as one transaction."""
        size = 0
        while self._queued:
            size += self._queued[0].size
            if self._groups and size > self._bytes_max:
                return
            self._groups.append(self._queued.popleft())

    def _writes(self) -> list[Write]:
        writes = [write for group in self._groups for write in group.writes]
        if any(isinstance(write, Put) for write in writes):
            writes.append(self._mirror.counted(writes).put())
        return writes

    def done(self, outcome: Outcome) -> None:
        """Storage has carried out the step.

        Args:
            outcome: what that gave.
        """
        match outcome:
            case Opened():
                self._opened(outcome)
                return
            case None:
                self._finish_groups()
                self._bytes_max = min(2 * self._bytes_max, COMMIT_BYTES_MAX)
                self._clear_suspicion()
            case Probed(ahead_bytes):
                if ahead_bytes != self._ahead_bytes:
                    self._ahead_bytes = ahead_bytes
                    self._results.append(Ahead(ahead_bytes))
                self._clear_suspicion()
            case is_untidy:
                self._is_untidy = is_untidy
        self._note_success()

    def failed(self, error: FlashQError) -> None:
        """Storage could not carry out the step, or it is not known whether it has."""
        self._is_lost = True
        self._suspicion = ""
        self._failure = self._failure or error
        if isinstance(error, StorageRefused) and self._is_divisible():
            return  # storage is well
        self._tell_trouble(error)

    def _is_divisible(self) -> bool:
        """Tell whether what storage refuses can be taken out of what is being written."""
        return len(self._groups) > 1 or any(map(_is_removable, self._groups))

    def marks_failed(self, error: FlashQError) -> None:
        """The marks of what is stored could not be written."""
        self._is_lost = True
        self._suspicion = ""
        self._tell_trouble(error)

    def _tell_trouble(self, error: FlashQError) -> None:
        self._retry_ms = _longer_ms(self._retry_ms)
        self._results.append(Trouble(error.text))

    def _opened(self, opened: Opened) -> None:
        """Compare what storage has with what it must have."""
        self._is_lost = False
        self._read_retry_ms = 0
        writes = self._writes()
        if not self._mirror.fits(opened, writes):
            changed = Changed(*self._mirror.reconciled(opened))
            self._mirror.go_on_from(opened)
            self._void(changed)
            return
        for number, wanted in self._reads.items():
            self._reads[number] = wanted._replace(is_outlived=True)
        if writes and self._mirror.has_written(opened, writes):
            self._finish_groups()
            self._note_success()
        elif self._failure is not None and self._groups:
            self._retreat(self._failure, opened)
        self._failure = None
        self._is_untidy = True  # at least to tidy shows whether it works

    def _void(self, result: Changed | Excluded) -> None:
        """Forget what was submitted: it was decided on top of something that is not so."""
        self._is_void = True
        self._failure = None
        self._stored = self._submitted
        for void in (self._queued, self._groups, self._wanted, self._reads, self._unmarked):
            void.clear()
        self._results.append(result)
        self._note_read()

    def _retreat(self, error: FlashQError, opened: Opened) -> None:
        """A commit has failed, and nothing of it is stored: try with less, or without it."""
        if isinstance(error, StorageRefused) and len(self._groups) == 1:
            [group] = self._groups
            if _is_removable(group):
                self._void(Excluded(group, error, list(self._queued), opened))
                # What is decided anew may be refused again: not without a pause.
                self._is_lost = True
                self._retry_ms = _longer_ms(self._retry_ms)
                return
        self._bytes_max = max(1, sum(group.size for group in self._groups) // 2)
        self._queued.extendleft(reversed(self._groups))
        self._groups = []

    def _finish_groups(self) -> None:
        writes, committed = self._writes(), Committed(self._groups)
        self._mirror.note(writes)
        self._is_untidy = True
        self._stored += len(self._groups)
        self._groups = []
        if self._marks is None or not (writes or self._unmarked):
            self._results.append(committed)
            return
        self._marks.note(writes, self._mirror.census)
        for write in writes:
            if isinstance(write, Grant):
                self._marks.give_up(write.shard, self._mirror.last_seq(write.shard))
        self._unmarked.append(committed)

    @property
    def has_unmarked(self) -> bool:
        """Whether the marks have to be written before what is stored can be told."""
        return bool(self._unmarked)

    def publish(self) -> None:
        """The marks are written: tell what is stored."""
        self._results += self._unmarked
        self._unmarked.clear()

    def _note_success(self) -> None:
        """Storage has carried something out: whatever was wrong with it is over."""
        if self._retry_ms:
            self._retry_ms = 0
            self._results.append(Trouble(""))

    # --- the storage's side: reading

    def next_read(self) -> Recover | None:
        """Return what to read now, beside what is being written and read; None for nothing."""
        if self._is_lost or self._is_closing or self._suspicion:
            return None
        if len(self._reads) == READERS_MAX or not self._wanted or not self._may_read():
            return None
        wanted = self._wanted.popleft()
        number = self._next_number
        self._next_number += 1
        self._reads[number] = wanted
        after_ms = self._read_retry_ms if wanted.has_failed else 0
        return Recover(number, wanted.recovery, after_ms)

    def _may_read(self) -> bool:
        """Tell whether all is stored that was submitted before the recovery that is next."""
        return self._wanted[0].after_groups <= self._stored

    def read_done(self, number: int, outcome: Read | Unreadable) -> None:
        """A read has ended. It counts unless its recovery has become void by then."""
        if self._reads.pop(number, None) is not None:
            self._results.append(outcome)
            self._note_read()

    def read_failed(self, number: int, error: FlashQError) -> None:
        """Nothing could be read; it is tried again, unless the recovery has become void by then."""
        wanted = self._reads.pop(number, None)
        if wanted is None:
            return
        has_news = not (self._is_lost or wanted.is_outlived)
        has_failed = wanted.has_failed or has_news
        self._wanted.appendleft(wanted._replace(has_failed=has_failed, is_outlived=False))
        if has_news:
            self._suspicion = error.text

    def _clear_suspicion(self) -> None:
        """The writer has seen that storage is there: if a read has failed, only reads do."""
        if not self._suspicion:
            return
        self._read_retry_ms = _longer_ms(self._read_retry_ms)
        if not self._is_delayed:
            self._is_delayed = True
            self._results.append(Delayed(self._suspicion))
        self._suspicion = ""

    def _note_read(self) -> None:
        """A recovery waits no longer; perhaps it was the last that was delayed."""
        if self._is_delayed and not any(
            wanted.has_failed for wanted in (*self._wanted, *self._reads.values())
        ):
            self._is_delayed = False
            self._read_retry_ms = 0
            self._results.append(Delayed(""))


def _is_removable(group: Group) -> bool:
    """Tell whether a group has only the coordinator's own: of a log nothing can be left out."""
    return all(isinstance(write, Put) for write in group.writes)


def _longer_ms(retry_ms: int) -> int:
    return min(2 * retry_ms, RETRY_MS_MAX) or RETRY_MS_MIN
