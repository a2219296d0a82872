"""What goes wrong in a run, and when.

Owns the kinds of fault and their choice. Nothing here heals anything: processes are restarted by
their supervisors, links reconnect by themselves, and `end` only stops adding to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tests.simulation.checkers import Witness
from tests.simulation.clients import ClientProcess
from tests.simulation.kinds import LINKS
from tests.simulation.network import Network
from tests.simulation.processes import CoordinatorProcess, Process, RouterProcess, ShardProcess
from tests.simulation.setting import Setting
from tests.simulation.storage import AILMENTS, FATES
from tests.simulation.world import MS, World

STOP_US: Final = (200 * MS, 5000 * MS)
AIL_US: Final = (50 * MS, 3000 * MS)


class Saboteur:
    """Lets things go wrong until `end`.

    Args:
        every_us: how long between two strikes, from and to.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        setting: Setting,
        witness: Witness,
        shards: Sequence[ShardProcess],
        router: RouterProcess,
        coordinator: CoordinatorProcess,
        clients: Sequence[ClientProcess],
        every_us: tuple[int, int],
    ) -> None:
        self._world = world
        self._network = network
        self._setting = setting
        self._witness = witness
        self._shards = shards
        self._router = router
        self._coordinator = coordinator
        self._clients = clients
        self._every_us = every_us
        self._is_over = False
        #: how far the wall clock may still be set back
        self._back_ms = 0 if setting.loses_states else 3000
        strikes: list[tuple[int, Callable[[], None]]] = [
            (12, self._break_link),
            (8, self._kill_shard),
            (3, self._kill_router),
            (2, self._kill_coordinator),
            (6, self._kill_client),
            (2, self._say_goodbye),
            (6, self._stop_some),
            (3, self._end_some),
            (3, self._set_clock),
        ]
        if setting.lasts:
            strikes += [(3, self._kill_coordinator), (5, self._ail), (5, self._doom)]
        if setting.fails_over:
            strikes.append((6, self._fail_over))
        weights = setting.weights
        self._strikes = [
            strike
            for weight, strike in strikes
            for _ in range(weights.get(strike.__name__, weight))
        ]

    def begin(self) -> None:
        """From now on things go wrong."""
        self._world.after(self._world.between(*self._every_us), self._strike)

    def end(self) -> None:
        """Nothing more goes wrong."""
        self._is_over = True
        self._network.heal()
        self._coordinator.storage.heal()
        for process in self._all():
            process.fuse = None

    def _all(self) -> list[Process]:
        return [*self._shards, self._router, self._coordinator, *self._clients]

    def _strike(self) -> None:
        if self._is_over:
            return
        self._world.chance.choice(self._strikes)()
        self.begin()

    def _break_link(self) -> None:
        kind = self._world.chance.choice(LINKS)
        links = list(self._network.links(kind))
        if links:
            link = self._world.chance.choice(links)
            self._world.fault(f"break {kind}", link.owner.name, link.address)
            if self._world.happens(0.3):
                self._network.lost(link.break_off())
            else:
                link.break_after(self._world.chance.randint(1, 3))

    def _kill(self, process: Process, kind: str) -> None:
        self._world.fault(f"kill {kind}", process.name)
        if self._world.happens(0.5):
            process.kill()
        else:
            process.fuse = self._world.chance.randint(0, 6)

    def _kill_shard(self) -> None:
        process = self._world.chance.choice(self._shards)
        if process.alive and self._may_die(process):
            self._kill(process, "shard")

    def _kill_router(self) -> None:
        if self._router.alive:
            self._kill(self._router, "router")

    def _kill_coordinator(self) -> None:
        if not self._coordinator.alive:
            return
        if self._setting.lasts:
            self._kill(self._coordinator, "coordinator")
        elif self._may_lose():
            self._world.fault("kill coordinator")
            self._coordinator.kill()
            self._also_lose_states()

    def _may_lose(self) -> bool:
        """Tell whether no state is lost when storage loses something, or may be."""
        doomed = any(shard.fuse is not None or shard.is_ending for shard in self._shards)
        safe = self._witness.nothing_exposed and not doomed
        return self._setting.loses_states or safe

    # --- storage

    def _ail(self) -> None:
        ailment = self._world.chance.choice(AILMENTS)
        self._coordinator.storage.ail(ailment, self._world.between(*AIL_US))

    def _doom(self) -> None:
        self._coordinator.storage.doom(self._world.chance.choice(FATES))

    def _fail_over(self) -> None:
        if self._may_lose():
            self._coordinator.storage.fail_over(self._world.between(0, AIL_US[1] // 3))
            self._also_lose_states()

    def _also_lose_states(self) -> None:
        """Storage has lost something: maybe let a shard die before it can give it again, and the
        coordinator before it can notice."""
        exposed = [
            process
            for process in self._shards
            if process.alive and self._witness.shards[process.shard].is_exposed
        ]
        if exposed and self._setting.loses_states and self._world.happens(self._setting.dooms):
            process = self._world.chance.choice(exposed)
            self._world.fault("kill shard", process.name)
            process.kill()
            if self._coordinator.alive and self._world.happens(0.5):
                self._world.fault("kill coordinator")
                self._coordinator.kill()

    def _kill_client(self) -> None:
        process = self._world.chance.choice(self._clients)
        if process.alive:
            self._kill(process, "client")

    def _say_goodbye(self) -> None:
        process = self._world.chance.choice(self._clients)
        if process.alive and not process.is_stopped:
            self._world.fault("goodbye", process.name)
            process.close()
            process.later(500 * MS, process.kill)

    def _stop_some(self) -> None:
        kind, processes = self._world.chance.choice(
            (
                ("shard", self._shards),
                ("router", [self._router]),
                ("coordinator", [self._coordinator]),
                ("client", self._clients),
            )
        )
        process = self._world.chance.choice(processes)
        if process.alive:
            self._world.fault(f"stop {kind}", process.name)
            process.stop_for(self._world.between(*STOP_US))

    def _end_some(self) -> None:
        kind, processes = self._world.chance.choice(
            (("shard", self._shards), ("router", [self._router]))
        )
        process = self._world.chance.choice(processes)
        if process.alive and self._may_die(process):
            self._world.fault(f"end {kind}", process.name)
            process.end()

    def _may_die(self, process: Process) -> bool:
        """Tell whether no state is lost with the process, or may be."""
        if not isinstance(process, ShardProcess) or self._setting.loses_states:
            return True
        return not self._witness.shards[process.shard].is_exposed

    def _set_clock(self) -> None:
        chance = self._world.chance
        if chance.random() < 0.5:
            by_ms = chance.choice((1000, 5000, 3_600_000))
            self._world.fault("clock set forward", by_ms)
            self._world.move_wall(by_ms)
        elif self._back_ms > 100:
            by_ms = chance.randint(100, self._back_ms)
            self._back_ms -= by_ms
            self._world.fault("clock set back", by_ms)
            self._world.move_wall(-by_ms)
