"""A connection with a scripted server: what it sent, decoded, and answers fed back by hand."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import msgspec

from flashq.client.calls import prepare
from flashq.client.connection import Connection
from flashq.client.happenings import AnyHappening, Completed
from flashq.client.results import Delivered
from flashq.protocol.framing import (
    DELIVERY,
    NOTICE,
    REPLY,
    ROUTE_ROUTER,
    pack_header,
    pairs,
    unpack_header,
)
from flashq.protocol.leases import PullBatch

SHARDS = 4
INTERVAL = 1000
"""ms between heartbeats, as the scripted server says in its hello."""
Body = dict[str, Any]


class Sent:
    """One request as it stood on the wire."""

    def __init__(self, route: int, corr: int, body: Body) -> None:
        self.route = route
        self.corr = corr
        self.body = body
        self.word: str = body["cmd"]

    def __repr__(self) -> str:
        return f"{self.word}@{self.route:#x} corr {self.corr}"


class Script:
    """Drives a connection; `now` is advanced by hand."""

    def __init__(self, *, token: str | None = None, **options: Any) -> None:
        self.now = 10_000
        sessions = (f"session {number:08d}".encode() for number in count(1))
        self.connection = Connection(lambda: next(sessions), token=token, **options)
        self.happened: list[AnyHappening] = []

    # --- the client's side

    def request(self, request: Any, timeout: int = 30_000) -> int:
        """Ask for something; return its corr."""
        return self.connection.request(prepare(request), self.now, timeout)

    def sent(self) -> list[Sent]:
        """Return what the connection sends now."""
        found = []
        for message in self.connection.data_to_send():
            for head, body in pairs(message):
                header = unpack_header(head)
                found.append(Sent(header.route, header.corr, msgspec.msgpack.decode(body)))
        return found

    def sent_one(self) -> Sent:
        """Return the only request that the connection sends now."""
        (one,) = self.sent()
        return one

    def tick(self, ms: int = 0) -> None:
        """Let time go by."""
        self.now += ms
        self.connection.tick(self.now)

    def events(self) -> list[AnyHappening]:
        """Return what has happened since the last call."""
        return self.connection.events()

    def completed(self) -> list[Completed]:
        """Return the outcomes since the last call."""
        return [event for event in self.events() if isinstance(event, Completed)]

    def outcome(self) -> Completed:
        """Return the only outcome since the last call."""
        (one,) = self.completed()
        return one

    # --- the server's side

    def answer(self, sent: Sent, flags: int = 0, **fields: Any) -> None:
        """Answer a request with success."""
        self.reply(sent.corr, {"ok": True, **fields}, flags)

    def refuse(self, sent: Sent, code: str, *, retryable: bool = False) -> None:
        """Answer a request with an error."""
        body = {"ok": False, "error": code, "code": code, "retryable": retryable}
        self.reply(sent.corr, body)

    def deliver(self, sent: Sent, *jobs: tuple[int, int]) -> None:
        """Answer a PULLB with jobs, given as id and token."""
        self.answer(sent, DELIVERY, jobs=delivered(jobs))

    def reply(self, corr: int, body: Body, flags: int = 0) -> None:
        """Send a reply."""
        head = pack_header(REPLY | flags, 0, corr)
        self.connection.receive([head, msgspec.msgpack.encode(body)], self.now)

    def notify(self, corr: int = 0, **body: Any) -> None:
        """Send a notice."""
        head = pack_header(NOTICE, 0, corr)
        self.connection.receive([head, msgspec.msgpack.encode(body)], self.now)

    def hello(self, sent: Sent | None = None, *, boot: int = 1, epochs: Iterable[int] = ()) -> None:
        """Answer the hello that the connection sends now."""
        sent = sent or self.sent_one()
        assert (sent.word, sent.route) == ("HELLO", ROUTE_ROUTER)
        self.answer(
            sent,
            version="0",
            boot=boot,
            shard_count=SHARDS,
            epochs=list(epochs) or [1] * SHARDS,
            heartbeat_interval=INTERVAL,
            session_timeout=5 * INTERVAL,
            batch_jobs_max=100,
            payload_bytes_max=1000,
            message_bytes_max=5000,
        )

    def beats(self) -> dict[int, Sent]:
        """Let a heartbeat interval go by, and return the heartbeats by route."""
        self.tick(INTERVAL)
        return {sent.route: sent for sent in self.sent() if sent.word == "SESSIONHEARTBEAT"}

    def answer_beat(self, sent: Sent, *, boot: int = 1, **fields: Any) -> None:
        """Answer a heartbeat to the router."""
        self.answer(sent, **{"boot": boot, "epochs": [1] * SHARDS, **fields})


def delivered(jobs: Iterable[tuple[int, int]]) -> list[Body]:
    """Return jobs as a reply has them, from ids and tokens."""
    return [{"id": job, "queue": "q", "data": {"n": job}, "token": token} for job, token in jobs]


def connected(**options: Any) -> Script:
    """Return a script whose connection has been answered its hello."""
    script = Script(**options)
    script.connection.opened(script.now)
    script.hello()
    script.events()
    return script


def holding(*held: tuple[int, int]) -> Script:
    """Return a script whose connection holds these leases."""
    script = connected()
    script.request(PullBatch(queue="q", count=10, timeout=60_000))
    script.deliver(script.sent_one(), *held)
    (event,) = script.completed()
    assert isinstance(event.reply, Delivered)
    return script
