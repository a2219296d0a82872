"""GETCHILDREN for readers who know of no shards: children that live elsewhere are fetched.

Owns the two questions that become one answer: the parent's shard names all children and gives those
it has itself, and the other shards give the rest. Pure; asking is the bridge's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Raw, Struct

from flashq.errors import FlashQError
from flashq.gateway.asking import Ask, read_ask
from flashq.gateway.pending import Done
from flashq.protocol.base import OptionalRaw
from flashq.protocol.codec import decode, encode
from flashq.protocol.jobs import GetJobsBatch

WORD: Final = "GETCHILDREN"


class _Child(Struct):
    id: int
    job: OptionalRaw = None


class _Children(Struct):
    """The reply of the parent's shard, its jobs as they came."""

    ok: bool
    parent_id: int
    children: list[Raw]
    children_ids: list[int]
    completed: int
    total: int


class _Jobs(Struct):
    jobs: list[Raw]


class Family:
    """One GETCHILDREN on its way.

    Args:
        ask: the request.
        done: takes its reply.
        more: has another request carried out.
    """

    def __init__(self, ask: Ask, done: Done, more: Callable[[Ask, Done], object]) -> None:
        self._ask: Final = ask
        self._done: Final = done
        self._more: Final = more
        #: what the parent's shard said
        self._body = b""

    def parent_known(self, body: bytes, ok: bool) -> None:
        """Take the reply of the parent's shard, and ask for the children that it lacks."""
        self._body = body
        if ok:
            reply = decode(body, _Children, json=self._ask.json)
            missing = set(reply.children_ids) - self._by_id(reply.children).keys()
            if missing:
                wanted = [child for child in reply.children_ids if child in missing]
                json = self._ask.json
                more = read_ask(encode(GetJobsBatch(ids=wanted), json=json), json=json)
                more.full, more.older = self._ask.full, self._ask.older
                try:
                    self._more(more, self._children_known)
                except FlashQError:
                    pass  # too busy for more: what there is, is the answer
                else:
                    return
        self._done(body, ok)

    def _children_known(self, body: bytes, ok: bool) -> None:
        """Take the replies of the others, and put all children in their order."""
        json = self._ask.json
        if ok:
            reply = decode(self._body, _Children, json=json)
            found = self._by_id(reply.children) | self._by_id(decode(body, _Jobs, json=json).jobs)
            reply.children = [found[child] for child in reply.children_ids if child in found]
            self._body = encode(reply, json=json)
        self._done(self._body, True)

    def _by_id(self, jobs: list[Raw]) -> dict[int, Raw]:
        """Return job objects by id, each without the state that lists put beside it."""
        found = {}
        for raw in jobs:
            child = decode(bytes(raw), _Child, json=self._ask.json)
            found[child.id] = raw if child.job is None else child.job
        return found
