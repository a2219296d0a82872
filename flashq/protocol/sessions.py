"""Commands about the connection itself: hello, heartbeat, goodbye, auth, subscriptions.

A session is 16 random bytes that the client says itself, so a client that reconnects keeps it. The
identity that a ZeroMQ socket announces means nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta, Struct

from flashq.protocol.base import Ids, Mutation, Name, Reply, Request, SessionId, Text, Unsigned
from flashq.protocol.command import Role, Scope, command
from flashq.protocol.objects import Event


class Hello(Request, kw_only=True, omit_defaults=True, tag="HELLO"):
    """To the router: makes the client known, so that it hears of shards that come back. A shard
    answers it too. `client` says who it is, for people: LISTWORKERS shows it."""

    session: SessionId
    client: Text | None = None


class HelloReply(Reply, kw_only=True):
    """`boot` changes when the router (or shard) has been started anew. `epochs` has each shard's
    epoch, 0 for one that is not ready. Durations are ms."""

    version: str
    boot: int
    shard_count: int
    epochs: list[int]
    heartbeat_interval: int
    session_timeout: int
    batch_jobs_max: int
    payload_bytes_max: int
    message_bytes_max: int


class About(Struct, kw_only=True, omit_defaults=True, frozen=True, forbid_unknown_fields=True):
    """What a session says of itself, for people who look at the server. Who has told its `name` in
    a hello need not say it again.

    A worker that names an `id` is listed under it for as long as its heartbeats go on, also when it
    has no jobs of this session: so one registers that works over another door.
    """

    id: Name | None = None
    name: Name | None = None
    queues: Annotated[list[Name], Meta(max_length=1000)] = []
    concurrency: Unsigned = 0
    jobs_processed: Unsigned = 0


def worker_id(session: bytes) -> str:
    """Return what a session is called in lists: whoever knows the session itself could end it."""
    return sha256(session).hexdigest()[:16]


class Heartbeat(Request, kw_only=True, omit_defaults=True, tag="SESSIONHEARTBEAT"):
    """To the router, and to each shard that the session holds jobs of or waits on.

    `leases` names the jobs held of that shard, `tokens` their tokens. A lease that two heartbeats
    do not name goes back to its queue. A shard shows `about` in LISTWORKERS.
    """

    session: SessionId
    leases: Ids = []
    tokens: Ids = []
    about: About | None = None


class HeartbeatReply(Reply, kw_only=True, omit_defaults=True):
    """From a shard: `lost` names those of `leases` that are no longer the session's, `states` in
    which state each of those jobs is now. From the router: `boot` and `epochs` as in the reply to
    hello, so that no announcement can be missed; `known` is false when the router has not had this
    session's hello."""

    ok: bool
    lost: list[int] = []
    states: list[str] = []
    boot: int = 0
    epochs: list[int] = []
    known: bool = True


class Goodbye(Mutation, kw_only=True, omit_defaults=True, tag="GOODBYE"):
    """Ends the session: its waiting pulls are dropped and its jobs go back at once.

    Those in `lost` count as lost: a gateway names the jobs whose worker is gone without a goodbye
    of its own. The others go back uncounted.
    """

    lost: Ids = []


class Auth(Request, kw_only=True, tag="AUTH"):
    token: str


class Subscribe(Request, kw_only=True, omit_defaults=True, tag="SUBSCRIBE"):
    """Events of `queue` (`*` for all) whose name is in `events` (`*` for all), as notices with this
    request's `corr`, until UNSUBSCRIBE or the session's end. Needs a hello before it."""

    queue: str
    events: Annotated[list[Name], Meta(max_length=100)]


class Unsubscribe(Request, kw_only=True, tag="UNSUBSCRIBE"):
    queue: str


class ShardNotice(Struct, kw_only=True, tag_field="notice", tag="shard"):
    """A shard is ready under a new epoch: what was outstanding there has to be repeated."""

    shard: int
    epoch: int


class EventNotice(Struct, kw_only=True, tag_field="notice", tag="event"):
    event: Event


class GapNotice(Struct, kw_only=True, tag_field="notice", tag="gap"):
    """Events of a shard were missed: those from `first_missed` on, before `next`; or, where both
    are 1, what it did before it was heard, which has no numbers."""

    shard: int
    first_missed: int
    next: int


class ClosingNotice(Struct, kw_only=True, tag_field="notice", tag="closing"):
    """The server is going down; requests are answered with `shutting_down`."""


Notice = ShardNotice | EventNotice | GapNotice | ClosingNotice


COMMANDS: Final = (
    command(
        Hello,
        HelloReply,
        Scope.ROUTER,
        Role.ANYONE,
        "connect",
        "Makes the client known, and tells it how to talk to the server.",
        mutates=False,
    ),
    command(
        Heartbeat,
        HeartbeatReply,
        Scope.ROUTER,
        Role.ANYONE,
        "connect",
        "Says that the session lives, and which leases it holds.",
        mutates=False,
    ),
    command(
        Goodbye,
        Reply,
        Scope.ROUTER,
        Role.ANYONE,
        "close",
        "Ends the session and gives its jobs back.",
    ),
    command(
        Auth,
        Reply,
        Scope.ROUTER,
        Role.ANYONE,
        "auth",
        "Shows a token.",
        mutates=False,
    ),
    command(
        Subscribe,
        Reply,
        Scope.ROUTER,
        Role.READ,
        "subscribe",
        "Asks for a queue's events.",
        mutates=False,
    ),
    command(
        Unsubscribe,
        Reply,
        Scope.ROUTER,
        Role.READ,
        "subscribe",
        "Stops a queue's events.",
        mutates=False,
    ),
)
