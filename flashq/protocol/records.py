"""The records of the log: facts that `ShardState.evolve` turns into state.

A command's facts form one `Entry`, which has one log sequence number and takes effect whole.
Records say what was decided, with every choice in them (ids, times, tokens), so that replaying them
needs no clock, no limits and no settings. They are encoded as arrays. Whoever changes what is
stored raises `STORED_FORM`: a log of another form is refused as a whole.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, msgpack

from flashq.errors import BadMessage
from flashq.protocol.internal import AnyPeerMessage

STORED_FORM: Final = 7
"""The form of the log and of checkpoints: of the records here, the messages of peers in them, and
what `shard/pages.py` and `shard/checkpoint.py` write. Any change of what is encoded, or of what it
means, raises it; `tests/unit/shard/test_stored_form.py` fails until then."""


class Options(Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What a push said about a job, after defaults; one object for all jobs of a batch that say the
    same. Durations are ms; 0 means none. A job without options has None instead of this."""

    ttl: int = 0
    timeout: int = 0
    max_attempts: int = 0
    backoff: int = 0
    jitter: float = 0.0
    unique_key: str | None = None
    custom_id: str | None = None
    tags: tuple[str, ...] = ()
    depends_on: tuple[int, ...] = ()
    on_dependency_failure: str = "fail"
    lifo: bool = False
    remove_on_complete: bool = False
    remove_on_fail: bool = False
    stall_timeout: int = 0
    keep_completed_age: int = 0
    keep_completed_count: int = 0
    parent: int = 0
    position: int = 0
    level: str | None = None
    """The durability level; None is the server's default."""
    json: bool = False
    """The payload is JSON text instead of MessagePack."""
    parent_queue: str = ""
    """The queue of `parent`, which may be in another shard."""


class Record(Struct, array_like=True, tag_field="r"):
    """Base of the records."""


# --- jobs come


class Pushed(Record, tag=1):
    """Jobs with ascending sequences from `first`, all with the same options, into the queue.

    `priorities` is one for each job, or a single one for all of them.
    """

    queue: str
    first: int
    data: list[bytes]
    priorities: list[int]
    run_at: int
    options: Options | None


class Parked(Record, tag=2):
    """A job that waits for `dependencies`, or a flow's parent that waits for a job in each of the
    queues `children`.

    Until every one of them has been asked after (or made), the job is pending: nobody sees it and
    its push is not answered.
    """

    queue: str
    sequence: int
    data: bytes
    priority: int
    run_at: int
    options: Options | None
    children: list[str]


class Confirmed(Record, tag=3):
    """A pending job is now known to exist: its push is answered."""

    id: int


class DependencyKnown(Record, tag=4):
    """What was heard of one dependency, or of a child that failed too early.

    `settled`: it need not be waited for any more. `dooms`: the job will die of it, with this text.
    `rejects` (text, code): the push that is still pending will be refused.
    """

    id: int
    dependency: int
    settled: bool = False
    dooms: str | None = None
    rejects: tuple[str, str] | None = None


class ChildMade(Record, tag=5):
    parent: int
    position: int
    child: int


class ChildDone(Record, tag=6):
    """A child has ended; `completed` tells how."""

    parent: int
    child: int
    completed: bool


class Freed(Record, tag=7):
    """A job waits for nothing any more and enters its queue; `note` is added to its log."""

    id: int
    note: str | None = None


class WatchedBy(Record, tag=8):
    """`dependent`, maybe of another shard, is told when `id` ends."""

    id: int
    dependent: int


class Awaited(Record, tag=9):
    """The answer to a push waits until the `pending` jobs are confirmed or refused.

    `key` is the first of them; `kind` is push, batch or flow; `ids` and `errors` (index, text,
    code) are the answer so far.
    """

    key: int
    kind: str
    ids: list[int | None]
    errors: list[tuple[int, str, str]]
    pending: list[int]
    session: bytes
    n: int
    done_below: int = 0


class AwaitedDone(Record, tag=50):
    """The answer was given."""

    key: int


# --- jobs are worked on


class Delivered(Record, tag=10):
    """The first jobs of the queue were handed out under one lease token. `session` is empty for
    a client without one."""

    queue: str
    ids: list[int]
    token: int
    session: bytes


class Adopted(Record, tag=11):
    """A session that named a delivery whose record had been lost holds it again."""

    ids: list[int]
    token: int
    session: bytes


class Acked(Record, tag=12):
    """Jobs were completed. `results` is empty or in line with `ids`."""

    ids: list[int]
    results: list[bytes | None]


