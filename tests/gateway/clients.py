"""Clients that do on the wire exactly what the existing ones do, and no more.

Owns the habits of each: which fields are sent when the caller says nothing, whether requests carry
an id, how long a reply may take, how long a line may be. They import nothing of flashq, so that a
mistake that server and client share cannot hide.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgpack

Reply = dict[str, Any]

TIMEOUT_S: Final = 5.0
"""After which each of them gives up, also on a pull."""
LINE_BYTES_MAX: Final = 64 * 1024
"""What the Python client's stream reader takes."""

_PYTHON_OPTIONS: Final = (
    "priority", "delay", "ttl", "timeout", "max_attempts", "backoff", "unique_key", "depends_on",
    "tags",
)  # fmt: skip
_TYPESCRIPT_OPTIONS: Final = (
    "delay", "ttl", "timeout", "max_attempts", "backoff", "unique_key", "depends_on", "tags",
    "stall_timeout", "debounce_id", "debounce_ttl", "job_id", "keep_completed_age",
    "keep_completed_count",
)  # fmt: skip


class ServerSaid(Exception):
    """The server answered with an error."""


class Client:
    """What all of them share: one socket, and an error for every reply that is none.

    Args:
        address: host and port, or the path of a Unix socket.
    """

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.address = address
        kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(kind, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(address)

    def ask(self, cmd: str, *, within_s: float = TIMEOUT_S, **fields: Any) -> Reply:
        """Send one request and return its reply.

        Raises:
            ServerSaid: with the text of an error.
        """
        reply = self.exchange({"cmd": cmd, **fields}, within_s)
        if not reply["ok"]:
            assert [key for key in reply if key != "reqId"] == ["ok", "error"]
            raise ServerSaid(reply["error"])
        return reply

    def exchange(self, request: dict[str, Any], within_s: float) -> Reply:
        """Send one request and return its reply, whatever it is."""
        raise AssertionError

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what is sent of a push's options."""
        return given

    def push(self, queue: str, data: Any, **options: Any) -> int:
        """Push a job, and return its id."""
        reply = self.ask("PUSH", queue=queue, data=data, **self.options(options))
        assert isinstance(reply["id"], int)
        return reply["id"]

    def push_batch(self, queue: str, jobs: list[dict[str, Any]]) -> list[int]:
        """Push jobs, and return their ids."""
        entries = [{"data": job["data"], **self.options(_rest(job))} for job in jobs]
        ids = self.ask("PUSHB", queue=queue, jobs=entries)["ids"]
        assert all(isinstance(job_id, int) for job_id in ids)
        return list(ids)

    def pull(self, queue: str, timeout: int = 0) -> Reply | None:
        """Pull a job."""
        job = self.ask("PULL", queue=queue, timeout=timeout, within_s=timeout / 1000 + 5)["job"]
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


def _rest(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key != "data"}


class LineClient(Client):
    """JSON lines without request ids, as the Go and PHP clients: what was not given is left out."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        super().__init__(address)
        self.stream = self.socket.makefile("rb")

    def exchange(self, request: dict[str, Any], within_s: float) -> Reply:
        """Send a line, and take the next line for its reply."""
        self.socket.settimeout(min(within_s, TIMEOUT_S))
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.read_line()

    def read_line(self) -> Reply:
        """Return the next line."""
        line = self.stream.readline()
        assert line.endswith(b"\n"), "the connection was closed"
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        """Go."""
        self.stream.close()
        super().close()


class PythonClient(LineClient):
    """The Python client: null for what was not given, and lines of at most 64 KiB."""

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Its nine options are always there, others as the caller writes them."""
        return dict.fromkeys(_PYTHON_OPTIONS) | given

    def read_line(self) -> Reply:
        """Return the next line, if it can be read."""
        line = self.stream.readline(LINE_BYTES_MAX + 1)
        assert line.endswith(b"\n"), f"no line within {LINE_BYTES_MAX} bytes"
        found = json.loads(line)
        assert isinstance(found, dict)
        return found


class TypeScriptClient(LineClient):
    """The TypeScript client: an id with each request, and replies found by it in any order."""

    _numbers = itertools.count(1)

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

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Four options are always said."""
        always = {"priority": 0, "lifo": False, "remove_on_complete": False}
        return always | {"remove_on_fail": False} | given

    def write(self, request: dict[str, Any]) -> None:
        """Send a request in the client's mode."""
        self.socket.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\n")

    def read(self) -> Reply:
        """Return the next reply in the client's mode."""
        return self.read_line()


class BinaryTypeScriptClient(TypeScriptClient):
    """The same in its binary mode: frames, and nil for every option that was not given."""

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Everything is said."""
        return dict.fromkeys(_TYPESCRIPT_OPTIONS) | super().options(given)

    def write(self, request: dict[str, Any]) -> None:
        """Send a frame."""
        body = msgpack.packb(request)
        self.socket.sendall(len(body).to_bytes(4, "big") + body)

    def read(self) -> Reply:
        """Return the next frame."""
        size = int.from_bytes(self.stream.read(4), "big")
        found = msgpack.unpackb(self.stream.read(size))
        assert isinstance(found, dict)
        return found


CLIENTS: Final[dict[str, type[Client]]] = {
    "go-php": LineClient,
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
