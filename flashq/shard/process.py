"""A shard's process: sockets, clocks and the loop around its node.

Owns the door that routers, direct clients and peers talk to, the link to the coordinator, the links
to other shards (made when there is mail for them), the events' publisher and the shard's lock.
Decides nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from flashq.clock import Clock, SystemClock
from flashq.config import Settings, configuration_hash, flag_parser
from flashq.errors import ConfigError
from flashq.lifecycle import Lifecycle, run_alone
from flashq.lockfile import Lockfile
from flashq.places import Places
from flashq.rundir import RunDir, socket_path
from flashq.shard.identity import Identity, Phase
from flashq.shard.node import Node
from flashq.shard.turns import Turns
from flashq.version import __version__
from flashq.wire import descriptor, readable, receive_all, send
from flashq.zmtp.door import Bounds, Door, Keeper
from flashq.zmtp.peer import Peer

PROGRAM: Final = "flashq-shard"

TURN_MESSAGES_MAX: Final = 256
"""Messages taken from one socket in a turn, so that replies do not wait for a flood to end."""
UNREAD_MESSAGES_MAX: Final = 100_000
"""Messages of mail kept for a shard that is away."""
PEERS_MAX: Final = 1000
"""Connections of routers, other shards and clients of this host."""
HANDSHAKE_MS_MAX: Final = 10_000
PEER_IDLE_MS_MAX: Final = 24 * 3600 * 1000
PEER_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""What a router's message may have beside one body of the largest size: several share a message."""
PEER_UNREAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""What is kept for a peer that does not read, when replies come that waited for something; those
that are asked for now wait much earlier (see `turns`)."""
UNHEARD_EVENTS_MAX: Final = 10_000
"""Events kept for a listener that does not read; above it they are lost, and it sees a gap."""
GAP_MS: Final = 100
"""A process that comes back so much later than it wanted to did not run, and counts no time."""
GRACE_MS: Final = 200
"""How long the world then stands still for it: what was sent to it meanwhile is on its way."""
LINGER_MS: Final = 500
RECONNECT_MS: Final = 20


def run(settings: Settings, index: int, lifecycle: Lifecycle) -> None:
    """Be shard `index` until told to stop.

    Raises:
        ConfigError: it cannot start, or the coordinator refuses it.
        Damage: what storage holds does not fit together.
    """
    if not 0 <= index < settings.shards:
        raise ConfigError(f"shard {index} of {settings.shards}: the index is 0 to shards - 1")
    run_dir = settings.run()
    run_dir.create()
    lock = Lockfile.acquire(run_dir.lock(f"shard-{index}"), pause=lifecycle.pause)
    # Nothing here makes reference cycles worth a pause: a full collection over millions of jobs
    # would stop the shard for longer than everything else it does.
    gc.disable()
    context = zmq.Context()
    sockets = None
    try:
        clock = SystemClock()
        node = Node(identity_of(settings, index))
        sockets = Sockets(context, run_dir, index, node, clock.mono_ms, settings.message_bytes_max)
        _serve(node, sockets, lifecycle, clock)
    finally:
        if sockets is not None:
            sockets.close()
        context.destroy(linger=LINGER_MS)
        lock.release()
    if node.refused is not None:
        raise ConfigError(node.refused)


def identity_of(settings: Settings, index: int) -> Identity:
    """Return what shard `index` of a server with these settings is told."""
    return Identity(
        shard=index,
        shard_count=settings.shards,
        config_hash=configuration_hash(settings),
        limits=settings.engine_limits(),
        level=settings.durability,
        version=__version__,
        checkpoint_log_bytes=settings.checkpoint_log_bytes,
        message_bytes_max=settings.message_bytes_max,
        drain_timeout_ms=settings.drain_timeout_ms,
    )


def _serve(node: Node, sockets: Sockets, lifecycle: Lifecycle, clock: Clock) -> None:
    """The loop: wait, drain a bounded batch of each socket, tick, flush, and then tidy."""
    is_announced = False
    sockets.watch(lifecycle.wake_fd)
    now_ms = clock.mono_ms()
    node.observe(clock.wall_ms(), now_ms)
    node.tick()
    while node.phase is not Phase.DEAD:
        sockets.send()
        before_ms = clock.mono_ms()
        if before_ms - now_ms > GAP_MS:
            node.stretch(before_ms - now_ms + GRACE_MS)
        due_ms = first_ms = node.next_deadline_ms()
        door_ms = sockets.next_deadline_ms()
        if door_ms is not None and (first_ms is None or door_ms < first_ms):
            first_ms = door_ms
        wait_ms = lifecycle.beat(None if first_ms is None else max(0, first_ms - before_ms))
        ready = sockets.wait(wait_ms)
        now_ms = clock.mono_ms()
        late_ms = now_ms - before_ms - wait_ms
        if late_ms > GAP_MS:
            node.stretch(late_ms + GRACE_MS)
        node.observe(clock.wall_ms(), now_ms)
        if lifecycle.wake_fd in ready:
            lifecycle.clear_wake()
        sockets.receive(ready)
        if lifecycle.stopping:
            node.stop()
        if lifecycle.stopping or (due_ms is not None and now_ms >= due_ms):
            node.tick()
        node.flush()
        sockets.send()
        node.tidy()
        if node.is_serving and not is_announced:
            is_announced = True
            lifecycle.ready()


class Sockets:
    """A shard's sockets.

    Args:
        context: of the links that it makes.
        run_dir: where everybody listens.
        index: the shard's number.
        node: what is told of everything.
        mono_ms: the monotonic clock.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        run_dir: RunDir,
        index: int,
        node: Node,
        mono_ms: Callable[[], int],
        message_bytes_max: int,
    ) -> None:
        self._context = context
        self._run_dir = run_dir
        self._node = node
        self._mono_ms = mono_ms
        keeper = Keeper(self._from_peer, self._undeliverable, lambda *_: None, lambda _: None)
        self._front = Door(
            Bounds(
                frame_bytes_max=2 * message_bytes_max,
                message_bytes_max=4 * message_bytes_max + PEER_MESSAGE_BYTES,
                unread_bytes_max=PEER_UNREAD_BYTES_MAX,
                all_unread_bytes_max=2 * PEER_UNREAD_BYTES_MAX,
                idle_ms_max=PEER_IDLE_MS_MAX,
            ),
            keeper,
        )
        self._turns = Turns(
            node, self._flush, self._front.unread_bytes, self._front.set_held, mono_ms
        )
        self._front.listen_unix(
            socket_path(run_dir.shard(index)), Places(PEERS_MAX, PEERS_MAX, HANDSHAKE_MS_MAX)
        )
        self._events = context.socket(zmq.XPUB)
        self._events.set_hwm(UNHEARD_EVENTS_MAX)
        # Each wish comes here, also one that another listener has had before.
        self._events.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._events.bind(run_dir.events(index))
        self._coordinator = context.socket(zmq.DEALER)
        self._coordinator.set_hwm(0)
        self._coordinator.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._coordinator.setsockopt(zmq.IDENTITY, b"shard-%d-%s" % (index, os.urandom(6)))
        #: tells of connections to the coordinator and of their ends. Nothing is ever sent over it,
        #: so once it was seen empty its descriptor says when there is more: there is no
        #: socket more to ask
        self._connections = self._coordinator.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._connections_fd = descriptor(self._connections)
        readable(self._connections)
        self._coordinator.connect(run_dir.coordinator)
        self._shards: dict[int, zmq.Socket[bytes]] = {}
        #: by descriptor: what has to be asked for messages, and whether it has to be asked before
        #: the descriptor says so, because sending or receiving may have consumed its word
        self._links: dict[int, zmq.Socket[bytes]] = {}
        self._unasked: set[zmq.Socket[bytes]] = set()
        self._front.watch(self._connections_fd)
        for socket in (self._events, self._coordinator):
            self._watch_link(socket)

    def _watch_link(self, socket: zmq.Socket[bytes]) -> None:
        fd = descriptor(socket)
        self._links[fd] = socket
        self._unasked.add(socket)
        self._front.watch(fd)

    def watch(self, fd: int) -> None:
        """Have `wait` also end for this descriptor."""
        self._front.watch(fd)

    def wait(self, wait_ms: int) -> list[int]:
        """Wait until there is something to do, and return the descriptors that are readable."""
        unasked = self._unasked
        for socket in [*unasked]:
            if readable(socket):
                wait_ms = 0
            else:
                unasked.discard(socket)
        ready = self._front.wait(0 if self._turns.is_waiting else wait_ms)
        for fd in ready:
            if fd in self._links:
                unasked.add(self._links[fd])
        return ready

    def receive(self, ready: list[int]) -> None:
        """Give the node what has come, a bounded amount of each peer."""
        node, unasked = self._node, self._unasked
        if self._connections_fd in ready:
            receive_all(self._connections, partial(_note_connection, node), TURN_MESSAGES_MAX)
        if self._coordinator in unasked:
            self._receive_all(self._coordinator, node.receive_coordinator)
        for socket in self._shards.values():
            if socket in unasked:
                self._receive_all(socket, node.receive_shard)
        now_ms = self._mono_ms()
        self._turns.begin()
        self._front.receive(now_ms)
        self._front.tick(now_ms)
        if self._events in unasked:
            self._receive_all(self._events, lambda frames: node.subscribed(frames[0]))

    def _receive_all(
        self, socket: zmq.Socket[bytes], handle: Callable[[list[bytes]], None]
    ) -> None:
        if readable(socket):
            receive_all(socket, handle, TURN_MESSAGES_MAX)

    def _from_peer(self, peer: Peer, frames: list[bytes]) -> None:
        self._turns.take(peer.name, frames)

    def _flush(self) -> int:
        """Send what has piled up, so that its readers work while the shard does."""
        self._node.flush()
        return self.send()

    def _undeliverable(self, to: bytes, frames: list[bytes], gone: bool) -> None:
        self._node.undeliverable(frames)
        if not gone:
            self._front.let_go(to, "read too little")

    def send(self) -> int:
        """Send what the node has put out, and return how many bytes went to the front."""
        out = self._node.out
        sent_bytes = 0
        if out.coordinator:
            messages, out.coordinator = out.coordinator, []
            self._unasked.add(self._coordinator)
            for frames in messages:
                send(self._coordinator, frames[0], frames[1:])
        if out.front:
            replies, out.front = out.front, []
            for peer, frames in replies:
                sent_bytes += self._front.offer(peer, frames)
        if out.shards:
            mail, out.shards = out.shards, []
            for shard, frames in mail:
                link = self._link(shard)
                self._unasked.add(link)
                send(link, frames[0], frames[1:])
        if out.events:
            events, out.events = out.events, []
            self._unasked.add(self._events)
            for topic, body in events:
                send(self._events, topic, [body])
        return sent_bytes

    def next_deadline_ms(self) -> int | None:
        """Return when `receive` has to be called, whatever happens; None for never."""
        return self._front.next_deadline_ms()

    def close(self) -> None:
        """Close the connections of peers."""
        self._front.close()

    def _link(self, shard: int) -> zmq.Socket[bytes]:
        """Return the link to another shard, made if there was none."""
        link = self._shards.get(shard)
        if link is None:
            link = self._shards[shard] = self._context.socket(zmq.DEALER)
            link.set_hwm(UNREAD_MESSAGES_MAX)
            link.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            link.connect(self._run_dir.shard(shard))
            self._watch_link(link)
        return link


def _note_connection(node: Node, frames: list[bytes]) -> None:
    """Tell the node of a connection to the coordinator, or of its end."""
    if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
        node.disconnected()
    else:
        node.connected()


def main() -> None:
    """Run `flashq-shard`."""
    parser = flag_parser(PROGRAM, "Own one shard's jobs.")
    parser.add_argument("--index", type=int, required=True, help="which shard, from 0")
    arguments = parser.parse_args()
    sys.exit(
        run_alone(
            f"{PROGRAM} {arguments.index}",
            arguments,
            lambda settings, lifecycle: run(settings, arguments.index, lifecycle),
        )
    )
