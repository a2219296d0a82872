"""The writer of the simulated coordinator: commits that take their time, seen by the witness.

Also the place where storage faults go: whatever makes a commit fail, or tears a group apart, wraps
the `Storage` that the writer is given.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from flashq.coordinator.outbox import Group
from flashq.coordinator.writer import Committed, Read, Task
from flashq.storage.port import Storage

if TYPE_CHECKING:
    from tests.simulation.checkers import Witness
    from tests.simulation.processes import CoordinatorProcess
    from tests.simulation.setting import Setting


class SimulatedWriter:
    """What `WriterThread` does, in virtual time.

    Args:
        process: whose writer it is; woken when there are results.
        storage: open.
        setting: says how long commits take.
        witness: sees each write once it is stored.
    """

    def __init__(
        self, process: CoordinatorProcess, storage: Storage, setting: Setting, witness: Witness
    ) -> None:
        self._process: Final = process
        self._storage: Final = storage
        self._setting: Final = setting
        self._witness: Final = witness
        self._tasks: deque[Task] = deque()
        #: a commit is under way
        self._is_busy = False
        self._results: list[Committed | Read] = []

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has its result."""
        return not self._tasks

    def submit(self, task: Task) -> None:
        """Take on a group or a recovery, after what was submitted before."""
        self._tasks.append(task)
        if self._is_busy:
            return
        world = self._process.world
        if not world.happens(self._setting.slow_commits):
            self._carry_out()
            return
        self._is_busy = True
        world.fault("commit slow")
        self._process.later(world.between(*self._setting.slow_commit_us), self._end_commit)

    def _end_commit(self) -> None:
        self._is_busy = False
        self._carry_out()
        self._process.wake(self._process.world.now_us)

    def _carry_out(self) -> None:
        """Everything that has queued up since the last commit is one transaction."""
        tasks, self._tasks = self._tasks, deque()
        groups = [task for task in tasks if isinstance(task, Group)]
        writes = [write for group in groups for write in group.writes]
        self._storage.write(writes)
        for write in writes:
            self._witness.written(write)
        self._results.append(Committed(groups))
        for task in tasks:
            if not isinstance(task, Group):
                part = self._storage.recover(task.shard, task.cursor, self._setting.recovered_bytes)
                self._results.append(Read(task, part))

    def take_results(self) -> list[Committed | Read]:
        """Return what has become of it, in order."""
        results, self._results = self._results, []
        return results
