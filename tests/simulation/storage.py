"""The storage of the simulated coordinator, with everything that goes wrong there, and its writer.

`FaultyStorage` keeps what it is given whole: all of a group or nothing. Owns what a storage may do
otherwise: be away or refuse to write for a while, lose the answer to a commit or the connection of
a read, take its coordinator along, and come back as a copy that lacks the last groups. The witness
sees each write once it is stored, and what is lost with a copy.

`SimulatedWriter` carries out the steps of the product's own `WriterEngine`, in virtual time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from flashq.coordinator.shards import Recovery
from flashq.coordinator.writer import PROBE_MS, carry_out, read
from flashq.coordinator.writer_engine import (
    Call,
    Commit,
    End,
    Open,
    Probe,
    Read,
    Recover,
    Rest,
    Result,
    Task,
    Unreadable,
    WriterEngine,
)
from flashq.errors import ConfigError, StorageUnavailable
from flashq.protocol.internal import Recovered
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import Generation, Opened, Write
from tests.simulation.kinds import (
    AWAY,
    BESIDE_A_READ,
    CUT_AFTER_COMMIT,
    CUT_BEFORE_COMMIT,
    CUT_IN_READ,
    FAILED_OVER,
    FULL,
    KILLED_AFTER_COMMIT,
    KILLED_BEFORE_COMMIT,
    READ_ONLY,
)
from tests.simulation.world import MS, Killed, Violation, World

if TYPE_CHECKING:
    from tests.simulation.checkers import Witness
    from tests.simulation.processes import CoordinatorProcess
    from tests.simulation.setting import Setting

AILMENTS: Final = (AWAY, FULL, READ_ONLY)
"""What a storage can have for a while."""
FATES: Final = (CUT_BEFORE_COMMIT, CUT_AFTER_COMMIT, KILLED_BEFORE_COMMIT, KILLED_AFTER_COMMIT)
"""What can happen at a commit."""


class FaultyStorage:
    """See the module.

    Args:
        world, setting, witness: the run's.
        wall_ms: the wall clock.
    """

    def __init__(self, world: World, setting: Setting, witness: Witness, wall_ms: int) -> None:
        self._world: Final = world
        self._setting: Final = setting
        self._witness: Final = witness
        uuid = world.chance.randbytes(16)
        self._stored = MemoryStorage(wall_ms, uuid)
        #: follows, and lacks the groups in `_ahead`; None for a storage without a copy
        self._copy = MemoryStorage(wall_ms, uuid) if setting.fails_over else None
        self._ahead: deque[Sequence[Write]] = deque()
        #: what it has, until when
        self._ailment: str | None = None
        self._ails_until_us = 0
        #: what happens at the next commit
        self._fate: str | None = None
        #: the coordinator has asked what is there since the last error
        self._is_open = False
        #: the connection is gone, which the next call notices
        self._is_cut = False
        #: no connection of a read is lost any more
        self._is_healed = False

    # --- what goes wrong

    def ail(self, ailment: str, duration_us: int) -> None:
        """Have something for a while."""
        self._ailment = ailment
        self._ails_until_us = self._world.now_us + duration_us

    def doom(self, fate: str) -> None:
        """Let something happen at the next commit."""
        self._fate = fate

    def fail_over(self, away_us: int) -> None:
        """From now on be the copy, and away at first."""
        if self._copy is None or not self._ahead:
            return
        self._world.fault(FAILED_OVER, len(self._ahead))
        lost = [write for group in self._ahead for write in group]
        self._stored, self._copy = self._copy, deepcopy(self._copy)
        self._ahead.clear()
        self._witness.storage_lost(lost, self._stored.open(self._setting.shards))
        self._is_cut = True
        self.ail(AWAY, away_us)

    def heal(self) -> None:
        """From now on do as a storage should."""
        self._ailment = self._fate = None
        self._is_healed = True

    def _suffer(self, *ailments: str) -> None:
        """Fail if it has one of these, or the connection is gone.

        Raises:
            StorageUnavailable: so it is.
        """
        if not self._is_open:
            raise Violation("storage is used before it was asked what it has")
        if self._is_cut:
            self._is_open = False
            raise StorageUnavailable(detail="connection lost")
        self._ache(*ailments)

    def _ache(self, *ailments: str) -> None:
        if self._ailment in ailments:
            if self._world.now_us < self._ails_until_us:
                self._fail(self._ailment)
            self._ailment = None

    def _fail(self, kind: str) -> NoReturn:
        self._world.fault(kind)
        self._is_open = False
        raise StorageUnavailable(detail=kind)

    # --- the port

    def open(self, shard_count: int) -> Opened:
        """Say what is there."""
        self._ache(AWAY)
        self._is_open, self._is_cut = True, False
        if self._copy is not None:
            self._copy.open(shard_count)
        return self._stored.open(shard_count)

    def write(self, group: Sequence[Write]) -> None:
        """Store a group, as far as nothing happens."""
        self._suffer(*AILMENTS)
        fate, self._fate = self._fate, None
        if fate in (CUT_BEFORE_COMMIT, KILLED_BEFORE_COMMIT):
            self._meet(fate)
        self._store(group)
        if fate is not None:
            self._meet(fate)

    def _meet(self, fate: str) -> NoReturn:
        if fate in (CUT_BEFORE_COMMIT, CUT_AFTER_COMMIT):
            self._fail(fate)
        self._world.fault(fate)
        raise Killed

    def _store(self, group: Sequence[Write]) -> None:
        self._stored.write(group)
        for write in group:
            self._witness.written(write)
        if self._copy is not None:
            self._ahead.append(list(group))
            lag = self._world.chance.randint(0, self._setting.lag_groups_max)
            while len(self._ahead) > lag:
                self._copy.write(self._ahead.popleft())

    def orphan(self, group: Sequence[Write]) -> None:
        """The coordinator has died while this was being committed: it is stored, or it is not."""
        self._fate = None
        if self._is_open and not self._is_cut and self._world.happens(0.5):
            self._store(group)
            self._world.fault(KILLED_AFTER_COMMIT)
        else:
            self._world.fault(KILLED_BEFORE_COMMIT)

    def begin_read(self, recovery: Recovery) -> None:
        """See that what is going to be read is what the shard was granted, or newer."""
        granted = self._stored.open(self._setting.shards).shards[recovery.shard].epoch
        if self._is_open and not self._is_cut and granted < recovery.epoch:
            raise Violation(f"{recovery!r} is read before its grant is stored")

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give a part of a shard's recovery, a small one, over a connection of its own: it fails by
        itself, and is no use without that of the writer."""
        world = self._world
        if not self._is_open or self._is_cut:
            raise StorageUnavailable(detail="the writer's connection is lost")
        if self._ailment == AWAY and world.now_us < self._ails_until_us:
            world.fault(AWAY)
            raise StorageUnavailable(detail=AWAY)
        if not self._is_healed and world.happens(self._setting.failing_reads):
            world.fault(CUT_IN_READ)
            raise StorageUnavailable(detail=CUT_IN_READ)
        return self._stored.recover(shard, cursor, min(bytes_max, self._setting.recovered_bytes))

    def checkpoint_of(self, shard: int) -> tuple[Generation | None, Recovered]:
        """Return the name of a shard's current checkpoint, and its parts and pages."""
        name = self._stored.open(self._setting.shards).shards[shard].current
        content = self._stored.recover(shard, 0, 2**62)
        return name, content

    def look(self) -> Opened | None:
        """Say what is there, without a fault: that is what comes with an open."""
        return self._stored.look()

    def tidy(self) -> bool:
        """There is nothing to tidy, which needs a connection to know."""
        self._suffer(AWAY, READ_ONLY)
        return self._stored.tidy()

    def probe(self) -> None:
        """Say whether it is there and takes writes."""
        self._suffer(*AILMENTS)

    def ahead_bytes(self) -> int:
        """Nothing is written ahead."""
        return 0

    def close(self) -> None:
        """Let go of it."""
        self._is_open = False


