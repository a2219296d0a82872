"""A small flashq server for tests of the clients: one thread, one ROUTER socket, no durability.

It keeps jobs in dictionaries, parks pulls, gives leases with tokens, and records every request. A
test overrides a command with `answer`, and waits for requests with `wait_for`. It imports nothing
of the real server.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Self
from zlib import crc32

import msgspec
import zmq

from flashq.protocol.framing import DELIVERY, NOTICE, REPLY, pack_header, pairs, unpack_header

SHARDS: Final = 4
PATIENCE_S: Final = 30
Body = dict[str, Any]
Answer = Callable[[Body], Body | None]

encode: Final = msgspec.msgpack.encode
decode: Final = msgspec.msgpack.decode

OK: Final[Body] = {"ok": True}


def error(code: str, text: str = "no", *, retryable: bool = False) -> Body:
    """Return an error reply."""
    return {"ok": False, "error": text, "code": code, "retryable": retryable}


class Peer:
    """Who asked: the way back for one request."""

    def __init__(self, identity: bytes, route: int, corr: int) -> None:
        self.identity = identity
        self.route = route
        self.corr = corr


class FakeServer:
    """The server; use as a context manager.

    Args:
        url: where to bind.
        heartbeat_interval: ms, told to clients. Two heartbeats without an answer make a client
            connect anew, which on a machine that stalls is not what most tests are about.
    """

    def __init__(self, url: str, *, heartbeat_interval: int = 30_000) -> None:
        self.url = url
        self.boot = 1
        self.epochs = [1] * SHARDS
        self.heartbeat_interval = heartbeat_interval
        self.token: str | None = None
        #: every request body with its route under `_route`, oldest first
        self.requests: list[Body] = []
        #: overrides by command word; None as the answer is silence
        self.answers: dict[str, Answer] = {}
        #: heartbeats name these as lost
        self.lost: set[int] = set()
        #: payload and attempts by id, and ids by queue
        self.jobs: dict[int, Body] = {}
        self.waiting: dict[str, deque[int]] = {}
        #: token by id of what is handed out
        self.active: dict[int, int] = {}
        self.done: dict[int, Any] = {}
        self._parked: list[tuple[Peer, Body, float]] = []
        self._subscribers: list[tuple[Peer, Body]] = []
        self._sequence = 0
        self._delivery = 0
        self._changed = threading.Condition()
        self._orders: deque[Callable[[], None]] = deque()
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._stop = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._bound.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self._context.term()

    # --- for tests

    def answer(self, word: str, answer: Answer) -> None:
        """Let `answer` decide about every further request of this word."""
        self.answers[word] = answer

    def seen(self, word: str) -> list[Body]:
        """Return the requests of this word so far."""
        with self._changed:
            return [body for body in self.requests if body["cmd"] == word]

    def wait_for(self, word: str, count: int = 1) -> list[Body]:
        """Wait until so many requests of this word have arrived, and return them."""
        self.wait_until(lambda: sum(b["cmd"] == word for b in self.requests) >= count)
        return self.seen(word)

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds of the server's state."""
        with self._changed:
            assert self._changed.wait_for(true, PATIENCE_S)

    def order(self, act: Callable[[], object]) -> None:
        """Have the server's thread do something, and wait for it."""
        done = threading.Event()

        def acting() -> None:
            act()
            done.set()

        self._orders.append(acting)
        assert done.wait(PATIENCE_S)

    def notify(self, notice: Body) -> None:
        """Send a notice to every subscriber."""

        def send() -> None:
            for peer, _ in self._subscribers:
                self._send(peer, notice, NOTICE)

        self.order(send)

    # --- the thread

    def _run(self) -> None:
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(self.url)
        self._bound.set()
        while not self._stop.is_set():
            while self._orders:
                self._orders.popleft()()
            self._expire()
            if self._socket.poll(5):
                identity, *frames = self._socket.recv_multipart()
                for head, body in pairs(frames):
                    header = unpack_header(head)
                    self._handle(Peer(identity, header.route, header.corr), decode(body))
            with self._changed:
                self._changed.notify_all()
        self._socket.close(0)

    def _send(self, peer: Peer, body: Body, flags: int = REPLY) -> None:
        head = pack_header(flags, peer.route, peer.corr)
        self._socket.send_multipart([peer.identity, head, encode(body)])

    def _handle(self, peer: Peer, body: Body) -> None:
        if "payloads" in body:  # which stands in the place of jobs that say nothing else
            body["jobs"] = [{"data": data} for data in body.pop("payloads")]
        with self._changed:
            self.requests.append({**body, "_route": peer.route})
        word = body["cmd"]
        if word in self.answers:
            reply = self.answers[word](body)
            if reply is not None:
                flags = REPLY | DELIVERY if word in ("PULL", "PULLB") else REPLY
                self._send(peer, reply, flags)
            return
        handler = getattr(self, f"_on_{word.lower()}", None)
        reply = handler(peer, body) if handler else OK
        if reply is not None:
            self._send(peer, reply)

    # --- commands

    def _on_hello(self, _: Peer, body: Body) -> Body:
        return {
            "ok": True,
            "version": "0",
            "boot": self.boot,
            "shard_count": SHARDS,
            "epochs": self.epochs,
            "heartbeat_interval": self.heartbeat_interval,
            "session_timeout": 10_000,
            "batch_jobs_max": 10_000,
            "payload_bytes_max": 1 << 20,
            "message_bytes_max": 1 << 24,
        }

    def _on_auth(self, _: Peer, body: Body) -> Body:
        right = self.token is None or body["token"] == self.token
        return OK if right else error("token_invalid", "Invalid token")

    def _on_sessionheartbeat(self, peer: Peer, body: Body) -> Body:
        if peer.route >= SHARDS:
            return {"ok": True, "boot": self.boot, "epochs": self.epochs}
        return {"ok": True, "lost": [i for i in body.get("leases", []) if i in self.lost]}

    def _on_push(self, _: Peer, body: Body) -> Body:
        return {"ok": True, "id": self.add(body["queue"], body["data"])}

    def _on_pushb(self, _: Peer, body: Body) -> Body:
        ids = [self.add(body["queue"], job["data"], serve=False) for job in body["jobs"]]
        self._serve(body["queue"])
        return {"ok": True, "ids": ids}

    def add(self, queue: str, data: Any, *, serve: bool = True, **fields: Any) -> int:
        """Push a job, in the server's thread."""
        self._sequence += 1
        job_id = self._sequence * SHARDS + crc32(queue.encode()) % SHARDS
        self.jobs[job_id] = {"id": job_id, "queue": queue, "data": data, **fields}
        self.waiting.setdefault(queue, deque()).append(job_id)
        if serve:
            self._serve(queue)
        return job_id

    def add_again(self, job_id: int) -> None:
        """Have a job wait again, as after a failed attempt; in the server's thread."""
        queue = self.jobs[job_id]["queue"]
        self.waiting[queue].append(job_id)
        self._serve(queue)

    def _on_pull(self, peer: Peer, body: Body) -> None:
        self._park(peer, body, 1)

    def _on_pullb(self, peer: Peer, body: Body) -> None:
        self._park(peer, body, body["count"])

    def _park(self, peer: Peer, body: Body, count: int) -> None:
        until = time.monotonic() + body.get("timeout", 60_000) / 1000
        name = (body.get("session"), body.get("n"))
        self._parked = [p for p in self._parked if (p[1].get("session"), p[1].get("n")) != name]
        self._parked.append((peer, {**body, "count": count}, until))
        self._serve(body["queue"])

    def _expire(self) -> None:
        now = time.monotonic()
        for parked in [p for p in self._parked if p[2] <= now]:
            self._parked.remove(parked)
            peer, body, _ = parked
            one = body["cmd"] == "PULL"
            self._send(peer, {"ok": True, "job": None} if one else {"ok": True, "jobs": []})

    def _serve(self, queue: str) -> None:
        ready = self.waiting.get(queue, deque())
        for parked in [p for p in self._parked if p[1]["queue"] == queue]:
            if not ready:
                return
            self._parked.remove(parked)
            peer, body, _ = parked
            if body.get("ready"):
                self._send(peer, {"ok": True, "jobs": [], "ready": True}, REPLY | DELIVERY)
                continue
            jobs = [self._deliver(ready.popleft()) for _ in range(min(body["count"], len(ready)))]
            one = body["cmd"] == "PULL"
            reply = {"ok": True, "job": jobs[0]} if one else {"ok": True, "jobs": jobs}
            self._send(peer, reply, REPLY | DELIVERY)

    def _deliver(self, job_id: int) -> Body:
        self._delivery += 1
        self.active[job_id] = self._delivery
        return {**self.jobs[job_id], "token": self._delivery}

    def _on_ack(self, _: Peer, body: Body) -> Body:
        lost = self._finish(body["id"], body.get("token"), body.get("result"))
        return error("lease_lost") if lost else OK

    def _on_ackb(self, _: Peer, body: Body) -> Body:
        ids = body["ids"]
        none = [None] * len(ids)
        lines = zip(ids, body.get("tokens") or none, body.get("results") or none, strict=True)
        lost = [job_id for job_id, token, result in lines if self._finish(job_id, token, result)]
        return {"ok": True, "ids": [len(ids) - len(lost)], "lost": lost}

    def _finish(self, job_id: int, token: int | None, result: Any) -> bool:
        if job_id not in self.active or token not in (None, self.active[job_id]):
            return True
        with self._changed:
            del self.active[job_id]
            self.done[job_id] = result
        return False

    def _on_fail(self, _: Peer, body: Body) -> Body:
        if body["id"] not in self.active:
            return error("job_not_found")
        self.jobs[body["id"]]["attempts"] = self.jobs[body["id"]].get("attempts", 0) + 1
        with self._changed:
            self.active.pop(body["id"])
        return OK

    def _on_release(self, _: Peer, body: Body) -> Body:
        count = 0
        for job_id in body["ids"]:
            if self.active.pop(job_id, None) is not None:
                count += 1
                queue = self.jobs[job_id]["queue"]
                self.waiting[queue].appendleft(job_id)
                self._serve(queue)
        return {"ok": True, "count": count}

    def _on_goodbye(self, peer: Peer, body: Body) -> Body:
        self._parked = [p for p in self._parked if p[1].get("session") != body["session"]]
        return OK

    def _on_subscribe(self, peer: Peer, body: Body) -> Body:
        self._subscribers.append((peer, body))
        return OK

    def _on_getresult(self, _: Peer, body: Body) -> Body:
        return {"ok": True, "id": body["id"], "result": self.done.get(body["id"])}
