"""Workers without the client: JSON lines over TCP, and HTTP. Both misbehave as networks do.

`python -m tests.torture.foreign DIRECTORY NAME WAY ADDRESS SEED TIMEOUT_MS`, until SIGTERM. One
over TCP now and then resets its connection while it holds jobs. One over HTTP leaves in the middle
of a long pull, and forgets jobs, whose leases then have to end by themselves. The ledger says so
before it happens.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec

from flashq.errors import CATALOGUE
from tests.torture.doors import HttpDoor, Refusal, TcpDoor, Unknown
from tests.torture.ledger import Declined, Delivered, Dropped, Ended, Ending, Pen, now
from tests.torture.worker import result_of
from tests.torture.workload import QUEUES, Payload

THREADS: Final = 2
PULL_MAX: Final = 5
PARKED_MS: Final = 500
CUT_ONE_IN: Final = 12
"""So many deliveries are lost with their connection."""
FORGET_ONE_IN: Final = 20
"""So many deliveries over HTTP are never ended."""
LEAVE_ONE_IN: Final = 6
"""So many pulls over HTTP are not waited for."""
PAUSE_S_MAX: Final = 0.2
RETRY_S: Final = 0.1


class Way(Protocol):
    """How a worker asks for jobs and ends them."""

    def pull(self, queue: str, count: int) -> list[dict[str, Any]]:
        """Return the jobs that it got.

        Raises:
            Unknown, Refusal: none, or nobody knows.
        """
        ...

    def end(self, job_id: int, token: int, way: str, uid: str) -> None:
        """Ack or fail a job.

        Raises:
            Unknown, Refusal: it is not known to be ended.
        """
        ...

    def lose(self) -> None:
        """Lose the connection with all that it holds."""
        ...

    def wander(self, queue: str) -> None:
        """Misbehave between two pulls, or not."""
        ...


class TcpWay:
    """One connection of the older protocol.

    Args:
        door: has it.
    """

    def __init__(self, door: TcpDoor) -> None:
        self._door = door

    def pull(self, queue: str, count: int) -> list[dict[str, Any]]:
        """Send PULLB."""
        request = {"cmd": "PULLB", "queue": queue, "count": count, "timeout": PARKED_MS}
        reply = self._door.ask(request)
        if not reply["ok"]:
            raise Refusal(str(reply["error"]))
        return list(reply["jobs"])

    def end(self, job_id: int, token: int, way: str, uid: str) -> None:
        """Send ACK or FAIL."""
        request: dict[str, Any] = {"cmd": way.upper(), "id": job_id, "token": token}
        if way == "ack":
            request["result"] = result_of(uid)
        reply = self._door.ask(request)
        if not reply["ok"]:
            raise Unknown(str(reply["error"]))

    def lose(self) -> None:
        """Reset the connection."""
        self._door.close(is_cut=True)

    def wander(self, queue: str) -> None:
        """Behave well."""
        del queue


class HttpWay:
    """One connection of HTTP.

    Args:
        door: has it.
        random: which pulls are not waited for.
    """

    def __init__(self, door: HttpDoor, random: Random) -> None:
        self._door = door
        self._random = random

    def pull(self, queue: str, count: int) -> list[dict[str, Any]]:
        """Get jobs."""
        path = f"/queues/{quote(queue)}/jobs?count={count}&timeout={PARKED_MS}"
        return list(self._door.ask("GET", path)["data"])

    def end(self, job_id: int, token: int, way: str, uid: str) -> None:
        """Post an ack or a fail."""
        body: dict[str, Any] = {"token": token}
        if way == "ack":
            body["result"] = msgspec.to_builtins(result_of(uid))
        self._door.ask("POST", f"/jobs/{job_id}/{way}", body)

    def lose(self) -> None:
        """Close the connection: jobs pulled over HTTP are held by nothing but their leases."""
        self._door.close()

    def wander(self, queue: str) -> None:
        """Now and then leave in the middle of a long pull, which has to take no job along."""
        if not self._random.randrange(LEAVE_ONE_IN):
            path = f"/queues/{quote(queue)}/jobs?count=1&timeout=10000"
            self._door.abandon("GET", path, self._random.uniform(0, 0.3))


class ForeignWorker:
    """One thread of a worker.

    Args:
        pen: writes its ledger.
        way: how it asks.
        random: of its choices.
        drop_one_in: so many deliveries it loses.
        stopping: set on SIGTERM.
    """

    def __init__(
        self, pen: Pen, way: Way, random: Random, drop_one_in: int, stopping: threading.Event
    ) -> None:
        self._pen = pen
        self._way = way
        self._random = random
        self._drop_one_in = drop_one_in
        self._stopping = stopping

    def run(self) -> None:
        """Work until SIGTERM; what was begun is ended."""
        while not self._stopping.wait(self._random.uniform(0, PAUSE_S_MAX)):
            queue = self._random.choice(QUEUES)
            self._way.wander(queue)
            try:
                jobs = self._way.pull(queue, self._random.randint(1, PULL_MAX))
            except (Unknown, Refusal):
                self._stopping.wait(RETRY_S)
                continue
            self._work(jobs)

    def _work(self, jobs: list[dict[str, Any]]) -> None:
        payloads = [msgspec.convert(job["data"], Payload) for job in jobs]
        self._pen.write(
            *(
                Delivered(now(), job["id"], job["token"], job["attempts"], job["queue"], some.u)
                for job, some in zip(jobs, payloads, strict=True)
            )
        )
        for place, (job, payload) in enumerate(zip(jobs, payloads, strict=True)):
            if not self._random.randrange(self._drop_one_in):
                rest = [(each["id"], each["token"]) for each in jobs[place:]]
                self._pen.write(Dropped(now(), rest))
                self._way.lose()
                return
            self._stopping.wait(payload.h / 1000)
            self._end(job["id"], job["token"], job["attempts"], payload)

    def _end(self, job_id: int, token: int, attempts: int, payload: Payload) -> None:
        way = "fail" if payload.f > attempts else "ack"
        leases = [(job_id, token)]
        self._pen.write(Ending(now(), way, leases))
        try:
            self._way.end(job_id, token, way, payload.u)
        except Unknown:
            self._pen.write(Dropped(now(), leases))
        except Refusal as refusal:
            self._pen.write(*declined(way, leases, str(refusal)), Dropped(now(), leases))
        else:
            self._pen.write(Ended(now(), way, leases))


def declined(way: str, leases: list[tuple[int, int]], code: str) -> list[Declined]:
    """Return the line for an error that promises that nothing happened; none for another error."""
    error = CATALOGUE.get(code)
    return [Declined(now(), way, leases, code)] if error is not None and error.retryable else []


def main(directory: str, name: str, kind: str, address: str, seed: str, timeout_ms: str) -> None:
    """Work until SIGTERM."""
    pen, stopping = Pen(Path(directory), name), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threads = []
    for number in range(THREADS):
        random = Random(f"{seed}.{name}.{number}")
        way: Way
        if kind == "tcp":
            way = TcpWay(TcpDoor(int(address), int(timeout_ms), stopping))
        else:
            way = HttpWay(HttpDoor(int(address), int(timeout_ms), stopping), random)
        drop_one_in = CUT_ONE_IN if kind == "tcp" else FORGET_ONE_IN
        worker = ForeignWorker(pen, way, random, drop_one_in, stopping)
        threads.append(threading.Thread(target=worker.run))
        threads[-1].start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
