"""The bridge between all doors and the router: one socket, read and written by the event loop.

Owns the ZeroMQ socket, the timer and the listeners to events; every decision is the upstream's. It
does without `zmq.asyncio`, which costs three times as much a message: the loop watches ZeroMQ's
descriptor, and what all doors ask in one turn of the loop leaves in one message.

    bridge = Bridge(url, shard_count)
    await bridge.start()
    reply = await bridge.request(b'{"cmd":"PUSH","queue":"q","data":1}', json=True)

A door that holds a connection open makes a `Holder` for it and gives it with each request: what is
pulled for it is kept for as long as it is there, and goes back at once with `leave`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from functools import partial
from typing import Final, NamedTuple

import zmq

from flashq.client.sockets import open_socket
from flashq.clock import SystemClock
from flashq.errors import BadMessage
from flashq.gateway import family
from flashq.gateway.asking import Ask, read_ask
from flashq.gateway.events import EventFan, Listener
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import Done, Pending
from flashq.gateway.subscribing import Ready
from flashq.gateway.upstream import Upstream
from flashq.observability.logging import log_of
from flashq.wire import descriptor, readable, receive, send_frames

MESSAGES_PER_TURN_MAX: Final = 256
LINGER_S: Final = 0.5


class Answer(NamedTuple):
    """A reply: its body in the encoding of its request, and whether it is a success."""

    body: bytes
    ok: bool


class Bridge:
    """A gateway's one connection to the router. It belongs to the loop that starts it.

    Args:
        url: the router's endpoint.
        shard_count: how many shards the server has.
        token: shown to the router, where it asks for one.
        name: who this is, for people who look at the server.
    """

    def __init__(
        self,
        url: str,
        shard_count: int,
        *,
        token: str | None = None,
        name: str = "flashq-gateway",
    ) -> None:
        self._url: Final = url
        self.shard_count: Final = shard_count
        self._events: Final = EventFan(self._subscribe, self._unsubscribe)
        self._upstream: Final = Upstream(
            lambda: os.urandom(16),
            shard_count,
            client=f"{name}/{os.getpid()}",
            token=token,
            on_notice=self._events.tell,
            on_interrupted=self._events.interrupted,
        )
        self._now_ms: Final = SystemClock().mono_ms
        self._log: Final = log_of(name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        #: a turn that is about to come, because something was asked
        self._turn_due = False
        #: the timer for the upstream's next deadline, and when it rings
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        #: set once the first hello is answered, or never will be
        self._greeted: Final = asyncio.Event()

    # --- its life

    def start(self) -> None:
        """Connect; requests wait until the router has answered."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._open()

    async def greeted(self) -> None:
        """Wait until the router has answered for the first time.

        Raises:
            FlashQError: it does not let this gateway in.
        """
        await self._greeted.wait()
        if self._upstream.refused is not None:
            raise self._upstream.refused

    async def close(self) -> None:
        """End: what holders still have goes back, and requests without an answer stay so."""
        if self._loop is None:
            return
        self._upstream.close()
        self._turn()
        self._close_socket(linger_ms=int(LINGER_S * 1000))
        if self._timer is not None:
            self._timer.cancel()
        if self._context is not None:
            await self._loop.run_in_executor(None, self._context.term)

    @property
    def is_connected(self) -> bool:
        """Whether the router answers, as far as is known."""
        return self._upstream.ready

    @property
    def epochs(self) -> list[int]:
        """Each shard's epoch as the router told it last, 0 for one that is not ready."""
        return list(self._upstream.epochs)

    @property
    def outstanding(self) -> int:
        """How many requests have no answer yet."""
        return self._upstream.outstanding

    # --- requests

    async def request(
        self, body: bytes, *, json: bool, holder: Holder | None = None, full: bool = True
    ) -> Answer:
        """Have one request carried out.

        A caller that is cancelled gives back the jobs that the reply may still bring. A change that
        was taken on is carried out all the same.

        Args:
            body: the request, one map.
            json: whether it is JSON, and its reply; else MessagePack.
            holder: the connection that asks, see `Upstream.ask`.
            full: whether job objects in the reply have all their keys.

        Returns:
            The reply. An error of the server is one too; its `code` says which.

        Raises:
            InvalidRequest, BadMessage: it is no request.
            FlashQError: it is not taken on.
        """
        ask = read_ask(body, json=json)
        ask.full = ask.full and full
        return await self.carry_out(ask, holder)

    async def carry_out(self, ask: Ask, holder: Holder | None = None) -> Answer:
        """Have a request carried out that was read already; see `request`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(body: bytes, ok: bool) -> None:
            if not future.done():
                future.set_result(Answer(body, ok))
            elif ok:  # cancelled in the turn of the loop in which the answer came, before it
                self.give_back(ask, body)

        pending = self.ask(ask, holder, done)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self.abandon(pending)
            elif future.result().ok:  # cancelled in that turn, after it
                self.give_back(ask, future.result().body)
            raise

    def ask(self, ask: Ask, holder: Holder | None, done: Done | None) -> Pending:
        """Have a request carried out, and call `done` with the reply; see `Upstream.ask`."""
        if ask.command.word == family.WORD and done is not None:
            done = family.Family(ask, done, partial(self._ask_more, holder)).parent_known
        return self._ask_more(holder, ask, done)

    def _ask_more(self, holder: Holder | None, ask: Ask, done: Done | None) -> Pending:
        pending = self._upstream.ask(ask, holder, done, self._now_ms())
        self._soon()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for that request any more; see `Upstream.abandon`."""
        self._upstream.abandon(pending, self._now_ms())
        self._soon()

    def give_back(self, ask: Ask, reply: bytes) -> None:
        """Return the jobs of a successful reply that nobody could take; no attempt is counted.
        Other replies than those to pulls bring nothing to return."""
        if ask.is_pull:
            self._upstream.give_back(reply, self._now_ms(), json=ask.json)
            self._soon()

    def leave(self, holder: Holder, *, is_lost: bool = False, unsent: Collection[int] = ()) -> None:
        """Give back at once what a connection that is gone holds and waits for; see
        `Upstream.leave`."""
        self._upstream.leave(holder, self._now_ms(), is_lost=is_lost, unsent=unsent)
        self._soon()

    # --- events

    def listen(self, listener: Listener, ready: Ready) -> None:
        """Begin to hand events to a listener.

        Args:
            listener: who.
            ready: called once what happens is handed to it without fail (with None), or with what
                is wrong. Not called after `unlisten`.
        """
        self._events.add(listener, ready)

    def unlisten(self, listener: Listener) -> None:
        """Hand nothing more to a listener."""
        self._events.remove(listener)

    def _subscribe(self, queue: str, ready: Ready) -> None:
        self._upstream.subscribe(queue, ready, self._now_ms())
        self._soon()

    def _unsubscribe(self, queue: str) -> None:
        self._upstream.unsubscribe(queue)
        self._soon()

    # --- the loop

    def _open(self) -> None:
        assert self._loop is not None
        assert self._context is not None
        self._socket = open_socket(self._context, self._url)
        self._loop.add_reader(descriptor(self._socket), self._turn)
        self._upstream.opened(self._now_ms())
        self._soon()

    def _close_socket(self, linger_ms: int = 0) -> None:
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(descriptor(self._socket))
            self._socket.close(linger_ms)
            self._socket = None

    def _soon(self) -> None:
        """Have a turn after everything that is ready to run now, so that requests share it."""
        if not self._turn_due and self._loop is not None:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take in what there is, send what there is, and see when to look again."""
        self._turn_due = False
        socket, upstream = self._socket, self._upstream
        if socket is None:
            return
        now = self._now_ms()
        for _ in range(MESSAGES_PER_TURN_MAX):
            frames = receive(socket) if readable(socket) else None
            if frames is None:
                is_drained = True
                break
            try:
                upstream.receive(frames, now)
            except BadMessage as error:
                self._log.warning("dropped a message of the router", reason=error.text)
        else:
            is_drained = False
        upstream.tick(now)
        for frames in upstream.data_to_send():
            send_frames(socket, frames)
            is_drained = False  # sending may have consumed the news of an arrival
        if (upstream.ready or upstream.refused is not None) and not self._greeted.is_set():
            self._greeted.set()
        if upstream.must_reopen:
            self._log.warning("the router does not answer; connecting again")
            self._close_socket()
            self._open()
        elif not is_drained and readable(socket):
            self._soon()
        self._set_timer(now)

    def _set_timer(self, now: int) -> None:
        due = self._upstream.next_deadline()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return  # a timer that rings early only looks, and is set anew
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None
        self._timer_at = due
        self._timer = self._loop.call_later(max(0, due - now) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()
