"""What the client's methods stand on: sending a request and getting its reply.

Owns the contract between methods and clients, and the conversions that all methods share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct

from flashq.client.calls import Call

T = TypeVar("T")


class Caller(ABC):
    """A client as its methods see it."""

    @abstractmethod
    def _call(self, request: Struct | Call, kind: type[T], *, within: int | None = None) -> T:
        """Send a request and return its reply.

        Args:
            request: a request, or one encoded already.
            kind: the reply's type.
            within: ms until it ends with an error; the client's time-out by default.
        """

    @abstractmethod
    def _call_each(self, requests: Sequence[Struct], kind: type[T]) -> list[T]:
        """Send all requests at once, wait for all replies, and raise the first error."""

    @abstractmethod
    def _shard_count(self) -> int:
        """Return how many shards the server has, as soon as that is known."""

    @abstractmethod
    def _use_token(self, token: str) -> None:
        """Show this token after every further hello."""
