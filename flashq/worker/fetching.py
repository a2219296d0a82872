"""From which queues a worker asks for jobs, and for how many: never for more than it has room for.

Pure; `now` is monotonic milliseconds. A worker of one queue parks a pull at the server for all its
room, and has a job as soon as there is one. A worker of several queues cannot do that: each pull
takes jobs when there are some, and all of them together would take a job of each queue for the
same place. So it *waits* for queues, which takes nothing, and *takes* from those that have jobs.

The states of a queue, of a worker of several:

    EMPTY ──(there is room)──> WAITING ──(it has jobs)──> LOADED ──(its turn)──> TAKING
      ^                           │                         ^                      │
      └──────(time is up)─────────┴──── got less than it asked for ────────────────┤
                                                            └── got all of it ─────┘

* What is asked for and not answered, what is ready and what runs are together at most the room:
  no job is handed out that has no place here.
* LOADED queues take turns; what room there is is divided among them. One that gives all it was
  asked for goes behind the others, so a deep queue starves none.
* A queue that is said to have jobs while there is no room is *passed*: the server then tells
  another worker at once. The queue stays LOADED and has its turn when there is room.
* The server says of a job only to as many workers as there are jobs, and to the next one if those
  have not come for them after a while; a worker that dies between the two costs that while.
* A request that fails makes its queue EMPTY, not to be asked before `RETRY_MS` have passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

RETRY_MS: Final = 500.0


class Fetch(Struct, frozen=True):
    """Pull up to `count` jobs of `queue`: `parked` until there is one, or only what is there."""

    queue: str
    count: int
    parked: bool = True


class Wait(Struct, frozen=True):
    """Wait until `queue` has jobs, and take none."""

    queue: str


class Pass(Struct, frozen=True):
    """Say that the jobs of `queue` are not for us now."""

    queue: str


Order = Fetch | Wait | Pass


class Fetching:
    """What is asked of the server's queues.

    Args:
        queues: names, without repetition.
        batch_max: most jobs in one fetch.
    """

    def __init__(self, queues: Sequence[str], batch_max: int) -> None:
        self._queues: Final = list(queues)
        self._is_sole: Final = len(self._queues) == 1
        self._batch_max: Final = batch_max
        #: how many jobs were asked of each queue that has not answered yet
        self._taking: dict[str, int] = {}
        #: all of them together
        self.asked = 0
        #: queues that are waited for
        self._waiting: set[str] = set()
        #: queues that are said to have jobs, by turn
        self._loaded: dict[str, None] = {}
        #: those of them that have been said since the last orders
        self._called: list[str] = []
        #: when a queue whose request failed may be asked again
        self._ask_at: dict[str, float] = {}

    def orders(self, room: int, now: float) -> list[Order]:
        """Return what to ask now.

        Args:
            room: how many jobs more may be asked for; 0 if it is not worth while.
        """
        if self._is_sole:
            return self._park(room, now)
        called, self._called = self._called, []
        if room <= 0:
            return [Pass(queue) for queue in called]
        orders: list[Order] = []
        if self._loaded:
            turn = [queue for queue in self._loaded if queue not in self._taking][:room]
            for position, queue in enumerate(turn):
                count = min(-(-room // (len(turn) - position)), self._batch_max)
                room -= count
                del self._loaded[queue]
                self._take(queue, count)
                orders.append(Fetch(queue, count, parked=False))
            orders += [Pass(queue) for queue in called if queue in self._loaded]
        if len(self._waiting) + len(self._taking) + len(self._loaded) < len(self._queues):
            orders += self._wait_for_others(now)
        return orders

    def _park(self, room: int, now: float) -> list[Order]:
        (queue,) = self._queues
        if room <= 0 or queue in self._taking or self._ask_at.get(queue, 0.0) > now:
            return []
        count = min(room, self._batch_max)
        self._take(queue, count)
        return [Fetch(queue, count)]

    def _take(self, queue: str, count: int) -> None:
        self._taking[queue] = count
        self.asked += count

    def _wait_for_others(self, now: float) -> list[Order]:
        empty = [
            queue
            for queue in self._queues
            if queue not in self._waiting
            and queue not in self._taking
            and queue not in self._loaded
            and self._ask_at.get(queue, 0.0) <= now
        ]
        self._waiting.update(empty)
        return [Wait(queue) for queue in empty]

    def fetched(self, queue: str, count: int) -> None:
        """A fetch brought so many jobs."""
        asked = self._taking.pop(queue, 0)
        self.asked -= asked
        if count >= asked and not self._is_sole:
            self._loaded[queue] = None

    def waited(self, queue: str, *, has_jobs: bool) -> None:
        """A wait has ended, because there are jobs, or because its time was up."""
        self._waiting.discard(queue)
        if has_jobs:
            self._loaded[queue] = None
            self._called.append(queue)

    def failed(self, queue: str, now: float) -> None:
        """A fetch or a wait came to nothing: ask again after a while."""
        self._waiting.discard(queue)
        self.asked -= self._taking.pop(queue, 0)
        self._ask_at[queue] = now + RETRY_MS

    def next_deadline(self, now: float) -> float | None:
        """Return when a queue may be asked again; None when that is nothing to wait for."""
        if not self._ask_at:
            return None
        self._ask_at = {queue: at for queue, at in self._ask_at.items() if at > now}
        return min(self._ask_at.values(), default=None)
