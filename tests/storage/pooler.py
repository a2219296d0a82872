"""A balancer for PostgreSQL as small as it can be: it pools by session, transaction or statement.

Owns a thread with its loop, a port of 127.0.0.1 and connections to the server, to which it logs in
without a password. Of the protocol it knows where a message ends, how many answers are to come, and
what ReadyForQuery says of the transaction.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final, Literal
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

Mode = Literal["session", "transaction", "statement"]
Message = tuple[bytes, bytes]

PROTOCOL: Final = struct.pack("!i", 3 << 16)
REFUSAL: Final = b"SFATAL\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0"


class Link:
    """A connection: to the server, or of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        #: how often the server still says that it is ready
        self.answers_to_come = 0
        #: what is sent next belongs to what has been sent
        self.is_mid_request = False

    async def receive(self) -> Message:
        """Return the type and the content of the next message."""
        kind, size = struct.unpack("!ci", await self.reader.readexactly(5))
        return kind, await self.reader.readexactly(size - 4)

    def send(self, kind: bytes, content: bytes) -> None:
        """Send a message; the first one of a client has no type."""
        self.writer.write(kind + struct.pack("!i", len(content) + 4) + content)


class Pooler:
    """The balancer.

    Args:
        url: of the database.
        mode: what it pools by; may be changed, as a balancer's when it reads its settings again.
        size: so many connections to the server at most.
        newest_first: whether the connection that came back last is given out next.
    """

    def __init__(self, url: str, mode: Mode, size: int, *, newest_first: bool) -> None:
        self.mode: Mode = mode
        self.url = ""
        self._size, self._newest_first = size, newest_first
        self._to: Final = conninfo_to_dict(url)
        self._greeting: list[Message] = []
        self._links = 0
        self._idle: deque[Link] = deque()
        self._waiting: deque[asyncio.Future[Link | None]] = deque()
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        """Listen."""
        self._idle.append(await self._connect())
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        user = quote(str(self._to["user"]))
        self.url = f"postgresql://{user}@{host}:{port}/any?sslmode=disable&gssencmode=disable"
        return server

    async def stop(self, server: asyncio.Server) -> None:
        """End what was started."""
        server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients)
        for link in self._idle:
            link.writer.close()

    async def _connect(self) -> Link:
        self._links += 1
        host, port = str(self._to["host"]), str(self._to.get("port") or 5432)
        is_directory = host.startswith("/")
        path = f"{host}/.s.PGSQL.{port}"
        opening = asyncio.open_unix_connection(path) if is_directory else None
        link = Link(*await (opening or asyncio.open_connection(host, int(port))))
        names = f"user\0{self._to['user']}\0database\0{self._to['dbname']}\0\0"
        link.send(b"", PROTOCOL + names.encode())
        self._greeting = [await link.receive()]
        while self._greeting[-1][0] != b"Z":
            kind, content = await link.receive()
            # The key to cancel with, which would tell the server's pid, stays here.
            self._greeting.append((kind, bytes(8) if kind == b"K" else content))
        return link

    async def _take(self) -> Link:
        if self._idle:
            return self._idle.pop() if self._newest_first else self._idle.popleft()
        if self._links < self._size:
            return await self._connect()
        self._waiting.append(asyncio.get_running_loop().create_future())
        return await self._waiting[-1] or await self._connect()

    def _give_back(self, link: Link | None) -> None:
        """Give a connection to who has waited longest; None for the room of one."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():  # by its end
                waiting.set_result(link)
                return
        if link is not None:
            self._idle.append(link)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until either end is closed."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        client = Link(reader, writer)
        link: Link | None = None
        answering: asyncio.Task[None] | None = None

        async def answer(link_: Link) -> None:
            nonlocal link
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    kind, content = await link_.receive()
                    if kind == b"Z":
                        link_.answers_to_come -= 1
                        is_busy = link_.answers_to_come or link_.is_mid_request or content != b"I"
                        if self.mode != "session" and not is_busy:
                            link = None
                            self._give_back(link_)
                    client.send(kind, content)
                    if link is None:
                        return
            writer.close()

        with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await reader.readexactly(struct.unpack("!i", await reader.readexactly(4))[0] - 4)
            for message in self._greeting:
                client.send(*message)
            while (message := await client.receive())[0] != b"X":
                kind, content = message
                if self.mode == "statement" and content.startswith(b"BEGIN"):
                    client.send(b"E", REFUSAL)
                    break
                if link is None:
                    link = await self._take()
                    answering = asyncio.create_task(answer(link))
                link.is_mid_request = kind in b"PBDECH"
                link.answers_to_come += kind in b"QS"
                link.send(kind, content)
        if link is not None and answering is not None:
            answering.cancel()
            link.writer.close()
            self._links -= 1
            self._give_back(None)
        writer.close()
        self._clients.remove(task)


@contextmanager
def pooling(url: str, mode: Mode, *, size: int = 20, newest_first: bool = True) -> Iterator[Pooler]:
    """Run a balancer before a database that lets its clients in without a password."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    pooler = Pooler(url, mode, size, newest_first=newest_first)
    server = asyncio.run_coroutine_threadsafe(pooler.start(), loop).result()
    try:
        yield pooler
    finally:
        asyncio.run_coroutine_threadsafe(pooler.stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
