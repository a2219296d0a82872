"""The coordinator's process: its socket, its storage, clocks, and the loop around its engine.

Owns the ROUTER socket that shards and routers connect to, the storage and the coordinator's lock.
Decides nothing.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import zmq

from flashq.clock import Clock, SystemClock
from flashq.config import Settings, configuration_hash, flag_parser
from flashq.coordinator.engine import Coordinator, CoordinatorSettings
from flashq.errors import ConfigError
from flashq.lifecycle import Lifecycle, run_alone
from flashq.lockfile import Lockfile
from flashq.observability.logging import log_of
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import Storage
from flashq.wire import receive, send

PROGRAM: Final = "flashq-coordinator"

TURN_MESSAGES_MAX: Final = 256
"""Messages taken in a turn: the group that is committed grows with what has queued up."""
RECOVERED_BYTES_MAX: Final = 4 * 1024 * 1024
LINGER_MS: Final = 500
DRAIN_LOOK_MS: Final = 50


def run(settings: Settings, lifecycle: Lifecycle) -> None:
    """Be the coordinator until told to stop.

    Raises:
        ConfigError: it cannot start.
    """
    run_dir = settings.run()
    run_dir.create()
    lock = Lockfile.acquire(run_dir.lock("coordinator"))
    context = zmq.Context()
    try:
        clock = SystemClock()
        storage = MemoryStorage(clock.wall_ms(), os.urandom(16))
        opened = storage.open(settings.shards)
        agreed = CoordinatorSettings(
            shard_count=settings.shards,
            limits=settings.engine_limits(),
            config_hash=configuration_hash(settings),
        )
        coordinator = Coordinator(agreed, opened, clock.wall_ms())
        socket = _listen(context, run_dir.coordinator)
        lifecycle.ready(run_dir.coordinator)
        _serve(coordinator, storage, socket, lifecycle, clock, settings.drain_timeout_ms)
        storage.close()
    finally:
        context.destroy(linger=LINGER_MS)
        lock.release()
    if coordinator.dropped:
        log_of(PROGRAM).info("dropped", **coordinator.dropped)


def _serve(
    coordinator: Coordinator,
    storage: Storage,
    socket: zmq.Socket[bytes],
    lifecycle: Lifecycle,
    clock: Clock,
    drain_timeout_ms: int,
) -> None:
    """The loop: wait, drain a bounded batch, tick, commit once, send."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(lifecycle.wake_fd, zmq.POLLIN)
    drain_ends_ms: int | None = None
    while True:
        wait_ms = coordinator.next_wait_ms(clock.wall_ms(), clock.mono_ms())
        if drain_ends_ms is not None:
            wait_ms = min(wait_ms, DRAIN_LOOK_MS)
        ready = dict(poller.poll(wait_ms))
        now_ms, mono_ms = clock.wall_ms(), clock.mono_ms()
        if lifecycle.wake_fd in ready:
            lifecycle.clear_wake()
        if socket in ready:
            for _ in range(TURN_MESSAGES_MAX):
                frames = receive(socket)
                if frames is None:
                    break
                coordinator.handle(frames[0], frames[1:], now_ms, mono_ms)
        if lifecycle.stopping and drain_ends_ms is None:
            drain_ends_ms = mono_ms + drain_timeout_ms
            coordinator.drain(mono_ms)
        coordinator.tick(now_ms, mono_ms)
        _commit(coordinator, storage)
        _send(coordinator, socket)
        if drain_ends_ms is not None and (mono_ms >= drain_ends_ms or coordinator.is_drained):
            return


def _commit(coordinator: Coordinator, storage: Storage) -> None:
    """Write what the turn has brought, then read what recovering shards ask for."""
    while (group := coordinator.take_group()) is not None:
        if group.writes:
            storage.write(group.writes)
        coordinator.committed(group)
    for recovery in coordinator.take_recoveries():
        part = storage.recover(recovery.shard, recovery.cursor, RECOVERED_BYTES_MAX)
        coordinator.recovered(recovery, part)


def _send(coordinator: Coordinator, socket: zmq.Socket[bytes]) -> None:
    for to, frames in coordinator.take_parcels():
        try:
            send(socket, to, frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            coordinator.undeliverable(to)


def _listen(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    # Marks count from the bind on. None is needed here: shards bound what they have not been told
    # is safe, and ask for their recovery piece by piece.
    socket.set_hwm(0)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}") from error
    return socket


def main() -> int:
    """The command `flashq-coordinator`."""
    parser = flag_parser(PROGRAM, "Storage, crons and epochs of a flashq server.")
    return run_alone(PROGRAM, parser.parse_args(), run)


if __name__ == "__main__":
    sys.exit(main())
