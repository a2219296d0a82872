"""The doors of the server, as a producer uses them: the client, JSON lines over TCP, and HTTP.

Owns what each kind of work is in each protocol, and what an answer says: carried out, certainly not
carried out, or unknown. Nothing is asked again here.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec

from flashq.client.sync_client import Client
from flashq.errors import (
    ConnectionClosed,
    FlashQError,
    OutcomeUnknown,
    RequestTimeout,
    SessionExpired,
    ShardUnavailable,
)
from tests.torture.workload import Order, Payload

RECONNECT_S: Final = 0.05
CRON_EVERY_MS: Final = 300
GAVE_UP: Final = "gave up"
"""A hasty client waits for less than an answer may take, and then nobody knows."""

UNKNOWN: Final = (OutcomeUnknown, ConnectionClosed, SessionExpired, ShardUnavailable)
"""Errors of the client after which nobody knows."""

SURE: Final = {
    "Duplicate": "duplicate",
    "busy": "busy",
    "limit reached": "limit_reached",
    "starting": "starting",
    "shutting down": "shutting_down",
    "storage unavailable": "storage_unavailable",
}
"""How errors of the older protocol begin that say for sure that nothing happened."""


class Unknown(Exception):
    """Nobody knows whether the request was carried out."""


class Refusal(Exception):
    """The request was not carried out."""


class Door(Protocol):
    """A way into the server."""

    def carry_out(self, order: Order) -> list[int]:
        """Send a request once, and return the ids in its answer.

        Raises:
            Unknown, Refusal: there are none; the text is an error's code.
        """
        ...

    def wait(self, job_id: int) -> Payload:
        """Wait for a job's end, and return its result.

        Raises:
            Unknown, Refusal: it has not been told.
        """
        ...


class RouterDoor:
    """The client's way.

    Args:
        client: shared by all threads.
        timeout_ms: how long it waits for a job's end.
        is_hasty: it waits for answers for so short a time that some come too late.
    """

    def __init__(self, client: Client, timeout_ms: int, *, is_hasty: bool = False) -> None:
        self._client = client
        self._timeout_ms = timeout_ms
        self._is_hasty = is_hasty

    def carry_out(self, order: Order) -> list[int]:
        """Call the method for it."""
        try:
            return self._call(order)
        except UNKNOWN as error:
            has_given_up = self._is_hasty and isinstance(error, RequestTimeout)
            raise Unknown(GAVE_UP if has_given_up else error.code) from error
        except FlashQError as error:
            raise Refusal(error.code) from error

    def _call(self, order: Order) -> list[int]:
        client, first = self._client, order.jobs[0]
        options = order.options[0]
        if order.kind == "batch":
            return client.push_batch(first.queue, order.options)
        if order.kind == "flow":
            flow = client.push_flow(first.queue, children=_children(order), **options)
            return [flow.parent_id, *flow.children_ids]
        if order.kind == "cron":
            every, limit = CRON_EVERY_MS, first.firings
            data = options["data"]
            client.add_cron(first.uid, first.queue, data, repeat_every=every, limit=limit)
            return []
        return [client.push(first.queue, **options)]

    def wait(self, job_id: int) -> Payload:
        """Wait for it."""
        try:
            return msgspec.convert(self._client.finished(job_id, self._timeout_ms), Payload)
        except UNKNOWN as error:
            raise Unknown(error.code) from error
        except FlashQError as error:
            raise Refusal(error.code) from error


class TcpDoor:
    """The older protocol's way: JSON lines over one connection, one request at a time.

    Args:
        port: of the gateway, on this machine.
        timeout_ms: how long it waits for an answer.
        stopping: set when it is no use to wait for a gateway any more.
    """

    def __init__(self, port: int, timeout_ms: int, stopping: threading.Event) -> None:
        self._port = port
        self._timeout_s = timeout_ms / 1000
        self._stopping = stopping
        self._socket: socket.socket | None = None
        self._received = b""

    def carry_out(self, order: Order) -> list[int]:
        """Send a line and read a line."""
        reply = self.ask(_line(order))
        if not reply["ok"]:
            text = str(reply["error"])
            for begin, code in SURE.items():
                if text.startswith(begin):
                    raise Refusal(code)
            raise Unknown("no answer" if text.startswith("no answer") else text)
        match order.kind:
            case "flow":
                return [reply["parent_id"], *reply["children_ids"]]
            case "batch":
                return list(reply["ids"])
            case "cron":
                return []
        return [reply["id"]]

    def wait(self, job_id: int) -> Payload:
        """Refuse: it does not wait for ends."""
        raise Refusal(str(job_id))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return its reply.

        Raises:
            Unknown: the connection was lost before the reply came.
        """
        connection = self._connected()
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            while b"\n" not in self._received:
                some = connection.recv(65_536)
                if not some:
                    raise ConnectionResetError
                self._received += some
        except OSError as error:
            self.close()
            raise Unknown("connection lost") from error
        reply, _, self._received = self._received.partition(b"\n")
        found: dict[str, Any] = json.loads(reply)
        return found

    def close(self, *, is_cut: bool = False) -> None:
        """Close the connection.

        Args:
            is_cut: with a reset, as when the machine or a proxy dies, instead of an orderly end.
        """
        if self._socket is not None:
            if is_cut:
                linger = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        while self._socket is None:
            try:
                address = "127.0.0.1", self._port
                self._socket = socket.create_connection(address, self._timeout_s)
                self._received = b""
            except OSError:
                if self._stopping.wait(RECONNECT_S):
                    raise Refusal("no gateway") from None
        return self._socket


