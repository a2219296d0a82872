"""Clients that nobody closed: what they hold is let go of once nobody has them any more."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.sync_client import Client
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.test_async_client import in_thread
from tests.unit.client.test_ownership import TIMEOUT_S

CLIENTS = 5


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def client_threads() -> list[threading.Thread]:
    """Return the threads of clients."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("flashq-")]


@contextmanager
def caught() -> Iterator[list[str]]:
    """Gather the texts of warnings of unclosed things, wherever garbage is collected."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        yield texts
        texts += [str(warning.message) for warning in found]


def forget(make: Callable[[str], Any], url: str) -> list[weakref.ref[Any]]:
    """Use some clients, and have them no more; return what tells whether they are there."""
    with caught() as texts:
        found = [weakref.ref(make(url)) for _ in range(CLIENTS)]
        gc.collect()
    assert len([text for text in texts if text.startswith("unclosed Client")]) == CLIENTS
    return found


def used(url: str, **options: Any) -> Client:
    """Return a client that holds a job, and has a subscription."""
    client = Client(url, **options)
    client.push("q", 1)
    assert client.pull("q") is not None
    client.subscribe("q")
    return client


class App:
    """What has a client, and gives it a method of its own."""

    def __init__(self, url: str) -> None:
        self.client = used(url, on_leases_lost=self.lost)

    def lost(self, ids: list[int]) -> None:
        """Take note."""


@pytest.mark.parametrize("make", [used, App], ids=["alone", "in a cycle"])
def test_a_client_that_nobody_closed(server: FakeServer, make: Callable[[str], Any]) -> None:
    """Its thread and its descriptors go, its session ends, and a warning says so."""
    gc.collect()
    before = descriptors()
    found = forget(make, server.url)
    server.wait_until(
        lambda: len({b["session"] for b in server.requests if b["cmd"] == "GOODBYE"}) == CLIENTS
    )
    for thread in client_threads():
        thread.join(TIMEOUT_S)
    assert [one() for one in found] == [None] * CLIENTS
    assert not client_threads()
    assert descriptors() <= before


def test_a_client_in_use_is_kept(server: FakeServer) -> None:
    """By a caller that waits, and by a subscription that is read."""
    reader = used(server.url).subscribe("q")
    gc.collect()
    pulled: list[Any] = []

    def wait() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            pulled.append(Client(server.url).pull("nothing", 60_000))
            gc.collect()

    waiting = threading.Thread(target=wait)
    waiting.start()
    server.wait_for("PULL", 2)
    gc.collect()
    server.order(lambda: server.add("nothing", 1))
    waiting.join(TIMEOUT_S)
    assert pulled[0].data == 1
    client = reader._close.__self__  # type: ignore[attr-defined]
    assert isinstance(client, Client)
    client.push("q", 1)
    client.close()


async def test_an_asyncio_client_that_nobody_closed(server: FakeServer) -> None:
    """The loop lets go of its socket, its timer and its thread."""
    gc.collect()
    before = descriptors()

    async def use() -> weakref.ref[AsyncClient]:
        client = AsyncClient(server.url, on_leases_lost=print)
        await client.push("q", 1)
        assert await client.pull("q") is not None
        await client.subscribe("q")._start()
        return weakref.ref(client)

    with caught() as texts:
        found = [await use() for _ in range(CLIENTS)]
        await asyncio.sleep(0)
        gc.collect()
    assert len([text for text in texts if text.startswith("unclosed AsyncClient")]) == CLIENTS
    await in_thread(server.wait_for, "GOODBYE", CLIENTS)
    for thread in client_threads():
        await in_thread(thread.join, TIMEOUT_S)
    while descriptors() > before + 8:  # the executor's threads have none; answers are under way
        await in_thread(server.order, lambda: None)
    assert [one() for one in found] == [None] * CLIENTS


def test_an_asyncio_client_whose_loop_is_closed(server: FakeServer) -> None:
    """Its session ends all the same, so that its jobs go back."""

    async def use() -> AsyncClient:
        client = AsyncClient(server.url)
        await client.push("q", 1)
        assert await client.pull("q") is not None
        return client

    client = asyncio.run(use())
    found = weakref.ref(client)
    clients = [client]
    del client
    with pytest.warns(ResourceWarning, match="unclosed AsyncClient"):
        clients.clear()
    server.wait_for("GOODBYE")
    assert found() is None
    for thread in client_threads():
        thread.join(TIMEOUT_S)
    assert not client_threads()


def test_a_client_that_was_never_used_holds_nothing() -> None:
    """And is no matter for a warning."""
    before = descriptors()
    clients = [Client("tcp://127.0.0.1:1"), AsyncClient("tcp://127.0.0.1:1")]
    assert descriptors() == before
    del clients
    gc.collect()
    assert not client_threads()


def test_a_closed_client_is_no_matter_for_a_warning(
    server: FakeServer, recwarn: pytest.WarningsRecorder
) -> None:
    """Nor is one whose constructor has raised."""
    client = used(server.url)
    client.close()
    with pytest.raises(ValueError, match="timeout"):
        Client(server.url, timeout=0)
    with pytest.raises(TypeError, match="timeout"):
        AsyncClient(server.url, timeout="30")  # type: ignore[arg-type]
    del client
    gc.collect()
    assert not [one for one in recwarn if one.category is ResourceWarning]
    assert not client_threads()


def test_a_program_that_ends_says_goodbye(server: FakeServer) -> None:
    """It forgot to close its client: its jobs go back at once all the same."""
    program = (
        "import sys\nfrom flashq import Client\nclient = Client(sys.argv[1])\n"
        "client.push('q', 1)\nassert client.pull('q')\n"
    )
    subprocess.run([sys.executable, "-c", program, server.url], check=True, timeout=TIMEOUT_S)
    assert server.seen("GOODBYE")
