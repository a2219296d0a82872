"""Clients that do on the wire exactly what the existing ones do, and no more.

Owns the habits of each: whether requests carry an id, how long a reply may take, how long a line
may be, how an option that was left out is written; which options there are is in `sdks`. They
import nothing of flashq, so that a mistake that server and client share cannot hide.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import msgpack

from tests.gateway import sdks

Reply = dict[str, Any]

TIMEOUT_S: Final = 5.0
"""After which each of them gives up, also on a pull."""
LINE_BYTES_MAX: Final = 64 * 1024
"""What the Python client's stream reader takes."""


class ServerSaid(Exception):
    """The server answered with an error."""


class Client:
    """What all of them share: one socket, and an error for every reply that is none.

    Args:
        address: host and port, or the path of a Unix socket.
    """

    calls: ClassVar[sdks.Calls] = {}
    """What is sent for each call."""
    says_nil: ClassVar[bool] = False
    """Whether an option that was left out is sent as nil."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.address = address
        kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(kind, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(address)
            if kind == socket.AF_INET:  # so that several small requests are sent without a pause
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self.socket.close()
            raise

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Make one call and return its reply.

        Raises:
            ServerSaid: with the text of an error.
            ConnectionError: the connection is gone.
        """
        sent = sdks.call(self.calls, cmd, fields, says_nil=self.says_nil)
        waits_ms = sent.get("timeout") if cmd in ("PULL", "WAITJOB") else None
        reply = self.exchange({"cmd": cmd, **sent}, (waits_ms or 0) / 1000 + TIMEOUT_S)
        if not reply["ok"]:
            assert [key for key in reply if key != "reqId"] == ["ok", "error"]
            raise ServerSaid(reply["error"])
        return reply

    def exchange(self, request: dict[str, Any], within_s: float) -> Reply:
        """Send one request and return its reply, whatever it is."""
        raise AssertionError

    def push(self, queue: str, data: Any, **options: Any) -> int:
        """Push a job, and return its id."""
        job_id = self.ask("PUSH", queue=queue, data=data, **options)["id"]
        assert isinstance(job_id, int)
        return job_id

    def push_batch(self, queue: str, jobs: list[dict[str, Any]]) -> list[int]:
        """Push jobs, and return their ids."""
        ids = self.ask("PUSHB", queue=queue, jobs=jobs)["ids"]
        assert all(isinstance(job_id, int) for job_id in ids)
        return list(ids)

    def pull(self, queue: str, timeout: int = 0) -> Reply | None:
        """Pull a job."""
        job = self.ask("PULL", queue=queue, timeout=timeout)["job"]
        assert job is None or next(iter(job)) == "id"
        return job  # type: ignore[no-any-return]

    def close(self) -> None:
        """Go."""
        self.socket.close()

    def vanish(self) -> None:
        """Go without a word, as a killed process does."""
        at_once = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.close()


class LineClient(Client):
    """JSON lines without request ids, written by hand."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        super().__init__(address)
        self.stream = self.socket.makefile("rb")

    def exchange(self, request: dict[str, Any], within_s: float) -> Reply:
        """Send a line, and take the next line for its reply."""
        self.socket.settimeout(min(within_s, TIMEOUT_S))
        self.write(request)
        return self.read_line()

    def write(self, request: dict[str, Any]) -> None:
        """Send one request."""
        self.socket.sendall(json.dumps(request).encode() + b"\n")

    def read_line(self) -> Reply:
        """Return the next line."""
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the connection was closed")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        """Go."""
        self.stream.close()
        super().close()


class GoClient(LineClient):
    """The Go client: what was not given is left out; a failure without a text has an empty one."""

    calls = sdks.GO


class PhpClient(LineClient):
    """The PHP client: what was not given is left out, but for the text of a failure."""

    calls = sdks.PHP


class PythonClient(LineClient):
    """The Python client: null for what was not given, and lines of at most 64 KiB."""

    calls = sdks.PYTHON

    def read_line(self) -> Reply:
        """Return the next line, if it can be read."""
        line = self.stream.readline(LINE_BYTES_MAX + 1)
        if not line:
            raise ConnectionResetError("the connection was closed")
        assert line.endswith(b"\n"), f"no line within {LINE_BYTES_MAX} bytes"
        found = json.loads(line)
        assert isinstance(found, dict)
        return found


class TypeScriptClient(LineClient):
    """The TypeScript client: an id with each request, and replies found by it in any order."""

    calls = sdks.TYPESCRIPT
    _numbers = itertools.count(1)
    """One counter for all connections of a process."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        super().__init__(address)
        self._replies: dict[str, Reply] = {}

    def send(self, cmd: str, **fields: Any) -> str:
        """Send one request, and return the id of its reply."""
        request_id = f"r{next(self._numbers)}"
        self.write({"cmd": cmd, **fields, "reqId": request_id})
        return request_id

    def answer(self, request_id: str) -> Reply:
        """Return the reply to a request. One without its id would be dropped by the real one."""
        while request_id not in self._replies:
            reply = self.read()
            assert next(iter(reply)) == "reqId", "the id is the first key"
            self._replies[reply["reqId"]] = reply
        return self._replies.pop(request_id)

    def exchange(self, request: dict[str, Any], within_s: float) -> Reply:
        """Send one request and return its reply."""
        self.socket.settimeout(within_s)
        return self.answer(self.send(**request))

    def write(self, request: dict[str, Any]) -> None:
        """Send a request in the client's mode."""
        self.socket.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\n")

    def read(self) -> Reply:
        """Return the next reply in the client's mode."""
        return self.read_line()


class BinaryTypeScriptClient(TypeScriptClient):
    """The same in its binary mode: frames, and nil for every option that was not given."""

    says_nil = True

    def write(self, request: dict[str, Any]) -> None:
        """Send a frame."""
        body = msgpack.packb(request)
        self.socket.sendall(len(body).to_bytes(4, "big") + body)

    def read(self) -> Reply:
        """Return the next frame."""
        head = self.stream.read(4)
        body = self.stream.read(int.from_bytes(head, "big"))
        if not body:
            raise ConnectionResetError("the connection was closed")
        found = msgpack.unpackb(body)
        assert isinstance(found, dict)
        return found


CLIENTS: Final[dict[str, type[Client]]] = {
    "go": GoClient,
    "php": PhpClient,
    "python": PythonClient,
    "typescript": TypeScriptClient,
    "typescript-binary": BinaryTypeScriptClient,
}


@contextmanager
def connected(kind: type[Client], address: tuple[str, int] | str) -> Iterator[Client]:
    """Give a client for the length of a block."""
    client = kind(address)
    try:
        yield client
    finally:
        client.close()
