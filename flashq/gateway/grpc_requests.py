"""What gRPC calls ask of the bridge, and the pulls among them that wait.

Owns the end of waiting: with its call, with its time, or with the door. A job that comes when its
call is gone goes back to its queue. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from flashq.errors import AuthenticationRequired, FlashQError, ShuttingDown, error_from
from flashq.gateway.asking import Ask, read_ask
from flashq.gateway.bridge import Answer
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import Done, Pending
from flashq.protocol.codec import decode, encode_json
from flashq.protocol.leases import Ack, Fail, PullBatch, PullBatchReply, Release
from flashq.protocol.objects import JobView
from flashq.protocol.registry import BY_REQUEST
from flashq.tokens import EVERYTHING, Grant

T = TypeVar("T", bound=Struct)

WAIT_MS: Final = 30_000
"""A pull without an end is asked again after so long. One whose call is gone stands in its queue
until then; the job that it still brings goes back."""


GRANT: Final[ContextVar[Callable[[], Grant | None]]] = ContextVar(
    "grant", default=lambda: EVERYTHING
)
"""Gives what the token now allows of the call that is being handled; everything on an open
server."""


class _Error(Struct):
    error: str = ""
    code: str = ""


def ask_of(request: Struct) -> Ask:
    """Return a command as the bridge takes it, with replies that leave out keys at their defaults.

    Everything is JSON, so that payloads are neither read nor written on their way.

    Raises:
        InvalidRequest: a field does not fit.
    """
    ask = read_ask(encode_json(request), json=True)
    ask.full = False
    return ask


def allowed_ask_of(request: Any) -> Ask:
    """Return a command as the bridge takes it, if the token of the call allows it.

    Raises:
        NotAllowed: it does not.
        AuthenticationRequired: it is no token any more.
        InvalidRequest: a field does not fit.
    """
    grant = GRANT.get()()
    if grant is None:
        raise AuthenticationRequired
    command, queue = BY_REQUEST[type(request)], getattr(request, "queue", None)
    ask = ask_of(request)
    within = grant.check(command, queue, ask.body, json=True)
    if within:
        ask.add(within=within)
    return ask


class Port(Protocol):
    """What the door needs of the bridge."""

    async def carry_out(self, ask: Ask, holder: Holder | None = None) -> Answer:
        """Have a request carried out, and return the reply."""
        ...

    def ask(self, ask: Ask, holder: Holder | None, done: Done | None) -> Pending:
        """Have a request carried out, and call `done` with the reply."""
        ...

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for that request any more."""
        ...

    def leave(self, holder: Holder, *, is_lost: bool, unsent: Collection[int]) -> None:
        """Give back what the holder has, counted as lost or not, and drop what it waits for."""
        ...


class Requests:
    """The door's way to the bridge.

    Args:
        port: the bridge.
    """

    def __init__(self, port: Port) -> None:
        self._port: Final = port
        #: the pulls that wait
        self._waiting: dict[asyncio.Future[Answer], Pending] = {}
        self._closed = False

    async def ask(self, request: Struct, kind: type[T]) -> T:
        """Have a command carried out, and return its reply.

        Args:
            request: the command.
            kind: its reply's type.

        Raises:
            FlashQError: it is refused.
        """
        return _read(await self._port.carry_out(allowed_ask_of(request)), kind)

    async def pull(
        self, queue: str, count: int, wait_ms: int, holder: Holder | None = None
    ) -> list[JobView]:
        """Take jobs of a queue, and wait for the first.

        Args:
            queue: its name.
            count: most jobs; for 0 it only waits.
            wait_ms: how long.
            holder: whose the jobs are while it is there; without one each has a time of its own.

        Returns:
            The jobs; none after that time.

        Raises:
            FlashQError: it is refused.
            ShuttingDown: the door closes.
        """
        if self._closed:
            raise ShuttingDown
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(body: bytes, ok: bool) -> None:
            if not future.done():
                future.set_result(Answer(body, ok))

        ask = allowed_ask_of(PullBatch(queue=queue, count=count, timeout=wait_ms))
        pending = self._port.ask(ask, holder, done)
        self._waiting[future] = pending
        try:
            answer = await future
        except (asyncio.CancelledError, ShuttingDown):
            if future.cancelled() or future.exception() is not None:
                self._port.abandon(pending)
            elif holder is None and future.result().ok:
                # The jobs came in the same turn of the loop as the end of the call.
                self.give_back(_read(future.result(), PullBatchReply).jobs)
            raise
        finally:
            del self._waiting[future]
        return _read(answer, PullBatchReply).jobs

    def give_back(self, jobs: Sequence[JobView]) -> None:
        """Return jobs to their queue that nobody has worked on; no attempt is counted."""
        if jobs:
            release = Release(ids=[job.id for job in jobs], tokens=[job.token for job in jobs])
            with suppress(FlashQError):  # not taken on: they go back when their leases end
                self._port.ask(ask_of(release), None, None)

    def settle(self, request: Ack | Fail, holder: Holder, answered: Callable[[], None]) -> None:
        """Have a job of the holder's completed or failed.

        Args:
            request: the command.
            holder: who holds the job.
            answered: called when that is done, or refused.
        """
        try:
            self._port.ask(allowed_ask_of(request), holder, lambda _body, _ok: answered())
        except FlashQError:
            answered()  # not taken on: the job goes back with the holder's others

    def leave(self, holder: Holder, *, is_lost: bool, unsent: Collection[int]) -> None:
        """Give back at once what a holder has.

        Args:
            holder: whose jobs.
            is_lost: they count as lost, but for those that were never sent.
            unsent: ids of the latter.
        """
        self._port.leave(holder, is_lost=is_lost, unsent=unsent)

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        for future in self._waiting:
            if not future.done():
                future.set_exception(ShuttingDown())


def _read(answer: Answer, kind: type[T]) -> T:
    if not answer.ok:
        error = decode(answer.body, _Error, json=True)
        raise error_from(error.code, error.error)
    return decode(answer.body, kind, json=True)
