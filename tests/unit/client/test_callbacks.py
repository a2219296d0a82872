"""Code of others that a client runs, and calls of a client where it would wait for itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.callbacks import Callbacks
from flashq.client.sync_client import Client
from flashq.errors import CallNotAllowed
from tests.unit.client.fake_server import PATIENCE_S, FakeServer


def lose_a_job(server: FakeServer, client: Client) -> int:
    """Pull a job that the next heartbeat's answer calls lost."""
    client.push("q", 1)
    job = client.pull("q")
    assert job is not None
    server.lost.add(job.id)
    return job.id


def test_a_callback_may_call_its_client(beaten: FakeServer) -> None:
    """Every kind of call, also one that waits, listens, or ends the client."""
    heard: list[Any] = []
    done = threading.Event()

    def on_lost(ids: list[int]) -> None:
        try:
            heard.append(client.push("q", ids))
            heard.append(client.pull("other", 1))
            with client.subscribe("q"):
                heard.append(client.connect().version)
            client.close()
        finally:
            done.set()

    client = Client(beaten.url, on_leases_lost=on_lost)
    lose_a_job(beaten, client)
    assert done.wait(PATIENCE_S)
    client.close()
    assert len(heard) == 3
    assert heard[1:] == [None, "0"]


def test_a_callback_that_raises_or_lasts_stops_nobody(
    beaten: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls of other threads go on, and later losses are told."""
    told: list[list[int]] = []
    twice, go_on = threading.Event(), threading.Event()

    def on_lost(ids: list[int]) -> None:
        told.append(ids)
        if len(told) == 2:
            twice.set()
            return
        assert go_on.wait(PATIENCE_S)
        raise ValueError("a mistake")

    with Client(beaten.url, on_leases_lost=on_lost) as client:
        first = lose_a_job(beaten, client)
        beaten.wait_until(lambda: bool(told))
        second = lose_a_job(beaten, client)
        go_on.set()
        assert twice.wait(PATIENCE_S)
    assert told == [[first], [second]]
    assert "a mistake" in caplog.text


async def test_an_asyncio_callback_may_be_a_coroutine_function(beaten: FakeServer) -> None:
    """It calls its client; a function starts tasks that do."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def on_lost(ids: list[int]) -> None:
        heard.put_nowait(await client.push("q", ids))
        raise ValueError("a mistake that is logged")

    async with AsyncClient(beaten.url, on_leases_lost=on_lost) as client:
        await client.push("q", 1)
        job = await client.pull("q")
        assert job is not None
        beaten.lost.add(job.id)
        assert isinstance(await asyncio.wait_for(heard.get(), PATIENCE_S), int)


def test_a_coroutine_function_is_no_callback_of_a_blocking_client() -> None:
    """Nobody would run what it returns."""

    async def on_lost(_: list[int]) -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        Client(on_leases_lost=on_lost)  # type: ignore[arg-type]


class Pushing(logging.Handler):
    """A log handler that pushes what is logged."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.pushed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Push a line to the server."""
        self.client.push("log", record.getMessage())
        self.pushed.set()


@pytest.fixture
def pushing() -> Iterator[Callable[[Client], Pushing]]:
    """Make such a handler of the client's own logger."""
    logger = logging.getLogger("flashq.client")
    made: list[Pushing] = []

    def make(client: Client) -> Pushing:
        made.append(Pushing(client))
        logger.addHandler(made[0])
        return made[0]

    yield make
    for handler in made:
        logger.removeHandler(handler)


def test_a_log_handler_may_call_the_client_that_logs(
    beaten: FakeServer, pushing: Callable[[Client], Pushing]
) -> None:
    """1. The server falls silent, which is logged. 2. The handler's push waits until it is back."""
    with Client(beaten.url) as client:
        client.connect()
        handler = pushing(client)
        beaten.answer("SESSIONHEARTBEAT", lambda _: None)
        beaten.wait_for("HELLO", 2)
        del beaten.answers["SESSIONHEARTBEAT"]
        assert handler.pushed.wait(PATIENCE_S)
    assert "no server at" in beaten.seen("PUSH")[0]["data"]


def test_a_call_that_interrupts_its_client_raises_at_once(server: FakeServer) -> None:
    """1. A thread is inside of the client, with the lock. 2. A signal handler or a finaliser runs
    in that thread, and calls the client: it would wait for the end of what it interrupts."""
    caught: list[Exception] = []

    def interrupt() -> None:
        for call in (lambda: client.push("q", 1), client.connect, client.subscribe):
            try:
                call()
            except CallNotAllowed as error:
                caught.append(error)

    with Client(server.url) as client:
        client._locked(interrupt)
        assert len(caught) == 3
        client.push("q", "still works")


def test_a_finaliser_in_the_answering_thread_raises_at_once(server: FakeServer) -> None:
    """Garbage is collected wherever memory is asked for, in the client's own thread too."""
    caught: list[Exception] = []

    class Careless:
        def __del__(self) -> None:
            try:
                client.push("q", 1)
            except CallNotAllowed as error:
                caught.append(error)

    with Client(server.url) as client:
        client.connect()
        careless = [Careless()]
        dispatch = client._dispatch

        def finalise(happened: list[Any]) -> None:
            careless.clear()
            gc.collect()
            dispatch(happened)

        client._dispatch = finalise  # type: ignore[method-assign]
        io = client._io
        assert io is not None
        io._dispatch = lambda: finalise  # type: ignore[assignment, misc]
        client.push("q", "still works")
    assert len(caught) == 1


def test_closing_from_a_signal_handler_never_blocks(server: FakeServer) -> None:
    """Whether it finds the client at rest, or in the middle of its work."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        client.close()

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        client = Client(server.url)
        client.connect()
        client._locked(signal.raise_signal, signal.SIGUSR1)
        server.wait_for("GOODBYE")
        client = Client(server.url)
        client.connect()
        signal.raise_signal(signal.SIGUSR1)
        server.wait_for("GOODBYE", 2)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_calls_are_made_in_order_and_none_after_the_end() -> None:
    """A thread begins with the first."""
    called: list[int] = []
    callbacks = Callbacks()
    callbacks.join(0)  # there is none yet
    for number in range(5):
        callbacks.post(called.append, number)
    callbacks.stop()
    callbacks.join(10_000)
    assert called == list(range(5))
