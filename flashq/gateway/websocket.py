"""Events and the dashboard's figures over WebSocket.

Owns what is sent on such connections; what comes in is ignored. A client that does not read for a
while is let go: nothing piles up for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from flashq.errors import Busy, FlashQError, NotAllowed, TooManyAttempts
from flashq.gateway.events import ALL, Dropped, Missed, notice_line
from flashq.gateway.http_access import Access, Visitor
from flashq.gateway.http_events import EventLogs, Reader
from flashq.gateway.http_overview import Overview, dashboard_frame

SEND_S: Final = 10.0
"""How long a frame may take to get into the connection of a client that does not read."""
HEARD_BYTES_MAX: Final = 64 * 1024
"""The largest message of a client, of which nothing is read."""
DASHBOARD_INTERVAL_S: Final = 1.0
LOOK_S: Final = 60.0
"""How often it is looked at whether a quiet listener's token still counts."""

GOING_AWAY: Final = 1001
TOO_SLOW: Final = 1008
NOT_WELCOME: Final = 1008

REFUSED_TEXT: Final = "Invalid or missing token"


class Sockets:
    """Serves WebSocket connections.

    Args:
        access: who may listen.
        logs: the events.
        overview: the dashboard's figures.
    """

    def __init__(self, access: Access, logs: EventLogs, overview: Overview) -> None:
        self._access: Final = access
        self._logs: Final = logs
        self._overview: Final = overview
        self._closing: Final = asyncio.Event()
        self.connections = 0

    def close(self) -> None:
        """Let dashboards go; listeners to events go with their logs."""
        self._closing.set()

    async def events(self, socket: WebSocket) -> None:
        """Send a queue's events, or all when the path names none."""
        queue = socket.path_params.get("queue", ALL)
        visitor = await self._admit(socket, queue)
        if visitor is None:
            return
        try:
            reader = self._logs.read(queue)
        except Busy as error:
            await _deny(socket, error)
            return
        try:
            try:
                await reader.ready()
            except FlashQError as error:
                await _deny(socket, error)
                return
            await socket.accept()
            await self._until_gone(socket, self._send_events(socket, reader, visitor))
        finally:
            reader.close()

    async def dashboard(self, socket: WebSocket) -> None:
        """Send the server's figures at once, and then every second."""
        visitor = await self._admit(socket, ALL)
        if visitor is None:
            return
        await socket.accept()
        await self._until_gone(socket, self._send_figures(socket, visitor))

    async def _admit(self, socket: WebSocket, queue: str) -> Visitor | None:
        """Let somebody in who may follow a queue; refuse everybody else, and return None."""
        try:
            visitor = self._access.admit(socket)
            visitor.check_listening(queue)
        except (NotAllowed, TooManyAttempts) as error:
            refusal = PlainTextResponse(error.text, error.http_status)
        except FlashQError:
            refusal = PlainTextResponse(REFUSED_TEXT, 401)
        else:
            return visitor
        await socket.send_denial_response(refusal)
        return None

    async def _until_gone(self, socket: WebSocket, sending: object) -> None:
        """Send until the client is gone, or there is no more."""
        assert asyncio.iscoroutine(sending)
        self.connections += 1
        sender = asyncio.ensure_future(sending)
        receiver = asyncio.ensure_future(_ignore_all(socket))
        try:
            await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connections -= 1
            for task in (sender, receiver):
                task.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, TimeoutError):
                await asyncio.gather(sender, receiver)

    async def _send_events(self, socket: WebSocket, reader: Reader, visitor: Visitor) -> None:
        while True:
            taken = await reader.take(LOOK_S)
            if not visitor.is_welcome:
                await socket.close(NOT_WELCOME)
                return
            if taken is None:
                await socket.close(GOING_AWAY)
                return
            if isinstance(taken, Missed | Dropped):
                await _send(socket, notice_line(taken, json=True))
                if isinstance(taken, Dropped):
                    await socket.close(TOO_SLOW, taken.reason)
                    return
                continue
            for told in taken:
                await _send(socket, told.body)

    async def _send_figures(self, socket: WebSocket, visitor: Visitor) -> None:
        while not self._closing.is_set():
            if not visitor.is_welcome:
                await socket.close(NOT_WELCOME)
                return
            with suppress(FlashQError):  # nothing is said for as long as nothing is known
                view = await self._overview.look()
                frame = dashboard_frame(view, await self._overview.recent_history())
                await _send(socket, frame)
            with suppress(TimeoutError):
                async with asyncio.timeout(DASHBOARD_INTERVAL_S):
                    await self._closing.wait()
        await socket.close(GOING_AWAY)


async def _deny(socket: WebSocket, error: FlashQError) -> None:
    """Refuse a connection that the server has no room for at present."""
    await socket.send_denial_response(PlainTextResponse(error.text, 503))


async def _send(socket: WebSocket, body: bytes) -> None:
    """Send one text frame.

    Raises:
        TimeoutError: the client does not read.
    """
    async with asyncio.timeout(SEND_S):
        await socket.send_text(body.decode())


async def _ignore_all(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
