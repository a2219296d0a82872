"""Clients in other processes and event loops than those they were made in."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.sync_client import Client
from flashq.errors import CallNotAllowed
from flashq.worker.process import Worker
from tests.unit.client.fake_server import FakeServer

TIMEOUT_S = 60

FORKING = """
    import asyncio, os, sys, warnings
    from flashq import AsyncClient, Client

    warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
    url = sys.argv[1]

    def in_children(count, act):
        pids = []
        for number in range(count):
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    act(number)
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
"""


def run(program: str, *arguments: str) -> str:
    """Run a program of its own, and return what it printed; its threads and forks are not ours."""
    text = textwrap.dedent(FORKING) + textwrap.dedent(program)
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", text, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout


def sessions(server: FakeServer, word: str) -> set[bytes]:
    """Return the sessions that said this word."""
    return {body["session"] for body in server.seen(word)}


def test_an_unused_client_is_another_one_in_each_child(server: FakeServer) -> None:
    """A server that forks its workers after it has imported the app, as gunicorn does. With one
    session for all, the second push of the first child was the first of the second."""
    run(
        """
        client = Client(url)

        def act(number):
            for job in range(3):
                client.push("q", [number, job])
            client.close()

        in_children(3, act)
        """,
        server.url,
    )
    pushed = sorted(body["data"] for body in server.seen("PUSH"))
    assert pushed == [[number, job] for number in range(3) for job in range(3)]
    assert len(sessions(server, "PUSH")) == 3


def test_a_client_in_use_starts_anew_in_a_child(server: FakeServer) -> None:
    """Parent and child go on side by side, each with a session of its own, and the child's end
    says nothing for the parent."""
    run(
        """
        client = Client(url)
        client.push("q", "before")
        job = client.pull("q")

        def act(number):
            client.push("q", number)
            client.close()

        in_children(2, act)
        client.push("q", "after")
        client.ack(job)
        client.close()
        """,
        server.url,
    )
    assert sorted(str(body["data"]) for body in server.seen("PUSH")) == [
        "0",
        "1",
        "after",
        "before",
    ]
    assert len(sessions(server, "PUSH")) == 3
    assert len(server.done) == 1
    assert len(sessions(server, "GOODBYE")) == 3


def test_a_child_that_only_ends_leaves_the_parents_session_alone(server: FakeServer) -> None:
    """It runs the ends of `with` blocks, finalisers and exit functions of its parent."""
    run(
        """
        with Client(url) as client:
            client.push("q", 1)
            job = client.pull("q")
            pid = os.fork()
            if not pid:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            client.ack(job, "ours")
            print("acknowledged")
        if pid:
            print("ended")
        """,
        server.url,
    )
    assert list(server.done.values()) == ["ours"]
    assert len(server.seen("GOODBYE")) in (1, 2)  # to the router, and to a shard
    assert len(sessions(server, "GOODBYE")) == 1


def test_a_subscription_of_the_parent_ends_in_a_child(server: FakeServer) -> None:
    """Its events come to the parent, and the child would wait for ever."""
    run(
        """
        client = Client(url)
        events = client.subscribe("q")
        in_children(1, lambda _: print(list(events)))
        client.close()
        """,
        server.url,
    )


def test_an_asyncio_client_is_another_one_in_each_child(server: FakeServer) -> None:
    """Made before the fork, used in loops after it, also when the parent has used it."""
    run(
        """
        client = AsyncClient(url)
        asyncio.run(client.push("q", "parent"))

        async def work(number):
            await client.push("q", number)
            await client.push("q", number)
            await client.close()

        in_children(3, lambda number: asyncio.run(work(number)))

        async def end():
            await client.push("q", "parent")
            await client.close()

        asyncio.run(end())
        """,
        server.url,
    )
    data = [str(body["data"]) for body in server.seen("PUSH")]
    assert sorted(data) == ["0", "0", "1", "1", "2", "2", "parent", "parent"]
    assert len(sessions(server, "PUSH")) == 4


def test_an_asyncio_client_in_a_child_of_a_running_loop(server: FakeServer) -> None:
    """The child has a loop of its own, and the socket of the other one stays untouched."""
    run(
        """
        async def main():
            client = AsyncClient(url)
            await client.push("q", "parent")
            pid = os.fork()
            if not pid:
                asyncio._set_running_loop(None)
                async def act():
                    await client.push("q", "child")
                    await client.close()
                asyncio.run(act())
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            await client.push("q", "parent")
            await client.close()

        asyncio.run(main())
        """,
        server.url,
    )
    assert len(server.seen("PUSH")) == 3
    assert len(sessions(server, "PUSH")) == 2


def push_one(url: str) -> None:
    """Run in a process that has imported this module anew."""
    with Client(url) as client:
        client.push("q", "spawned")


def test_a_spawned_process_makes_its_own(server: FakeServer) -> None:
    """What travels there is the URL."""
    process = multiprocessing.get_context("spawn").Process(target=push_one, args=(server.url,))
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode == 0
    assert [body["data"] for body in server.seen("PUSH")] == ["spawned"]


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "make", [Client, AsyncClient, lambda url: Worker("q", print, url=url)], ids=["c", "a", "w"]
)
def test_clients_are_not_pickled_or_copied(
    make: Callable[[str], Any], act: Callable[[Any], Any]
) -> None:
    """As for another process, or by a pool that takes a bound method."""
    made = make("tcp://127.0.0.1:1")
    with pytest.raises(TypeError, match=f"{type(made).__name__} cannot be pickled or copied"):
        act(made)


# --- event loops


def test_a_session_goes_on_in_the_next_event_loop(server: FakeServer) -> None:
    """1. A job is pulled in one loop, which is closed. 2. It is acknowledged in the next one."""
    client = AsyncClient(server.url)
    job_id = asyncio.run(client.push("q", 1))
    job = asyncio.run(client.pull("q"))
    assert job is not None
    asyncio.run(client.ack(job, "done"))
    asyncio.run(client.close())
    assert server.done == {job_id: "done"}
    assert len(sessions(server, "HELLO")) == 1


def test_a_loop_that_is_not_closed_keeps_its_client(server: FakeServer) -> None:
    """A call in another loop raises before anything is sent."""
    client = AsyncClient(server.url)
    first = asyncio.new_event_loop()
    first.run_until_complete(client.push("q", 1))

    async def misuse() -> None:
        for call in (
            lambda: client.push("q", 2),
            lambda: client.pull("q"),
            client.connect,
            lambda: anext(client.subscribe("q")),
            client.close,
        ):
            with pytest.raises(CallNotAllowed, match="another event loop"):
                await call()

    asyncio.run(misuse())
    first.run_until_complete(client.push("q", 3))
    first.run_until_complete(client.close())
    first.close()
    assert [body["data"] for body in server.seen("PUSH")] == [1, 3]
    assert not server.seen("PULL")


def test_a_loop_in_another_thread_is_another_loop(server: FakeServer) -> None:
    """The client is not safe to share between threads, and says so."""
    caught: list[BaseException] = []

    def misuse() -> None:
        try:
            asyncio.run(client.push("q", 2))
        except CallNotAllowed as error:
            caught.append(error)

    async def main() -> None:
        await client.push("q", 1)
        await asyncio.get_running_loop().run_in_executor(None, misuse)
        await client.close()

    client = AsyncClient(server.url)
    asyncio.run(main())
    assert len(caught) == 1
    assert len(server.seen("PUSH")) == 1


def test_threads_share_a_blocking_client(server: FakeServer) -> None:
    """All in one session."""
    with Client(server.url) as client:
        threads = [threading.Thread(target=client.push, args=("q", n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(body["data"] for body in server.seen("PUSH")) == list(range(8))
    assert len(sessions(server, "PUSH")) == 1
