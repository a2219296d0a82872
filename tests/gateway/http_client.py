"""A client of the HTTP door as somebody would write it who knows its documents only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

from tests.server import Server

TIMEOUT_S: Final = 10.0
JSON: Final = {"content-type": "application/json"}


def base_of(server: Server) -> str:
    """Return where a server takes HTTP."""
    return next(line for line in server.lines if line.startswith("http://"))


class Refused(NamedTuple):
    """What a request was refused with."""

    status: int
    code: str
    error: str


class HttpClient:
    """One client with connections of its own.

    Args:
        server: whom to ask.
        token: shown as Bearer.
    """

    def __init__(self, server: Server, *, token: str | None = None) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.base: Final = base_of(server)
        self.http: Final = httpx.Client(base_url=self.base, timeout=TIMEOUT_S, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        """Return the envelope of a success."""
        if body is not None:
            options["json"] = body
        response = self.http.request(method, path, **options)
        envelope = response.json()
        assert response.status_code == 200, envelope
        assert envelope["ok"] is True
        assert "data" in envelope
        assert isinstance(envelope, dict)
        return envelope

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the data at a path."""
        return self.ask("GET", path, params=parameters)["data"]

    def post(self, path: str, body: Any = None) -> Any:
        """Return the data of an answer to a POST."""
        return self.ask("POST", path, body)["data"]

    def delete(self, path: str) -> Any:
        """Return the data of an answer to a DELETE."""
        return self.ask("DELETE", path)["data"]

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> Refused:
        """Return how a request was refused: in the envelope, with a status that fits."""
        if body is not None:
            options["json"] = body
        response = self.http.request(method, path, **options)
        envelope = response.json()
        assert response.headers["content-type"] == "application/json"
        assert envelope["ok"] is False
        assert response.status_code >= 400
        return Refused(response.status_code, envelope["code"], envelope["error"])

    def push(self, queue: str, data: Any = 1, **options: Any) -> int:
        """Push a job, and return its id."""
        pushed = self.ask("POST", f"/queues/{queue}/jobs", {"data": data, **options})
        assert isinstance(pushed["id"], int)
        return pushed["id"]

    def pull(self, queue: str, **parameters: Any) -> dict[str, Any]:
        """Pull one job that is there."""
        jobs = self.get(f"/queues/{queue}/jobs", **parameters)
        assert len(jobs) == 1
        job = jobs[0]
        assert isinstance(job, dict)
        return job

    def state(self, job_id: int) -> str:
        """Return a job's state."""
        state = self.get(f"/jobs/{job_id}/state")
        assert isinstance(state, str)
        return state


class SseEvent(NamedTuple):
    """One message of a stream."""

    id: str | None
    kind: str | None
    data: Any


def sse_events(response: httpx.Response) -> Iterator[SseEvent]:
    """Yield the messages of a stream, as an `EventSource` reads it; comments are skipped."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        elif fields:
            if "data" in fields:
                yield SseEvent(fields.get("id"), fields.get("event"), json.loads(fields["data"]))
            fields = {}
