"""Replies that nobody reads, at the router and at a shard's own socket: memory stays bounded,
others are served meanwhile, and what was kept is given back."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import chain
from typing import Any, Final

import pytest
import zmq

from tests.conftest import StartServer
from tests.contract.dealer import Dealer
from tests.server import Server, eventually, resident_bytes

MIB: Final = 1024 * 1024
CLIENTS: Final = 12
REQUESTS: Final = 400
GROWTH_BYTES_MAX: Final = 420 * MIB
"""Of one program. Each request that is answered would add a megabyte: 4,800 in all."""
LEFT_BYTES_MAX: Final = 80 * MIB


class Watch:
    """Sees how large the programs of a server become, from a thread of its own."""

    def __init__(self, server: Server) -> None:
        self._pids = {
            title: pid
            for title, pid in server.pids().items()
            if "shard" in title or "router" in title
        }
        self._before = self._sizes()
        self.peak = dict.fromkeys(self._pids, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _sizes(self) -> dict[str, int]:
        return {title: resident_bytes(pid) for title, pid in self._pids.items()}

    def growth(self) -> dict[str, int]:
        """Return by how much each has grown."""
        return {title: size - self._before[title] for title, size in self._sizes().items()}

    def _run(self) -> None:
        while not self._over.wait(0.02):
            for title, size in self.growth().items():
                self.peak[title] = max(self.peak[title], size)

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


JOB: Final = {"cmd": "GETJOB", "id": 0}
BATCH: Final = {"cmd": "GETJOBSBATCH", "ids": [0] * 8}


def patiently(dealer: Dealer, cmd: str, **fields: Any) -> dict[str, Any]:
    """Return the reply to a request that may have to be asked again: the machine is busy."""

    def reply() -> dict[str, Any] | None:
        found = dealer.ask(cmd, **fields)
        assert found["ok"] or found["retryable"], found
        return found if found["ok"] else None

    found = eventually(reply, f"a reply to {cmd}")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("place", "messages", "asked"),
    [
        ("router", REQUESTS, JOB),
        ("router", 1, {"cmd": "GETJOBS", "queue": "big", "limit": 8}),
        ("ipc", 1, {"id": 0, "cmd": "GETJOB"}),
        ("shard", REQUESTS, JOB),
        ("shard", 1, BATCH),
    ],
    ids=["router-job", "router-list", "ipc-word-last", "shard-job", "shard-batch"],
)
def test_replies_that_nobody_reads(
    start_server: StartServer, place: str, messages: int, asked: dict[str, Any]
) -> None:
    """
    1. Twelve clients ask for a job of a megabyte 400 times each, in as many messages or in one, and
       read nothing.
    2. Somebody else is served all the while. No program grows beyond its bounds.
    3. They leave: the memory is back, and the processes are the same.
    """
    server = start_server("--shards", "2")
    pids = server.pids()
    with closing(Dealer(server.url)) as other:
        job_id = other.ask("PUSH", queue="big", data="x" * 1_000_000)["id"]
        urls = {"router": server.url, "ipc": server.ipc_url, "shard": server.shard_url(job_id % 2)}
        watch = Watch(server)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dealers: list[zmq.Socket[bytes]] = []
        try:
            about = {"id": job_id, "ids": [job_id] * 8}
            request = {name: about.get(name, value) for name, value in asked.items()}
            pairs = [other.pair(corr, request) for corr in range(REQUESTS)]
            for _ in range(CLIENTS):
                dealer = context.socket(zmq.DEALER)
                dealers.append(dealer)
                dealer.setsockopt(zmq.RCVHWM, 1)
                dealer.setsockopt(zmq.RECONNECT_IVL, -1)
                dealer.connect(urls[place])
                for at in range(0, REQUESTS, REQUESTS // messages):
                    dealer.send_multipart([*chain(*pairs[at : at + REQUESTS // messages])])
            for _ in range(30):
                assert patiently(other, "GETSTATE", id=job_id)["state"] == "waiting"
                assert patiently(other, "GETJOB", id=job_id)["state"] == "waiting"
                assert other.ask("PUSH", queue="small", data=1)["ok"]
            assert max(watch.peak.values()) < GROWTH_BYTES_MAX, watch.peak
        finally:
            for dealer in dealers:
                dealer.close(linger=0)
            context.term()
            watch.close()
        eventually(
            lambda: max(watch.growth().values()) < LEFT_BYTES_MAX, "the memory that was given back"
        )
        assert other.ask("CANCEL", id=job_id)["ok"]
    assert server.pids() == pids
