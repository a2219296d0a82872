"""Which leases the session holds, so that heartbeats can name them.

Owns job id to lease token, for every job that was handed to this client and not yet settled, and
which of those their holder has left: it tried to end them and does not know the outcome. Pure; the
connection tells it what arrived and what was answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Final

from flashq.client.results import Job
from flashq.ids import shard_of_job

HEARTBEATS_LEFT: Final = 1
"""Heartbeats that name a lease yet after its holder has left it: its time to try again."""


class HeldLeases:
    """The leases of one session, on all shards."""

    def __init__(self) -> None:
        #: token of each job held; a job handed out anew replaces its older token
        self._tokens: dict[int, int] = {}
        #: token of each lease that was left, and heartbeats that name it yet
        self._left: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def take(self, jobs: Iterable[Job]) -> None:
        """Hold the leases of jobs that have just been handed out."""
        held = self._tokens
        for job in jobs:
            token = job.token
            if token is not None:
                held[job.id] = token

    def holds(self, job: Job) -> bool:
        """Tell whether this very delivery of the job is held."""
        return job.token is not None and self._tokens.get(job.id) == job.token

    def tokens_of(
        self, ids: Sequence[int], named: Sequence[int | None] | None
    ) -> Sequence[int | None]:
        """Return which delivery a request about `ids` means: the one named, or the one held."""
        held = self._tokens.get
        if named is None:
            return [held(job_id) for job_id in ids]
        if None not in named:
            return named
        return [
            held(job_id) if token is None else token
            for job_id, token in zip(ids, named, strict=True)
        ]

    def settle(self, ids: Sequence[int], tokens: Sequence[int | None]) -> None:
        """Let go of deliveries that are over. One that was handed out anew meanwhile stays."""
        held = self._tokens
        found = list(map(held.pop, ids, repeat(None)))  # a loop would take twice as long
        if found != tokens:
            for job_id, was, token in zip(ids, found, tokens, strict=True):
                if was is not None and was != token:
                    held[job_id] = was

    def leave(self, ids: Sequence[int], tokens: Sequence[int | None]) -> None:
        """Note that the holder has tried to end these jobs, and that their end is not known.

        It may try again; without that their leases are soon let go, and the server gives the jobs
        to others. Otherwise they would be active for as long as this client lives.
        """
        for job_id, token in zip(ids, tokens, strict=True):
            if token is not None and self._tokens.get(job_id) == token:
                self._left[job_id] = (token, HEARTBEATS_LEFT)

    @property
    def has_left(self) -> bool:
        """Whether `let_go` has something to do."""
        return bool(self._left)

    def let_go(self, being_settled: Collection[int]) -> None:
        """Before each heartbeat: let go of what was left and is not being ended once more."""
        left, self._left = self._left, {}
        for job_id, (token, heartbeats) in left.items():
            if self._tokens.get(job_id) != token:
                continue
            if job_id in being_settled:
                self._left[job_id] = (token, HEARTBEATS_LEFT)
            elif heartbeats:
                self._left[job_id] = (token, heartbeats - 1)
            else:
                del self._tokens[job_id]

    def by_shard(self, shard_count: int) -> dict[int, dict[int, int]]:
        """Return id to token for each shard that leases are held of."""
        found: dict[int, dict[int, int]] = {}
        for job_id, token in self._tokens.items():
            found.setdefault(shard_of_job(job_id, shard_count), {})[job_id] = token
        return found

    def lose(
        self, ids: Iterable[int], named: dict[int, int], being_settled: Collection[int]
    ) -> list[int]:
        """Let go of what a shard says is no longer the session's.

        Args:
            ids: the shard's answer to a heartbeat.
            named: what that heartbeat named. A job handed out anew since then is not meant.
            being_settled: ids with an answer under way. It decides about them, not the heartbeat,
                which may have overtaken it.

        Returns:
            The ids that were held until now.
        """
        held = self._tokens
        lost = [
            job_id
            for job_id in ids
            if job_id not in being_settled and job_id in held and held[job_id] == named.get(job_id)
        ]
        for job_id in lost:
            del held[job_id]
        return lost
