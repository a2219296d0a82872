"""The network between the processes, as ZeroMQ over sockets that break behaves.

Owns addresses, links and what is on its way. The rules, each as ZeroMQ has it:

* Within a link and direction messages keep their order; between links they do not.
* A link that breaks loses what is on its way. The connecting side then queues until it is connected
  again, by itself; to the binding side that peer is gone.
* A process that dies takes along a part of what it has said last, and what it was told and did not
  read. What a connecting peer had not put on the wire yet reaches the successor.
* A binding side knows its peers by routing ids, and is told when one is gone or its queue is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from tests.simulation.backlog import Sent
from tests.simulation.telling import in_words
from tests.simulation.world import MS, SECOND, World

if TYPE_CHECKING:
    from tests.simulation.processes import Process

Frames = Sequence[bytes]


class Arrival(NamedTuple):
    """A message in a socket, not read yet."""

    peer: bytes
    frames: list[bytes]
    wire: Wire


class Weather:
    """How bad the network is, which may change at any time.

    Args:
        late: the share of messages that take much longer than others.
        late_us: how much longer, at most.
    """

    def __init__(self, late: float, late_us: int) -> None:
        self.late = late
        self.late_us = late_us

    def clear(self) -> None:
        """From now on all messages are fast."""
        self.late = 0.0


class Wire:
    """One direction of a link, while it holds."""

    def __init__(
        self, network: Network, reader: Process, socket: str, peer: bytes, after_us: int
    ) -> None:
        self._network: Final = network
        self._reader: Final = reader
        self._instance: Final = reader.instance
        self._socket: Final = socket
        self._peer: Final = peer
        #: when the last message arrives
        self.last_us = after_us
        #: sent and not arrived: (number over all wires, frames)
        self._flying: deque[tuple[int, list[bytes]]] = deque()
        #: arrived and not read
        self.unread = 0

    @property
    def load(self) -> int:
        """How many messages are sent and not read."""
        return len(self._flying) + self.unread

    def put(self, frames: Frames) -> None:
        """Send a message."""
        network = self._network
        world = network.world
        arrives_us = world.now_us + network.delay_us()
        if arrives_us > self.last_us:
            self.last_us = arrives_us
        network.numbers += 1
        self._flying.append((network.numbers, list(frames)))
        world.at(self.last_us, self._arrive)

    def _arrive(self) -> None:
        if not self._flying:
            return  # it was lost
        number, frames = self._flying.popleft()
        reader = self._reader
        if not reader.alive or reader.instance != self._instance:
            return
        self._network.arrived(reader, number, self._socket, self._peer, frames)
        self.unread += 1
        reader.receive(self._socket, Arrival(self._peer, frames, self))

    def cut(self, kept: int) -> list[list[bytes]]:
        """Lose all that is on its way but the first `kept` messages; return what is lost."""
        lost = [self._flying.pop()[1] for _ in range(len(self._flying) - kept)]
        lost.reverse()
        return lost

    @property
    def flying(self) -> int:
        """How many messages are on their way."""
        return len(self._flying)


DISCONNECTED: Final = b"disconnected"
"""What a monitor's message has in it when a connection has ended; at its begin there is none."""


