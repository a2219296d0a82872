"""Whether a server still serves, and lost no program on the way; and whose queue is whose."""

from __future__ import annotations

import itertools
import os
from zlib import crc32

from tests.server import Server

_numbers = itertools.count()


def queue_of(shard: int, shards: int = 4, name: str = "q") -> str:
    """Return the name of a queue that a shard owns."""
    return next(q for n in range(1000) if crc32((q := f"{name}-{n}").encode()) % shards == shard)


class Witness:
    """Notes which programs run, and later asks for the same ones and for every shard's service."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pids = server.pids()

    def check(self) -> None:
        """Assert that nothing died, and that a job goes through every shard."""
        dealer = self._server.dealer()
        count = sum(title.startswith("flashq-shard") for title in self._pids)
        try:
            shards = set(range(count))
            while shards:
                queue = f"witness-{os.getpid()}-{next(_numbers)}"
                job_id = dealer.ask("PUSH", queue=queue, data=1)["id"]
                assert dealer.ask("PULL", queue=queue, timeout=0)["job"]["id"] == job_id
                assert dealer.ask("ACK", id=job_id) == {"ok": True}
                shards.discard(job_id % count)
            assert dealer.ask("CRONLIST")["ok"]
            assert "missing_shards" not in dealer.ask("STATS")
        finally:
            dealer.close()
        assert self._server.pids() == self._pids, self._server.log()
