"""Messages between flashq's own processes.

Three conversations, all in frames with the INTERNAL flag:

* A shard and the coordinator: hello and grant, recovery, the log, checkpoints, sequence blocks,
  and of what webhooks want to be told.
* The router and the coordinator: which shards are ready, under which epoch.
* Peers (shards among themselves, and the coordinator with shards): durable mailboxes.

Every body is one `Internal` with a tag, so each side decodes with one decoder.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, msgpack

from flashq.errors import BadMessage
from flashq.protocol.server import CoordinatorStats

COORDINATOR: Final = 0xFFFE
"""The coordinator's number as a mailbox peer; shards have their own numbers."""


class Internal(Struct, tag_field="msg", kw_only=True, omit_defaults=True):
    """Base of all messages between processes."""


# --- shard and coordinator: hello, grant, recovery


class ShardHello(Internal, kw_only=True, tag="shard-hello"):
    """A shard's first word, and again whenever it has heard nothing for a while.

    Args:
        shard: its number.
        config_hash: of the settings that all processes must share.
        epoch: 0 from a fresh process; else the epoch it runs under and wants to go on with.
        safe_seq: the last log sequence it was told is safe (0 from a fresh process).
        incarnation, reserved: what it was granted, for a coordinator that has lost it (0 from a
            fresh process).
    """

    shard: int
    config_hash: str
    epoch: int = 0
    safe_seq: int = 0
    incarnation: int = 0
    reserved: int = 0


class Granted(Internal, kw_only=True, tag="granted"):
    """To a fresh shard: its epoch, made durable before this is sent. It recovers next.

    Args:
        epoch: greater than every epoch the shard had before.
        incarnation: names the life of the shard that begins: a new one, greater than those before.
        reserved: sequences up to this one may have been used; ids start above.
    """

    epoch: int
    incarnation: int
    reserved: int


class Resumed(Internal, kw_only=True, tag="resumed"):
    """To a shard that already runs: go on, and send the log again from `last_seq` + 1. With
    `resync`, storage has less than it had acknowledged: first send a checkpoint of everything, and
    a new one if one was on its way; the log goes on once that is safe. `log_full` is as in `Safe`.
    """

    last_seq: int
    resync: bool = False
    log_full: bool = False


class Refused(Internal, kw_only=True, tag="refused"):
    """The shard (or router) must not run: it is fenced or configured otherwise. It exits."""

    reason: str


class Fetch(Internal, kw_only=True, tag="fetch"):
    """Asks for the next part of the recovery; `cursor` is 0, then the last reply's. It is asked
    again when nothing is heard."""

    epoch: int
    cursor: int


class Recovered(Internal, kw_only=True, tag="recovered"):
    """Some of what storage has, in this order over all replies: parts, pages, log.

    Args:
        epoch, at: epoch and cursor of the fetch that is answered.
        cursor: for the next fetch; 0 when this was all.
        parts: name and content of the checkpoint's keyed parts.
        pages: number and content of its pages.
        log: first and last sequence and content of log blobs, without a hole.
    """

    epoch: int = 0
    at: int = 0
    cursor: int
    parts: list[tuple[str, bytes]] = []
    pages: list[tuple[int, bytes]] = []
    log: list[tuple[int, int, bytes]] = []


class ShardReady(Internal, kw_only=True, tag="shard-ready"):
    """The shard serves. The coordinator passes it on to the routers."""

    shard: int
    epoch: int


# --- shard and coordinator: log, checkpoints, blocks


class Append(Internal, kw_only=True, tag="append"):
    """Log entries `first_seq` to `last_seq`, encoded; `checksum` is CRC-32 of `records`.

    With `awaited` something is held back until they are safe; without it the answer can be late by
    some ms.
    """

    shard: int
    epoch: int
    first_seq: int
    last_seq: int
    records: bytes
    checksum: int
    awaited: bool = False


