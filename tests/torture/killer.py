"""The killer: SIGKILL to one kind of process after the other, in an order that a seed gives.

Owns who is next and when. Every kind gets its turn before chance decides, and some turns come
while something is still coming back from the last one. What it is about to do it writes into its
ledger.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from typing import Final

from tests.torture.crew import Crew
from tests.torture.ledger import Killed, Pen, now
from tests.torture.site import SHARDS, Site

WEIGHTS: Final = {
    "shard": 5,
    "router": 2,
    "coordinator": 4,
    "gateway": 1,
    "worker": 2,
    "producer": 2,
    "postgres": 3,
    "everything": 3,
    "supervisor": 1,
    "all but one": 1,
}
"""`supervisor` alone: its children drain while new ones start. `all but one`: a shard stands still
while everything else dies and comes back, and then goes on."""

SOON_ONE_IN: Final = 3
"""So many kills come while the last one's victim is coming back."""
SOON_S: Final = (0.05, 0.6)
POSTGRES_TOO: Final = 0.5
"""How likely everything is also PostgreSQL."""
AWAY_S: Final = (0.0, 2.0)
"""How long PostgreSQL stays away."""
STILL_S: Final = (0.5, 2.0)
RECOVERING_S: Final = 0.7
AGAIN_S: Final = 0.1

ALL_SHARDS: Final = list(range(SHARDS))


class Killer:
    """See the module.

    Args:
        random: where choices come from.
        pause_s: least and most time between two kills that are not meant to come soon.
        kinds: of victims.
        site: the server.
        crew: producers and workers.
        pen: writes its ledger.
    """

    def __init__(
        self,
        random: Random,
        pause_s: tuple[float, float],
        kinds: Sequence[str],
        site: Site,
        crew: Crew,
        pen: Pen,
    ) -> None:
        self._random = random
        self._pause_s = pause_s
        self._site = site
        self._crew = crew
        self._pen = pen
        self._kinds = list(kinds)
        #: who is next, last first
        self._turns = random.sample(self._kinds, len(self._kinds))
        self._promised = set(self._kinds)
        self._due = time.monotonic() + random.uniform(*pause_s)
        self._killed_at = 0.0

    @property
    def has_turns(self) -> bool:
        """Whether some kind has not had its turn that was promised."""
        return bool(self._promised)

    def promise(self, kinds: Sequence[str]) -> None:
        """Let some kinds be next."""
        self._turns += kinds
        self._promised |= set(kinds)

    def tick(self) -> None:
        """Kill, if it is time."""
        if time.monotonic() < self._due:
            return
        if not self._turns:
            weights = [WEIGHTS[kind] for kind in self._kinds]
            self._turns += self._random.choices(self._kinds, weights)
        if self._kill(self._turns[-1]):
            self._promised.discard(self._turns.pop())
            is_soon = not self._random.randrange(SOON_ONE_IN)
            self._killed_at = time.monotonic()
            self._due = self._killed_at + self._random.uniform(
                *(SOON_S if is_soon else self._pause_s)
            )
        else:  # it is not there just now
            self._random.shuffle(self._turns)
            self._due = time.monotonic() + AGAIN_S

    def _kill(self, kind: str) -> bool:
        site, random = self._site, self._random
        match kind:
            case "worker" | "producer":
                return self._kill_somebody(kind)
            case "shard" | "router" | "coordinator" | "gateway":
                titles = [title for title in site.programs() if title.startswith(f"flashq-{kind}")]
                if not titles:
                    return False
                title = random.choice(titles)
                self._write(kind, title, [_shard_of(title)] if kind == "shard" else [])
                return site.kill(title)
            case "postgres":
                if not site.has_postgres:
                    return False
                self._write(kind, kind, [])
                site.kill_postgres(random.uniform(*AWAY_S))
                return True
        if not site.has_server or not (site.is_ready or kind == "everything"):
            return False
        if kind == "everything":
            self._write(kind, kind, ALL_SHARDS)
            site.kill_everything(with_postgres=random.random() < POSTGRES_TOO)
        elif kind == "supervisor":
            self._write(kind, kind, [])
            site.kill_supervisor()
        else:
            shard = random.randrange(SHARDS)
            self._write(kind, kind, [other for other in ALL_SHARDS if other != shard])
            site.kill_all_but(f"flashq-shard {shard}", random.uniform(*STILL_S))
        return True

    def _kill_somebody(self, role: str) -> bool:
        places = self._crew.places(role)
        if not places:
            return False
        place = self._random.choice(places)
        self._write(role, self._crew.name_at(place), [])
        self._crew.kill(place)
        return True

    def kill_everything(self) -> None:
        """Once more, when all is done: what the server then says comes from storage alone."""
        self._write("everything", "everything", ALL_SHARDS)
        self._site.kill_everything()

    def _write(self, kind: str, name: str, shards: list[int]) -> None:
        recent = time.monotonic() - self._killed_at < RECOVERING_S
        is_recovering = recent or not (self._site.has_server and self._site.is_ready)
        self._pen.write(Killed(now(), kind, name, shards, is_recovering))


def _shard_of(title: str) -> int:
    return int(title.rsplit(" ", 1)[1])
