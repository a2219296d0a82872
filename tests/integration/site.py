"""One storage, and the servers on it: what tests of durability and of storage faults share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.contract.dealer import Dealer
from tests.server import Server

SHARDS = 4
TWO_SHARDS = ("alpha", "beta")
"""Queues of two of them."""


class Site:
    """One storage, and one server after the other on it.

    Args:
        storage: its URL; an SQLite file in the data directory without one.
    """

    def __init__(self, storage: str | None = None) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="fqd", dir="/tmp"))
        self.storage = storage or f"sqlite:///{self.data_dir}/flashq.db"
        self.server: Server | None = None

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.storage.removeprefix("sqlite:///"))

    def begin(self, *flags: str) -> Server:
        """Start a server, and do not wait for it."""
        self.server = Server(
            *("--data-dir", str(self.data_dir), "--storage", self.storage),
            *("--shards", str(SHARDS), *flags),
        )
        return self.server

    def start(self, *flags: str) -> Server:
        """Start a server, and wait until it takes requests."""
        server = self.begin(*flags)
        server.wait_ready()
        return server

    def crash(self) -> None:
        """Kill every process of the server at once."""
        assert self.server is not None
        self.server.process.send_signal(signal.SIGSTOP)  # so that it starts nothing again
        for pid in self.server.pids().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.close()
        self.server = None

    def refusal(self, *flags: str) -> str:
        """Start a server that must not start, and return what it says."""
        server = self.begin(*flags)
        assert server.process.wait(30) == 1
        told = server.log()
        server.close()
        self.server = None
        return told

    def close(self) -> None:
        """End everything."""
        if self.server is not None:
            self.server.close()
        shutil.rmtree(self.data_dir, ignore_errors=True)


def push(dealer: Dealer, queue: str, data: Any, **fields: Any) -> int:
    """Push a job, and return its id."""
    reply = dealer.ask("PUSH", queue=queue, data=data, **fields)
    assert reply["ok"], reply
    return int(reply["id"])


def pull(dealer: Dealer, queue: str) -> dict[str, Any]:
    """Take a job, which is there or on its way from another shard."""
    job = dealer.ask("PULL", queue=queue, timeout=15_000)["job"]
    assert isinstance(job, dict)
    return job


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    """See that a request was carried out."""
    assert reply["ok"], reply
    return reply


def trouble(dealer: Dealer) -> str:
    """Return what STATS says is wrong with storage."""
    return str(ok(dealer.ask("STATS")).get("storage", ""))
