"""The commands over HTTP: each request becomes one question to the server, or two.

Owns what is asked beside the command itself (a job's result with the job, the job with a push that
was answered without it), bounds on waiting, and what happens when a client goes away. What jobs
mean is the shards' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flashq.errors import FlashQError, InvalidRequest, ShuttingDown, WebhookInvalid
from flashq.gateway import http_requests
from flashq.gateway.asking import Ask
from flashq.gateway.bridge import Bridge
from flashq.gateway.http_access import Visitor
from flashq.gateway.http_connection import IS_GONE, PEER
from flashq.gateway.http_replies import (
    NULL,
    envelope,
    enveloped,
    error_body,
    job_with_result,
    members_of,
    refusal_of,
    shape_of,
)
from flashq.gateway.webhook_post import NotPublic, PostFailed, resolve
from flashq.gateway.webhooks import target_of
from flashq.protocol.codec import decode, encode_json
from flashq.protocol.command import Command
from flashq.protocol.jobs import Push
from flashq.protocol.objects import FullJobView
from flashq.protocol.registry import BY_WORD

WAIT_MS: Final = 4000
"""How long a pull waits that does not say so: clients of this protocol give up after 5 s."""
WAIT_MS_MAX: Final = 60_000
"""How long any request may wait; who wants to wait longer asks again."""
RESOLVE_S: Final = 2.0
"""How long the name of a new webhook may take to be resolved before it is taken as it is."""
NOT_FOUND: Final = 404
COUNT_MAX: Final = http_requests.BATCH_JOBS_MAX

_GET_JOB: Final = BY_WORD["GETJOB"]
_GET_RESULT: Final = BY_WORD["GETRESULT"]
_COMPLETED: Final = b'"completed"'
_VIEW_FIELDS: Final = frozenset(FullJobView.__struct_fields__)

Endpoint = Callable[[Request, Visitor], Awaitable[Response]]
"""Answers a request of somebody who was let in."""


def respond(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response whose body is JSON already."""
    return Response(body, status, headers, "application/json")


def refuse(error: FlashQError) -> Response:
    """Return the response that says what is wrong."""
    headers = {"retry-after": "1"} if error.retryable else None
    return respond(error_body(error), error.http_status, headers)


class Handed(Response):
    """A response that may hand jobs out: they go back when the client is gone before it was sent.

    Args:
        body: JSON.
        give_back: returns the jobs.
    """

    def __init__(self, body: bytes, give_back: Callable[[], None]) -> None:
        super().__init__(body, media_type="application/json")
        self._give_back: Final = give_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            is_gone = scope.get("extensions", {}).get(PEER, {}).get(IS_GONE)
            if is_gone is not None and is_gone():
                self._give_back()


