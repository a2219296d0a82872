"""The crew: producers and workers as processes of their own, each with a ledger.

Owns their ids and brings back who was killed, under a new name. Who ends by itself is a failure,
and so is a call that never ends.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.server import eventually
from tests.torture.books import GATEWAYS
from tests.torture.ledger import SUFFIX

ROLES: Final = (
    ("producer", "router"),
    ("worker", "bare"),
    ("producer", "tcp"),
    ("worker", "plain"),
    ("producer", "hasty"),
    ("worker", "hasty"),
    ("worker", "tcp"),
    ("producer", "http"),
    ("worker", "http"),
)
GRACE_S: Final = 10.0
"""What is begun may take so much longer than a call."""


class Crew:
    """All producers and workers.

    Args:
        directory: of their ledgers.
        addresses: of the server, by `router`, `tcp` and `http`.
        seed: of their choices.
        timeout_s: how long a call may take.
    """

    def __init__(
        self, directory: Path, addresses: dict[str, str], seed: int, timeout_s: float
    ) -> None:
        self._directory = directory
        self._addresses = addresses
        self._seed = seed
        self._timeout_s = timeout_s
        self._count = 0
        #: by place in `ROLES`: who works there, and its name
        self._at_work: dict[int, tuple[subprocess.Popen[bytes], str]] = {}
        #: places whose process was killed, or is wanted no more
        self._expected: set[int] = set()
        self._is_dismissed: set[str] = set()
        #: by place: when a process that stands still goes on
        self._still: dict[int, float] = {}
        #: who ended otherwise, and what it said
        self.failures: list[str] = []

    def tend(self) -> None:
        """Fill every place that is empty, and let go on what has stood still for its time."""
        for place, until in list(self._still.items()):
            if time.monotonic() >= until:
                del self._still[place]
                self._at_work[place][0].send_signal(signal.SIGCONT)
        for place, (process, name) in list(self._at_work.items()):
            if process.poll() is not None:
                del self._at_work[place]
                self._still.pop(place, None)
                is_done = ROLES[place][0] in self._is_dismissed and not process.returncode
                if place not in self._expected and not is_done:
                    said = self._said(name).read_text(errors="replace")
                    self.failures.append(f"{name} ended with {process.returncode}: {said[-2000:]}")
                self._expected.discard(place)
        for place, (role, kind) in enumerate(ROLES):
            if place not in self._at_work and role not in self._is_dismissed:
                self._hire(place, role, kind)

    def _hire(self, place: int, role: str, kind: str) -> None:
        self._count += 1
        name = f"{role}-{self._count}"
        address = self._addresses[kind if kind in GATEWAYS else "router"]
        module = "foreign" if role == "worker" and kind in GATEWAYS else role
        with self._said(name).open("wb") as said:
            command = [sys.executable, "-m", f"tests.torture.{module}", str(self._directory), name]
            command += [kind, address, str(self._seed), str(int(self._timeout_s * 1000))]
            process = subprocess.Popen(command, stdout=said, stderr=said)
        self._at_work[place] = process, name

    def _said(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def ledgers(self) -> list[Path]:
        """Return the ledgers of everybody at work; they may not be there yet."""
        return [self._ledger(name) for _, name in self._at_work.values()]

    def _ledger(self, name: str) -> Path:
        return self._directory / f"{name}{SUFFIX}"

    def places(self, role: str) -> list[int]:
        """Return the places where somebody with this role is at work and has begun."""
        return [
            place
            for place, (process, name) in self._at_work.items()
            if ROLES[place][0] == role and process.poll() is None and self._ledger(name).exists()
        ]

    def name_at(self, place: int) -> str:
        """Return who works at a place."""
        return self._at_work[place][1]

    def kill(self, place: int) -> None:
        """Send SIGKILL."""
        self._expected.add(place)
        self._at_work[place][0].kill()

    def stop(self, place: int, still_s: float) -> None:
        """Send SIGSTOP, and SIGCONT after a while.

        Args:
            place: whose.
            still_s: how long it stands still.
        """
        self._at_work[place][0].send_signal(signal.SIGSTOP)
        self._still[place] = time.monotonic() + still_s

    def dismiss(self, role: str) -> None:
        """Let all with a role finish what they have begun, and wait for it."""
        self._is_dismissed.add(role)
        places = [place for place in self._at_work if ROLES[place][0] == role]
        for place in places:
            process, name = self._at_work[place]
            if not self._ledger(name).exists():  # it would not understand yet
                self._expected.add(place)
                process.kill()
            else:
                process.send_signal(signal.SIGTERM)

        def are_gone() -> bool:
            self.tend()
            return not any(place in self._at_work for place in places)

        try:
            eventually(are_gone, f"the end of each {role}", within_s=self._timeout_s + GRACE_S)
        except AssertionError as error:
            self.failures.append(str(error))

    def close(self) -> None:
        """End whoever is left."""
        for process, _ in self._at_work.values():
            process.kill()
            process.wait()
