"""What a connection tells its shell: outcomes, losses, notices. Pure data."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct

from flashq.client.results import EventArrived
from flashq.errors import FlashQError
from flashq.protocol.sessions import GapNotice, HelloReply


class Completed(NamedTuple):
    """A request's end: `error`, or `reply` (for PULL and PULLB already a `Delivered`)."""

    corr: int
    reply: Any
    error: FlashQError | None


class Connected(Struct, frozen=True):
    """The server answered hello (again)."""

    server: HelloReply


class TokenRefused(Struct, frozen=True):
    """The server does not know the token, or asks for one and there is none: every request ends
    with that error, until another one is shown."""


class Disconnected(Struct, frozen=True):
    """The router does not answer. The shell closes the socket, opens another one and says
    `opened`; the session and everything outstanding live on."""

    reason: str


class LeasesLost(Struct, frozen=True):
    """These jobs are no longer this client's: they went back to their queue, or were cancelled.
    `states` says in which state each is now, as far as it is known."""

    ids: list[int]
    states: dict[int, str] = {}


class NoticeReceived(Struct, frozen=True):
    """An event or a gap, for the subscriptions to `queue`."""

    queue: str
    notice: EventArrived | GapNotice


class EventsInterrupted(Struct, frozen=True):
    """The connection was lost for a while: events of `queue` may be missing."""

    queue: str


class SubscriptionRefused(Struct, frozen=True):
    """After a reconnect the server did not take the subscription again."""

    queue: str
    error: FlashQError


class ServerClosing(Struct, frozen=True):
    """The server announced that it goes down."""


class Malformed(Struct, frozen=True):
    """A message that is not flashq's arrived, and was dropped."""

    reason: str


AnyHappening = (
    Completed
    | Connected
    | TokenRefused
    | Disconnected
    | LeasesLost
    | NoticeReceived
    | EventsInterrupted
    | SubscriptionRefused
    | ServerClosing
    | Malformed
)
