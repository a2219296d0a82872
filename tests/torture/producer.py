"""A producer: asks for jobs as fast as it may, and writes down what it asked and what it was told.

`python -m tests.torture.producer DIRECTORY NAME DOOR ADDRESS SEED TIMEOUT_MS`, until SIGTERM, after
which it waits for the answers that it still lacks. It goes through the router, with the client, or
through the gateway, with a socket and JSON lines and nothing else. What was not answered it never
asks again: what the client repeats by itself, or the gateway, is the same request.
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

import msgspec

from flashq.client.sync_client import Client
from flashq.errors import (
    ConnectionClosed,
    FlashQError,
    OutcomeUnknown,
    SessionExpired,
    ShardUnavailable,
)
from tests.torture.ledger import (
    Acknowledged,
    Attempted,
    Awaited,
    Pen,
    Refused,
    Unanswered,
    now,
)
from tests.torture.workload import GATEWAY_KINDS, WEIGHTS, Chooser, Order, Payload

THREADS: Final = {"router": 4, "gateway": 2}
PAUSE_S_MAX: Final = 0.03
RECONNECT_S: Final = 0.05
CRON_EVERY_MS: Final = 300

UNKNOWN: Final = (OutcomeUnknown, ConnectionClosed, SessionExpired, ShardUnavailable)
"""Errors of the client after which nobody knows."""

SURE: Final = {
    "Duplicate": "duplicate",
    "busy": "busy",
    "limit reached": "limit_reached",
    "starting": "starting",
    "shutting down": "shutting_down",
    "storage unavailable": "storage_unavailable",
}
"""How errors of the older protocol begin that say for sure that nothing happened."""


class Unknown(Exception):
    """Nobody knows whether the request was carried out."""


class Refusal(Exception):
    """The request was not carried out."""


class Door(Protocol):
    """A way into the server."""

    def carry_out(self, order: Order) -> list[int]:
        """Send a request once, and return the ids in its answer.

        Raises:
            Unknown, Refusal: there are none; the text is an error's code.
        """
        ...

    def wait(self, job_id: int) -> Payload:
        """Wait for a job's end, and return its result.

        Raises:
            Unknown, Refusal: it has not been told.
        """
        ...


class RouterDoor:
    """The client's way.

    Args:
        client: shared by all threads.
        timeout_ms: how long it waits for a job's end.
    """

    def __init__(self, client: Client, timeout_ms: int) -> None:
        self._client = client
        self._timeout_ms = timeout_ms

    def carry_out(self, order: Order) -> list[int]:
        """Call the method for it."""
        try:
            return self._call(order)
        except UNKNOWN as error:
            raise Unknown(error.code) from error
        except FlashQError as error:
            raise Refusal(error.code) from error

    def _call(self, order: Order) -> list[int]:
        client, first = self._client, order.jobs[0]
        options = order.options[0]
        if order.kind == "batch":
            return client.push_batch(first.queue, order.options)
        if order.kind == "flow":
            children = [
                {"queue": job.queue, **some}
                for job, some in zip(order.jobs[1:], order.options[1:], strict=True)
            ]
            flow = client.push_flow(first.queue, children=children, **options)
            return [flow.parent_id, *flow.children_ids]
        if order.kind == "cron":
            every, limit = CRON_EVERY_MS, first.firings
            data = options["data"]
            client.add_cron(first.uid, first.queue, data, repeat_every=every, limit=limit)
            return []
        return [client.push(first.queue, **options)]

    def wait(self, job_id: int) -> Payload:
        """Wait for it."""
        try:
            return msgspec.convert(self._client.finished(job_id, self._timeout_ms), Payload)
        except UNKNOWN as error:
            raise Unknown(error.code) from error
        except FlashQError as error:
            raise Refusal(error.code) from error


class GatewayDoor:
    """The older protocol's way: JSON lines over one connection, one request at a time.

    Args:
        port: of the gateway, on this machine.
        timeout_ms: how long it waits for an answer.
        stopping: set when it is no use to wait for a gateway any more.
    """

    def __init__(self, port: int, timeout_ms: int, stopping: threading.Event) -> None:
        self._port = port
        self._timeout_s = timeout_ms / 1000
        self._stopping = stopping
        self._socket: socket.socket | None = None
        self._received = b""

    def carry_out(self, order: Order) -> list[int]:
        """Send a line and read a line."""
        first, options = order.jobs[0], order.options[0]
        request = {"cmd": "PUSH", "queue": first.queue, **options}
        if order.kind == "batch":
            request = {"cmd": "PUSHB", "queue": first.queue, "jobs": order.options}
        elif order.kind == "flow":
            children = [
                {"queue": job.queue, **some}
                for job, some in zip(order.jobs[1:], order.options[1:], strict=True)
            ]
            request = {"cmd": "FLOW", "queue": first.queue, "children": children, **options}
        reply = self._ask(msgspec.json.encode(request))
        if not reply["ok"]:
            text = str(reply["error"])
            for begin, code in SURE.items():
                if text.startswith(begin):
                    raise Refusal(code)
            raise Unknown("no answer" if text.startswith("no answer") else text)
        if order.kind == "flow":
            return [reply["parent_id"], *reply["children_ids"]]
        return list(reply["ids"]) if order.kind == "batch" else [reply["id"]]

    def wait(self, job_id: int) -> Payload:
        """It does not wait for ends."""
        raise Refusal(str(job_id))

    def _ask(self, line: bytes) -> dict[str, Any]:
        connection = self._connected()
        try:
            connection.sendall(line + b"\n")
            while b"\n" not in self._received:
                some = connection.recv(65_536)
                if not some:
                    raise ConnectionResetError
                self._received += some
        except OSError as error:
            connection.close()
            self._socket = None
            raise Unknown("connection lost") from error
        reply, _, self._received = self._received.partition(b"\n")
        found: dict[str, Any] = json.loads(reply)
        return found

    def _connected(self) -> socket.socket:
        while self._socket is None:
            try:
                address = "127.0.0.1", self._port
                self._socket = socket.create_connection(address, self._timeout_s)
                self._received = b""
            except OSError:
                if self._stopping.wait(RECONNECT_S):
                    raise Refusal("no gateway") from None
        return self._socket


class Producer:
    """All threads of a producer.

    Args:
        pen: writes its ledger.
        name: its own.
        seed: of its choices.
    """

    def __init__(self, pen: Pen, name: str, seed: int) -> None:
        self._pen = pen
        self._name = name
        self._seed = seed
        self._ops: Iterator[int] = itertools.count(1)
        self.stopping = threading.Event()

    def run(self, door: Door, kinds: tuple[str, ...], thread: int) -> None:
        """Ask for one thing after the other."""
        random = Random(f"{self._seed}.{self._name}.{thread}")
        chooser = Chooser(random, self._name, kinds)
        where = "router" if isinstance(door, RouterDoor) else "gateway"
        while not self.stopping.wait(random.uniform(0, PAUSE_S_MAX)):
            op = next(self._ops)
            order = chooser.next(op, int(time.time()))
            self._pen.write(Attempted(now(), op, order.kind, where, order.jobs))
            try:
                ids = door.carry_out(order)
            except Unknown as unknown:
                self._pen.write(Unanswered(now(), op, str(unknown)))
                continue
            except Refusal as refusal:
                self._pen.write(Refused(now(), op, str(refusal)))
                continue
            self._pen.write(Acknowledged(now(), op, ids))
            chooser.note(ids)
            if order.kind == "awaited":
                self._wait(door, ids[0])

    def _wait(self, door: Door, job_id: int) -> None:
        try:
            result = door.wait(job_id)
        except (Unknown, Refusal):
            return
        self._pen.write(Awaited(now(), job_id, result.u))


def main(directory: str, name: str, where: str, address: str, seed: str, timeout_ms: str) -> None:
    """Produce until SIGTERM."""
    producer = Producer(Pen(Path(directory), name), name, int(seed))
    signal.signal(signal.SIGTERM, lambda *_: producer.stopping.set())
    patience_ms = int(timeout_ms)
    client = Client(address, timeout=patience_ms) if where == "router" else None
    kinds = GATEWAY_KINDS if client is None else tuple(WEIGHTS)
    threads = []
    for number in range(THREADS[where]):
        door: Door = (
            GatewayDoor(int(address), patience_ms, producer.stopping)
            if client is None
            else RouterDoor(client, patience_ms)
        )
        threads.append(threading.Thread(target=producer.run, args=(door, kinds, number)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if client is not None:
        client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
