"""One run: everything is put together, goes wrong for a while, and has to come to rest.

The acts: start; work under faults; the faults end, nobody adds work, and within bounded time
nothing may be left anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from tests.simulation.checkers import Checkpoint, Witness
from tests.simulation.clients import ClientProcess, RudeProcess
from tests.simulation.facts import PENDING, WAITS
from tests.simulation.faults import STOP_US, Saboteur
from tests.simulation.network import Network
from tests.simulation.processes import CoordinatorProcess, RouterProcess, ShardProcess
from tests.simulation.setting import Profile, Setting, profile_of
from tests.simulation.webhooks import Deliverer, Noticeboard
from tests.simulation.workers import Worker
from tests.simulation.workload import Habit, Owner, Producer, Reader, Town
from tests.simulation.world import MS, SECOND, Violation, World

CALM_US: Final = STOP_US[1] + 5 * SECOND
"""How long after the last fault everything is as if there had been none."""
REST_US_MAX: Final = 40 * SECOND
"""How long after the last fault there may still be work."""


class Report(Struct, frozen=True):
    """What a run was like.

    Args:
        seed: of the run.
        digest: equal for equal runs.
        faults, seen: how often each kind of fault struck, and other things happened.
        steps: how much happened.
        rest_s: virtual seconds from the last fault until nothing was left.
        failure: which promise was broken; None for none.
    """

    seed: int
    digest: str
    faults: Counter[str]
    seen: Counter[str]
    steps: int
    rest_s: float
    failure: Exception | None


class Simulation:
    """One run.

    Args:
        seed: names it.
        tell: is told of everything that happens; None for nobody.
        profile: what the run is made for; None for what the seed says.
    """

    def __init__(
        self,
        seed: int,
        tell: Callable[[str], None] | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.world: Final = World(seed, tell)
        self.setting: Final = Setting(self.world.chance, profile or profile_of(seed))
        self.network: Final = Network(self.world, self.setting.weather)
        self.witness: Final = Witness(self.world, self.setting)
        self.town: Final = Town(self.world, self.setting, self.witness)
        world, network, setting, witness = self.world, self.network, self.setting, self.witness
        self.coordinator: Final = CoordinatorProcess(world, network, setting, witness)
        witness.checkpoint_of = self._checkpoint_of
        self.shards: Final = [
            ShardProcess(world, network, setting, shard, witness) for shard in range(setting.shards)
        ]
        self.router: Final = RouterProcess(world, network, setting)
        self.clients: Final = [
            self._client(name, habit)
            for name, habit in (
                ("producer-1", Producer),
                ("producer-2", Producer),
                ("worker-1", Worker),
                ("worker-2", Worker),
                ("worker-3", Worker),
                ("reader", Reader),
                ("owner", Owner),
            )
        ]
        self.board: Noticeboard | None = None
        if setting.has_webhook:
            self.board = witness.board = Noticeboard(world, witness)
            for name in ("gateway-1", "gateway-2"):
                self.clients.append(self._use(name, Deliverer(self.town, self.board)))
        self.rude: Final = RudeProcess(world, network, "rude", setting.queues)
        chance = world.chance
        self._work_us: Final = world.between(*setting.work_us)
        every_ms = chance.choice((80, 200, 450))
        self.saboteur: Final = Saboteur(
            world,
            network,
            setting,
            witness,
            self.shards,
            self.router,
            self.coordinator,
            self.clients,
            (every_ms * MS // 4, every_ms * MS),
        )

    def _checkpoint_of(self, shard: int) -> Checkpoint:
        return self.coordinator.storage.checkpoint_of(shard)

    def _client(self, name: str, habit: type[Habit]) -> ClientProcess:
        return self._use(name, habit(self.town))

    def _use(self, name: str, user: Habit) -> ClientProcess:
        client = ClientProcess(self.world, self.network, name, user)
        client.died = client.restart  # type: ignore[method-assign]
        return client

    def run(self) -> Report:
        """Play it, to the end or to the first broken promise."""
        rest_us, failure = 0, None
        try:
            self._work()
            rest_us = self._come_to_rest()
            self._check_end()
        except Exception as error:  # noqa: BLE001 - whatever breaks is what a run is to find
            failure = error
        world = self.world
        return Report(
            seed=world.seed,
            digest=world.digest,
            faults=world.faults,
            seen=world.seen,
            steps=world.steps,
            rest_s=rest_us / SECOND,
            failure=failure,
        )

    def _work(self) -> None:
        world = self.world
        for process in (self.coordinator, *self.shards, self.router, *self.clients):
            world.after(world.between(0, 50 * MS), process.start)
        if world.happens(0.4):
            world.after(world.between(0, SECOND), self.rude.start)
        world.after(SECOND // 2, self.saboteur.begin)
        world.run_until(self._work_us)

    def _come_to_rest(self) -> int:
        """Let the faults end and the work with them; return how long that took."""
        world, began_us = self.world, self.world.now_us
        world.note("-- faults end")
        self.saboteur.end()
        self.rude.is_done = True
        self.town.is_closing = True
        for client in self.clients:
            client.calm_from_us = began_us + CALM_US
        while self._left():
            if world.now_us - began_us > REST_US_MAX:
                raise Violation(f"left after {REST_US_MAX // SECOND} s: {self._left()[:10]}")
            world.run_until(world.now_us + SECOND // 4)
        return world.now_us - began_us

    def _left(self) -> list[object]:
        """Return what is not finished yet."""
        witness = self.witness
        left: list[object] = [
            job
            for job in witness.unfinished()
            if not (witness.has_lost_states and job.state in (WAITS, PENDING))
        ]
        if not witness.has_lost_states:
            left += witness.unanswered_fires()
        left += [
            f"{client.name} is away"
            for client in self.clients
            if not client.alive or client.is_stopped or client.is_closing
        ]
        if self.board is not None and self.coordinator.alive and not left:
            left += self.board.left(self.coordinator.coordinator)
        for process in self.shards:
            if not process.alive or not process.node.is_serving:
                left.append(f"{process.name} does not serve")
                continue
            state = process.node.engine.state
            left += [
                f"{process.name} has mail for {peer}: {box.pending[0]!r}"
                for peer, box in state.mailboxes.items()
                if box.pending
            ]
            if not witness.has_lost_states:
                left += [
                    f"{process.name} owes an answer: {push!r}" for push in state.awaited.values()
                ]
        return left

    def _check_end(self) -> None:
        world = self.world
        for process in self.shards:
            self.witness.check_state(process.shard, process.node.engine.state)
        for client in self.clients:
            client.close()
        world.run_until(world.now_us + 4 * SECOND)
        for client in self.clients:
            if client.connection.outstanding:
                raise Violation(f"{client.name} still waits for an outcome")
        for process in self.shards:
            engine = process.node.engine
            if engine.waiters:
                raise Violation(f"{process.name} keeps {engine.waiters} requests of nobody")


def play(
    seed: int, tell: Callable[[str], None] | None = None, *, profile: Profile | None = None
) -> Report:
    """Play the run of a seed.

    Args:
        profile: what it is made for; None for what the seed says.
    """
    return Simulation(seed, tell, profile).run()
