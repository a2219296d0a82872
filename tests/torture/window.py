"""The window of level `async`: which broken promises a kill excuses.

A shard's log is lost from some record on to its end, so what one kill undoes are the last answers
of the shard. They leave at once only while the oldest unwritten record is younger than 50 ms; so
whenever storage stands still, and for however long, the answers that may prove untrue lie together
within that time. What is undone by one kill is excused if it lies so closely together, and if
nothing that came later was kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.torture.books import Books
from tests.torture.ledger import Killed

MS: Final = 1_000_000
WINDOW_MS: Final = 100
"""It says 50 ms, and whoever asks and whoever writes the answer down has to come to it."""
DYING_MS: Final = 100
"""How long after the killer's note its victim may still answer."""


class Breach(NamedTuple):
    """A promise that does not hold in the end.

    Args:
        kind: which.
        text: what happened.
        asked, told: when the promise was asked for and given.
        shard: who gave it.
    """

    kind: str
    text: str
    asked: int
    told: int
    shard: int


class Window:
    """See the module.

    Args:
        books: of the run.
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        #: by shard and time of the kill that may have undone it; the time is 0 for none
        self._breaches: dict[tuple[int, int], list[Breach]] = defaultdict(list)

    def note(self, breach: Breach) -> None:
        """Take in what may be excused."""
        kill = self._next_kill(breach.asked, breach.shard)
        self._breaches[breach.shard, 0 if kill is None else kill.at].append(breach)

    def _next_kill(self, at: int, shard: int) -> Killed | None:
        """Return what may have undone something: also a supervisor's death, after which a shard
        that cannot write for as long as a drain takes ends with what it has."""
        for kill in self._books.kills:
            if kill.at + DYING_MS * MS > at and (shard in kill.shards or kill.kind == "supervisor"):
                return kill
        return None

    def judge(self, lost: set[int]) -> tuple[list[Breach], list[Breach]]:
        """Return what is a breach, and what is excused.

        Args:
            lost: ids of acknowledged jobs that are gone.
        """
        breaches: list[Breach] = []
        excused: list[Breach] = []
        for (shard, killed_at), some in self._breaches.items():
            is_excused = killed_at and self._is_end_of_log(shard, killed_at, some, lost)
            (excused if is_excused else breaches).extend(some)
        return breaches, excused

    def _is_end_of_log(
        self, shard: int, killed_at: int, some: Sequence[Breach], lost: set[int]
    ) -> bool:
        first = min(breach.told for breach in some)
        if max(breach.asked for breach in some) - first > WINDOW_MS * MS:
            return False
        for job_id, (job, request) in self._books.acknowledged.items():
            answer = request.answer
            if (
                request.attempt.at > first
                and answer is not None
                and answer.at < killed_at
                and job.custom is None
                and job_id not in lost
                and self._books.state_of(job_id)
                and self._books.shard_of(job.queue) == shard
            ):
                return False
        return True
