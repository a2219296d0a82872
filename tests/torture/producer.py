"""A producer: asks for jobs as fast as it may, and writes down what it asked and what it was told.

`python -m tests.torture.producer DIRECTORY NAME DOOR ADDRESS SEED TIMEOUT_MS`, until SIGTERM, after
which it waits for the answers that it still lacks. It goes through the router with the client,
which a hasty one gives too little time for each answer, or through the gateway, with JSON lines
over TCP or with HTTP. It never asks again for a request without an answer: repeats by the client or
by the gateway are the same request.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from flashq.client.sync_client import Client
from tests.torture.doors import Door, HttpDoor, Refusal, RouterDoor, TcpDoor, Unknown
from tests.torture.ledger import (
    Acknowledged,
    Attempted,
    Awaited,
    Pen,
    Refused,
    Unanswered,
    now,
)
from tests.torture.workload import GATEWAY_KINDS, WEIGHTS, Chooser

THREADS: Final = {"router": 4, "hasty": 2, "tcp": 2, "http": 2}
PAUSE_S_MAX: Final = 0.03
HASTE_MS: Final = 60
"""How long a hasty producer waits for an answer."""


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

    def run(self, door: Door, where: str, thread: int) -> None:
        """Ask for one thing after the other.

        Args:
            door: its way into the server.
            where: the door's name.
            thread: its number.
        """
        kinds = tuple(WEIGHTS) if where == "router" else GATEWAY_KINDS
        random = Random(f"{self._seed}.{self._name}.{thread}")
        chooser = Chooser(random, self._name, kinds)
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
    is_hasty = where == "hasty"
    client = None
    if where in ("router", "hasty"):
        client = Client(address, timeout=HASTE_MS if is_hasty else patience_ms)
    threads = []
    for number in range(THREADS[where]):
        door: Door
        if client is not None:
            door = RouterDoor(client, patience_ms, is_hasty=is_hasty)
        else:
            way = TcpDoor if where == "tcp" else HttpDoor
            door = way(int(address), patience_ms, producer.stopping)
        threads.append(threading.Thread(target=producer.run, args=(door, where, number)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if client is not None:
        client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