class Safe(Internal, kw_only=True, tag="safe"):
    """The log is safe up to and including `seq`. With `log_full` storage has as much log of all
    shards as it may have: checkpoints come first, and changes later."""

    epoch: int
    seq: int
    log_full: bool = False


class Reserve(Internal, kw_only=True, tag="reserve"):
    """Asks that sequences up to `upto` be durably the shard's."""

    shard: int
    epoch: int
    upto: int


class ReservedUpTo(Internal, kw_only=True, tag="reserved"):
    epoch: int
    upto: int


class CheckpointSlice(Internal, kw_only=True, tag="checkpoint-slice"):
    """Part of checkpoint `generation`, which is the state at log sequence `seq`. The last slice
    makes it current: superseded pages and the log up to `seq` go. The parts are in the
    first slice.

    A page or part with empty content is gone. Slices are numbered from 0; the next one is sent when
    the one before is confirmed.
    """

    shard: int
    epoch: int
    generation: int
    number: int = 0
    seq: int
    full: bool = False
    parts: list[tuple[str, bytes]] = []
    pages: list[tuple[int, bytes]] = []
    last: bool = False


class CheckpointSafe(Internal, kw_only=True, tag="checkpoint-safe"):
    """Slice `number` is safe, and with `last` the generation is current."""

    epoch: int
    generation: int
    number: int = 0
    last: bool = False


# --- shard and coordinator: what webhooks want


class Wanted(Internal, kw_only=True, tag="wanted"):
    """To a shard: the pairs of queue (None for every one) and event (`*` for every one) of which
    webhooks want to be told; these and no others, from now on. Answered by `Heeded`."""

    version: int
    pairs: list[tuple[str | None, str]]


class Heeded(Internal, kw_only=True, tag="heeded"):
    """What the shard decides after this follows `Wanted` of this version."""

    shard: int
    version: int


# --- shard and coordinator: the history of metrics


class TakeSample(Internal, kw_only=True, tag="take-sample"):
    """To a shard: say what the figures are. `at` names the question, and is when it was asked."""

    at: int


class Sampled(Internal, kw_only=True, tag="sampled"):
    """A shard's figures, safe or not; `completed` and `failed` are totals."""

    shard: int
    at: int
    queued: int
    processing: int
    completed: int
    failed: int
    latency_ms_sum: int


# --- router and coordinator


class RouterHello(Internal, kw_only=True, tag="router-hello"):
    """Every 2 s from each router; answered by `Epochs`."""

    config_hash: str


class Epochs(Internal, kw_only=True, tag="epochs"):
    """Each shard's epoch, 0 for one that is not ready, what is wrong with storage, empty when
    nothing is, and the coordinator's figures: at each hello and at each change."""

    epochs: list[int]
    storage: str = ""
    coordinator: CoordinatorStats | None = None


# --- peers


class PeerMessage(Struct, tag_field="k", array_like=True, kw_only=False):
    """What one peer needs of another. Validated by its sender, never refused by bounds."""


class CreateChild(PeerMessage, tag="child"):
    """Make a flow's child number `position`. `options` is the encoded `records.Options`, with the
    parent in it; `delay` is ms."""

    parent: int
    position: int
    queue: str
    data: bytes
    priority: int
    delay: int
    options: bytes


class ChildCreated(PeerMessage, tag="made"):
    parent: int
    position: int
    child: int


class ChildEnded(PeerMessage, tag="ended"):
    """`reason` is None when the child completed, else why it did not; `removed`: it never will."""

    parent: int
    child: int
    reason: str | None
    removed: bool = False


class Watch(PeerMessage, tag="watch"):
    """`dependent` waits for the end of `dependency`; answered by DependencyAnswer at once, and
    again at its end when it has not ended. There are no jobs for it but those of queues that fit
    one of `within`, where that names any."""

    dependency: int
    dependent: int
    within: tuple[str, ...] = ()


