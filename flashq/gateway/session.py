"""One downstream connection of the older protocol, without any I/O.

Owns what a connection is told and in which order: the framing, request ids, who may ask, what is
answered here, and the shape of every reply. Jobs are the shards' business. The shell (`tcp`) owns
the socket:

    receive(data), eof(), lost()      what happened to the socket
    data_to_send()                    -> bytes to write now
    wants_more, is_finished           whether to read on, and whether to close

What it asks goes through a *port* (the bridge), which calls back with the reply. The rules:

* A request with a `reqId` is answered as soon as its answer is there, in any order.
* Requests without one are answered in their order. They are carried out as they come, but nothing
  passes a PULL, PULLB or WAITJOB among them.
* A connection that is gone gives back its jobs and its waiting pulls at once. Its jobs count as
  lost, since nothing tells a client that has crashed from one that has closed: a job that takes its
  client along again and again ends as poison. A gateway that drains loses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from msgspec import Struct

from flashq.errors import (
    AuthenticationRequired,
    BadMessage,
    BatchTooLarge,
    Busy,
    ConnectionClosed,
    FlashQError,
    InvalidRequest,
    MessageTooLarge,
    NoJobInTime,
)
from flashq.gateway.asking import Ask, read_ask
from flashq.gateway.events import Happening, Listener, event_line, notice_line, wanted_events
from flashq.gateway.exchanges import Exchange, OpenExchanges
from flashq.gateway.frames import (
    LENGTH_BYTES,
    REQUEST_BYTES_MAX,
    FrameReader,
    Item,
    LineReader,
    TooLarge,
    reader_for,
    size_of,
)
from flashq.gateway.lanes import Holder
from flashq.gateway.leniency import is_request_id, repaired, request_id_of
from flashq.gateway.older_replies import brings_no_job, nothing_pulled, without_gaps
from flashq.gateway.pending import Done, Pending
from flashq.gateway.splicing import with_first
from flashq.gateway.subscribing import Ready
from flashq.protocol.codec import decode, decode_request, encode
from flashq.protocol.command import Scope
from flashq.protocol.objects import NULL_JSON, NULL_MSGPACK
from flashq.protocol.sessions import Auth, Subscribe, Unsubscribe
from flashq.tokens import EVERYTHING, Grant, Guard, Shown

SHORT_PULL_MS: Final = 4000
"""How long a pull waits that does not say so: three of the older clients give up after 5 s, and
then take a late reply for the answer to their next request. They take a null for a job too, so a
PULL that brings nothing is answered with an error; those that name a time-out read null."""
BATCH_JOBS_MAX: Final = 1000
STRANGER_BYTES_MAX: Final = 16 * 1024
"""The largest request of a client that has to show a token and has not yet."""
SUBSCRIPTIONS_MAX: Final = 100
UNIX_ADDRESS: Final = "unix"

_JSON_ID_KEY: Final = b'"reqId":'
_MSGPACK_ID_KEY: Final = b"\xa5reqId"
_OK_JSON: Final = b'{"ok":true}'
_OK_MSGPACK: Final = b"\x81\xa2ok\xc3"
_PARSE_ERROR_MSGPACK: Final = "MessagePack deserialize error: "
_PARSE_ERROR_JSON: Final = "Invalid: "
_PARSE_ERROR_CODES: Final = frozenset({InvalidRequest.code, BadMessage.code})
_ERRORS_KEY: Final = b"errors"


class Port(Protocol):
    """What a conversation needs of the bridge."""

    def ask(self, ask: Ask, holder: Holder | None, done: Done | None) -> Pending:
        """Have a request carried out, and call `done` with the reply."""
        ...

    def leave(self, holder: Holder, *, is_lost: bool) -> None:
        """Give back what the holder has, counted as lost or not, and drop what it waits for."""
        ...

    def listen(self, listener: Listener, ready: Ready) -> None:
        """Begin to hand events to a listener, and call `ready` once none is missed any more."""
        ...

    def unlisten(self, listener: Listener) -> None:
        """Hand nothing more to a listener."""
        ...


class _Error(Struct):
    error: str = ""
    code: str = ""


class Conversation:
    """The state of one connection.

    Args:
        port: the bridge.
        guard: who may ask what; without it everybody everything.
        wake: called when there is something to send that nobody waits for.
        bytes_max: the largest request.
        mono_ms: the clock by which wrong tokens are counted.
    """

    def __init__(
        self,
        port: Port,
        guard: Guard | None = None,
        wake: Callable[[], None] = lambda: None,
        bytes_max: int = REQUEST_BYTES_MAX,
        mono_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._port: Final = port
        self._guard: Final = guard or Guard()
        self._is_guarded: Final = not self._guard.is_open
        #: whose wrong tokens are counted together: a host's, or everybody's on the Unix socket
        self.address: str = UNIX_ADDRESS
        self._mono_ms: Final = mono_ms
        self._shown: Shown | None = None
        self._wake: Final = wake
        self._bytes_max: Final = bytes_max
        self._reader: LineReader | FrameReader | None = None
        self._json = True
        self._holder: Final = Holder(UNIX_ADDRESS)
        #: requests that were read and wait for room, or for a request before them
        self._unread: deque[Item] = deque()
        self._unread_bytes = 0
        #: requests without an id and without an answer sent, in order
        self._ordered: deque[Exchange] = deque()
        #: those of them that wait for the blocking one before them
        self._held: deque[Exchange] = deque()
        self._blocked = False
        #: they are just being let go on
        self._releasing = False
        #: requests without an answer
        self._open: Final = OpenExchanges()
        #: by queue
        self._listeners: dict[str, Listener] = {}
        #: those that may still miss something: their requests, and those replaced since
        self._unready: dict[Listener, Exchange] = {}
        self._output: list[bytes] = []
        #: the shell cannot write at present
        self.is_output_blocked = False
        self._ended = False
        self._given_up = False
        self._lost = False

    def come_from(self, host: str, port: int) -> None:
        """Note where the client is, when it did not come over the Unix socket."""
        self.address = host
        self._holder.name = f"tcp/{f'[{host}]' if ':' in host else host}:{port}"

    # --- what the shell asks

    @property
    def wants_more(self) -> bool:
        """Whether there is room for more requests."""
        return not self._ended and not self._is_full

    @property
    def is_ended(self) -> bool:
        """Whether the client sends nothing more."""
        return self._ended

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be sent, and the connection can be closed."""
        return self._ended and not self._open and not self._unread

    @property
    def is_waiting(self) -> bool:
        """Whether a pull or a wait has no answer yet."""
        return self._open.waits > 0

    @property
    def is_stranger(self) -> bool:
        """Whether the client has shown no token where one is asked for, or has said nothing yet."""
        return self._grant() is None if self._is_guarded else self._reader is None

    @property
    def pending_bytes(self) -> int:
        """The size of what was read of requests that are not complete, or wait for room."""
        reader = self._reader
        return self._unread_bytes + (reader.pending_bytes if reader is not None else 0)

    @property
    def is_idle(self) -> bool:
        """Whether the client waits for nothing, listens to nothing, and holds no job."""
        return not (self._open or self._unread or self._listeners or self._holder.leases)

    @property
    def _is_full(self) -> bool:
        return self._open.is_full or self.is_output_blocked

    def data_to_send(self) -> list[bytes]:
        """Return what is to be written now, and forget it."""
        if self._listeners and not self.is_output_blocked:
            self._take_events()
        output, self._output = self._output, []
        return output

    # --- stimuli

    def receive(self, data: bytes) -> None:
        """Take in bytes of the client."""
        if self._ended or not data:
            return
        if self._reader is None:
            bytes_max = min(STRANGER_BYTES_MAX, self._bytes_max)
            self._reader = reader_for(data[0], bytes_max if self._is_guarded else self._bytes_max)
            self._json = self._reader.json
        self._keep(self._reader.feed(data))
        self.proceed()

    def _keep(self, items: list[Item]) -> None:
        self._unread += items
        self._unread_bytes += sum(map(size_of, items))

    def eof(self) -> None:
        """The client sends nothing more. What it has asked is still answered."""
        if self._reader is not None and not self._ended:
            self._keep(self._reader.finish())
        self._end()
        self.proceed()

    def give_up(self, *, is_lost: bool) -> None:
        """Give back what this connection pulled, and end its waiting.

        Args:
            is_lost: the client cannot work on its jobs any more, and has not said so: they count
                as lost. Otherwise the server lets the client go.
        """
        self._given_up = True
        self._port.leave(self._holder, is_lost=is_lost)
        for exchange in list(self._open):
            ask = exchange.ask
            waits = ask is not None and ask.command.waits and exchange not in self._held
            if waits and exchange in self._open:  # one before it may have let it go on, and end
                assert ask is not None
                self._answer_empty(exchange, ask)

    def _answer_empty(self, exchange: Exchange, ask: Ask) -> None:
        """Answer a request that would wait: there is nothing to wait for any more."""
        if exchange.is_shortened or (ask.is_pull and ask.outline.timeout is None):
            self._refuse(exchange, ConnectionClosed())
            return
        if ask.is_pull:
            self._send(exchange, nothing_pulled(ask))
        else:
            self._refuse(exchange, ConnectionClosed())

    def lost(self) -> None:
        """End: the connection is gone. The older protocol has no goodbye, so the jobs that were
        pulled over it count as lost."""
        self._ended = self._lost = True
        self._unread.clear()
        self._unread_bytes = 0
        self._held.clear()
        self._ordered.clear()
        self._open.clear()
        self._stop_listening()
        self._port.leave(self._holder, is_lost=True)

    def proceed(self) -> None:
        """Go on with what was read already, as far as there is room."""
        while self._unread and not self._is_full:
            item = self._unread.popleft()
            self._unread_bytes -= size_of(item)
            if isinstance(item, TooLarge):
                self._take_too_large(item)
            else:
                self._take(item)

    def _end(self) -> None:
        self._ended = True
        self._stop_listening()

    def _stop_listening(self) -> None:
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            self._unlisten(listener)

    # --- requests

    def _take_too_large(self, item: TooLarge) -> None:
        request_id = request_id_of(item.head, json=self._json) if item.head else None
        self._refuse_unread(request_id, MessageTooLarge(), len(item.head))
        if item.is_fatal:
            self._unread.clear()
            self._end()

    def _take(self, item: bytes) -> None:
        """Take in one request."""
        json = self._json
        body = item.strip() if json else item
        try:
            if json and not body.isascii():
                body.decode()
            ask = self._read(body)
        except UnicodeDecodeError as error:
            self._refuse_unread(request_id_of(body, json=json), BadMessage(detail=str(error)), 0)
            return
        except FlashQError as error:
            self._refuse_unread(request_id_of(body, json=json), error, len(body))
            return
        raw = ask.outline.reqId
        request_id = None if raw is None else bytes(raw)
        if request_id in (NULL_JSON, NULL_MSGPACK):
            request_id = None
        elif request_id is not None and not is_request_id(request_id, json=json):
            wrong = InvalidRequest(detail="invalid type: `reqId` is a string or a number")
            self._refuse_unread(None, wrong, len(body))
            return
        self._begin(Exchange(self, ask, request_id, len(body)))

    def _read(self, body: bytes) -> Ask:
        try:
            return read_ask(body, json=self._json, older=True)
        except BadMessage:
            raise
        except InvalidRequest:
            better = repaired(body, json=self._json, ignores_unknown=True)
            if better is None:
                raise
            return read_ask(better, json=self._json, older=True)

    def _refuse_unread(self, request_id: bytes | None, error: FlashQError, size: int) -> None:
        """Answer a request that could not be read, in its turn."""
        exchange = Exchange(self, None, request_id, size)
        self._open_one(exchange)
        self._refuse(exchange, error)

    def _open_one(self, exchange: Exchange) -> None:
        self._open.add(exchange)
        if exchange.request_id is None:
            self._ordered.append(exchange)

    def _begin(self, exchange: Exchange) -> None:
        self._open_one(exchange)
        if exchange.request_id is None and self._blocked:
            self._held.append(exchange)
        else:
            self._carry_out(exchange)

    def _carry_out(self, exchange: Exchange) -> None:
        """Answer a request here, or have it carried out."""
        ask = exchange.ask
        assert ask is not None
        try:
            grant = self._grant() if self._is_guarded else EVERYTHING
            if ask.command.scope is Scope.ROUTER or grant is None:
                self._answer_here(exchange, ask, grant)
                return
            if grant is not EVERYTHING:
                _bound(ask, grant)
            if self._given_up and ask.command.waits:
                self._answer_empty(exchange, ask)
                return
            if ask.jobs_count > BATCH_JOBS_MAX:
                raise BatchTooLarge(count=ask.jobs_count, limit=BATCH_JOBS_MAX)
            self._shorten(exchange)
            self._blocked = self._blocked or exchange.blocks
            self._port.ask(ask, self._holder, exchange.done)
        except FlashQError as error:
            self._refuse(exchange, error)

    def _shorten(self, exchange: Exchange) -> None:
        """Bound a pull by what older clients can wait for and take."""
        ask = exchange.ask
        assert ask is not None
        if not ask.is_pull:
            return
        if ask.outline.timeout is None:
            exchange.is_shortened = ask.command.word == "PULL"
            ask.outline.timeout = SHORT_PULL_MS
            ask.add(timeout=SHORT_PULL_MS)
        if ask.outline.count is not None and ask.outline.count > BATCH_JOBS_MAX:
            ask.add(count=BATCH_JOBS_MAX)

    def _grant(self) -> Grant | None:
        """Return what the client's token allows; None when it has shown none that still counts."""
        return None if self._shown is None else self._shown.grant(self._guard)

    def _answer_here(self, exchange: Exchange, ask: Ask, grant: Grant | None) -> None:
        """Answer what is about the connection itself, and whoever has not shown a token."""
        request = self._decode(ask)
        if isinstance(request, Auth):
            self._shown = self._guard.show(request.token, self.address, self._mono_ms())
            assert self._reader is not None
            self._reader.bytes_max = self._bytes_max
        elif grant is None:
            raise AuthenticationRequired
        elif isinstance(request, Subscribe):
            grant.check(ask.command, request.queue, ask.body, json=self._json)
            self._subscribe(exchange, request)
            return
        elif isinstance(request, Unsubscribe):
            self._unlisten(self._listeners.pop(request.queue, None))
        else:
            word = ask.command.word
            raise InvalidRequest(detail=f"unknown variant `{word}`, it is not for this door")
        self._send(exchange, _OK_JSON if self._json else _OK_MSGPACK)

    def _decode(self, ask: Ask) -> Any:
        try:
            return decode_request(ask.body, json=self._json)
        except InvalidRequest:
            better = repaired(ask.body, json=self._json, ignores_unknown=True)
            if better is None:
                raise
            return decode_request(better, json=self._json)

    def _subscribe(self, exchange: Exchange, request: Subscribe) -> None:
        """Listen, and answer once nothing is missed any more."""
        try:
            events = wanted_events(request.events)
        except ValueError as error:
            raise InvalidRequest(detail=str(error)) from None
        known = self._listeners.get(request.queue)
        if known is None and len(self._listeners) >= SUBSCRIPTIONS_MAX:
            raise Busy(detail=f"a connection can listen to {SUBSCRIPTIONS_MAX} queues")
        listener = Listener(request.queue, events, self._wake)
        self._listeners[request.queue] = listener
        self._unready[listener] = exchange
        self._port.listen(listener, partial(self._ready, listener))
        self._unlisten(known)

    def _ready(self, listener: Listener, error: FlashQError | None = None) -> None:
        """Answer who waits for a listener."""
        exchange = self._unready.pop(listener, None)
        if exchange is None or exchange not in self._open:
            return
        if error is None:
            self._send(exchange, _OK_JSON if self._json else _OK_MSGPACK)
            return
        if self._listeners.get(listener.queue) is listener:
            del self._listeners[listener.queue]
        self._port.unlisten(listener)
        self._refuse(exchange, error)

    def _unlisten(self, listener: Listener | None) -> None:
        """Let a listener go; whoever waits for it is answered as if it were ready."""
        if listener is not None:
            self._port.unlisten(listener)
            self._ready(listener)

    # --- replies

    def answered(self, exchange: Exchange, body: bytes, *, ok: bool) -> None:
        """Take a shard's reply."""
        if self._lost or exchange not in self._open:
            return
        if ok:
            assert exchange.ask is not None
            if exchange.ask.command.word == "PUSHB" and _ERRORS_KEY in body:
                body = without_gaps(body, json=self._json)
            elif exchange.is_shortened and brings_no_job(body, json=self._json):
                self._refuse(exchange, NoJobInTime(timeout=SHORT_PULL_MS))
                return
            self._send(exchange, body)
            return
        error = decode(body, _Error, json=self._json)
        if error.code in _PARSE_ERROR_CODES and self._ask_again(exchange):
            return
        self._send_error(exchange, error.error, is_parse_error=error.code in _PARSE_ERROR_CODES)

    def _ask_again(self, exchange: Exchange) -> bool:
        """Repair a request that was refused as it stood, if it can be and was not yet."""
        ask = exchange.ask
        assert ask is not None
        if exchange.is_repaired:
            return False
        better = repaired(ask.body, json=self._json, ignores_unknown=True)
        if better is None:
            return False
        exchange.is_repaired = True
        exchange.ask = read_ask(better, json=self._json, older=True)
        grant = self._grant() if self._is_guarded else EVERYTHING
        try:
            if grant is None:
                raise AuthenticationRequired
            _bound(exchange.ask, grant)
        except FlashQError as error:
            self._refuse(exchange, error)
        else:
            self._shorten(exchange)
            self._port.ask(exchange.ask, self._holder, exchange.done)
        return True

    def _refuse(self, exchange: Exchange, error: FlashQError) -> None:
        is_parse_error = isinstance(error, InvalidRequest)
        self._send_error(exchange, error.text, is_parse_error=is_parse_error)

    def _send_error(self, exchange: Exchange, text: str, *, is_parse_error: bool) -> None:
        if is_parse_error and not self._json:
            text = _PARSE_ERROR_MSGPACK + text.removeprefix(_PARSE_ERROR_JSON)
        self._send(exchange, encode({"ok": False, "error": text}, json=self._json))

    def _send(self, exchange: Exchange, body: bytes) -> None:
        """Send a reply, as soon as it is its turn."""
        self._open.remove(exchange)
        request_id = exchange.request_id
        if request_id is not None:
            key = _JSON_ID_KEY if self._json else _MSGPACK_ID_KEY
            self._put(with_first(body, key, request_id, json=self._json))
            self._wake()
            return
        exchange.reply = body
        ordered = self._ordered
        while ordered and (reply := ordered[0].reply) is not None:
            ordered.popleft()
            self._put(reply)
        self._wake()
        if exchange.blocks and self._blocked:
            self._blocked = False
            self._release()

    def _release(self) -> None:
        """Carry out what waited for a blocking request, up to the next one. One that is answered at
        once comes back here, and finds that it is being done."""
        if self._releasing:
            return
        self._releasing = True
        while self._held and not self._blocked:
            self._carry_out(self._held.popleft())
        self._releasing = False

    def _put(self, body: bytes) -> None:
        """Frame a body. A payload that came over another door may hold line feeds, which outside
        of JSON's strings mean nothing and inside of them are written otherwise."""
        if self._json:
            if b"\n" in body:
                body = body.replace(b"\n", b" ")
            self._output += (body, b"\n")
        else:
            self._output += (len(body).to_bytes(LENGTH_BYTES, "big"), body)

    # --- events

    def _take_events(self) -> None:
        if self._is_guarded and self._grant() is None:
            self._stop_listening()
        for queue, listener in list(self._listeners.items()):
            if listener in self._unready:
                continue  # the answer to its request comes first
            for item in listener.take_all():
                if isinstance(item, Happening):
                    self._put(event_line(item, json=self._json))
                else:
                    self._put(notice_line(item, json=self._json))
            if listener.dropped:
                del self._listeners[queue]


def _bound(ask: Ask, grant: Grant) -> None:
    """Refuse a request that a token does not allow, and bound what is left by its queues.

    Raises:
        NotAllowed: it does not.
    """
    within = grant.check(ask.command, ask.outline.queue, ask.body, json=ask.json)
    if within:
        ask.add(within=within)
