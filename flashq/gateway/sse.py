"""Events as a stream of server-sent events.

Owns the text of the stream: ids, types, keep-alive comments, and the words for what is missing. A
client that comes back with `Last-Event-ID` goes on where it was, while the log still has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from flashq.gateway.events import ALL, Dropped, Missed
from flashq.gateway.http_access import Visitor
from flashq.gateway.http_events import EventLogs, Reader, Told, missed_body

KEEP_ALIVE_S: Final = 15.0
RETRY_MS: Final = 1000
"""What a client is told to wait before it connects again."""

_KEEP_ALIVE: Final = b": keep-alive\n\n"
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def sse_response(logs: EventLogs, request: Request, visitor: Visitor) -> Response:
    """Return the stream of a queue's events, or of all when the path names none. It begins when
    every event that happens from then on will be in it.

    Raises:
        NotAllowed: the visitor may not follow them.
        Busy: too many queues are followed.
        FlashQError: the server does not say that they come.
    """
    queue = request.path_params.get("queue", ALL)
    visitor.check_listening(queue)
    last_id = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    reader = logs.read(queue, last_id)
    try:
        await reader.ready()
    except BaseException:
        reader.close()
        raise
    return _EventStream(logs, reader, visitor)


class _EventStream(StreamingResponse):
    """A stream that gives its place in the log back also when it never came to begin."""

    def __init__(self, logs: EventLogs, reader: Reader, visitor: Visitor) -> None:
        self._reader: Final = reader
        super().__init__(
            _stream(logs, reader, visitor), media_type="text/event-stream", headers=dict(_HEADERS)
        )

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.close()


async def _stream(logs: EventLogs, reader: Reader, visitor: Visitor) -> AsyncIterator[bytes]:
    yield b"retry: %d\n: the events of flashq\n\n" % RETRY_MS
    while True:
        taken = await reader.take(KEEP_ALIVE_S)
        if taken is None or not visitor.is_welcome:
            return
        if isinstance(taken, Missed | Dropped):
            kind = b"missed" if isinstance(taken, Missed) else b"dropped"
            yield b"event: %b\ndata: %b\n\n" % (kind, missed_body(taken))
            if isinstance(taken, Dropped):
                return
        elif taken:
            yield b"".join(_message(logs, told) for told in taken)
            await asyncio.sleep(0)  # whoever has much to read lets others have a turn
        else:
            yield _KEEP_ALIVE


def _message(logs: EventLogs, told: Told) -> bytes:
    name = logs.name_of(told.number).encode()
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (name, told.kind.encode(), told.body)
