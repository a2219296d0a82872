"""Every route of the HTTP door, as data.

Owns method, path, rights and description of each. Those of commands come from the registry; here
are only the others, and the older paths of some commands. From this the door takes its routes and
OpenAPI its operations.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

from msgspec import Struct
from starlette.convertors import Convertor, register_url_convertor

from flashq.gateway.workers import Registration
from flashq.protocol.command import Command, Role
from flashq.protocol.objects import MetricsPoint
from flashq.protocol.registry import COMMANDS

REST: Final = "rest"
PULLS: Final = frozenset({"PULL", "PULLB"})
"""Commands that hand out jobs."""


class AnyText(Convertor[str]):
    """A part of a path that takes any text, also with slashes and ends of lines in it."""

    regex = r"(?s:.+)"

    def convert(self, value: str) -> str:
        """Return the text."""
        return value

    def to_string(self, value: str) -> str:
        """Return the text."""
        return value


register_url_convertor(REST, AnyText())


class Rights(Enum):
    """Who may use a route."""

    ANYBODY = "anybody: it tells nothing of jobs"
    TOKEN = "whoever shows a token, when there are tokens"
    OPERATOR = "whoever shows a token; without tokens, programs on the server's own host"


class Route(Struct, frozen=True, kw_only=True):
    """One route.

    Args:
        method, path: as in `GET` and `/jobs/{id}`.
        summary: one sentence.
        rights: who may use it.
        role: the least that a token must allow, where there are tokens.
        spans_queues: whether it tells of or touches all queues, unless its path names one.
        command: what it carries out; None for a route of the gateway's own.
        handler: the name under which the door knows what answers, if it is no command.
        body: type or JSON schema of the body; None for none.
        data: type or JSON schema of the answer's data.
        media: the answer's type where it is not the envelope.
        query: parameters, as JSON schemas by name.
        tag: its group in the documents.
    """

    method: str
    path: str
    summary: str
    rights: Rights = Rights.TOKEN
    role: Role = Role.READ
    spans_queues: bool = True
    command: Command | None = None
    handler: str = ""
    body: Any = None
    data: Any = None
    media: str | None = None
    query: dict[str, Any] = {}
    tag: str = "server"

    @property
    def pattern(self) -> str:
        """The path for the router: names that may hold anything take all that is left of it."""
        return re.sub(r"\{(job_id|name|file|key|worker)\}", rf"{{\1:{REST}}}", self.path)

    @property
    def changes(self) -> bool:
        """Whether it may change something, which a GET that takes jobs does too."""
        if self.command is None:
            return self.method != "GET"
        return self.command.mutates or self.command.word in PULLS


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NULL: Final = {"type": "null"}
_OBJECT: Final = {"type": "object"}
_STREAM: Final = "text/event-stream"
_JOB: Final = {"$ref": "#/components/schemas/FullJobView"}
_LAST_ID: Final = {
    "last_event_id": {
        "type": "string",
        "description": "Where to go on, for clients that cannot set the header Last-Event-ID.",
    }
}


def _server(path: str, handler: str, summary: str, data: Any) -> Route:
    return Route(
        method="POST",
        path=f"/server/{path}",
        summary=summary,
        rights=Rights.OPERATOR,
        role=Role.ADMIN,
        handler=handler,
        data=data,
        tag="operators",
    )


def _setting(name: str, properties: dict[str, Any]) -> Route:
    return Route(
        method="POST",
        path=f"/settings/{name}",
        summary="Refused: settings are read at start; the answer says what to do instead.",
        rights=Rights.OPERATOR,
        role=Role.ADMIN,
        handler="change_settings",
        body={"type": "object", "properties": properties},
        data=_NULL,
        tag="operators",
    )


def _get(path: str, handler: str, summary: str, data: Any, **more: Any) -> Route:
    return Route(method="GET", path=path, summary=summary, handler=handler, data=data, **more)


_ANYBODY: Final[dict[str, Any]] = {"rights": Rights.ANYBODY, "tag": "health"}
_CLUSTER: Final[dict[str, Any]] = {"tag": "cluster", "spans_queues": False}

OWN_ROUTES: Final[tuple[Route, ...]] = (
    _get("/health", "health", "Asks every part of the server; names who is silent.", _OBJECT,
         **_ANYBODY),
    _get("/health/live", "live", "Tells that this gateway runs.", _OBJECT, **_ANYBODY),
    _get("/health/ready", "ready", "Tells whether requests can be carried out.", _OBJECT,
         **_ANYBODY),
    _get("/metrics/history", "history", "Gives a point for every 5 s of the last 5 minutes.",
         list[MetricsPoint]),
    _get("/metrics/prometheus", "prometheus", "Gives all figures in Prometheus' text format.",
         None, media="text/plain"),
    _get("/events", "sse", "Streams all events.", None, media=_STREAM, query=_LAST_ID,
         tag="events"),
    _get("/events/{queue}", "sse", "Streams a queue's events.", None, media=_STREAM,
         query=_LAST_ID, tag="events"),
    Route(method="POST", path="/workers/{worker}/heartbeat", handler="heartbeat", body=Registration,
          summary="Says that a worker is there; it is listed for 30 s.", data=_NULL,
          role=Role.WORKER, spans_queues=False),
    Route(method="POST", path="/webhooks/incoming/{queue}", handler="push_incoming", body={},
          summary="Adds a job whose payload is the body.", data=_JOB, role=Role.PRODUCER,
          tag="jobs"),
    _get("/settings", "settings", "Tells how the server is set up.", _OBJECT, tag="operators"),
    _setting("auth", {"tokens": _TEXT}),
    _setting("queue-defaults", {}),
    _setting("cleanup", {}),
    _setting("database", {"url": _TEXT}),
    _setting("test-db", {"url": _TEXT}),
    Route(method="POST", path="/settings/cleanup/run", handler="run_cleanup", data=_TEXT,
          summary="Does nothing: retention is applied as jobs end.", rights=Rights.OPERATOR,
          role=Role.ADMIN, tag="operators"),
    _server("shutdown", "shut_down", "Ends the whole server.", _TEXT),
    _server("restart", "restart", "Refused: whoever started the server restarts it.", _TEXT),
    _server("reset", "reset", "Removes every queue and every cron.", _TEXT),
    _server("clear-queues", "clear_queues", "Removes all waiting and delayed jobs.", _COUNT),
    _server("clear-dlq", "clear_dead_letters", "Removes all dead letters.", _COUNT),
    _server("clear-completed", "clear_completed", "Removes all completed jobs.", _COUNT),
    _server("reset-metrics", "reset_metrics", "Refused: totals are never reset.", _TEXT),
    _get("/system/metrics", "machine", "Tells memory and processor load of the machine.", _OBJECT,
         tag="operators"),
    _get("/cluster/nodes", "nodes", "Lists the one node.", {"type": "array"}, **_CLUSTER),
    _get("/cluster/nodes/metrics", "no_nodes", "Lists nothing.", {"type": "array"}, **_CLUSTER),
    _get("/cluster/metrics", "cluster_metrics", "Counts nothing.", _OBJECT, **_CLUSTER),
    _get("/cluster/best-node", "no_node", "Gives null.", _NULL, **_CLUSTER),
    _get("/cluster/sticky-node/{key}", "no_node", "Gives null.", _NULL, **_CLUSTER),
    _get("/cluster/load-balance-strategy", "strategy", "Names the strategy of one node.", _OBJECT,
         **_CLUSTER),
    Route(method="POST", path="/cluster/load-balance-strategy", handler="set_strategy",
          body={"type": "object", "properties": {"strategy": _TEXT}, "required": ["strategy"]},
          summary="Refused: there is one node.", data=_NULL, **_CLUSTER),
)  # fmt: skip

ALIASES: Final[tuple[tuple[str, str, str], ...]] = (
    ("OBLITERATE", "DELETE", "/queues/{queue}/obliterate"),
)
"""Older paths of commands that have another one now: word, method, path."""

_WAIT: Final = "How long to wait, in ms; at most 60,000, and 4,000 where it is left out."
PARAMETER_NOTES: Final = {
    ("PULLB", "count"): "Most jobs to take; at most 1,000, and 1 where it is left out.",
    ("PULLB", "timeout"): _WAIT,
    ("WAITJOB", "timeout"): "How long to wait, in ms; at most 60,000, and 30,000 where it is left "
    "out.",
    ("GETJOBS", "limit"): "Most jobs to list; 100 where it is left out.",
    ("DLQ", "count"): "Most jobs to list; 100 where it is left out.",
    ("RETRYDLQ", "id"): "The one dead letter to retry; all where it is left out.",
}
"""What is to be said of a parameter here, by command and name."""

_FIRST: Final = ("PUSH", "PULLB", "ACK", "FAIL", "PUSHB", "ACKB")
"""Commands whose routes are looked at before all others, because most requests are theirs."""

_TAGS: Final = {
    "crons": "crons",
    "queues": "queues",
    "server": "server",
    "webhooks": "webhooks",
}


def command_routes() -> list[Route]:
    """Return the routes of all commands that have one, in the order in which they are tried."""
    routes = [
        _command_route(command, *command.http) for command in COMMANDS if command.http is not None
    ]
    by_word = {command.word: command for command in COMMANDS}
    routes += [_command_route(by_word[word], method, path) for word, method, path in ALIASES]
    return sorted(routes, key=_order)


def _order(route: Route) -> tuple[int, list[int]]:
    """Sort what is asked most first, and at each place a word before a name for anything."""
    assert route.command is not None
    word = route.command.word
    rank = _FIRST.index(word) if word in _FIRST else len(_FIRST)
    return rank, [part.startswith("{") for part in route.path.split("/")]


def _command_route(command: Command, method: str, path: str) -> Route:
    tag = _TAGS.get(command.request.__module__.rpartition(".")[2], "jobs")
    return Route(
        method=method,
        path=path,
        summary=command.summary,
        # What takes an administrator where there are tokens takes the host itself without them.
        rights=Rights.OPERATOR if command.role is Role.ADMIN else Rights.TOKEN,
        role=command.role,
        command=command,
        tag=tag,
    )
