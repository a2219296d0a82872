"""The killer: SIGKILL to one kind of process after the other, in an order that a seed gives, and
SIGSTOP to some.

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
    "twin": 1,
    "still": 4,
}
"""`supervisor` alone: its children drain while new ones start. `all but one`: a shard stands still
while everything else dies and comes back, and then goes on. `twin`: a shard stands still, gets a
second process, goes on beside it, and the second one is killed. `still`: a program, a worker or a
producer stands still for longer than sessions live, or shorter, and goes on."""

SOON_S: Final = (0.05, 0.6)
"""How long after the last kill one comes that has to meet a recovery."""
PATIENCE_S: Final = 10.0
"""How long the others wait for a server that is coming back as a whole: without load they prove
little."""
POSTGRES_TOO: Final = 0.5
"""How likely everything is also PostgreSQL."""
AWAY_S: Final = (0.0, 2.0)
"""How long PostgreSQL stays away."""
STILL_S: Final = (0.5, 2.0)
LONG_STILL_S: Final = (0.2, 4.0)
"""Sessions die in 2 s of silence."""
TWIN_S: Final = (1.0, 3.0)
"""How long a twin lives after its shard goes on."""
RECOVERING_S: Final = 0.7
AGAIN_S: Final = 0.1

ALL_SHARDS: Final = list(range(SHARDS))


class Killer:
    """See the module.

    Args:
        random: where choices come from.
        pause_s: least and most time between two kills that are not meant to meet a recovery.
        soon: how large a part of all kills is.
        kinds: of victims.
        site: the server.
        crew: producers and workers.
        pen: writes its ledger.
    """

    def __init__(
        self,
        random: Random,
        pause_s: tuple[float, float],
        soon: float,
        kinds: Sequence[str],
        site: Site,
        crew: Crew,
        pen: Pen,
    ) -> None:
        self._random = random
        self._pause_s = pause_s
        self._soon = soon
        self._is_soon = False
        self._site = site
        self._crew = crew
        self._pen = pen
        self._kinds = list(kinds)
        #: who is next, last first
        self._turns = random.sample(self._kinds, len(self._kinds))
        self._promised = set(self._kinds)
        self._due = time.monotonic() + random.uniform(*pause_s)
        self._killed_at = 0.0
        #: number of the shard that has a twin, and when that is killed
        self._twin: tuple[int, float] | None = None

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
        now_s = time.monotonic()
        if self._twin is not None and now_s >= self._twin[1]:
            self.kill_twin()
        if now_s < self._due:
            return
        is_back = self._site.has_server and self._site.is_ready
        if not (is_back or self._is_soon or now_s - self._killed_at > PATIENCE_S):
            self._due = now_s + self._random.uniform(*self._pause_s)
            return
        if not self._turns:
            weights = [WEIGHTS[kind] for kind in self._kinds]
            self._turns += self._random.choices(self._kinds, weights)
        if self._kill(self._turns[-1]):
            self._promised.discard(self._turns.pop())
            self._is_soon = self._random.random() < self._soon
            self._killed_at = time.monotonic()
            self._due = self._killed_at + self._random.uniform(
                *(SOON_S if self._is_soon else self._pause_s)
            )
        else:  # it is not there just now
            self._random.shuffle(self._turns)
            self._due = time.monotonic() + AGAIN_S

    def _kill(self, kind: str) -> bool:
        site, random = self._site, self._random
        match kind:
            case "worker" | "producer":
                return self._kill_somebody(kind)
            case "still":
                return self._let_stand_still()
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
        shard = random.randrange(SHARDS)
        if kind == "twin":
            return self._start_twin(shard)
        if kind == "everything":
            self._write(kind, kind, ALL_SHARDS)
            site.kill_everything(with_postgres=random.random() < POSTGRES_TOO)
        elif kind == "supervisor":
            self._write(kind, kind, [])
            site.kill_supervisor()
        else:
            self._write(kind, kind, [other for other in ALL_SHARDS if other != shard])
            site.kill_all_but(f"flashq-shard {shard}", random.uniform(*STILL_S))
        return True

    def _start_twin(self, shard: int) -> bool:
        still_s = self._random.uniform(*STILL_S)
        if self._twin is not None or not self._site.start_twin(f"flashq-shard {shard}", still_s):
            return False
        self._twin = (shard, time.monotonic() + still_s + self._random.uniform(*TWIN_S))
        return True

    def kill_twin(self) -> None:
        """Kill the second process of a shard, if there is one."""
        if self._twin is not None:
            self._write("twin", "twin", [self._twin[0]])
            self._site.kill_twin()
            self._twin = None

    def _let_stand_still(self) -> bool:
        site, crew, random = self._site, self._crew, self._random
        still_s = random.uniform(*LONG_STILL_S)
        if random.random() < 0.5:
            titles = list(site.programs())
            if not titles:
                return False
            title = random.choice(titles)
            self._write("still", title, [])
            return site.stop(title, still_s)
        places = crew.places("worker") + crew.places("producer")
        if not places:
            return False
        place = random.choice(places)
        self._write("still", crew.name_at(place), [])
        crew.stop(place, still_s)
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
