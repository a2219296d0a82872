"""A bridge that carries nothing out: tests answer for the shards."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Collection, Sequence
from typing import Any

import msgpack

from flashq.gateway.asking import Ask
from flashq.gateway.events import EventFan, Listener
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import Done, Pending
from flashq.gateway.session import Conversation
from flashq.gateway.subscribing import Ready
from flashq.tokens import Guard, Keyring, TokenEntry


class Asked:
    """One request that a conversation has passed on."""

    def __init__(self, ask: Ask, done: Done | None) -> None:
        self.ask = ask
        self.word = ask.command.word
        self._done = done

    @property
    def fields(self) -> dict[str, Any]:
        """What the shard would read."""
        found = jsonlib.loads(self.ask.body) if self.ask.json else msgpack.unpackb(self.ask.body)
        assert isinstance(found, dict)
        return found

    def answer(self, **fields: Any) -> None:
        """Answer as a shard does."""
        body = {"ok": True, **fields}
        packed = jsonlib.dumps(body).encode() if self.ask.json else msgpack.packb(body)
        assert self._done is not None
        self._done(packed, body["ok"])


class FakePort:
    """What a conversation takes for the bridge."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.left: list[Holder] = []
        #: whether the jobs of those count as lost
        self.lost: list[bool] = []
        #: but for these, which were never sent
        self.unsent: list[set[int]] = []
        #: who waits for the router to say that events come, while they do not come at once
        self.unready: list[Ready] = []
        self.events_come = True
        self.fan = EventFan(self._subscribe, lambda queue: None)

    def _subscribe(self, _queue: str, ready: Ready) -> None:
        if self.events_come:
            ready(None)
        else:
            self.unready.append(ready)

    def ask(self, ask: Ask, holder: Holder | None, done: Done | None) -> Pending:
        """Take a request on."""
        pending = Pending(ask, holder, ask.route(4), done, len(self.asked))
        self.asked.append(Asked(ask, done))
        return pending

    def leave(self, holder: Holder, *, is_lost: bool, unsent: Collection[int] = ()) -> None:
        """Note that a connection is gone."""
        self.left.append(holder)
        self.lost.append(is_lost)
        self.unsent.append(set(unsent))

    def listen(self, listener: Listener, ready: Ready) -> None:
        """Hand events to a listener."""
        self.fan.add(listener, ready)

    def unlisten(self, listener: Listener) -> None:
        """Hand nothing more to it."""
        self.fan.remove(listener)


class Talk:
    """A conversation, its port, and what it has said so far."""

    def __init__(self, *tokens: str, entries: Sequence[TokenEntry] = (), **options: Any) -> None:
        self.port = FakePort()
        self.guard = guard = Guard(Keyring(tokens, entries) if tokens or entries else None)
        self.conversation = Conversation(self.port, guard, **options)

    def line(self, **fields: Any) -> None:
        """Send one JSON line."""
        self.conversation.receive(jsonlib.dumps(fields).encode() + b"\n")

    def frame(self, **fields: Any) -> None:
        """Send one MessagePack frame."""
        body = msgpack.packb(fields)
        self.conversation.receive(len(body).to_bytes(4, "big") + body)

    def output(self) -> bytes:
        """Return the bytes it has said since it was asked last."""
        return b"".join(self.conversation.data_to_send())

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines it has said since it was asked last."""
        return [jsonlib.loads(line) for line in self.output().splitlines()]

    def frames(self) -> list[dict[str, Any]]:
        """Return the MessagePack frames it has said since it was asked last."""
        output, found = self.output(), []
        while output:
            size = int.from_bytes(output[:4], "big")
            found.append(msgpack.unpackb(output[4 : 4 + size]))
            output = output[4 + size :]
        return found
