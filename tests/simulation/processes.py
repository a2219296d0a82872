"""The server's processes, each driven exactly as its `process.py` drives it, without a socket.

Owns turns, stops (SIGSTOP), deaths (SIGKILL, also between two messages of one turn) and each
process's clocks. What the engines say goes over the simulated network; what they decide is shown to
the witness.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from flashq.coordinator.engine import Coordinator, CoordinatorSettings
from flashq.coordinator.writer_engine import Broken, Changed, Committed, Read, Trouble, Unreadable
from flashq.errors import StorageUnavailable
from flashq.router.engine import Router
from flashq.router.process import DRAIN_LOOK_MS, QUIET_MS
from flashq.router.routing import COORDINATOR_ROUTING_ID, shard_of_routing_id, shard_routing_id
from flashq.shard.identity import Phase
from flashq.shard.process import GAP_MS, GRACE_MS, TURN_MESSAGES_MAX
from flashq.shard.turns import REPLIES_MAX
from tests.simulation.backlog import Backlog, Sent
from tests.simulation.network import RESTART_US, Arrival, Frames, Link, Network
from tests.simulation.shards import WatchedNode
from tests.simulation.storage import FaultyStorage, SimulatedWriter
from tests.simulation.world import MS, Killed, Violation, World

if TYPE_CHECKING:
    from tests.simulation.checkers import Witness
    from tests.simulation.setting import Setting

DRAIN_MS: Final = 5000
UNREAD_MAX: Final = 2**31
TURNS_IN_VAIN_MAX: Final = 10
"""Where ZeroMQ's own bound is off."""
ROUTER: Final = "router"
COORDINATOR: Final = "coordinator"


def shard_address(shard: int) -> str:
    """Return where a shard listens."""
    return f"shard-{shard}"


def events_address(shard: int) -> str:
    """Return where a shard publishes."""
    return f"events-{shard}"


class Ended(Exception):
    """The process ends here, after all that it has said."""