class Commands:
    """Carries commands out.

    Args:
        bridge: where they go.
        private_webhooks: let webhooks lead to addresses that are not public.
    """

    def __init__(self, bridge: Bridge, *, private_webhooks: bool = False) -> None:
        self._bridge: Final = bridge
        self._private_webhooks: Final = private_webhooks
        self._closing: Final = asyncio.Event()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closing.set()

    def endpoint(self, command: Command) -> Endpoint:
        """Return what answers the requests for a command."""
        special = {
            "PUSH": self._push,
            "PULLB": self._pull,
            "GETJOB": self._get_job,
            "GETJOBBYCUSTOMID": self._get_job,
            "CRONDELETE": self._delete,
            "WEBHOOK": self._set_webhook,
            "WEBHOOKDELETE": self._delete,
        }.get(command.word, self._plain)

        async def answer(request: Request, visitor: Visitor) -> Response:
            return await special(command, request, visitor)

        return answer

    # --- one question, one answer

    async def ask(self, ask: Ask) -> bytes:
        """Return the successful reply to a request, as JSON.

        Raises:
            FlashQError: it has failed.
        """
        reply = await self._bridge.carry_out(ask)
        if reply.ok:
            return reply.body
        error = refusal_of(reply.body)
        if error.code == InvalidRequest.code:
            better = http_requests.repaired_ask(ask)
            if better is not None:
                return await self.ask(better)
        raise error

    async def _read(self, command: Command, request: Request, visitor: Visitor) -> Ask:
        """Read the request that is to be carried out, and refuse one that is not allowed."""
        ask = await _read(command, request)
        visitor.check(ask)
        return ask

    async def _plain(self, command: Command, request: Request, visitor: Visitor) -> Response:
        ask = await self._read(command, request, visitor)
        if command.waits:
            return await self._waiting(request, command, ask)
        return respond(enveloped(shape_of(command), await self.ask(ask)))

    async def _waiting(self, request: Request, command: Command, ask: Ask) -> Response:
        """Carry out what may wait, for as long as there is somebody who waits for it."""
        if (ask.outline.timeout or 0) > WAIT_MS_MAX:
            ask.outline.timeout = WAIT_MS_MAX
            ask.add(timeout=WAIT_MS_MAX)
        asking = asyncio.ensure_future(self.ask(ask))
        leaving = asyncio.ensure_future(_gone(request))
        closing = asyncio.ensure_future(self._closing.wait())
        is_taken = False
        try:
            await asyncio.wait({asking, leaving, closing}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and not leaving.done():
                reply = asking.result()
                is_taken = True
                return Handed(
                    enveloped(shape_of(command), reply), partial(self._bridge.give_back, ask, reply)
                )
            # A pull that is cancelled gives back what it may still bring.
            raise ShuttingDown
        finally:
            for task in (asking, leaving, closing):
                task.cancel()
            with suppress(asyncio.CancelledError, FlashQError):
                reply = await asking
                if not is_taken:
                    self._bridge.give_back(ask, reply)

    # --- more than that

    async def _pull(self, command: Command, request: Request, visitor: Visitor) -> Response:
        query = request.query_params
        http_requests.check_query(query, ("count", "timeout"))
        count = http_requests.whole_number(query, "count", 1, COUNT_MAX)
        timeout = http_requests.whole_number(query, "timeout", WAIT_MS, WAIT_MS_MAX)
        if count == 0:
            timeout = 0  # it would only wait its time out
        ask = http_requests.ask_with_parameters(
            command, request.path_params, {}, count=count, timeout=timeout
        )
        visitor.check(ask)
        return await self._waiting(request, command, ask)

    async def _push(self, command: Command, request: Request, visitor: Visitor) -> Response:
        return await self.push(await self._read(command, request, visitor))

    async def push(self, ask: Ask) -> Response:
        """Push a job, and show it as the server has it."""
        ask.full = True
        ask.add(view=True)
        pushed = decode(await self.ask(ask), _Pushed, json=True)
        data = bytes(pushed.job)
        if data == b"null":
            data = await self._look_at(pushed.id, ask)
        return respond(envelope(data, {"id": b"%d" % pushed.id}))

    async def _look_at(self, job_id: int, ask: Ask) -> bytes:
        """Return a job whose push was answered without it: it waited, or was repeated."""
        question = http_requests.ask_about_job(_GET_JOB, job_id)
        try:
            data = bytes(decode(await self.ask(question), _Shown, json=True).job)
        except FlashQError:  # it was pushed all the same
            data = b"null"
        # Where there is none it has ended already, and nothing of it was to be kept.
        return _as_pushed(job_id, ask) if data == b"null" else data

    async def _get_job(self, command: Command, request: Request, visitor: Visitor) -> Response:
        members = members_of(await self.ask(await self._read(command, request, visitor)))
        result: bytes | Raw = NULL
        if bytes(members["state"]) == _COMPLETED and bytes(members["job"]) != b"null":
            job_id = decode(bytes(members["job"]), _Numbered, json=True).id
            question = http_requests.ask_about_job(_GET_RESULT, job_id)
            reply = members_of(await self.ask(question))
            result = reply.get("result", NULL)
        return respond(envelope(job_with_result(members, result)))

    async def _set_webhook(self, command: Command, request: Request, visitor: Visitor) -> Response:
        """Set a webhook, unless its name leads to addresses that are never told anything."""
        ask = await self._read(command, request, visitor)
        if not self._private_webhooks:
            await check_target(ask)
        return respond(enveloped(shape_of(command), await self.ask(ask)))

    async def _delete(self, command: Command, request: Request, visitor: Visitor) -> Response:
        """Say whether there was something to remove: that there was not is no error here."""
        try:
            await self.ask(await self._read(command, request, visitor))
        except FlashQError as error:
            if error.http_status != NOT_FOUND:
                raise
            return respond(envelope(b"false"))
        return respond(envelope(b"true"))


async def _read(command: Command, request: Request) -> Ask:
    """Read the request for a command."""
    if http_requests.takes_body(command):
        body = await http_requests.read_body(request)
        is_json = http_requests.is_json(request)
        if command.word not in http_requests.BODY_OPTIONAL or (body and is_json):
            http_requests.check_content_type(request)
            return http_requests.ask_with_body(command, request.path_params, body)
    return http_requests.ask_with_parameters(command, request.path_params, request.query_params)


class _Webhook(msgspec.Struct):
    url: str = ""


async def check_target(ask: Ask) -> None:
    """Refuse a webhook whose name has no public address now. One that cannot be resolved now is
    let in, and judged, like each, when it is told something.

    Raises:
        WebhookInvalid: the name leads to private addresses.
    """
    try:
        target = target_of(msgspec.json.decode(ask.body, type=_Webhook).url)
        async with asyncio.timeout(RESOLVE_S):
            await resolve(target, allow_private=False)
    except NotPublic as error:
        raise WebhookInvalid(f"Webhook URL leads nowhere: {error}") from None
    except (PostFailed, TimeoutError, ValueError, KeyError):
        return  # what is no URL, the coordinator refuses


class _Numbered(msgspec.Struct):
    id: int


class _Pushed(msgspec.Struct):
    id: int
    job: Raw = NULL


class _Shown(msgspec.Struct):
    job: Raw


def _as_pushed(job_id: int, ask: Ask) -> bytes:
    """Return a job as its push described it."""
    push = decode(ask.body, Push, json=True)
    told: dict[str, Any] = {
        name: value
        for name in push.__struct_fields__
        if name in _VIEW_FIELDS and (value := getattr(push, name)) is not None
    }
    told["depends_on"] = tuple(push.depends_on or ())
    told["tags"] = tuple(push.tags or ())
    return encode_json(FullJobView(id=job_id, custom_id=push.job_id, **told))


async def _gone(request: Request) -> None:
    """Wait until the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
