"""The physical limit: the same bytes over the same hops, moved by pyzmq and nothing else.

Three processes like flashq's: a client, a forwarder in the router's place and an echo in a shard's
place, over TCP and ipc like theirs. One message out is one message back.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import NoReturn

import zmq

from benchmarks.server import free_port
from flashq.wire import receive, send

HEADER = bytes(12)


@contextmanager
def hops() -> Iterator[str]:
    """Start forwarder and echo, give the forwarder's address, and end both afterwards."""
    home = tempfile.mkdtemp(prefix="fqe")
    behind, front = f"ipc://{home}/echo", f"tcp://127.0.0.1:{free_port()}"
    pids = [_fork(lambda: _echo(behind)), _fork(lambda: _forward(front, behind))]
    try:
        yield front
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(home, ignore_errors=True)


def _fork(run: Callable[[], NoReturn]) -> int:
    pid = os.fork()
    if not pid:
        run()
    return pid


def _echo(address: str) -> NoReturn:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.set_hwm(0)
    socket.bind(address)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    while True:
        poller.poll()
        while frames := receive(socket):
            send(socket, frames[0], frames[1:])


def _forward(front_address: str, behind_address: str) -> NoReturn:
    context = zmq.Context()
    front, behind = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    front.set_hwm(0)
    behind.set_hwm(0)
    front.bind(front_address)
    behind.connect(behind_address)
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(behind, zmq.POLLIN)
    while True:
        poller.poll()
        while frames := receive(front):
            send(behind, frames[0], frames[1:])
        while frames := receive(behind):
            send(front, frames[0], frames[1:])


def messages_per_second(address: str, body_bytes: int, in_flight: int, seconds: float) -> float:
    """Return how many messages of one size make the round trip in a second."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set_hwm(0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        body = bytes(body_bytes)
        _round_trips(socket, body, in_flight, 0.2)
        started = perf_counter()
        done = _round_trips(socket, body, in_flight, seconds)
        return done / (perf_counter() - started)


def _round_trips(socket: zmq.Socket[bytes], body: bytes, in_flight: int, seconds: float) -> int:
    until = perf_counter() + seconds
    sent = done = 0
    while done < sent or perf_counter() < until:
        while sent - done < in_flight and perf_counter() < until:
            send(socket, HEADER, [body])
            sent += 1
        if receive(socket) is None:
            socket.poll()
        else:
            done += 1
    return done