class Failed(Record, tag=13):
    """An attempt ended badly (`reason`: failed, timeout, stalled, lost, discarded, dependency).

    With `final` the job is dead, and gone if it had remove_on_fail; else it runs again at
    `run_at`. `counted` tells whether `attempts` grew.
    """

    id: int
    reason: str
    error: str | None
    run_at: int
    final: bool
    counted: bool


class Requeued(Record, tag=14):
    """Active jobs went back without an attempt: released, lost (counted as lost) or moved (to
    delayed)."""

    ids: list[int]
    reason: str
    run_at: int
    """0 keeps each job's own."""


class ProgressSet(Record, tag=15):
    id: int
    progress: int
    message: str | None


class Beaten(Record, tag=16):
    """A job's heartbeat."""

    id: int


class Logged(Record, tag=17):
    id: int
    level: str
    message: str
    entries_max: int


# --- jobs change or go


class PrioritySet(Record, tag=20):
    id: int
    priority: int


class Promoted(Record, tag=21):
    id: int


class DataSet(Record, tag=22):
    """The payload was replaced; `json` tells how the new one is encoded."""

    id: int
    data: bytes
    json: bool


class Removed(Record, tag=23):
    """Jobs are gone. `reason`: drained, cleaned, expired, obliterated, evicted, purged, rejected,
    retention."""

    ids: list[int]
    reason: str


class ResultsDropped(Record, tag=24):
    ids: list[int]


class Retried(Record, tag=25):
    """Dead letters went back to their queue with no attempts counted."""

    ids: list[int]


class Raised(Record, tag=26):
    """A job of level memory becomes one of a level that lasts; `image` is all of it."""

    image: bytes


class Cancelled(Record, tag=27):
    """Jobs that had not ended never will: they are kept as cancelled, with the reason."""

    ids: list[int]
    reason: str | None = None


# --- queues


class QueueSettings(Struct, frozen=True, array_like=True, omit_defaults=True):
    """What was set for a queue. None means no limit, or the server's default."""

    paused: bool = False
    rate_limit: int | None = None
    concurrency: int | None = None
    durability: str | None = None
    keep_completed_age: int = 0
    keep_completed_count: int = 0


class QueueSet(Record, tag=30):
    queue: str
    settings: QueueSettings


class QueueGone(Record, tag=31):
    """The queue's settings and debounce windows are forgotten; its jobs were removed before."""

    queue: str


class DebounceStarted(Record, tag=32):
    queue: str
    debounce_id: str
    until: int


# --- sessions and mailboxes


class SessionEnded(Record, tag=40):
    """The session's answers are forgotten; its later repeats are refused as expired."""

    session: bytes


class Sent(Record, tag=41):
    """A message for a peer took the next number of its mailbox."""

    peer: int
    body: AnyPeerMessage


class MailTaken(Record, tag=42):
    """The peer has safely taken our messages up to `number`."""

    peer: int
    number: int


class Received(Record, tag=43):
    """A peer's message was carried out, by the records beside this one.

    Args:
        incarnation: of the peer, when it wrote the message.
    """

    peer: int
    incarnation: int
    number: int


class Begun(Record, tag=44):
    """A process of the shard has begun to serve, under the incarnation it was granted; what comes
    after this is written in that life."""

    incarnation: int


AnyRecord = (
    Pushed
    | Parked
    | Awaited
    | AwaitedDone
    | Confirmed
    | DependencyKnown
    | ChildMade
    | ChildDone
    | Freed
    | WatchedBy
    | Delivered
    | Adopted
    | Acked
    | Failed
    | Requeued
    | ProgressSet
    | Beaten
    | Logged
    | PrioritySet
    | Promoted
    | DataSet
    | Removed
    | ResultsDropped
    | Retried
    | Raised
    | Cancelled
    | QueueSet
    | QueueGone
    | DebounceStarted
    | SessionEnded
    | Sent
    | MailTaken
    | Received
    | Begun
)


class Answer(Struct, array_like=True):
    """The answer to a protected request, for its repeats. `token` instead of `body` for a pull:
    a repeat gets that delivery's jobs while it is current."""

    session: bytes
    n: int
    done_below: int
    body: bytes
    token: int = 0


class Entry(Struct, array_like=True, omit_defaults=True):
    """The facts of one command, at wall time `at` (ms). When not everything that was due had become
    ready by then, `due` is the last that had: its time and id."""

    at: int
    records: list[AnyRecord]
    answer: Answer | None = None
    due: tuple[int, int] | None = None


_decode: Final = msgpack.Decoder(list[Entry]).decode
encode_entries: Final = msgpack.Encoder().encode


def decode_entries(blob: bytes) -> list[Entry]:
    """Read a log blob.

    Raises:
        BadMessage: it is damaged.
    """
    try:
        return _decode(blob)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadMessage(detail=f"log blob: {error}") from None
