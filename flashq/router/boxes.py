"""What goes to clients at the end of a turn of the router: replies and notices, by client. Pure."""

from __future__ import annotations

from msgspec import Struct

from flashq.protocol.codec import encode
from flashq.protocol.framing import JSON, NOTICE, REPLY, ROUTE_ROUTER, pack_header
from flashq.router.outbox import Parcel, split
from flashq.router.sessions import Asker


class Boxes:
    """One for each client that gets something."""

    def __init__(self) -> None:
        #: headers and bodies, by the name of the client's connection
        self.by_client: dict[bytes, list[bytes]] = {}

    def put(self, identity: bytes, header: bytes, body: bytes) -> None:
        """Add a pair."""
        box = self.by_client.get(identity)
        if box is None:
            self.by_client[identity] = [header, body]
        else:
            box += (header, body)

    def reply(self, asker: Asker, body: Struct) -> None:
        """Answer a request."""
        self.reply_encoded(asker, encode(body, json=asker.json))

    def reply_encoded(self, asker: Asker, body: bytes) -> None:
        """Answer a request with a body in its asker's encoding."""
        header = pack_header(REPLY | (asker.flags & JSON), ROUTE_ROUTER, asker.corr)
        self.put(asker.identity, header, body)

    def notify(self, identity: bytes, corr: int, body: bytes, *, json: bool) -> None:
        """Tell a client what it did not ask for just now."""
        self.put(identity, pack_header(NOTICE | (JSON if json else 0), ROUTE_ROUTER, corr), body)

    def take(self) -> list[Parcel]:
        """Return everything as messages, and forget it."""
        boxes, self.by_client = self.by_client, {}
        return [Parcel(to, frames) for to, box in boxes.items() for frames in split(box)]
