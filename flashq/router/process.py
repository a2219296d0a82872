"""The router's process: sockets, clocks and the loop around its engine.

Owns the front door (see `front`), the ROUTER socket to shards and coordinator, the subscription to
the shards' events and the router's lock. Decides nothing.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import zmq

from flashq.clock import Clock, SystemClock
from flashq.config import Settings, configuration_hash, flag_parser
from flashq.errors import ConfigError
from flashq.lifecycle import Lifecycle, run_alone
from flashq.lockfile import Lockfile
from flashq.observability.logging import log_of
from flashq.protocol.framing import NOTICE
from flashq.router.engine import Router
from flashq.router.front import Front
from flashq.router.routing import COORDINATOR_ROUTING_ID, shard_of_routing_id, shard_routing_id
from flashq.router.settings import RouterSettings
from flashq.rundir import RunDir
from flashq.tokenfile import TokenSource
from flashq.version import __version__
from flashq.wire import descriptor, readable, receive, receive_all, send
from flashq.zmtp.door import Keeper
from flashq.zmtp.peer import Peer
from flashq.zmtp.stream import Login

PROGRAM: Final = "flashq-router"

TURN_MESSAGES_MAX: Final = 256
"""Messages taken from one socket in a turn, so that no peer starves another."""
TURN_BYTES_MAX: Final = 16_777_216
"""The same for their bytes."""
BACK_UNHEARD_MAX: Final = 64
"""Messages of a shard that wait for the router; above it the shard has to wait itself."""
EVENTS_UNHEARD_MAX: Final = 10_000
"""Events of a shard that wait for the router; above it they are lost, and a gap is told."""

LINGER_MS: Final = 500
RECONNECT_MS: Final = 50
QUIET_MS: Final = 250
"""A drain ends when no reply passed for so long: what is left are parked pulls."""
DRAIN_LOOK_MS: Final = 50


def run(settings: Settings, lifecycle: Lifecycle) -> None:
    """Be the router until told to stop.

    Raises:
        ConfigError: it cannot start, or the coordinator refuses it.
    """
    run_dir = settings.run()
    run_dir.create()
    lock = Lockfile.acquire(run_dir.lock("router"), pause=lifecycle.pause)
    context = zmq.Context()
    sockets = None
    try:
        clock = SystemClock()
        tokens = TokenSource(settings, PROGRAM, with_own=True)
        router = Router(
            _router_settings(settings), clock.mono_ms(), tokens.guard, lifecycle.supervision
        )
        sockets = Sockets(context, settings, run_dir, router)
        if tokens.can_change:
            lifecycle.reread_on_hangup()
        lifecycle.ready(*sockets.endpoints)
        _serve(router, sockets, lifecycle, clock, tokens, settings.drain_timeout_ms)
    finally:
        if sockets is not None:
            sockets.close()
        context.destroy(linger=LINGER_MS)
        lock.release()
    if router.dropped:
        log_of(PROGRAM).info("dropped", **router.dropped)
    if router.refused is not None:
        raise ConfigError(router.refused)


def _router_settings(settings: Settings) -> RouterSettings:
    return RouterSettings(
        version=__version__,
        boot=int.from_bytes(os.urandom(6), "big"),
        shard_count=settings.shards,
        limits=settings.engine_limits(),
        message_bytes_max=settings.message_bytes_max,
        peer_bytes_max=settings.peer_bytes_max,
        unread_bytes_max=settings.unread_bytes_max,
        all_unread_bytes_max=settings.all_unread_bytes_max,
        gather_timeout_ms=settings.gather_timeout_ms,
        config_hash=configuration_hash(settings),
    )


def _serve(
    router: Router,
    sockets: Sockets,
    lifecycle: Lifecycle,
    clock: Clock,
    tokens: TokenSource,
    drain_timeout_ms: int,
) -> None:
    """The loop: wait, drain a bounded batch of each socket, tick, send."""
    drain_ends_ms: int | None = None
    sockets.watch(lifecycle.wake_fd)
    while True:
        now_ms = clock.mono_ms()
        due_ms = router.next_deadline_ms()
        if (door_due_ms := sockets.next_deadline_ms()) is not None:
            due_ms = min(due_ms, door_due_ms)
        wait_ms = max(0, due_ms - now_ms)
        if drain_ends_ms is not None:
            wait_ms = min(wait_ms, DRAIN_LOOK_MS)
        ready = sockets.wait(lifecycle.beat(wait_ms))
        now_ms = clock.mono_ms()
        if lifecycle.wake_fd in ready:
            lifecycle.clear_wake()
            if lifecycle.take_reread() and (keyring := tokens.reread()) is not None:
                router.replace_tokens(keyring)
        sockets.receive(now_ms)
        if lifecycle.stopping and drain_ends_ms is None:
            drain_ends_ms = now_ms + drain_timeout_ms
            router.drain(now_ms)
        router.tick(now_ms)
        sockets.send(now_ms)
        sockets.follow_events()
        if router.refused is not None:
            return
        if drain_ends_ms is not None and (
            now_ms >= drain_ends_ms or router.is_drained(now_ms, QUIET_MS)
        ):
            return


class Sockets:
    """The router's sockets.

    Raises:
        ConfigError: an address cannot be listened on.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        settings: Settings,
        run_dir: RunDir,
        router: Router,
    ) -> None:
        self._context = context
        self._run_dir = run_dir
        self._shards = settings.shards
        self._router = router
        self._now_ms = 0
        keeper = Keeper(
            self._from_client,
            self._undeliverable,
            router.unread,
            router.client_left,
            self._log_in if settings.is_guarded else None,
        )
        front = Front(settings, run_dir, keeper)
        self._front, self._door = front, front.door
        #: what is shown to people
        self.endpoints = front.endpoints
        self._back = _back_socket(context, run_dir, settings.shards)
        self._door.watch(descriptor(self._back))
        #: only while somebody listens to events
        self._events: zmq.Socket[bytes] | None = None

    def wait(self, wait_ms: int) -> list[int]:
        """Wait until a socket is readable, and return the descriptors that are."""
        if readable(self._back) or (self._events is not None and readable(self._events)):
            wait_ms = 0
        return self._door.wait(wait_ms)

    def watch(self, fd: int) -> None:
        """Have `wait` also end for this descriptor."""
        self._door.watch(fd)

    def receive(self, now_ms: int) -> None:
        """Give the engine what has come, a bounded amount of each peer."""
        router = self._router
        self._now_ms = now_ms
        self._door.receive(now_ms)
        if readable(self._back):
            self._receive_back(now_ms)
        if self._events is not None and readable(self._events):
            receive_all(self._events, router.handle_event, TURN_MESSAGES_MAX)

    def _receive_back(self, now_ms: int) -> None:
        """Take what shards and coordinator say, until a turn has enough."""
        left = TURN_BYTES_MAX
        for _ in range(TURN_MESSAGES_MAX):
            frames = receive(self._back)
            if frames is None:
                return
            _from_peer(self._router, frames, now_ms)
            left -= sum(map(len, frames))
            if left <= 0 or not readable(self._back):
                return

    def _from_client(self, peer: Peer, frames: list[bytes]) -> None:
        self._router.handle_client(peer.name, frames, self._now_ms, peer.address)

    def _undeliverable(self, to: bytes, frames: list[bytes], gone: bool) -> None:
        self._router.undeliverable(to, frames, self._now_ms, gone=gone)
        if not gone and any(not header[1] & NOTICE for header in frames[::2]):
            # It would wait in vain for an answer. Who listens to events is told of a gap instead.
            self._door.let_go(to, "read too little")

    def _log_in(self, peer: Peer, login: Login) -> bool:
        return self._router.log_in(peer.name, login.password, self._now_ms, peer.address)

    def send(self, now_ms: int) -> None:
        """Send what stands in the engine's boxes: to clients first, since what they cannot get
        may have to go back to a shard."""
        self._now_ms = now_ms
        self._door.tick(now_ms)
        self._front.tell_trouble(now_ms)
        for name, is_known in self._router.take_changed_standings().items():
            if is_known:
                self._door.know(name)
            else:
                self._door.doubt(name)
        for to, frames in self._router.take_client_parcels():
            self._door.offer(to, frames)
        for to, frames in self._router.take_peer_parcels():
            send(self._back, to, frames)

    def next_deadline_ms(self) -> int | None:
        """Return when `send` has to be called again, whatever happens; None for never."""
        return self._door.next_deadline_ms()

    def close(self) -> None:
        """Close the connections to clients; what the kernel has not taken is lost."""
        self._front.close()

    def follow_events(self) -> None:
        """Subscribe to the events that somebody listens to, or let go of them.

        The engine needs all events that a shard makes to see holes in them, so it gets them
        whatever the queue; the topics of single queues tell the shards which to make.
        """
        topics = self._router.take_topics()
        if not self._router.wants_events:
            if self._events is not None:
                self._door.unwatch(descriptor(self._events))
                self._events.close(linger=0)
                self._events = None
            return
        if not topics:
            return
        if self._events is None:
            self._events = self._open_events()
        for topic, wanted in topics:
            self._events.setsockopt(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, topic)

    def _open_events(self) -> zmq.Socket[bytes]:
        events = self._context.socket(zmq.SUB)
        events.set_hwm(EVENTS_UNHEARD_MAX)
        events.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        events.setsockopt(zmq.SUBSCRIBE, b"")
        for shard in range(self._shards):
            events.connect(self._run_dir.events(shard))
        self._door.watch(descriptor(events))
        return events