def _line(order: Order) -> dict[str, Any]:
    """Return the request of the older protocol for an order."""
    first, options = order.jobs[0], order.options[0]
    match order.kind:
        case "batch":
            return {"cmd": "PUSHB", "queue": first.queue, "jobs": order.options}
        case "flow":
            return {"cmd": "FLOW", "queue": first.queue, "children": _children(order), **options}
        case "cron":
            return {"cmd": "CRON", "name": first.uid, "queue": first.queue, **_firing(order)}
    return {"cmd": "PUSH", "queue": first.queue, **options}


def _children(order: Order) -> list[dict[str, Any]]:
    return [
        {"queue": job.queue, **some}
        for job, some in zip(order.jobs[1:], order.options[1:], strict=True)
    ]


def _firing(order: Order) -> dict[str, Any]:
    """Return how a cron fires, and with which data."""
    [job], [options] = order.jobs, order.options
    return {"data": options["data"], "repeat_every": CRON_EVERY_MS, "limit": job.firings}


class HttpDoor:
    """The way over HTTP, one request at a time over one connection.

    Args:
        port: of the gateway, on this machine.
        timeout_ms: how long it waits for an answer.
        stopping: set when it is no use to wait for a gateway any more.
    """

    def __init__(self, port: int, timeout_ms: int, stopping: threading.Event) -> None:
        self._port = port
        self._timeout_s = timeout_ms / 1000
        self._stopping = stopping
        self._http: http.client.HTTPConnection | None = None

    def carry_out(self, order: Order) -> list[int]:
        """Post it, and read the answer."""
        first, options = order.jobs[0], order.options[0]
        queue = f"/queues/{quote(first.queue)}"
        match order.kind:
            case "batch":
                return list(
                    self.ask("POST", f"{queue}/jobs/batch", {"jobs": order.options})["data"]
                )
            case "flow":
                body = {"children": _children(order), **options}
                made = self.ask("POST", f"{queue}/flows", body)["data"]
                return [made["parent_id"], *made["children_ids"]]
            case "cron":
                body = {"queue": first.queue, **_firing(order)}
                self.ask("POST", f"/crons/{quote(first.uid)}", body)
                return []
        return [self.ask("POST", f"{queue}/jobs", options)["id"]]

    def wait(self, job_id: int) -> Payload:
        """Refuse: it does not wait for ends."""
        raise Refusal(str(job_id))

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send one request and return the envelope of a success.

        Raises:
            Refusal: nothing happened; the text is the error's code.
            Unknown: the connection was lost, or the server does not know either.
        """
        connection = self._connected()
        try:
            headers = {"content-type": "application/json", "x-requested-with": "torture"}
            data = None if body is None else msgspec.json.encode(body)
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            envelope: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unknown("connection lost") from error
        if envelope["ok"]:
            return envelope
        if envelope["retryable"] or response.status < 500:
            raise Refusal(envelope["code"])
        code = envelope["code"]  # the gateway waits for less than a producer does
        raise Unknown("no answer" if code == RequestTimeout.code else code)

    def close(self) -> None:
        """Close the connection, whatever is under way on it."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def abandon(self, method: str, path: str, after_s: float) -> None:
        """Send a request, and close the connection without its answer after a while."""
        connection = self._connected()
        try:
            connection.request(method, path, headers={"x-requested-with": "torture"})
        except (OSError, http.client.HTTPException):
            self.close()
            return
        self._stopping.wait(after_s)
        self.close()

    def _connected(self) -> http.client.HTTPConnection:
        while self._http is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, self._timeout_s)
            try:
                connection.connect()
            except OSError:
                if self._stopping.wait(RECONNECT_S):
                    raise Refusal("no gateway") from None
            else:
                self._http = connection
        return self._http
