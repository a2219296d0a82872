"""Which leases the session holds, so that heartbeats can name them.

Owns one fact: job id to lease token, for every job that was handed to this client and not yet
settled. Pure; the connection tells it what arrived and what was answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from flashq.client.results import Job
from flashq.ids import shard_of_job


class Beat(NamedTuple):
    """A heartbeat under way: to which route, when, and which leases it named."""

    route: int
    at: int
    named: dict[int, int]


class HeldLeases:
    """The leases of one session, on all shards."""

    def __init__(self) -> None:
        #: token of each job held; a job handed out anew replaces its older token
        self._tokens: dict[int, int] = {}

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
