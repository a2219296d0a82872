"""The router's process: sockets, clocks and the loop around its engine.

Owns the two ROUTER sockets (clients in front, shards and coordinator behind), the subscription to
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
from flashq.router.backlog import Backlog, Sent
from flashq.router.engine import Router
from flashq.router.routing import COORDINATOR_ROUTING_ID, shard_of_routing_id, shard_routing_id
from flashq.router.settings import RouterSettings
from flashq.rundir import RunDir
from flashq.tokenfile import TokenSource
from flashq.version import __version__
from flashq.wire import receive_all, receive_with_address, send

PROGRAM: Final = "flashq-router"

TURN_MESSAGES_MAX: Final = 256
"""Messages taken from one socket in a turn, so that no peer starves another."""
CLIENT_UNREAD_MESSAGES_MAX: Final = 16
"""Messages that a client's connection keeps for it; what is more waits in the backlog, which is
bounded in bytes."""
CLIENT_UNHEARD_MESSAGES_MAX: Final = 1000
"""Messages of a client that wait for the router; above it the client has to wait itself."""
EVENTS_UNHEARD_MAX: Final = 10_000
"""Events of a shard that wait for the router; above it they are lost, and a gap is told."""

LINGER_MS: Final = 500
RECONNECT_MS: Final = 50
PING_MS: Final = 10_000
PONG_MS: Final = 30_000
"""How often connections over TCP are probed, and when a silent one is closed."""
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
    while True:
        now_ms = clock.mono_ms()
        due_ms = router.next_deadline_ms()
        if sockets.retry_at_ms is not None:
            due_ms = min(due_ms, sockets.retry_at_ms)
        wait_ms = max(0, due_ms - now_ms)
        if drain_ends_ms is not None:
            wait_ms = min(wait_ms, DRAIN_LOOK_MS)
        ready = sockets.wait(lifecycle.beat(wait_ms), lifecycle.wake_fd)
        now_ms = clock.mono_ms()
        if lifecycle.wake_fd in ready:
            lifecycle.clear_wake()
            if lifecycle.take_reread() and (keyring := tokens.reread()) is not None:
                router.replace_tokens(keyring)
        sockets.receive(router, ready, now_ms)
        if lifecycle.stopping and drain_ends_ms is None:
            drain_ends_ms = now_ms + drain_timeout_ms
            router.drain(now_ms)
        router.tick(now_ms)
        sockets.send(router, now_ms)
        sockets.follow_events(router)
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
        self._is_guarded = settings.is_guarded
        self._front = _front_socket(context, settings)
        self._backlog = Backlog(
            settings.peer_bytes_max, self._send_to_client, router.undeliverable, router.overfull
        )
        #: what is shown to people
        self.endpoints = (_bind(self._front, settings.host, settings.zmq_port), run_dir.router)
        _listen(self._front, run_dir.router)
        self._back = _back_socket(context, run_dir, settings.shards)
        #: only while somebody listens to events
        self._events: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._poller.register(self._front, zmq.POLLIN)
        self._poller.register(self._back, zmq.POLLIN)

    def wait(self, wait_ms: int, wake_fd: int) -> dict[object, int]:
        """Wait until a socket or `wake_fd` is readable, and return what is."""
        self._poller.register(wake_fd, zmq.POLLIN)
        return dict(self._poller.poll(wait_ms))

    def receive(self, router: Router, ready: dict[object, int], now_ms: int) -> None:
        """Give the engine what has come, a bounded batch of each socket."""
        if self._front in ready:
            self._take_from_clients(router, now_ms)
        if self._back in ready:
            receive_all(
                self._back, lambda frames: _from_peer(router, frames, now_ms), TURN_MESSAGES_MAX
            )
        if self._events is not None and self._events in ready:
            receive_all(self._events, router.handle_event, TURN_MESSAGES_MAX)

    def _take_from_clients(self, router: Router, now_ms: int) -> None:
        handle = router.handle_client
        if self._is_guarded:
            receive_all(
                self._front,
                lambda taken: handle(taken[0][0], taken[0][1:], now_ms, taken[1]),
                TURN_MESSAGES_MAX,
                receive_with_address,
            )
        else:
            receive_all(
                self._front,
                lambda frames: handle(frames[0], frames[1:], now_ms),
                TURN_MESSAGES_MAX,
            )

    def send(self, router: Router, now_ms: int) -> None:
        """Send what stands in the engine's boxes: to clients first, since what they cannot get
        may have to go back to a shard."""
        self._backlog.retry(now_ms)
        for to, frames in router.take_client_parcels():
            self._backlog.offer(to, frames, now_ms)
        for to, frames in router.take_peer_parcels():
            send(self._back, to, frames)

    def _send_to_client(self, to: bytes, frames: list[bytes]) -> Sent:
        try:
            send(self._front, to, frames)
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN:
                return Sent.FULL
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.SENT

    @property
    def retry_at_ms(self) -> int | None:
        """When `send` has to be called again, whatever happens; None for never."""
        return self._backlog.retry_at_ms

    def follow_events(self, router: Router) -> None:
        """Subscribe to the events that somebody listens to, or let go of them.

        The engine needs all events that a shard makes to see holes in them, so it gets them
        whatever the queue; the topics of single queues tell the shards which to make.
        """
        topics = router.take_topics()
        if not router.wants_events:
            if self._events is not None:
                self._poller.unregister(self._events)
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
        self._poller.register(events, zmq.POLLIN)
        return events


def _from_peer(router: Router, frames: list[bytes], now_ms: int) -> None:
    if frames[0] == COORDINATOR_ROUTING_ID:
        router.handle_coordinator(frames[1:], now_ms)
    else:
        router.handle_shard(shard_of_routing_id(frames[0]), frames[1:], now_ms)


def _front_socket(context: zmq.Context[zmq.Socket[bytes]], settings: Settings) -> zmq.Socket[bytes]:
    front = context.socket(zmq.ROUTER)
    # Marks count from the bind on: set later they are ignored.
    front.setsockopt(zmq.SNDHWM, CLIENT_UNREAD_MESSAGES_MAX)
    front.setsockopt(zmq.RCVHWM, CLIENT_UNHEARD_MESSAGES_MAX)
    front.setsockopt(zmq.ROUTER_HANDOVER, 1)
    front.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # What is a little too large is answered in words; what is more costs the connection.
    front.setsockopt(zmq.MAXMSGSIZE, 2 * settings.message_bytes_max)
    front.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    front.setsockopt(zmq.HEARTBEAT_TIMEOUT, PONG_MS)
    front.setsockopt(zmq.IPV6, ":" in settings.host)
    front.setsockopt(zmq.LINGER, LINGER_MS)
    return front


def _back_socket(
    context: zmq.Context[zmq.Socket[bytes]], run_dir: RunDir, shards: int
) -> zmq.Socket[bytes]:
    """One ROUTER that connects to all shards and to the coordinator, each under a known id.

    Messages for a peer that is away wait in its pipe; the engine bounds their bytes.
    """
    back = context.socket(zmq.ROUTER)
    back.set_hwm(0)
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


def _bind(socket: zmq.Socket[bytes], host: str, port: int) -> str:
    """Listen on a TCP port, and return the endpoint with the port that it is."""
    address = "127.0.0.1" if host == "localhost" else f"[{host}]" if ":" in host else host
    _listen(socket, f"tcp://{address}:{port or '*'}")
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def _listen(socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}") from error


def main() -> int:
    """The command `flashq-router`."""
    parser = flag_parser(PROGRAM, "The front door of a flashq server.")
    return run_alone(PROGRAM, parser.parse_args(), run)


if __name__ == "__main__":
    sys.exit(main())
