"""What crons have fired: each time once, as often as they may, and not before that is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from flashq.coordinator.crons import FORM, Cron
from flashq.coordinator.mailboxes import MESSAGES
from flashq.protocol.crons import SetCron
from flashq.protocol.internal import Fire
from flashq.storage.port import Put
from tests.simulation.world import Violation, World

CRON_LIMIT: Final = 10
"""So often each cron of the workload may fire."""

Key = tuple[int, int, int]
"""Of a firing: its shard, and the incarnation and number of its message."""


def _fires(put: Put) -> Iterator[tuple[Key, Fire]]:
    """Yield the firing that a part of the coordinator posts, if there is one."""
    if put.content:
        for name, mail in MESSAGES.stored({put.name: put.content}):
            if isinstance(mail.body, Fire):
                yield (int(name.split(".")[0]), mail.incarnation, mail.number), mail.body


class Firings:
    """All of one run.

    Args:
        world: the run's.
    """

    def __init__(self, world: World) -> None:
        self._world: Final = world
        #: as the living coordinator has them
        self._stored: Final[dict[Key, Fire]] = {}
        #: those of a storage that is lost, or of the end that it has lost
        self._lost: Final[set[Key]] = set()
        #: when a cron was stored last, and as what, by name
        self._set_us: Final[dict[str, int]] = {}
        self._kept: Final[dict[str, Cron]] = {}
        #: name, generation and due time of what has fired
        self._dues: Final[set[tuple[str, int, int]]] = set()
        #: how often each cron, by name and generation
        self._counts: Final[Counter[tuple[str, int]]] = Counter()

    def stored(self, put: Put) -> None:
        """The coordinator has stored a part."""
        if put.name.startswith(FORM.prefix):
            name = put.name.removeprefix(FORM.prefix)
            self._kept.pop(name, None)
            for _, cron in FORM.stored({put.name: put.content} if put.content else {}):
                self._kept[name] = cron
                self._set_us[name] = self._world.now_us
        for key, fire in _fires(put):
            if self._stored.get(key) != fire:  # else written again, since the answer was lost
                self._fired(fire)
                self._stored[key] = fire

    def told_set(self, asked: SetCron, asked_us: int) -> None:
        """A client was told that a cron is set, which it had asked for then."""
        kept = self._kept.get(asked.name)
        is_kept = kept is not None and (kept.queue, kept.data, kept.repeat_every, kept.limit) == (
            *(asked.queue, bytes(asked.data), asked.repeat_every, asked.limit),
        )
        if self._set_us.get(asked.name, -1) < asked_us and not is_kept:
            raise Violation(f"cron {asked.name} is said to be set, and was not stored")

    def _fired(self, fire: Fire) -> None:
        due = (fire.name, fire.generation, fire.due)
        self._world.note("fires", *due)
        if due in self._dues:
            raise Violation(f"cron {fire.name} fires twice for {fire.due}")
        self._dues.add(due)
        cron = due[:2]
        self._counts[cron] += 1
        if self._counts[cron] > CRON_LIMIT:
            raise Violation(f"cron {fire.name} fires more than {CRON_LIMIT} times")

    def lost(self, put: Put) -> None:
        """Storage has lost a part that it had stored."""
        for key, fire in _fires(put):
            del self._stored[key]
            self._lost.add(key)
            self._dues.discard((fire.name, fire.generation, fire.due))
            self._counts[fire.name, fire.generation] -= 1

    def all_lost(self) -> None:
        """Storage has lost everything."""
        self._lost.update(self._stored)
        self._stored.clear()

    def arrived(self, key: Key, queues: list[str]) -> None:
        """A firing has reached its shard, and made jobs in these queues."""
        fire = self._stored.get(key)
        if fire is None:
            if key not in self._lost:
                raise Violation(f"firing {key} has come, and was never stored")
        elif queues != [fire.queue]:
            raise Violation(f"{fire!r} made jobs in {queues}")

    def items(self) -> Iterator[tuple[Key, Fire]]:
        """Yield those that storage has had to the end."""
        yield from self._stored.items()