class Process:
    """Something with sockets and clocks that runs in turns."""

    def __init__(self, world: World, network: Network, name: str) -> None:
        self.world: Final = world
        self.network: Final = network
        self.name: Final = name
        self.alive = False
        #: how often it was started
        self.instance = 0
        #: the newest message that has arrived, to see when the network reorders
        self.newest = 0
        #: so many messages are sent before it dies; None for no such plan
        self.fuse: int | None = None
        #: it was told to end (SIGTERM)
        self.is_ending = False
        #: until when it is stopped
        self._stopped_until_us = 0
        self._turn_at_us: int | None = None
        #: turns in a row after which something was still due, though nothing had come
        self._turns_in_vain = 0
        #: when the world calls, the next time first
        self._alarms: list[int] = []
        self._inbox: dict[str, deque[Arrival]] = {}
        self._wall_last_ms = 0

    # --- what a kind of process has

    def boot(self) -> None:
        """Begin, as a fresh process."""
        raise AssertionError(f"{self.name} does not say how it begins")

    def turn(self) -> int | None:
        """Take in what has come and act; return when the next turn is due (monotonic ms)."""
        raise AssertionError(f"{self.name} has no turn")

    def died(self) -> None:
        """It is dead; what is left is its supervisor's."""

    # --- life

    def start(self) -> None:
        """Start it."""
        self.alive = True
        self.instance += 1
        self.fuse = None
        self.is_ending = False
        self._stopped_until_us = 0
        self._turn_at_us = None
        self._inbox = {}
        self._wall_last_ms = 0
        self.world.note(f"{self.name} starts")
        try:
            self.boot()
        except Killed:
            self.kill()
        else:
            self.wake(self.world.now_us)

    def kill(self, *, politely: bool = False) -> None:
        """Let it die, whatever it does; politely: once its last words are sent."""
        if self.alive:
            self.alive = False
            self.world.note(f"{self.name} dies")
            self.network.died(self, politely=politely)
            self.died()

    def end(self) -> None:
        """Let it end in its own time, as SIGTERM does."""
        self.is_ending = True
        self.wake(self.world.now_us)

    def restart(self) -> None:
        """Start it again after a while, as a supervisor does."""
        self.world.after(self.world.between(*RESTART_US), self.start)

    def stop_for(self, duration_us: int) -> None:
        """Let it stand still, as SIGSTOP does."""
        self._stopped_until_us = max(self._stopped_until_us, self.world.now_us + duration_us)

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still."""
        return self.world.now_us < self._stopped_until_us

    # --- clocks

    def mono_ms(self) -> int:
        """The monotonic clock."""
        return self.world.mono_ms

    def wall_ms(self) -> int:
        """The wall clock, which never goes back for one process."""
        self._wall_last_ms = max(self._wall_last_ms, self.world.wall_ms)
        return self._wall_last_ms

    # --- turns

    def wake(self, at_us: int) -> None:
        """Have a turn at that moment, if none comes earlier."""
        at_us = max(at_us, self._stopped_until_us)
        if self._turn_at_us is None or at_us < self._turn_at_us:
            self._turn_at_us = at_us
            if not self._alarms or at_us < self._alarms[0]:
                heappush(self._alarms, at_us)
                self.world.at(at_us, self._ring)

    def _ring(self) -> None:
        """Have a turn if it is time for one, else see that this comes again then."""
        heappop(self._alarms)
        at_us = self._turn_at_us
        if at_us is None or not self.alive:
            return
        if at_us > self.world.now_us:
            if not self._alarms or at_us < self._alarms[0]:
                heappush(self._alarms, at_us)
                self.world.at(at_us, self._ring)
            return
        self._turn_at_us = None
        if self.is_stopped:
            self.wake(self._stopped_until_us)
            return
        try:
            due_ms = self.turn()
        except Killed:
            self.kill()
            return
        except Ended:
            self.kill(politely=True)
            return
        self._check_pace(due_ms)
        if due_ms is not None and self.alive:
            wait_ms = max(0, due_ms - self.mono_ms())
            self.wake(self.world.now_us + max(wait_ms * MS, 20))
        if any(self._inbox.values()):
            self.wake(self.world.now_us + 20)

    def _check_pace(self, due_ms: int | None) -> None:
        """Check that a process to which nothing comes sleeps, once it has done what was due."""
        if due_ms is None or due_ms > self.mono_ms() or any(self._inbox.values()):
            self._turns_in_vain = 0
            return
        self._turns_in_vain += 1
        if self._turns_in_vain > TURNS_IN_VAIN_MAX:
            raise Violation(f"{self.name} turns without a pause, due at {due_ms} ms")

    def later(self, wait_us: int, action: Callable[[], None]) -> None:
        """Do something in a while, if this process still lives and runs then."""
        instance = self.instance

        def act() -> None:
            if not self.alive or self.instance != instance:
                return
            if self.is_stopped:
                self.world.at(self._stopped_until_us, act)
                return
            try:
                action()
            except Killed:
                self.kill()

        self.world.after(wait_us, act)

    # --- sockets

    def receive(self, socket: str, arrival: Arrival) -> None:
        """A message stands in a socket."""
        self._inbox.setdefault(socket, deque()).append(arrival)
        self.wake(self.world.now_us + self.world.between(5, 60))

    def take(self, socket: str, messages_max: int = TURN_MESSAGES_MAX) -> Sequence[Arrival]:
        """Read what stands in a socket, a bounded batch."""
        inbox = self._inbox.get(socket)
        if not inbox:
            return ()
        batch = [inbox.popleft() for _ in range(min(len(inbox), messages_max))]
        for arrival in batch:
            arrival.wire.unread -= 1
        return batch

    def burn(self) -> None:
        """A message is about to be sent.

        Raises:
            Killed: it was to die before that.
        """
        if self.fuse is not None:
            if self.fuse <= 0:
                self.world.fault("killed between two messages", self.name)
                raise Killed
            self.fuse -= 1

    def say(self, link: Link, frames: Frames) -> None:
        """Send over a link that this process has made."""
        self.burn()
        link.send(frames)

    def answer(self, address: str, to: bytes, frames: Frames, unread_max: int) -> Sent:
        """Send to a peer of an address where this process listens."""
        self.burn()
        sent = self.network.send(address, to, frames, unread_max)
        if sent is not Sent.SENT:
            self.world.fault(f"undeliverable: {sent.name.lower()}", self.name)
        return sent


class ShardProcess(Process):
    """A shard."""

    def __init__(
        self, world: World, network: Network, setting: Setting, shard: int, witness: Witness
    ) -> None:
        super().__init__(world, network, f"shard-{shard}")
        self.shard: Final = shard
        self._setting = setting
        self._witness = witness
        self.node: WatchedNode

    def boot(self) -> None:
        """Begin as `shard.process.run` does."""
        shard = self.shard
        self.node = WatchedNode(self._setting.identity(shard), self._witness)
        address = shard_address(shard)
        self.network.bind(self, address, "front")
        self.network.bind(self, events_address(shard), "events")
        identity = b"shard-%d-%s" % (shard, self.world.chance.randbytes(6))
        self._coordinator = self.network.connect(
            Link(
                self.network,
                self,
                "coordinator",
                COORDINATOR,
                identity=identity,
                kind="shard-coordinator",
                monitor="connections",
            )
        )
        self._peers: dict[int, Link] = {}
        self._waited_from_ms: int | None = None
        self._wait_ms: int | None = None
        self.node.observe(self.wall_ms(), self.mono_ms())
        self.node.tick()
        self._due_ms = self.node.next_deadline_ms()

    def turn(self) -> int | None:
        """One round of `shard.process._serve`."""
        node, now_ms = self.node, self.mono_ms()
        if self._waited_from_ms is not None and self._wait_ms is not None:
            late_ms = now_ms - self._waited_from_ms - self._wait_ms
            if late_ms > GAP_MS:
                self.world.seen["gaps noticed by a shard"] += 1
                node.stretch(late_ms + GRACE_MS)
        self._send()
        node.observe(self.wall_ms(), now_ms)
        self._receive()
        if self.is_ending:
            node.stop()
        if self.is_ending or (self._due_ms is not None and now_ms >= self._due_ms):
            node.tick()
        node.flush()
        self._send()
        node.tidy()
        self._witness.shard_turned(self.shard, node)
        self._send()
        if node.phase is Phase.DEAD:
            if node.refused is not None:
                self.world.fault("shard exits, fenced", self.name, node.refused)
            elif node._is_drained():
                self._witness.shard_ended(self.shard)
            raise Ended
        self._waited_from_ms = now_ms
        due_ms = self._due_ms = node.next_deadline_ms()
        self._wait_ms = None if due_ms is None else max(0, due_ms - now_ms)
        return due_ms

    def _receive(self) -> None:
        node = self.node
        for arrival in self.take("connections"):
            if arrival.frames:
                node.disconnected()
            else:
                node.connected()
        for arrival in self.take("coordinator"):
            node.receive_coordinator(arrival.frames)
        for shard in self._peers:
            for arrival in self.take(f"mail-{shard}"):
                node.receive_shard(arrival.frames)
        for arrival in self.take("front"):
            node.receive_front(arrival.peer, arrival.frames)
            if len(node.decided) >= REPLIES_MAX:
                node.flush()
                self._send()
        for arrival in self.take("events"):
            node.subscribed(arrival.frames[0])

    def _send(self) -> None:
        node, out = self.node, self.node.out
        messages, out.coordinator = out.coordinator, []
        for frames in messages:
            self.say(self._coordinator, frames)
        replies, out.front = out.front, []
        for peer, frames in replies:
            sent = self.answer(
                shard_address(self.shard), peer, frames, self._setting.router_unread_max
            )
            if sent is not Sent.SENT:
                node.undeliverable(frames)
        mail, out.shards = out.shards, []
        for shard, frames in mail:
            self.say(self._link(shard), frames)
        events, out.events = out.events, []
        for topic, body in events:
            for link in self.network.subscribers(events_address(self.shard)):
                if link.reply([topic, body], self._setting.events_unheard_max) is Sent.FULL:
                    self.world.faults["events lost"] += 1

    def _link(self, shard: int) -> Link:
        link = self._peers.get(shard)
        if link is None:
            link = self._peers[shard] = self.network.connect(
                Link(
                    self.network,
                    self,
                    f"mail-{shard}",
                    shard_address(shard),
                    kind="shard-shard",
                )
            )
        return link

    def died(self) -> None:
        """Its supervisor starts it again."""
        self._witness.shard_died(self.shard)
        self.restart()


class RouterProcess(Process):
    """The router."""

    def __init__(self, world: World, network: Network, setting: Setting) -> None:
        super().__init__(world, network, ROUTER)
        self._setting = setting
        self.router: Router

    def boot(self) -> None:
        """Begin as `router.process.run` does."""
        chance, setting = self.world.chance, self._setting
        boot = int.from_bytes(chance.randbytes(6), "big")
        self.router = Router(setting.router(boot), self.mono_ms())
        self._backlog = Backlog(
            setting.unread_bytes_max,
            self._send_to_client,
            self.router.undeliverable,
            self.router.unread,
        )
        self.network.bind(self, ROUTER, "front")
        identity = b"router-" + chance.randbytes(8)
        known = {shard_routing_id(shard): shard_address(shard) for shard in range(setting.shards)}
        known[COORDINATOR_ROUTING_ID] = COORDINATOR
        self._back = {
            routing_id: self.network.connect(
                Link(
                    self.network,
                    self,
                    "back",
                    address,
                    known_as=routing_id,
                    identity=identity,
                    kind="router-coordinator" if address == COORDINATOR else "router-shard",
                )
            )
            for routing_id, address in known.items()
        }
        self._events: list[Link] = []
        #: when a drain is over at the latest
        self._ends_ms = 2**62

    def turn(self) -> int | None:
        """One round of `router.process._serve`."""
        router, now_ms = self.router, self.mono_ms()
        for arrival in self.take("front"):
            router.handle_client(arrival.peer, arrival.frames, now_ms)
        for arrival in self.take("back"):
            if arrival.peer == COORDINATOR_ROUTING_ID:
                router.handle_coordinator(arrival.frames, now_ms)
            else:
                router.handle_shard(shard_of_routing_id(arrival.peer), arrival.frames, now_ms)
        for arrival in self.take("events"):
            router.handle_event(arrival.frames)
        if self.is_ending:
            router.drain(now_ms)
            self._ends_ms = min(self._ends_ms, now_ms + DRAIN_MS)
        router.tick(now_ms)
        self._backlog.retry(now_ms)
        for to, frames in router.take_client_parcels():
            self._backlog.offer(to, frames, now_ms)
        for to, frames in router.take_peer_parcels():
            self.say(self._back[to], frames)
        self._follow_events()
        if self.is_ending:
            if now_ms >= self._ends_ms or router.is_drained(now_ms, QUIET_MS):
                raise Ended
            return now_ms + DRAIN_LOOK_MS
        assert router.refused is None, router.refused
        due_ms, retry_ms = router.next_deadline_ms(), self._backlog.retry_at_ms
        return due_ms if retry_ms is None else min(due_ms, retry_ms)

    def _send_to_client(self, to: bytes, frames: list[bytes]) -> Sent:
        return self.answer(ROUTER, to, frames, self._setting.client_unread_max)

    def _follow_events(self) -> None:
        topics, wanted = self.router.take_topics(), self.router.wants_events
        if wanted and topics and not self._events:
            self._events = [
                self.network.connect(
                    Link(
                        self.network,
                        self,
                        "events",
                        events_address(shard),
                        kind="router-events",
                        is_subscriber=True,
                    )
                )
                for shard in range(self._setting.shards)
            ]
        elif not wanted and self._events:
            for link in self._events:
                link.close()
            self._events = []
        for link in self._events:
            for topic, is_new in topics:
                if is_new:
                    link.subscribe(topic)
                else:
                    link.unsubscribe(topic)

    def died(self) -> None:
        """Its supervisor starts it again."""
        self.restart()


class CoordinatorProcess(Process):
    """The coordinator. Its storage outlives it, or is its own memory and dies with it."""

    def __init__(self, world: World, network: Network, setting: Setting, witness: Witness) -> None:
        super().__init__(world, network, COORDINATOR)
        self._setting = setting
        self._witness = witness
        self._agreed = CoordinatorSettings(
            shard_count=setting.shards,
            limits=setting.limits,
            config_hash=setting.config_hash,
            webhooks=setting.webhooks,
        )
        self.storage = self._new_storage()
        self.coordinator: Coordinator
        self._writer: SimulatedWriter | None = None
        #: what storage says is wrong
        self._trouble = ""

    def _new_storage(self) -> FaultyStorage:
        return FaultyStorage(self.world, self._setting, self._witness, self.wall_ms())

    def boot(self) -> None:
        """Begin as `coordinator.process.run` does."""
        setting = self._setting
        self._trouble = ""
        if not setting.lasts:
            self.storage = self._new_storage()
        try:
            opened = self.storage.open(setting.shards)
        except StorageUnavailable:
            self.world.seen["coordinators that could not start"] += 1
            raise Killed from None
        self._writer = SimulatedWriter(self, self.storage, opened, setting)
        self.coordinator = Coordinator(self._agreed, opened, self.wall_ms())
        self.network.bind(self, COORDINATOR, "front")

    def turn(self) -> int | None:
        """One round of `coordinator.process.Turns.serve`."""
        coordinator = self.coordinator
        now_ms, mono_ms = self.wall_ms(), self.mono_ms()
        for arrival in self.take("front"):
            coordinator.handle(arrival.peer, arrival.frames, now_ms, mono_ms)
        coordinator.tick(now_ms, mono_ms)
        self._settle()
        coordinator = self.coordinator
        coordinator.set_trouble(self._trouble)
        for to, frames in coordinator.take_parcels():
            if self.answer(COORDINATOR, to, frames, UNREAD_MAX) is Sent.GONE:
                coordinator.undeliverable(to)
        return mono_ms + coordinator.next_wait_ms(now_ms, mono_ms)

    def _settle(self) -> None:
        """Tell the engine what has become safe, and give the writer what has to."""
        writer = self._writer
        assert writer is not None, "it has begun"
        is_settled = False
        while not is_settled:
            is_settled = True
            for result in writer.take_results():
                is_settled = False
                match result:
                    case Committed(groups):
                        for group in groups:
                            self.coordinator.committed(group)
                    case Read(recovery, part):
                        self.coordinator.recovered(recovery, part)
                    case Trouble(sentence):
                        self._trouble = sentence
                    case Changed(opened, again):
                        self.world.seen["coordinators that began anew"] += 1
                        self.coordinator = Coordinator(self._agreed, opened, self.wall_ms())
                        self.coordinator.write_again(again)
                        writer.restart()
                    case Unreadable() | Broken():
                        raise Violation(f"{result!r}, of a storage that keeps everything whole")
            while (group_or_none := self.coordinator.take_group()) is not None:
                is_settled = False
                if group_or_none.writes or not writer.is_idle:
                    writer.submit(group_or_none)
                else:
                    self.coordinator.committed(group_or_none)
            for recovery in self.coordinator.take_recoveries():
                is_settled = False
                writer.submit(recovery)

    def died(self) -> None:
        """Its supervisor starts it again; its memory is lost."""
        if self._writer is not None:
            self._writer.died()
            self._writer = None
        if not self._setting.lasts:
            self._witness.memory_lost()
        self.restart()