class SimulatedWriter:
    """What `WriterThread` does, in virtual time.

    Args:
        process: whose writer it is; woken when there are results.
        storage: open.
        opened: what it has.
        setting: says how long commits and reads take.
    """

    def __init__(
        self,
        process: CoordinatorProcess,
        storage: FaultyStorage,
        opened: Opened,
        setting: Setting,
    ) -> None:
        self._process: Final = process
        self._storage: Final = storage
        self._setting: Final = setting
        self._engine: Final = WriterEngine(opened)
        #: what is under way
        self._call: Call | None = None
        #: how many reads are
        self._reads = 0
        #: since when there is nothing to do
        self._rests_from_us = process.world.now_us
        process.later(PROBE_MS * MS, self._look)

    # --- the loop's side

    @property
    def is_idle(self) -> bool:
        """Whether everything that was submitted has its result."""
        return self._engine.is_idle

    def submit(self, task: Task) -> None:
        """Take on a group or a recovery, after what was submitted before."""
        self._engine.submit(task)
        self._go_on()

    def take_results(self) -> list[Result]:
        """Return what has become of it, in order."""
        return self._engine.take_results()

    def restart(self) -> None:
        """Go on after `Changed`."""
        self._engine.restart()

    def died(self) -> None:
        """Its process is dead: what was being committed is stored, or it is not."""
        if isinstance(self._call, Commit):
            self._storage.orphan(self._call.writes)

    # --- the thread's side

    def _go_on(self) -> None:
        """Carry out steps up to one that takes its time, and begin to read what may be read."""
        while self._call is None:
            step = self._engine.next_step()
            if isinstance(step, Rest | End):
                self._rests_from_us = self._process.world.now_us
                break
            wait_us = self._duration_us(step)
            if wait_us:
                self._call = step
                self._process.later(wait_us, self._end_call)
            else:
                self._carry_out(step)
        while (reading := self._engine.next_read()) is not None:
            self._begin_read(reading)

    def _look(self) -> None:
        """See that storage is there, if nothing has been asked of it for a while."""
        wait_us = self._rests_from_us + PROBE_MS * MS - self._process.world.now_us
        if wait_us <= 0 and self._call is None:
            self._carry_out(Probe())
            self._go_on()
            self._process.wake(self._process.world.now_us)
        self._process.later(max(wait_us, PROBE_MS * MS // 2), self._look)

    def _duration_us(self, call: Call) -> int:
        world, setting = self._process.world, self._setting
        if isinstance(call, Open):
            return call.after_ms * MS
        if isinstance(call, Commit) and world.happens(setting.slow_commits):
            world.fault("commit slow")
            return world.between(*setting.slow_commit_us)
        return 0

    def _end_call(self) -> None:
        call, self._call = self._call, None
        assert call is not None, "it was under way"
        self._carry_out(call)
        self._go_on()
        self._process.wake(self._process.world.now_us)

    def _carry_out(self, call: Call) -> None:
        try:
            outcome = carry_out(call, self._storage)
        except (StorageUnavailable, ConfigError) as error:
            self._engine.failed(error)
        else:
            if self._reads and isinstance(call, Commit):
                self._process.world.seen[BESIDE_A_READ] += 1
            self._engine.done(outcome)

    # --- those who read

    def _begin_read(self, step: Recover) -> None:
        """Begin a read. What it sees is what there is now, or at its end."""
        world, setting = self._process.world, self._setting
        self._storage.begin_read(step.recovery)
        self._reads += 1
        took_us = 0
        if world.happens(setting.slow_reads):
            world.fault("read slow")
            took_us = world.between(*setting.slow_read_us)
        seen = None if step.after_ms or world.happens(0.5) else self._read(step)
        self._process.later(step.after_ms * MS + took_us, partial(self._end_read, step, seen))

    def _read(self, step: Recover) -> Read | Unreadable | StorageUnavailable:
        try:
            return read(self._storage, step.recovery)
        except StorageUnavailable as error:
            return error

    def _end_read(self, step: Recover, seen: Read | Unreadable | StorageUnavailable | None) -> None:
        self._reads -= 1
        outcome = seen if seen is not None else self._read(step)
        if isinstance(outcome, StorageUnavailable):
            self._engine.read_failed(step.number, outcome)
        else:
            self._engine.read_done(step.number, outcome)
        self._go_on()
        self._process.wake(self._process.world.now_us)
