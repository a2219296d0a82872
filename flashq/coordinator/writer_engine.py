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
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from flashq.coordinator.mirror import Mirror
from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.errors import FlashQError
from flashq.protocol.internal import Recovered
from flashq.storage.port import READERS_MAX, Opened, Put, Write

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


class Took(NamedTuple):
    """How long storage took for a commit."""

    seconds: float


class Broken(NamedTuple):
    """The writer has ended by an error that waiting does not cure."""

    error: BaseException


Result: TypeAlias = Committed | Took | Read | Unreadable | Trouble | Delayed | Changed | Broken
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
    """It is there, and takes writes."""


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
    """

    def __init__(self, opened: Opened) -> None:
        self._mirror = Mirror(opened)
        self._queued: deque[Group] = deque()
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
                self._groups = list(self._queued)
                self._queued.clear()
            writes = self._writes()
            if writes:
                return Commit(writes)
            self._finish_groups()
        if self._is_closing:
            return End()
        if self._suspicion:
            return Probe()
        return Tidy() if self._is_untidy and not self._reads else Rest()

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
            case None:
                self._finish_groups()
                self._clear_suspicion()
            case Probed():
                self._clear_suspicion()
            case is_untidy:
                self._is_untidy = is_untidy
        self._note_success()

    def failed(self, error: FlashQError) -> None:
        """Storage could not carry out the step, or it is not known whether it has."""
        self._is_lost = True
        self._suspicion = ""
        self._retry_ms = _longer_ms(self._retry_ms)
        self._results.append(Trouble(error.text))

    def _opened(self, opened: Opened) -> None:
        """Compare what storage has with what it must have."""
        self._is_lost = False
        self._read_retry_ms = 0
        writes = self._writes()
        if not self._mirror.fits(opened, writes):
            changed = Changed(*self._mirror.reconciled(opened))
            self._mirror = Mirror(opened)
            self._is_void = True
            self._stored = self._submitted
            for void in (self._queued, self._groups, self._wanted, self._reads):
                void.clear()
            self._results.append(changed)
            self._note_read()
            return
        for number, wanted in self._reads.items():
            self._reads[number] = wanted._replace(is_outlived=True)
        if writes and self._mirror.has_written(opened, writes):
            self._finish_groups()
            self._note_success()
        self._is_untidy = True  # at least to tidy shows whether it works

    def _finish_groups(self) -> None:
        self._mirror.note(self._writes())
        self._is_untidy = True
        self._stored += len(self._groups)
        self._results.append(Committed(self._groups))
        self._groups = []

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


def _longer_ms(retry_ms: int) -> int:
    return min(2 * retry_ms, RETRY_MS_MAX) or RETRY_MS_MIN
