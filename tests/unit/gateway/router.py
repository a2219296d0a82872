"""A router that tests play, and an upstream in front of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import msgpack

from flashq.errors import (
    FlashQError,
)
from flashq.gateway.asking import read_ask
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import Pending
from flashq.gateway.upstream import Upstream
from flashq.ids import shard_of_queue
from flashq.protocol.framing import (
    DELIVERY,
    JSON,
    NOTICE,
    REPLY,
    pack_header,
    unpack_header,
)

SHARDS = 4
QUEUE = "q"
SHARD = shard_of_queue(QUEUE, SHARDS)
BEAT_MS = 2000


def job(number: int) -> int:
    """Return the id of a job on the queue's shard."""
    return number * SHARDS + SHARD


class Sent:
    """One pair as the router sees it."""

    def __init__(self, header: bytes, body: bytes) -> None:
        self.flags, self.route, self.corr, _ = unpack_header(header)
        self.json = bool(self.flags & JSON)
        self.fields: dict[str, Any] = json.loads(body) if self.json else msgpack.unpackb(body)
        self.cmd = self.fields["cmd"]


class Site:
    """An upstream, a clock, and a router that the test plays."""

    def __init__(self, token: str | None = None, *, greet: bool = True) -> None:
        numbers = itertools.count(1)
        self.now = 0
        self.notices: list[Any] = []
        self.interruptions = 0
        self.ready: list[FlashQError | None] = []
        self.upstream = Upstream(
            lambda: next(numbers).to_bytes(16, "big"),
            SHARDS,
            token=token,
            on_notice=self.notices.append,
            on_interrupted=self._interrupted,
        )
        self.replies: list[tuple[dict[str, Any], bool]] = []
        self.upstream.opened(self.now)
        if greet:
            (hello,) = self.sent()
            self.greet(hello)

    def _interrupted(self) -> None:
        self.interruptions += 1

    def greet(self, hello: Sent, boot: int = 1, epochs: Sequence[int] = (1, 1, 1, 1)) -> None:
        """Answer a hello."""
        assert hello.cmd == "HELLO"
        self.answer(
            hello,
            version="0",
            boot=boot,
            shard_count=SHARDS,
            epochs=list(epochs),
            heartbeat_interval=BEAT_MS,
            session_timeout=10_000,
            batch_jobs_max=10_000,
            payload_bytes_max=1 << 20,
            message_bytes_max=1 << 24,
        )

    def ask(self, holder: Holder | None = None, *, binary: bool = False, **fields: Any) -> Pending:
        """Have a request carried out; its reply is then in `replies`."""
        body = msgpack.packb(fields) if binary else json.dumps(fields).encode()
        ask = read_ask(body, json=not binary)

        def done(reply: bytes, ok: bool) -> None:
            decoded = msgpack.unpackb(reply) if binary else json.loads(reply)
            self.replies.append((decoded, ok))

        return self.upstream.ask(ask, holder, done, self.now)

    def subscribe(self, queue: str) -> None:
        """Ask for events; the outcome is then in `ready`."""
        self.upstream.subscribe(queue, self.ready.append, self.now)

    def sent(self) -> list[Sent]:
        """Take what the router would get."""
        return [
            Sent(header, body)
            for frames in self.upstream.data_to_send()
            for header, body in zip(frames[::2], frames[1::2], strict=True)
        ]

    def one(self) -> Sent:
        """Take the only pair that the router would get."""
        (pair,) = self.sent()
        return pair

    def answer(self, sent: Sent, *, flags: int = 0, **fields: Any) -> None:
        """Answer a pair as the server does."""
        body = {"ok": True, **fields}
        packed = json.dumps(body, separators=(",", ":")).encode()
        header = pack_header(REPLY | flags | (sent.flags & JSON), sent.route, sent.corr)
        self.upstream.receive([header, packed if sent.json else msgpack.packb(body)], self.now)

    def deliver(self, sent: Sent, *jobs: tuple[int, int]) -> None:
        """Hand out jobs, as pairs of id and token."""
        views = [{"id": job_id, "queue": QUEUE, "token": token} for job_id, token in jobs]
        fields = {"job": views[0]} if sent.cmd == "PULL" else {"jobs": views}
        self.answer(sent, flags=DELIVERY, **fields)

    def refuse(self, sent: Sent, code: str, *, retryable: bool = False) -> None:
        """Answer with an error."""
        self.answer(sent, ok=False, error=f"text of {code}", code=code, retryable=retryable)

    def notice(self, **fields: Any) -> None:
        """Tell what was not asked for."""
        self.upstream.receive([pack_header(NOTICE, 0, 0), msgpack.packb(fields)], self.now)

    def pass_time(self, ms: int) -> None:
        """Let time go by."""
        self.now += ms
        self.upstream.tick(self.now)

    def pull(self, holder: Holder, *jobs: tuple[int, int]) -> None:
        """Let a holder be handed jobs."""
        self.ask(holder, cmd="PULLB", queue=QUEUE, count=9, timeout=1000)
        self.deliver(self.one(), *jobs)
        self.replies.clear()
