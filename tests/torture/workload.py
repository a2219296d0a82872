"""What producers ask for: a mix of everything that a push can say, chosen from a seed.

Pure but for the wall clock's second, by which producers meet at the same custom ids. It knows
what a client's methods take; what becomes of a job is told to its worker in the payload.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any, Final

from msgspec import Struct

from tests.torture.ledger import Wanted

QUEUES: Final = tuple(f"torture-{number}" for number in range(8))
"""They lie on four shards of four."""

WEIGHTS: Final = {
    "single": 22,
    "batch": 16,
    "delayed": 15,
    "retried": 10,
    "dying": 4,
    "unique": 10,
    "custom": 8,
    "flow": 8,
    "dependent": 8,
    "awaited": 3,
    "removed": 3,
    "cron": 1,
}
GATEWAY_KINDS: Final = tuple(kind for kind in WEIGHTS if kind != "awaited")
"""Work that a door takes through which nobody waits for a job's end."""

KEYS: Final = 6
CUSTOM_IDS: Final = 8
RECENT: Final = 200
DELAY_MS_MAX: Final = 4000
BATCH_MAX: Final = 40
CHILDREN_MAX: Final = 5
HELD_ONE_IN: Final = 25
"""So many jobs take a while; so workers die with jobs in their hands."""


class Payload(Struct):
    """What a job carries: who it is, and what its worker does with it.

    Args:
        u: its uid.
        f: how many attempts fail.
        h: how many ms an attempt takes.
    """

    u: str
    f: int = 0
    h: int = 0


class Order(Struct):
    """One request of a producer.

    Args:
        kind: of work.
        jobs: what it asks for; of a flow the parent is the first.
        options: of each job, as `push` takes them, `data` among them.
    """

    kind: str
    jobs: list[Wanted]
    options: list[dict[str, Any]]


class Chooser:
    """Chooses one request after the other.

    Args:
        random: where choices come from.
        name: of the producer; nobody else has it.
        kinds: of work to choose from.
    """

    def __init__(self, random: Random, name: str, kinds: tuple[str, ...]) -> None:
        self._random = random
        self._name = name
        self._kinds = kinds
        self._weights = [WEIGHTS[kind] for kind in kinds]
        self._recent: deque[int] = deque(maxlen=RECENT)

    def note(self, ids: list[int]) -> None:
        """Take in ids that exist, for jobs that depend on others."""
        self._recent.extend(ids)

    def next(self, op: int, wall_s: int) -> Order:
        """Return the next request.

        Args:
            op: its number.
            wall_s: the wall clock.
        """
        [kind] = self._random.choices(self._kinds, self._weights)
        order = Order(kind, [], [])
        if kind == "batch":
            queue, some = self._queue(), {"tags": ["t"]} if self._one_in(4) else {}
            for _ in range(self._random.randint(2, BATCH_MAX)):
                self._add(order, op, queue=queue, options=dict(some))
        elif kind == "flow":
            self._flow(order, op)
        else:
            self._one(order, op, wall_s)
        return order

    def _one(self, order: Order, op: int, wall_s: int) -> None:
        random, wanted, options = self._random, dict[str, Any](), dict[str, Any]()
        fails = 0
        match order.kind:
            case "single":
                options["priority"] = random.choice((0, 0, 0, 1, 5))
                options["lifo"] = self._one_in(8)
            case "delayed":
                options["delay"] = random.randint(50, DELAY_MS_MAX)
            case "retried":
                fails = random.randint(1, 2)
                options |= {"max_attempts": 5, "backoff": 40}
            case "dying":
                fails, wanted["is_mortal"] = 1000, True
                options |= {"max_attempts": 2, "backoff": 20}
            case "unique":
                wanted["key"] = options["unique_key"] = f"key-{random.randrange(KEYS)}"
            case "custom":
                custom = f"custom-{wall_s // 2}-{random.randrange(CUSTOM_IDS)}"
                wanted["custom"] = options["job_id"] = custom
            case "dependent" if self._recent:
                count = min(len(self._recent), random.randint(1, 3))
                wanted["after"] = options["depends_on"] = random.sample(self._recent, count)
                wanted["is_forgiving"] = self._one_in(2)
                if wanted["is_forgiving"]:
                    options["on_dependency_failure"] = "ignore"
            case "removed":
                wanted["is_removed"] = options["remove_on_complete"] = True
            case "cron":
                wanted["firings"] = random.randint(2, 5)
        self._add(order, op, fails=fails, options=options, **wanted)

    def _flow(self, order: Order, op: int) -> None:
        is_forgiving = self._one_in(2)
        options = {"on_dependency_failure": "ignore"} if is_forgiving else {}
        self._add(order, op, options=options, is_forgiving=is_forgiving)
        for _ in range(self._random.randint(1, CHILDREN_MAX)):
            if is_forgiving and self._one_in(5):
                self._add(order, op, fails=1000, options={"max_attempts": 1}, is_mortal=True)
            else:
                self._add(order, op, options={})

    def _add(
        self,
        order: Order,
        op: int,
        *,
        options: dict[str, Any],
        fails: int = 0,
        queue: str | None = None,
        **wanted: Any,
    ) -> None:
        uid = f"{self._name}.{op}.{len(order.jobs)}"
        holds_ms = self._random.randint(50, 300) if self._one_in(HELD_ONE_IN) else 0
        options["data"] = Payload(uid, fails, holds_ms)
        order.jobs.append(Wanted(uid=uid, queue=queue or self._queue(), **wanted))
        order.options.append(options)

    def _queue(self) -> str:
        return self._random.choice(QUEUES)

    def _one_in(self, count: int) -> bool:
        return not self._random.randrange(count)
