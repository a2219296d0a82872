"""The gateway's process: the bridge, the doors, and the loop that both live on.

Owns the event loop and the order of starting and stopping. Any number of gateways can run beside
each other; they hold nothing that outlives them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop
from msgspec.structs import replace

from flashq.clock import SystemClock
from flashq.config import Settings, flag_parser
from flashq.descriptors import allow
from flashq.gateway.bridge import Bridge
from flashq.gateway.http import HttpDoor
from flashq.gateway.tcp import TcpDoor
from flashq.gateway.webhook_delivery import WebhookDelivery
from flashq.lifecycle import Lifecycle, run_alone
from flashq.lockfile import Lockfile
from flashq.observability.logging import log_of
from flashq.tokenfile import TokenSource, own_token
from flashq.tokens import Guard

if TYPE_CHECKING:
    from flashq.gateway.grpc import GrpcDoor

PROGRAM: Final = "flashq-gateway"
DOORS: Final = 3
OWN_DESCRIPTORS: Final = 256
"""What a gateway needs beside its connections: its own sockets, webhooks under way, files."""
GC_ALLOCATIONS: Final = 20_000
"""Objects made, less those let go, after which the young ones are searched for cycles."""


def run(settings: Settings, lifecycle: Lifecycle) -> None:
    """Be a gateway until told to stop.

    Raises:
        ConfigError: a door cannot be opened, or the server is another than the settings say.
    """
    run_dir = settings.run()
    run_dir.create()
    # A gateway of this server that still drains is waited for; anybody else's port is refused.
    ports = {settings.port, settings.http_port, settings.grpc_port} - {0}
    locks = [
        Lockfile.acquire(run_dir.lock(f"gateway-{settings.host}-{port}"), pause=lifecycle.pause)
        for port in sorted(ports)
    ]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, lifecycle))
    finally:
        for lock in locks:
            lock.release()


async def _serve(settings: Settings, lifecycle: Lifecycle) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    _beat(loop, lifecycle)

    def stop() -> None:
        lifecycle.stop()
        stopped.set()

    for number in lifecycle.stop_signals:
        loop.add_signal_handler(number, stop)
    if lifecycle.stopping:  # since before these handlers were there
        stopped.set()
    tokens = TokenSource(settings, PROGRAM)
    guard = tokens.guard
    own = own_token(settings.run()) if settings.is_guarded else None
    bridge = Bridge(settings.run().router, settings.shards, token=own, name=PROGRAM)
    settings = _with_shares(settings)
    door = TcpDoor(
        bridge,
        guard,
        settings.gateway_connections_max,
        settings.message_bytes_max,
        unauthenticated_ms=settings.unauthenticated_ms,
        idle_ms=settings.idle_ms,
    )
    http_door = HttpDoor(bridge, settings, guard=guard, stop_server=_stop_server(lifecycle))
    if tokens.can_change:
        lifecycle.reread_on_hangup()
        loop.add_signal_handler(signal.SIGHUP, partial(_reread, tokens, http_door))
    try:
        bridge.start()
        endpoints = [await door.listen_tcp(settings.host, settings.port)]
        if settings.unix_socket:
            endpoints.append(await door.listen_unix(settings.unix_socket))
        endpoints.append(await http_door.listen(settings.host, settings.http_port))
        grpc_door = _grpc_door(bridge, settings, guard)
        if grpc_door is not None:
            endpoints.append(await grpc_door.listen(settings.host, settings.grpc_port))
        delivery = WebhookDelivery(bridge, settings, os.urandom(16), SystemClock().wall_ms)
        delivery.start()
        # What is there now stays, and what comes has hardly any cycles: looking for them as often
        # as by default took a tenth of an HTTP request's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 50)
        lifecycle.ready(*endpoints)
        await _until(stopped, bridge)
        doors: list[TcpDoor | HttpDoor | GrpcDoor | WebhookDelivery] = [door, http_door, delivery]
        if grpc_door is not None:
            doors.append(grpc_door)
        await asyncio.gather(*(one.drain(settings.drain_timeout_ms / 1000) for one in doors))
    finally:
        await bridge.close()


def _beat(loop: asyncio.AbstractEventLoop, lifecycle: Lifecycle) -> None:
    """Show that the loop turns, now and again and again."""
    loop.call_later(lifecycle.beat(None) / 1000, _beat, loop, lifecycle)


def _with_shares(settings: Settings) -> Settings:
    """Return the settings with as many connections at each door as there are descriptors for: each
    has its own, so that a flood at one leaves the others theirs."""
    wanted = settings.gateway_connections_max
    have = allow(OWN_DESCRIPTORS + DOORS * wanted)
    possible = max(1, (have - OWN_DESCRIPTORS) // DOORS)
    if possible >= wanted:
        return settings
    log_of(PROGRAM).warning(
        "fewer connections are possible at each door than gateway_connections_max says, for want "
        "of file descriptors; raise the limit (ulimit -n)",
        connections=possible,
        descriptors=have,
    )
    return replace(settings, gateway_connections_max=possible)


def _stop_server(lifecycle: Lifecycle) -> Callable[[], None] | None:
    """Return what makes the whole server end; None when nobody has started all of it."""
    if not lifecycle.is_supervised:
        return None
    return partial(os.kill, os.getppid(), signal.SIGTERM)


def _grpc_door(bridge: Bridge, settings: Settings, guard: Guard) -> GrpcDoor | None:
    """Return the door for gRPC; None when its libraries, which are an extra, are not installed.

    They are imported here and not with this module, which a process that forks may have imported.
    """
    try:
        from flashq.gateway.grpc import GrpcDoor
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("flashq"):
            raise
        log_of(PROGRAM).info(
            "no door for gRPC: install it with pip install 'flashq[grpc]'", missing=error.name
        )
        return None
    return GrpcDoor(bridge, guard, settings.gateway_connections_max, settings.message_bytes_max)


def _reread(tokens: TokenSource, http_door: HttpDoor) -> None:
    keyring = tokens.reread()
    if keyring is not None:
        tokens.guard.replace(keyring)
        http_door.tokens_replaced()


async def _until(stopped: asyncio.Event, bridge: Bridge) -> None:
    """Wait to be stopped, or for the router to refuse this gateway.

    Raises:
        FlashQError: it does.
    """
    greeted = asyncio.ensure_future(bridge.greeted())
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        done, _ = await asyncio.wait({greeted, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if greeted in done:
            greeted.result()
            await stopping
    finally:
        greeted.cancel()
        stopping.cancel()


def main() -> int:
    """The command `flashq-gateway`."""
    parser = flag_parser(PROGRAM, "The doors for clients of the older protocols.")
    return run_alone(PROGRAM, parser.parse_args(), run)


if __name__ == "__main__":
    sys.exit(main())