class Link:
    """A connection that one process makes to an address, and makes again when it breaks.

    Args:
        owner: who connects.
        socket: the name of its socket, in which answers arrive.
        address: to what.
        known_as: the routing id that the owner gives to the other side.
        identity: the routing id that the owner shows; None lets the other side choose.
        kind: what is written into the record of faults.
        is_subscriber: it has topics, and asks for them at each connect.
        monitor: the name of the owner's socket that tells it of each connect and its end; none
            without it.
    """

    def __init__(
        self,
        network: Network,
        owner: Process,
        socket: str,
        address: str,
        *,
        known_as: bytes = b"",
        identity: bytes | None = None,
        kind: str,
        is_subscriber: bool = False,
        monitor: str = "",
    ) -> None:
        self._network: Final = network
        self.owner: Final = owner
        self._socket: Final = socket
        self.address: Final = address
        self._known_as: Final = known_as
        self._identity: Final = identity
        self.kind: Final = kind
        #: what a subscriber asks for; it asks for everything before that
        self._topics: dict[bytes, None] = {b"": None} if is_subscriber else {}
        self._monitor: Final = monitor
        #: the process at the other side; None while not connected
        self.bound: Process | None = None
        #: as the other side knows it
        self.peer = b""
        self._pending: deque[list[bytes]] = deque()
        self._out: Wire | None = None
        self._back: Wire | None = None
        self._closed = False
        self._last_back_us = 0
        #: how many more messages it bears; None for any number
        self._strength: int | None = None

    # --- the connecting side

    def send(self, frames: Frames) -> None:
        """Send a message, now or once there is somebody."""
        if self._out is not None:
            self._out.put(frames)
            self._strain()
        else:
            self._pending.append(list(frames))

    def subscribe(self, topic: bytes) -> None:
        """Ask for a topic."""
        self._topics[topic] = None
        if self._out is not None:
            self._out.put([b"\x01" + topic])

    def unsubscribe(self, topic: bytes) -> None:
        """Let go of a topic."""
        self._topics.pop(topic, None)
        if self._out is not None:
            self._out.put([b"\x00" + topic])

    def break_after(self, messages: int) -> None:
        """Break under that many more messages, with the last of them on its way."""
        self._strength = messages

    def hold(self) -> None:
        """Do not break after all."""
        self._strength = None

    def _strain(self) -> None:
        if self._strength is not None:
            self._strength -= 1
            if self._strength <= 0:
                self._strength = None
                self._network.world.after(10, self._snap)

    def _snap(self) -> None:
        if self.bound is not None:
            self._network.lost(self.break_off())

    def close(self) -> None:
        """End it from the connecting side: what is on its way to it is lost."""
        self._closed = True
        if self.bound is not None:
            self._disconnect(out_kept=self._flying(self._out), back_kept=0)
        self._network.forget(self)

    # --- both

    def connect(self) -> None:
        """Connect if there is somebody at the address."""
        if self._closed or self.bound is not None or not self.owner.alive:
            return
        bound = self._network.process_at(self.address)
        if bound is None:
            return  # tried again when somebody comes
        self.bound = bound
        network = self._network
        self.peer = self._identity or network.new_routing_id()
        socket = self._network.socket_at(self.address)
        self._out = Wire(network, bound, socket, self.peer, network.world.now_us)
        self._back = Wire(network, self.owner, self._socket, self._known_as, self._last_back_us)
        network.route(self)
        for topic in self._topics:
            self._out.put([b"\x01" + topic])
        if self._monitor:
            self.owner.receive(self._monitor, Arrival(self._known_as, [], self._back))
            self._back.unread += 1
        while self._pending:
            self._out.put(self._pending.popleft())

    def reply(self, frames: Frames, unread_max: int) -> Sent:
        """Send from the binding side."""
        if self._back is None:
            return Sent.GONE
        if self._back.load >= unread_max:
            return Sent.FULL
        self._back.put(frames)
        self._strain()
        return Sent.SENT

    def break_off(self) -> int:
        """Break, and reconnect after a while; return how many messages were lost."""
        lost = self._flying(self._out) + self._flying(self._back)
        self._disconnect(out_kept=0, back_kept=0)
        self._network.reconnect(self, 5 * MS, 300 * MS)
        return lost

    def bound_died(self, *, politely: bool) -> None:
        """The process at the other side is dead; politely: after its last words were sent."""
        out, world = self._out, self._network.world
        read = world.between(0, self._flying(out))
        unsent = out.cut(read) if out is not None else []
        said = self._flying(self._back)
        kept = said if politely else world.between(0, said)
        self._disconnect(out_kept=0, back_kept=kept)
        self._pending.extendleft(reversed(unsent))

    def owner_died(self, *, politely: bool) -> None:
        """The connecting process is dead; politely: after its last words were sent."""
        self._closed = True
        if self.bound is not None:
            said = self._flying(self._out)
            kept = said if politely else self._network.world.between(0, said)
            self._disconnect(out_kept=kept, back_kept=0)

    def _heeded(self, lost: list[list[bytes]]) -> list[bytes]:
        """Return the topics that the other side knew of before the last messages were lost."""
        heeded = dict(self._topics)
        for [said] in reversed(lost):
            if said[:1] == b"\x01":
                heeded.pop(said[1:], None)
            else:
                heeded[said[1:]] = None
        return list(heeded)

    @staticmethod
    def _flying(wire: Wire | None) -> int:
        return 0 if wire is None else wire.flying

    def _disconnect(self, *, out_kept: int, back_kept: int) -> None:
        assert self._out is not None, "it is connected"
        assert self._back is not None, "it is connected"
        assert self.bound is not None, "it is connected"
        lost = self._out.cut(0 if self._topics else out_kept)
        self._back.cut(back_kept)
        self._last_back_us = self._back.last_us if back_kept else 0
        self._network.unroute(self)
        if self._monitor and self.owner.alive:
            self.owner.receive(self._monitor, Arrival(self._known_as, [DISCONNECTED], self._back))
            self._back.unread += 1
        if self._topics and self.bound.alive:
            socket = self._network.socket_at(self.address)
            for topic in self._heeded(lost):
                self.bound.receive(socket, Arrival(self.peer, [b"\x00" + topic], self._out))
                self._out.unread += 1
        self.bound = self._out = self._back = None


