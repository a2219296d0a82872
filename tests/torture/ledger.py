"""The ledger: what each process did, one line for each fact, in a file of its own.

Owns the form of the lines. A line is written in one call before or after what it is about, as its
class says, so that SIGKILL at any moment leaves a file that means what it says: a last line that is
torn was not written. Times are nanoseconds of the machine's monotonic clock, which all processes
share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct


class Wanted(Struct, array_like=True, kw_only=True):
    """One job that a producer wants.

    Args:
        uid: names it in all ledgers; it is in the payload.
        queue: where it goes.
        key: its unique key.
        custom: the producer's own id for it, which other producers use too.
        after: ids that have to end before it runs.
        is_forgiving: it runs also when one of those, or of its children, has failed.
        is_removed: it is forgotten once it is done.
        firings: how many jobs a cron makes; 1 for everything else.
        is_mortal: it may fail for good, since it is made to or depends on others.
    """

    uid: str
    queue: str
    key: str | None = None
    custom: str | None = None
    after: list[int] = []
    is_forgiving: bool = False
    is_removed: bool = False
    firings: int = 1
    is_mortal: bool = False


class Attempted(Struct, tag="attempted", array_like=True):
    """A producer is about to send a request.

    Args:
        op: its number, within the producer.
        kind: of work: single, batch, flow, ...
        door: router, hasty, tcp or http.
        jobs: what it asks for; of a flow the parent is the first.
    """

    at: int
    op: int
    kind: str
    door: str
    jobs: list[Wanted]


class Acknowledged(Struct, tag="acknowledged", array_like=True):
    """A producer has got the ids, in line with the jobs of its attempt; none for a cron."""

    at: int
    op: int
    ids: list[int]


class Refused(Struct, tag="refused", array_like=True):
    """A producer was told that nothing happened, and why."""

    at: int
    op: int
    code: str


class Unanswered(Struct, tag="unanswered", array_like=True):
    """A producer was told that nobody knows, or has lost its connection. It does not ask again."""

    at: int
    op: int
    code: str


class Awaited(Struct, tag="awaited", array_like=True):
    """A producer that waited for a job's end was given this result."""

    at: int
    id: int
    result: str


class Delivered(Struct, tag="delivered", array_like=True):
    """A worker has got a job. Its lease token says which delivery is later."""

    at: int
    id: int
    token: int
    attempts: int
    queue: str
    uid: str


class Ending(Struct, tag="ending", array_like=True):
    """A worker is about to ack or fail jobs.

    Args:
        way: ack or fail.
        leases: id and token of each.
    """

    at: int
    way: str
    leases: list[tuple[int, int]]


class Ended(Struct, tag="ended", array_like=True):
    """A worker was told that all of these are acked or failed."""

    at: int
    way: str
    leases: list[tuple[int, int]]


class Declined(Struct, tag="declined", array_like=True):
    """A worker was told that nothing happened when it wanted to ack or fail one of these.

    Args:
        code: of the error, which promised that a repeat can help.
    """

    at: int
    way: str
    leases: list[tuple[int, int]]
    code: str


class Dropped(Struct, tag="dropped", array_like=True):
    """A worker has cut the connection that held these jobs, or holds them no longer on purpose."""

    at: int
    leases: list[tuple[int, int]]


class Seen(Struct, tag="seen", array_like=True):
    """The server said that these jobs are active: id, and when the delivery began."""

    at: int
    jobs: list[tuple[int, int]]


class Killed(Struct, tag="killed", array_like=True):
    """The killer is about to send SIGKILL, or SIGSTOP and SIGCONT after a while (kind `still`).

    Args:
        kind: of victim.
        name: of its ledger for workers and producers; its title for programs.
        shards: which shards die.
        is_recovering: something was still coming back from the last kill.
    """

    at: int
    kind: str
    name: str
    shards: list[int]
    is_recovering: bool


class Found(Struct, tag="found", array_like=True):
    """What the server says of an id in the end; the state is empty for an unknown one."""

    id: int
    state: str
    error: str = ""


class Kept(Struct, tag="kept", array_like=True):
    """What the server says of an id's result in the end."""

    id: int
    result: str


Line = (
    Attempted
    | Acknowledged
    | Refused
    | Unanswered
    | Awaited
    | Delivered
    | Ending
    | Ended
    | Declined
    | Dropped
    | Seen
    | Killed
    | Found
    | Kept
)

SUFFIX: Final = ".ledger"

_encoder: Final = msgspec.json.Encoder()
_decode: Final = msgspec.json.Decoder(Line).decode


def now() -> int:
    """Return the time, for a line."""
    return time.monotonic_ns()


class Pen:
    """Writes one ledger.

    Args:
        directory: where ledgers are.
        name: whose it is; nobody else has had it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(directory / f"{name}{SUFFIX}", flags, 0o600)

    def write(self, *lines: Line) -> None:
        """Add lines. They are in the file when this returns."""
        os.write(self._fd, b"".join(_encoder.encode(line) + b"\n" for line in lines))


def read(path: Path) -> Iterator[Line]:
    """Yield the lines of a ledger; a torn last one was not written."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        yield _decode(line)


def read_all(directory: Path) -> dict[str, list[Line]]:
    """Return all ledgers by name."""
    return {path.stem: list(read(path)) for path in sorted(directory.glob(f"*{SUFFIX}"))}