class DependencyAnswer(PeerMessage, tag="dep"):
    """How the dependency stands: pending, completed, failed (with a reason), removed (with a
    reason), volatile (of level memory), unknown (never existed) or forgotten (ended too long
    ago)."""

    dependency: int
    dependent: int
    outcome: str
    reason: str | None = None


class Fire(PeerMessage, tag="fire"):
    """A cron's firing that was due at `due` ms. `payload_json` says how `data` is encoded;
    `options` is the encoded `JobOptions` of its push."""

    name: str
    generation: int
    due: int
    queue: str
    data: bytes
    payload_json: bool
    options: bytes


class Obliterated(PeerMessage, tag="gone"):
    """To the coordinator: the crons that target this queue go too."""

    queue: str


class Happened(PeerMessage, tag="told"):
    """To the coordinator: `event` happened to jobs of a queue at `at` ms, and some webhook wants to
    be told. `data` has payloads, results or progress in MessagePack, in line with `ids`."""

    event: str
    queue: str
    at: int
    ids: list[int]
    error: str | None = None
    data: list[bytes | None] | None = None


AnyPeerMessage = (
    CreateChild
    | ChildCreated
    | ChildEnded
    | Watch
    | DependencyAnswer
    | Fire
    | Obliterated
    | Happened
)


class Mail(Internal, kw_only=True, tag="mail"):
    """A message of a durable mailbox. It left only after its record was safe.

    Storage may lose the end of what was safe, in a fail-over to a copy that lagged. A sender that
    has died too then counts on from an earlier number. So a number alone does not tell a message:
    with it goes the life of the sender in which it was written, its incarnation. As in Raft's log,
    incarnations rise with the numbers, and who knows number and incarnation of the last message it
    took can tell what comes next from what it never saw, and has what comes next with what it had.

    Args:
        number: from 1, without a hole.
        incarnation: of the sender, when it wrote this message.
        previous: its incarnation when it wrote the message before; 0 for the same.
        confirmed: up to which number the receiver has confirmed everything: one that has lost its
            state goes on from there.
    """

    sender: int
    incarnation: int
    number: int
    body: AnyPeerMessage
    previous: int = 0
    confirmed: int = 0

    def is_had(self, incarnation: int, number: int) -> bool:
        """Tell whether the receiver has taken this message.

        Args:
            incarnation, number: of the last message it took of this sender; 0 for none.
        """
        return self.number <= number and self.incarnation <= incarnation

    def is_next(self, incarnation: int, number: int) -> bool:
        """Tell whether the receiver, which has not had this message, has all before it.

        The first message that is not confirmed comes next, whatever the receiver has taken: what it
        has under this number is lost to the sender, or what it lacks before is lost to itself.
        Any other one has to follow the very message that was taken last.
        """
        if self.number == self.confirmed + 1:
            return True
        return (self.number, self.previous or self.incarnation) == (number + 1, incarnation)


class MailAck(Internal, kw_only=True, tag="mail-ack"):
    """`receiver` has safely taken message `number` of that incarnation, and all before it."""

    receiver: int
    incarnation: int
    number: int


AnyInternal = (
    ShardHello
    | Granted
    | Resumed
    | Refused
    | Fetch
    | Recovered
    | ShardReady
    | Append
    | Safe
    | Reserve
    | ReservedUpTo
    | CheckpointSlice
    | CheckpointSafe
    | Wanted
    | Heeded
    | TakeSample
    | Sampled
    | RouterHello
    | Epochs
    | Mail
    | MailAck
)

_decode: Final = msgpack.Decoder(AnyInternal).decode
encode_internal: Final = msgpack.Encoder().encode


def decode_internal(body: bytes) -> AnyInternal:
    """Read the body of an INTERNAL frame.

    Raises:
        BadMessage: it is none of ours.
    """
    try:
        message: AnyInternal = _decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadMessage(detail=str(error)) from None
    return message
