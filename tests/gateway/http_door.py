"""The HTTP door in the words of the command protocol.

Owns the way from a word to its route and from the envelope to the word's reply, as HTTP's document
says it; it knows nothing of the registry from which the server makes its routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx

from tests.gateway.clients import Reply, ServerSaid
from tests.gateway.doors import JOB_KEYS, Event, Listener
from tests.gateway.http_client import SseEvent, base_of, sse_events
from tests.server import Server

TIMEOUT_S: Final = 30.0
"""For what has to come; only a broken server makes a test wait so long."""

Envelope = dict[str, Any]
Read = Callable[[Envelope, dict[str, Any]], Reply]


class Route(NamedTuple):
    """How a command is asked here.

    Args:
        method, path: as documented; names in braces are fields.
        read: makes the word's reply of the envelope and the request's fields.
        fixed: parameters that are always sent.
    """

    method: str
    path: str
    read: Read
    fixed: dict[str, Any] = {}


def _nothing(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    assert list(envelope) == ["ok", "data"]
    assert envelope["data"] is None
    return {}


def _whole(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    return dict(envelope["data"])


def _named(name: str, *beside: str, is_numbered: bool = False) -> Read:
    """Take the data for the reply's field `name`, and members beside it for themselves.

    Args:
        name, beside: fields.
        is_numbered: whether the reply says the job's id, too, which here is in the path.
    """

    def read(envelope: Envelope, fields: dict[str, Any]) -> Reply:
        reply = {name: envelope["data"]}
        if name in envelope:
            assert envelope[name] == envelope["data"], "what stands beside the data is the same"
        reply |= {key: envelope[key] for key in beside if key in envelope}
        return reply | {"id": fields["id"]} if is_numbered else reply

    return read


def _pushed(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    assert list(envelope) == ["ok", "data", "id"]
    assert envelope["data"]["id"] == envelope["id"]
    assert envelope["data"].keys() >= JOB_KEYS
    return {"id": envelope["id"]}


def _pushed_many(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    reply = {"ids": [job_id for job_id in envelope["data"] if job_id is not None]}
    return reply | {key: envelope[key] for key in ("errors",) if key in envelope}


def _pulled(envelope: Envelope, fields: dict[str, Any]) -> Reply:
    assert list(envelope) == ["ok", "data", "job", "jobs"]
    assert envelope["jobs"] == envelope["data"]
    assert envelope["job"] == next(iter(envelope["jobs"]), None)
    if fields.get("count") is None:
        return {"job": envelope["job"]}
    return {"jobs": envelope["jobs"]} | ({} if envelope["jobs"] else {"job": None})


def _job(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    job = dict(envelope["data"])
    state = job.pop("state")
    job.pop("result")
    return {"job": job or None, "state": state}


def _progress(envelope: Envelope, fields: dict[str, Any]) -> Reply:
    progress, message = envelope["data"]
    return {"progress": {"id": fields["id"], "progress": progress, "message": message}}


def _count_in_ids(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    beside = {key: envelope[key] for key in ("lost",) if key in envelope}
    return {"ids": [envelope["data"]], **beside}


def _removed(envelope: Envelope, _fields: dict[str, Any]) -> Reply:
    if envelope["data"] is False:
        raise ServerSaid("Cron job not found")
    assert envelope["data"] is True
    return {}


ROUTES: Final[dict[str, Route]] = {
    "PUSH": Route("POST", "/queues/{queue}/jobs", _pushed),
    "PUSHB": Route("POST", "/queues/{queue}/jobs/batch", _pushed_many),
    "FLOW": Route("POST", "/queues/{queue}/flows", _whole),
    "GETCHILDREN": Route("GET", "/jobs/{parent_id}/children", _whole),
    "PULL": Route("GET", "/queues/{queue}/jobs", _pulled, {"count": 1}),
    "PULLB": Route("GET", "/queues/{queue}/jobs", _pulled),
    "ACK": Route("POST", "/jobs/{id}/ack", _nothing),
    "ACKB": Route("POST", "/jobs/ack", _count_in_ids),
    "FAIL": Route("POST", "/jobs/{id}/fail", _nothing),
    "HEARTBEAT": Route("POST", "/jobs/{id}/heartbeat", _nothing),
    "PROGRESS": Route("POST", "/jobs/{id}/progress", _nothing),
    "GETPROGRESS": Route("GET", "/jobs/{id}/progress", _progress),
    "LOG": Route("POST", "/jobs/{id}/logs", _nothing),
    "GETLOGS": Route("GET", "/jobs/{id}/logs", _named("logs", is_numbered=True)),
    "GETJOB": Route("GET", "/jobs/{id}", _job),
    "GETSTATE": Route("GET", "/jobs/{id}/state", _named("state", is_numbered=True)),
    "GETRESULT": Route("GET", "/jobs/{id}/result", _named("result", is_numbered=True)),
    "WAITJOB": Route("GET", "/jobs/{id}/wait", _named("result")),
    "GETJOBBYCUSTOMID": Route("GET", "/jobs/by-custom-id/{job_id}", _job),
    "GETJOBSBATCH": Route("POST", "/jobs/get", _named("jobs")),
    "GETJOBS": Route("GET", "/jobs", _named("jobs", "total")),
    "GETJOBCOUNTS": Route("GET", "/queues/{queue}/counts", _whole),
    "COUNT": Route("GET", "/queues/{queue}/count", _named("count")),
    "ISPAUSED": Route("GET", "/queues/{queue}/paused", _named("paused")),
    "LISTQUEUES": Route("GET", "/queues", _named("queues")),
    "STATS": Route("GET", "/stats", _whole),
    "METRICS": Route("GET", "/metrics", _named("metrics")),
    "CANCEL": Route("POST", "/jobs/{id}/cancel", _nothing),
    "CHANGEPRIORITY": Route("POST", "/jobs/{id}/priority", _nothing),
    "MOVETODELAYED": Route("POST", "/jobs/{id}/move-to-delayed", _nothing),
    "PROMOTE": Route("POST", "/jobs/{id}/promote", _nothing),
    "UPDATEJOB": Route("PUT", "/jobs/{id}", _nothing),
    "DISCARD": Route("POST", "/jobs/{id}/discard", _nothing),
    "DLQ": Route("GET", "/queues/{queue}/dlq", _named("jobs")),
    "RETRYDLQ": Route("POST", "/queues/{queue}/dlq/retry", _count_in_ids),
    "PURGEDLQ": Route("DELETE", "/queues/{queue}/dlq", _named("count")),
    "PAUSE": Route("POST", "/queues/{queue}/pause", _nothing),
    "RESUME": Route("POST", "/queues/{queue}/resume", _nothing),
    "RATELIMIT": Route("POST", "/queues/{queue}/rate-limit", _nothing),
    "RATELIMITCLEAR": Route("DELETE", "/queues/{queue}/rate-limit", _nothing),
    "SETCONCURRENCY": Route("POST", "/queues/{queue}/concurrency", _nothing),
    "CLEARCONCURRENCY": Route("DELETE", "/queues/{queue}/concurrency", _nothing),
    "DRAIN": Route("POST", "/queues/{queue}/drain", _named("count")),
    "OBLITERATE": Route("DELETE", "/queues/{queue}/obliterate", _named("count")),
    "CLEAN": Route("POST", "/queues/{queue}/clean", _named("count")),
    "CRON": Route("POST", "/crons/{name}", _nothing),
    "CRONDELETE": Route("DELETE", "/crons/{name}", _removed),
    "CRONLIST": Route("GET", "/crons", _named("crons")),
}


class HttpDoor:
    """HTTP, as a program uses it that has read its document.

    Args:
        server: whose door.
    """

    job_keys = JOB_KEYS
    shows_all_children = True
    is_older = False

    def __init__(self, server: Server) -> None:
        self._http: Final = httpx.Client(base_url=base_of(server), timeout=TIMEOUT_S)

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Have a command carried out."""
        route = ROUTES[cmd]
        names = re.findall(r"\{(\w+)\}", route.path)
        path = route.path.format(**{name: quote(str(fields[name]), safe="") for name in names})
        rest = {key: value for key, value in fields.items() if key not in names}
        options: dict[str, Any] = {}
        if route.method in ("POST", "PUT"):
            options["json"] = rest
        else:
            given = {key: value for key, value in rest.items() if value is not None}
            options["params"] = given | route.fixed
        try:
            response = self._http.request(route.method, path, **options)
        except httpx.TransportError as error:
            raise ConnectionResetError(str(error)) from error
        assert response.headers["content-type"] == "application/json"
        envelope = response.json()
        if not envelope["ok"]:
            assert 400 <= response.status_code < 500
            assert list(envelope) == ["ok", "error", "code", "retryable"]
            raise ServerSaid(envelope["error"])
        assert response.status_code == 200
        return route.read(envelope, fields)

    @contextmanager
    def listen(self, queue: str) -> Iterator[Listener]:
        """Listen to a stream of server-sent events."""
        with self._http.stream("GET", f"/events/{queue}") as response:
            assert response.status_code == 200
            yield HttpListener(sse_events(response))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class HttpListener:
    """A stream of server-sent events."""

    def __init__(self, events: Iterator[SseEvent]) -> None:
        self._events: Final = events

    def next(self) -> Event:
        """Return the next event; the stream says its kind and a place to go on at, too."""
        event = next(self._events)
        assert event.id
        assert event.kind == event.data["event_type"]
        return dict(event.data)