class Network:
    """All links and addresses."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world: Final = world
        self.weather: Final = weather
        #: who listens at an address, and the name of its socket there
        self._bound: dict[str, Process] = {}
        self._sockets: dict[str, str] = {}
        self._links: dict[Link, None] = {}
        #: by address, by routing id
        self._routes: dict[str, dict[bytes, Link]] = {}
        self._routing_ids = 0
        #: how many messages were sent
        self.numbers = 0

    # --- for processes

    def bind(self, process: Process, address: str, socket: str) -> None:
        """Listen at an address."""
        self._bound[address] = process
        self._sockets[address] = socket
        self._routes[address] = {}
        for link in self._links:
            if link.address == address:
                self.reconnect(link, MS // 10, 30 * MS)

    def connect(self, link: Link) -> Link:
        """Open a link."""
        self._links[link] = None
        link.connect()
        return link

    def send(self, address: str, to: bytes, frames: Frames, unread_max: int) -> Sent:
        """Send from the binding side of an address."""
        link = self._routes[address].get(to)
        return Sent.GONE if link is None else link.reply(frames, unread_max)

    def subscribers(self, address: str) -> list[Link]:
        """Return the links that are connected to an address."""
        return list(self._routes.get(address, {}).values())

    def died(self, process: Process, *, politely: bool = False) -> None:
        """A process is dead: its sockets are gone.

        Args:
            politely: it went by itself, after its last words were sent.
        """
        for address in [name for name, bound in self._bound.items() if bound is process]:
            del self._bound[address]
        for link in list(self._links):
            if link.owner is process:
                link.owner_died(politely=politely)
                self.forget(link)
            elif link.bound is process:
                link.bound_died(politely=politely)

    def heal(self) -> None:
        """From now on messages are fast and links hold."""
        self.weather.clear()
        for link in self._links:
            link.hold()

    # --- for links

    def process_at(self, address: str) -> Process | None:
        """Return who listens there."""
        return self._bound.get(address)

    def socket_at(self, address: str) -> str:
        """Return the name of the socket that listens there."""
        return self._sockets[address]

    def new_routing_id(self) -> bytes:
        """Return one that a binding side has chosen."""
        self._routing_ids += 1
        return b"\x00" + self._routing_ids.to_bytes(4, "big")

    def route(self, link: Link) -> None:
        """Note that a link is connected; one with the same routing id gives way."""
        self._routes[link.address][link.peer] = link

    def unroute(self, link: Link) -> None:
        """Note that a link is not connected any more."""
        routes = self._routes.get(link.address, {})
        if routes.get(link.peer) is link:
            del routes[link.peer]

    def forget(self, link: Link) -> None:
        """A link is closed for good."""
        self._links.pop(link, None)

    def reconnect(self, link: Link, low_us: int, high_us: int) -> None:
        """Let a link try again after a while."""
        self.world.after(self.world.between(low_us, high_us), link.connect)

    def lost(self, messages: int) -> None:
        """Count messages that a break has lost."""
        if messages:
            self.world.fault("messages lost in a break", messages)

    def links(self, kind: str) -> Iterator[Link]:
        """Return the connected links of a kind."""
        return (link for link in self._links if link.kind == kind and link.bound is not None)

    # --- messages

    def delay_us(self) -> int:
        """Return how long the next message takes."""
        world = self.world
        luck = world.chance.random()
        if luck < self.weather.late:
            world.faults["message delayed"] += 1
            return world.between(MS, self.weather.late_us)
        return 30 + int(370 * luck)

    def arrived(
        self, reader: Process, number: int, socket: str, peer: bytes, frames: list[bytes]
    ) -> None:
        """Write an arrival into the record."""
        world = self.world
        if number > reader.newest:
            reader.newest = number
        else:
            world.faults["messages reordered"] += 1
        check = number
        for frame in frames:
            check = crc32(frame, check)
        world.mark(check)
        if world.is_traced:
            world.tell(f"{reader.name}.{socket} <- {peer.hex()} {in_words(frames)}")


RESTART_US: Final = (5 * MS, SECOND // 2)
"""How long a supervisor takes to start a dead process again."""
