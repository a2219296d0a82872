"""A router with a clock in hand, and no sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import (
    INTERNAL,
    JSON,
    NOTICE,
    REPLY,
    ROUTE_ANY,
    ROUTE_COORDINATOR,
    pack_header,
    pack_heard,
    unpack_header,
)
from flashq.protocol.internal import Epochs, encode_internal
from flashq.protocol.limits import EngineLimits
from flashq.router.engine import Router
from flashq.router.known import Supervised
from flashq.router.routing import COORDINATOR_ROUTING_ID, shard_of_routing_id
from flashq.router.settings import RouterSettings
from flashq.tokens import Guard, Keyring, TokenEntry

SHARDS = 4
CLIENT = b"client-1"
SESSION = bytes(range(16))
MESSAGE_BYTES_MAX = 1 << 20
PEER_BYTES_MAX = 1 << 22
UNREAD_BYTES_MAX = 1 << 26


class Pair(NamedTuple):
    """A pair somebody gets; `to` is a client's identity, a shard's number or ROUTE_COORDINATOR."""

    to: Any
    flags: int
    route: int
    corr: int
    tail: bytes
    body: bytes

    @property
    def fields(self) -> Any:
        """The body, decoded."""
        return decode(self.body, dict, json=bool(self.flags & JSON))


class Bench:
    """What stands around the engine in a test."""

    def __init__(
        self,
        *,
        tokens: Sequence[str] = (),
        entries: Sequence[TokenEntry] = (),
        is_heard: bool = True,
        supervisor: Supervised = lambda: None,
        **settings: Any,
    ) -> None:
        self.now_ms = 1000
        defaults = RouterSettings(
            version="1.2.3",
            boot=42,
            shard_count=SHARDS,
            limits=EngineLimits(),
            message_bytes_max=MESSAGE_BYTES_MAX,
            peer_bytes_max=PEER_BYTES_MAX,
            unread_bytes_max=UNREAD_BYTES_MAX,
            all_unread_bytes_max=4 * UNREAD_BYTES_MAX,
            gather_timeout_ms=2000,
            config_hash="agreed",
        )
        self.settings = replace(defaults, **settings)
        keyring = Keyring(tokens, entries) if tokens or entries else None
        self.router = Router(self.settings, self.now_ms, Guard(keyring), supervisor)
        self._is_heard = is_heard

    # --- in

    def send(self, *frames: bytes, identity: bytes = CLIENT, address: str | None = None) -> None:
        """Give the router a client's message."""
        self.router.handle_client(identity, frames, self.now_ms, address)

    def ask(
        self,
        *,
        route: int = ROUTE_ANY,
        corr: int = 7,
        flags: int = 0,
        identity: bytes = CLIENT,
        address: str | None = None,
        **request: Any,
    ) -> None:
        """Send a client's request."""
        body = encode(request, json=bool(flags & JSON))
        self.send(pack_header(flags, route, corr), body, identity=identity, address=address)
        if self._is_heard and (topics := self.router.take_topics()):
            for topic, _ in topics:
                self.heed(topic, *range(SHARDS))

    def heed(self, topic: bytes, *shards: int) -> None:
        """Let shards say that they publish what the router subscribes to."""
        for shard in shards:
            self.router.handle_event(pack_heard(shard, topic))
        self.pass_time(0)

    def answer(self, asked: Pair, body: Any = None, *, flags: int = 0) -> None:
        """Answer a pair as its shard or the coordinator would; `body` is a dict or bytes."""
        flags |= REPLY | (asked.flags & JSON)
        if not isinstance(body, bytes):
            body = encode({"ok": True} | (body or {}), json=bool(asked.flags & JSON))
        frames = [pack_header(flags, asked.route, asked.corr, asked.tail), body]
        if asked.to == ROUTE_COORDINATOR:
            self.router.handle_coordinator(frames, self.now_ms)
        else:
            self.router.handle_shard(asked.to, frames, self.now_ms)

    def epochs(self, *epochs: int, storage: str = "") -> None:
        """Let the coordinator tell the epochs, and what is wrong with storage."""
        header = pack_header(INTERNAL, ROUTE_COORDINATOR, 0)
        body = encode_internal(Epochs(epochs=list(epochs), storage=storage))
        self.router.handle_coordinator([header, body], self.now_ms)

    def hello(self, identity: bytes = CLIENT, **more: Any) -> Any:
        """Let a client say hello, and return its reply's fields."""
        session = SESSION if identity == CLIENT else identity.ljust(16, b"-")[:16]
        self.ask(cmd="HELLO", session=session, identity=identity, **more)
        [reply] = self.to_clients()
        return reply.fields

    def pass_time(self, ms: int) -> None:
        """Let the clock run, and tick."""
        self.now_ms += ms
        self.router.tick(self.now_ms)

    # --- out

    def to_clients(self) -> list[Pair]:
        """What clients get since the last look."""
        return [
            pair for to, frames in self.router.take_client_parcels() for pair in _pairs(to, frames)
        ]

    def reply(self) -> Any:
        """The fields of the one reply that a client gets."""
        [pair] = self.to_clients()
        assert pair.flags & (REPLY | NOTICE) == REPLY
        return pair.fields

    def to_peers(self) -> list[Pair]:
        """What shards and the coordinator get since the last look."""
        return [
            pair
            for to, frames in self.router.take_peer_parcels()
            for pair in _pairs(_peer(to), frames)
            if not pair.flags & INTERNAL
        ]

    def to_shard(self) -> Pair:
        """The one pair that a shard or the coordinator gets."""
        [pair] = self.to_peers()
        return pair


def _peer(routing_id: bytes) -> int:
    if routing_id == COORDINATOR_ROUTING_ID:
        return ROUTE_COORDINATOR
    return shard_of_routing_id(routing_id)


def _pairs(to: Any, frames: Sequence[bytes]) -> list[Pair]:
    return [
        Pair(to, *unpack_header(header), body)
        for header, body in zip(frames[::2], frames[1::2], strict=True)
    ]


def jobs_body(*ids: int, **more: Any) -> dict[str, Any]:
    """The body of a reply that lists jobs."""
    return {"jobs": [{"id": job_id, "queue": "q", "data": {"of": job_id}} for job_id in ids]} | more
