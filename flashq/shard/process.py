"""A shard's process: sockets, clocks and the loop around its node.

Owns the ROUTER socket that routers, direct clients and peers talk to, the link to the
coordinator, the links to other shards (made when there is mail for them), the events' publisher
and the shard's lock. Decides nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from typing import Final

import zmq

from flashq.clock import Clock, SystemClock
from flashq.config import Settings, configuration_hash, flag_parser
from flashq.errors import ConfigError
from flashq.lifecycle import Lifecycle, run_alone
from flashq.lockfile import Lockfile
from flashq.rundir import RunDir
from flashq.shard.identity import Identity, Phase
from flashq.shard.node import Node
from flashq.version import __version__
from flashq.wire import descriptor, readable, receive_all, send

PROGRAM: Final = "flashq-shard"

TURN_MESSAGES_MAX: Final = 256
"""Messages taken from one socket in a turn, so that replies do not wait for a flood to end."""
TURN_REPLIES_MAX: Final = 32
"""With so many replies decided they are sent before the next message is taken."""
UNREAD_MESSAGES_MAX: Final = 100_000
"""Messages kept for a router that does not read; above it they are undeliverable."""
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
    try:
        node = Node(identity_of(settings, index))
        sockets = Sockets(context, run_dir, index)
        _serve(node, sockets, lifecycle, SystemClock())
    finally:
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
    now_ms = clock.mono_ms()
    node.observe(clock.wall_ms(), now_ms)
    node.tick()
    while node.phase is not Phase.DEAD:
        sockets.send(node)
        before_ms = clock.mono_ms()
        if before_ms - now_ms > GAP_MS:
            node.stretch(before_ms - now_ms + GRACE_MS)
        due_ms = node.next_deadline_ms()
        wait_ms = lifecycle.beat(None if due_ms is None else max(0, due_ms - before_ms))
        ready = sockets.wait(wait_ms, lifecycle.wake_fd)
        now_ms = clock.mono_ms()
        late_ms = now_ms - before_ms - wait_ms
        if late_ms > GAP_MS:
            node.stretch(late_ms + GRACE_MS)
        node.observe(clock.wall_ms(), now_ms)
        if lifecycle.wake_fd in ready:
            lifecycle.clear_wake()
        sockets.receive(node, ready)
        if lifecycle.stopping:
            node.stop()
        if lifecycle.stopping or (due_ms is not None and now_ms >= due_ms):
            node.tick()
        node.flush()
        sockets.send(node)
        node.tidy()
        if node.is_serving and not is_announced:
            is_announced = True
            lifecycle.ready()


class Sockets:
    """A shard's sockets."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], run_dir: RunDir, index: int
    ) -> None:
        self._context = context
        self._run_dir = run_dir
        self._front = context.socket(zmq.ROUTER)
        self._front.set_hwm(UNREAD_MESSAGES_MAX)
        self._front.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._front.bind(run_dir.shard(index))
        self._events = context.socket(zmq.XPUB)
        self._events.set_hwm(UNHEARD_EVENTS_MAX)
        # Each wish comes here, also one that another listener has had before.
        self._events.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._events.bind(run_dir.events(index))
        self._coordinator = context.socket(zmq.DEALER)
        self._coordinator.set_hwm(0)
        self._coordinator.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._coordinator.setsockopt(zmq.IDENTITY, b"shard-%d-%s" % (index, os.urandom(6)))
        #: tells of connections to the coordinator. Nothing is ever sent over it, so once it was
        #: seen empty its descriptor says when there is more: the poller has no socket more to ask
        self._connections = self._coordinator.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._connections_fd = descriptor(self._connections)
        readable(self._connections)
        self._coordinator.connect(run_dir.coordinator)
        self._shards: dict[int, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()
        for socket in (self._front, self._events, self._coordinator):
            self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._connections_fd, zmq.POLLIN)

    def wait(self, wait_ms: int, wake_fd: int) -> dict[object, int]:
        """Wait until a socket or `wake_fd` is readable, and return what is."""
        self._poller.register(wake_fd, zmq.POLLIN)
        return dict(self._poller.poll(wait_ms))

    def receive(self, node: Node, ready: dict[object, int]) -> None:
        """Give the node what has come, a bounded batch of each socket."""
        if self._connections_fd in ready:
            receive_all(self._connections, lambda _: node.connected(), TURN_MESSAGES_MAX)
        if self._coordinator in ready:
            receive_all(self._coordinator, node.receive_coordinator, TURN_MESSAGES_MAX)
        for socket in self._shards.values():
            if socket in ready:
                receive_all(socket, node.receive_shard, TURN_MESSAGES_MAX)
        if self._front in ready:
            receive_all(self._front, partial(self._request, node), TURN_MESSAGES_MAX)
        if self._events in ready:
            receive_all(self._events, lambda frames: node.subscribed(frames[0]), TURN_MESSAGES_MAX)

    def _request(self, node: Node, frames: list[bytes]) -> None:
        """Give the node a message from the front, and send on what has piled up, so that its
        readers work while the shard does."""
        node.receive_front(frames[0], frames[1:])
        if node.replies_decided >= TURN_REPLIES_MAX:
            node.flush()
            self.send(node)

    def send(self, node: Node) -> None:
        """Send what the node has put out."""
        out = node.out
        if out.coordinator:
            messages, out.coordinator = out.coordinator, []
            for frames in messages:
                send(self._coordinator, frames[0], frames[1:])
        if out.front:
            replies, out.front = out.front, []
            for peer, frames in replies:
                try:
                    send(self._front, peer, frames)
                except zmq.ZMQError as error:
                    if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                        raise
                    node.undeliverable(frames)
        if out.shards:
            mail, out.shards = out.shards, []
            for shard, frames in mail:
                send(self._link(shard), frames[0], frames[1:])
        if out.events:
            events, out.events = out.events, []
            for topic, body in events:
                send(self._events, topic, [body])

    def _link(self, shard: int) -> zmq.Socket[bytes]:
        """Return the link to another shard, made if there was none."""
        link = self._shards.get(shard)
        if link is None:
            link = self._shards[shard] = self._context.socket(zmq.DEALER)
            link.set_hwm(UNREAD_MESSAGES_MAX)
            link.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            link.connect(self._run_dir.shard(shard))
            self._poller.register(link, zmq.POLLIN)
        return link


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