def _from_peer(router: Router, frames: list[bytes], now_ms: int) -> None:
    if frames[0] == COORDINATOR_ROUTING_ID:
        router.handle_coordinator(frames[1:], now_ms)
    else:
        router.handle_shard(shard_of_routing_id(frames[0]), frames[1:], now_ms)


def _back_socket(
    context: zmq.Context[zmq.Socket[bytes]], run_dir: RunDir, shards: int
) -> zmq.Socket[bytes]:
    """One ROUTER that connects to all shards and to the coordinator, each under a known id.

    Messages for a peer that is away wait in its pipe; the engine bounds their bytes.
    """
    back = context.socket(zmq.ROUTER)
    back.setsockopt(zmq.SNDHWM, 0)
    back.setsockopt(zmq.RCVHWM, BACK_UNHEARD_MAX)
    back.setsockopt(zmq.ROUTING_ID, b"router-" + os.urandom(8))
    back.setsockopt(zmq.ROUTER_MANDATORY, 1)
    back.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    back.setsockopt(zmq.LINGER, LINGER_MS)
    for shard in range(shards):
        back.setsockopt(zmq.CONNECT_ROUTING_ID, shard_routing_id(shard))
        back.connect(run_dir.shard(shard))
    back.setsockopt(zmq.CONNECT_ROUTING_ID, COORDINATOR_ROUTING_ID)
    back.connect(run_dir.coordinator)
    return back


def main() -> int:
    """The command `flashq-router`."""
    parser = flag_parser(PROGRAM, "The front door of a flashq server.")
    return run_alone(PROGRAM, parser.parse_args(), run)


if __name__ == "__main__":
    sys.exit(main())
