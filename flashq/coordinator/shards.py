"""The coordinator's conversation with each shard: grant, recovery, log, checkpoints, blocks.

Owns who may write under which epoch, and how far each shard's log has come. An older epoch is
fenced: whoever still writes under it is refused, and exits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple
from zlib import crc32

from msgspec.structs import replace

from flashq.coordinator.incarnations import next_incarnation
from flashq.coordinator.logsizes import LogSizes
from flashq.coordinator.outbox import Group, Outbox
from flashq.coordinator.pace import Pace
from flashq.ids import EPOCH_BITS
from flashq.protocol.internal import (
    Append,
    CheckpointSafe,
    CheckpointSlice,
    Fetch,
    Granted,
    Recovered,
    Refused,
    Reserve,
    ReservedUpTo,
    Resumed,
    Safe,
    ShardHello,
    ShardReady,
)
from flashq.protocol.limits import MIB
from flashq.storage.port import Generation, Grant, StoredShard

UNSAFE_BYTES_MAX: Final = 256 * MIB
"""Log of all shards that is kept here until it is stored. Of what comes above it shards, which keep
everything that is not safe, are asked again once there is room."""


SAFE_DELAY_MS: Final = 10
"""So long a shard that holds nothing back may have to wait to hear how far its log is safe: being
told after each blob would cost it as much as a request."""


SEQUENCES_SKIPPED: Final = 2**28
SKIP_PERIOD_MS: Final = 2**18
SKIP_PER_MS: Final = 2**12
"""Sequences are passed over for a shard whose last process this coordinator has not heard: storage
that came back with less may have forgotten what it had reserved last, which a shard does not use up
in a minute and a half at its fastest. For each millisecond of the clock, whose numbers begin anew
every four minutes, more are passed over than a shard can use in it: storage may forget such a grant
too. A shard of 32 has enough for 300,000 such starts."""


class Recovery(NamedTuple):
    """A part of a recovery that storage has to be asked for."""

    to: bytes
    shard: int
    epoch: int
    cursor: int


class ShardLink:
    """What the coordinator knows of one shard."""

    __slots__ = (
        "behind",
        "current",
        "epoch",
        "epoch_last",
        "fetched",
        "identity",
        "incarnation",
        "last_seq",
        "pending_slice",
        "ready",
        "recovering",
        "reserved",
        "reserved_is_known",
        "resuming",
        "resync_generation",
        "resyncing",
        "safe_seq",
        "shard",
        "slices",
        "unfinished",
    )

    def __init__(self, shard: int, stored: StoredShard) -> None:
        self.shard: Final = shard
        #: what its process writes under
        self.epoch = stored.epoch
        #: the highest that was ever granted, or that the clock gave for a storage without memory
        self.epoch_last = stored.epoch
        #: of its process; 0 while there was none
        self.incarnation = stored.incarnation
        self.reserved = stored.reserved
        #: its process has said what it has reserved, or was granted its epoch here
        self.reserved_is_known = not stored.incarnation
        #: the log has come in up to here
        self.last_seq = stored.last_seq
        #: and is stored up to here
        self.safe_seq = stored.last_seq
        #: routing id of the process that holds the epoch; None for none that was heard
        self.identity: bytes | None = None
        #: it serves, under `epoch`
        self.ready = False
        #: it was granted `epoch` here and does not serve yet
        self.recovering = False
        #: what storage is asked for on its behalf; None for nothing
        self.fetched: Recovery | None = None
        #: storage has less than the shard had been told: only a checkpoint of everything counts
        self.resyncing = False
        #: number of that checkpoint, once its first slice has come; None until then
        self.resync_generation: int | None = None
        #: its answer to a hello waits for what was written before
        self.resuming = False
        #: some of its log was not taken, for there was no room
        self.behind = False
        #: the checkpoint that is stored, the one of which slices are, and how many
        self.current = stored.current
        self.unfinished: Generation | None = stored.unfinished
        self.slices = stored.slices
        #: a slice that is being stored; the shard sends the next one after it
        self.pending_slice: CheckpointSlice | None = None


class ShardLinks:
    """All shards.

    Args:
        stored: what storage knows of each.
        config_hash: what a shard's has to be.
        outbox: where writes and messages go.
        log_bytes_max: how much log storage may have of all shards.
    """

    def __init__(
        self,
        stored: Sequence[StoredShard],
        config_hash: str,
        outbox: Outbox,
        log_bytes_max: int,
    ) -> None:
        self._links = [ShardLink(shard, of) for shard, of in enumerate(stored)]
        self._config_hash = config_hash
        self._outbox = outbox
        self._recoveries: list[Recovery] = []
        self._sizes = LogSizes(stored, log_bytes_max)
        #: shards whose log is safe further than they know, and when they are told
        self._untold: set[int] = set()
        self._tell_at_ms: int | None = None
        #: slices that were taken and are not written yet, and when the next one may be
        self._slices: deque[tuple[ShardLink, CheckpointSlice]] = deque()
        self._pace = Pace()
        #: the monotonic clock of the last input or tick
        self._mono_ms = 0
        #: log that was taken and is not stored yet
        self._unsafe_bytes = 0
        #: shards that serve, as their log shows, and have not said hello to this coordinator
        self._ungreeted: set[int] = set()
        #: epochs or readiness have changed since the routers were told
        self.changed = False

    @property
    def epochs(self) -> list[int]:
        """Each shard's epoch, 0 for one that is not ready."""
        return [link.epoch if link.ready else 0 for link in self._links]

    @property
    def log_bytes(self) -> int:
        """How much log has been taken that no checkpoint has replaced."""
        return self._sizes.total

    def connected(self) -> list[ShardLink]:
        """Return the shards that can be talked to."""
        return [link for link in self._links if link.identity is not None]

    def serving(self) -> list[ShardLink]:
        """Return the shards that serve and can be talked to."""
        return [link for link in self._links if link.ready and link.identity is not None]

    def address_of(self, shard: int) -> bytes | None:
        """Return where a shard that serves can be reached; None for one that does not."""
        link = self._links[shard]
        return link.identity if link.ready else None

    def identity_of(self, shard: int) -> bytes | None:
        """Return where a shard was heard last, whether it serves or not; None for nowhere."""
        return self._links[shard].identity

    def is_at(self, shard: int, identity: bytes) -> bool:
        """Tell whether a shard was heard last at this address."""
        return 0 <= shard < len(self._links) and self._links[shard].identity == identity

    def take_ungreeted(self) -> list[int]:
        """Return the shards that serve without having said hello, since the last call."""
        shards = sorted(self._ungreeted)
        self._ungreeted.clear()
        return shards

    def take_recoveries(self) -> list[Recovery]:
        """Return what storage has to be asked for, once the group is committed."""
        recoveries, self._recoveries = self._recoveries, []
        return recoveries

    def lose(self, identity: bytes) -> None:
        """There is nobody at this address any more."""
        for link in self._links:
            if link.identity == identity:
                link.identity = None

    # --- hello

    def greet(self, identity: bytes, hello: ShardHello, now_ms: int) -> None:
        """Grant a fresh shard an epoch, let a running one go on, or refuse it."""
        if hello.config_hash != self._config_hash:
            self._refuse(identity, "its settings or version differ from the coordinator's")
        elif not 0 <= hello.shard < len(self._links):
            self._refuse(identity, f"there are {len(self._links)} shards, no number {hello.shard}")
        elif not hello.epoch:
            self._grant(self._links[hello.shard], identity, now_ms)
        else:
            self._resume(self._links[hello.shard], identity, hello)

    def _refuse(self, identity: bytes, reason: str) -> None:
        self._outbox.send(identity, Refused(reason=reason))

    def _grant(self, link: ShardLink, identity: bytes, now_ms: int) -> None:
        has_grant = link.identity == identity and link.recovering
        if not has_grant:  # else it has not heard of it yet
            link.epoch = link.epoch_last = link.epoch_last + 1
            assert link.epoch < 2**EPOCH_BITS, "no epochs are left"
            link.incarnation = next_incarnation(link.incarnation, now_ms)
            if not link.reserved_is_known:
                link.reserved += SEQUENCES_SKIPPED + now_ms % SKIP_PERIOD_MS * SKIP_PER_MS
                link.reserved_is_known = True
            link.identity = identity
            link.resuming = link.behind = False
            link.unfinished, link.slices, link.pending_slice = None, 0, None
            self._end_resync(link)
            link.recovering = True
            self._change(link, ready=False)
            self._write_grant(link)
        granted = Granted(epoch=link.epoch, incarnation=link.incarnation, reserved=link.reserved)
        self._outbox.then(partial(self._outbox.send, identity, granted))

    def _write_grant(self, link: ShardLink) -> None:
        self._outbox.write(Grant(link.shard, link.epoch, link.incarnation, link.reserved))

    def _change(self, link: ShardLink, *, ready: bool) -> None:
        link.ready = ready
        self.changed = True

    def _resume(self, link: ShardLink, identity: bytes, hello: ShardHello) -> None:
        """Let a shard go on under the epoch it has, also when the grant of it was lost with an
        earlier coordinator's memory."""
        lost_grant = not link.incarnation or hello.epoch > link.epoch
        if hello.epoch < link.epoch and not lost_grant:
            self._refuse_fenced(identity, link, hello.epoch)
            return
        link.identity = identity
        link.reserved_is_known = True
        if hello.reserved > link.reserved:
            link.reserved = hello.reserved
            self._outbox.write(Reserve(shard=link.shard, epoch=hello.epoch, upto=link.reserved))
        if lost_grant:
            link.epoch = hello.epoch
            link.epoch_last = max(link.epoch_last, hello.epoch)
            link.recovering = False
            link.incarnation = hello.incarnation or link.incarnation
            self._write_grant(link)
            self._change(link, ready=True)
        if link.last_seq < hello.safe_seq or (lost_grant and link.last_seq):
            link.resyncing = True
        self._let_resume(link)

    def _let_resume(self, link: ShardLink) -> None:
        """Let a running shard go on, once everything that was written until now is safe."""
        if link.resuming:
            return  # it asks every second while storage is slow
        link.resuming = True
        # One that is on its way is not demanded a second time.
        resync = link.resyncing and link.resync_generation is None
        resumed = Resumed(last_seq=link.last_seq, resync=resync, log_full=self._sizes.is_full)
        self._outbox.then(partial(self._resume_now, link, link.epoch, resumed))

    def _resume_now(self, link: ShardLink, epoch: int, resumed: Resumed) -> None:
        if link.epoch == epoch and link.resuming:
            link.resuming = False
            if link.identity is not None:
                self._outbox.send(link.identity, resumed)

    def _refuse_fenced(self, identity: bytes, link: ShardLink, epoch: int) -> None:
        self._refuse(
            identity, f"fenced: shard {link.shard} is at epoch {link.epoch}, no longer at {epoch}"
        )

    def _holder(self, identity: bytes, shard: int, epoch: int) -> ShardLink | None:
        """Return the shard's link if `epoch` is its current one; an older one is refused.

        One that cannot be judged, since nothing is known of the shard or it is newer, belongs to a
        shard that has not noticed yet that this coordinator is new: it must not exit with its jobs,
        and says hello again when it hears nothing. Nor must one that was granted an epoch twice, by
        a coordinator that died and by this one, and has not heard of the second one yet.
        """
        if not 0 <= shard < len(self._links):
            return None
        link = self._links[shard]
        if link.incarnation and epoch < link.epoch and identity != link.identity:
            self._refuse_fenced(identity, link, epoch)
        if not link.incarnation or epoch != link.epoch:
            return None
        link.identity = identity
        return link

    def _writer(self, identity: bytes, shard: int, epoch: int) -> ShardLink | None:
        """Return the link of a shard that writes log or a checkpoint.

        Whoever does serves, also when it has not noticed that this coordinator is new: as long as
        its log is confirmed, it has no reason to say hello.
        """
        link = self._holder(identity, shard, epoch)
        if link is not None and not link.ready and not link.recovering:
            self._ungreeted.add(shard)
            self._change(link, ready=True)
        return link

    # --- recovery

    def fetch(self, identity: bytes, fetch: Fetch) -> None:
        """Note what a recovering shard asks for. Who was not granted its epoch here gets nothing:
        it says hello again, and begins anew."""
        for link in self._links:
            if link.recovering and link.identity == identity and link.epoch == fetch.epoch:
                recovery = Recovery(identity, link.shard, fetch.epoch, fetch.cursor)
                if link.fetched != recovery:  # else it asks again while storage is slow
                    link.fetched = recovery
                    self._recoveries.append(recovery)

    def recovered(self, recovery: Recovery, part: Recovered) -> None:
        """Hand on what storage had, unless the shard has been granted a new epoch since then: what
        that has written by now may be among it."""
        link = self._links[recovery.shard]
        if link.fetched == recovery:
            link.fetched = None
        if link.epoch == recovery.epoch:
            self._outbox.send(recovery.to, replace(part, epoch=recovery.epoch, at=recovery.cursor))

    def unreadable(self, recovery: Recovery, reason: str) -> None:
        """What storage has is damaged: the shard must not run with the rest of it."""
        self._refuse(recovery.to, reason)

    def set_ready(self, identity: bytes, message: ShardReady) -> int | None:
        """Note that a shard serves; return its number if that is so."""
        link = self._holder(identity, message.shard, message.epoch)
        if link is None:
            return None
        if not link.ready:
            link.recovering = False
            self._change(link, ready=True)
            if self._sizes.is_full:
                self.tell_safe(link)
        return link.shard

    # --- log, checkpoints, blocks

    def append(self, identity: bytes, blob: Append) -> None:
        """Take a blob of the log if it joins on to what is there, else say what is safe."""
        link = self._writer(identity, blob.shard, blob.epoch)
        if link is None or link.resyncing or link.behind:
            return
        if (
            blob.first_seq != link.last_seq + 1
            or blob.last_seq < blob.first_seq
            or crc32(blob.records) != blob.checksum
        ):
            self.tell_safe(link)
            return
        size = len(blob.records)
        if self._unsafe_bytes and self._unsafe_bytes + size > UNSAFE_BYTES_MAX:
            link.behind = True
            return
        self._unsafe_bytes += size
        link.last_seq = blob.last_seq
        was_full = self._sizes.is_full
        self._sizes.add(link.shard, blob.last_seq, size)
        if self._sizes.is_full and not was_full:
            self._tell_all()
        self._outbox.write(blob)
        self._outbox.append(link.shard, link.epoch, link.last_seq, size, awaited=blob.awaited)

    def committed(self, group: Group) -> None:
        """A group is stored: tell each shard how far its log is safe."""
        for shard, (epoch, seq) in group.appended.items():
            link = self._links[shard]
            link.safe_seq = max(link.safe_seq, seq)
            if link.epoch != epoch:
                continue
            if shard in group.awaited:
                self.tell_safe(link)
            else:
                self._untold.add(shard)
        self._unsafe_bytes -= group.log_bytes
        if self._unsafe_bytes <= UNSAFE_BYTES_MAX // 2:
            for link in self._links:
                if link.behind:
                    link.behind = False
                    self._let_resume(link)

    def tell_safe(self, link: ShardLink) -> None:
        """Tell a shard how far its log is safe, and whether the log of all is full."""
        self._untold.discard(link.shard)
        if link.identity is not None:
            safe = Safe(epoch=link.epoch, seq=link.safe_seq, log_full=self._sizes.is_full)
            self._outbox.send(link.identity, safe)

    def _tell_all(self) -> None:
        for link in self._links:
            self.tell_safe(link)

    def observe(self, mono_ms: int) -> None:
        """Take in the time before anything is received."""
        self._mono_ms = mono_ms

    def tick(self, mono_ms: int) -> None:
        """Tell those shards how far their log is safe that did not have to know at once, and write
        a slice that is due."""
        self._mono_ms = mono_ms
        self._write_slice()
        if not self._untold:
            self._tell_at_ms = None
        elif self._tell_at_ms is None:
            self._tell_at_ms = mono_ms + SAFE_DELAY_MS
        elif mono_ms >= self._tell_at_ms:
            for shard in sorted(self._untold):
                self.tell_safe(self._links[shard])
            self._tell_at_ms = None

    def next_at_ms(self) -> int | None:
        """Return when `tick` has something to do, on the monotonic clock."""
        if self._slices and not self._pace.is_writing:
            return min(self._pace.due_ms, self._tell_at_ms or self._pace.due_ms)
        return self._tell_at_ms

    def take_slice(self, identity: bytes, part: CheckpointSlice) -> None:
        """Take part of a checkpoint.

        Slices count in their order: the end of a checkpoint whose beginning is not stored is no
        whole. While storage has less than it had told the shard, only a checkpoint of everything
        counts; the log goes on from it.
        """
        link = self._writer(identity, part.shard, part.epoch)
        if link is None or link.pending_slice is not None:
            return  # the shard repeats what takes long
        name = part.epoch, part.generation
        is_stored = name == link.current or (name == link.unfinished and part.number < link.slices)
        if is_stored:
            self._answer_slice(link, part)
            return
        if link.resyncing and not part.full:
            return
        if part.number and (name, part.number) != (link.unfinished, link.slices):
            if not link.resyncing:  # storage came back without its beginning
                link.resyncing = True
                self._let_resume(link)
            return
        if link.resyncing and not part.number:
            link.resync_generation = part.generation
        link.pending_slice = part
        if link.resyncing:
            self._slices.appendleft((link, part))
        else:
            self._slices.append((link, part))
        self._write_slice()

    def _write_slice(self) -> None:
        """Write the next slice, if none is being written and one is due: log goes in between,
        however many shards take their checkpoint at the same time. A shard that holds everything
        back until its state is stored does not wait, nor does a log that is half full."""
        while self._slices and not self._pace.is_writing:
            link, part = self._slices[0]
            hurries = link.resyncing or self._sizes.is_pressing
            if self._mono_ms < self._pace.due_ms and not hurries:
                return
            self._slices.popleft()
            if link.pending_slice is part:
                self._pace.begin(self._mono_ms)
                self._outbox.write(part)
                self._outbox.then(partial(self._slice_stored, link, part))

    def _slice_stored(self, link: ShardLink, part: CheckpointSlice) -> None:
        self._pace.end(self._mono_ms)
        if part.last:
            self._trim(link, part.seq)
        self._write_slice()
        if link.pending_slice is not part:
            return  # there is a new epoch
        link.pending_slice = None
        link.unfinished, link.slices = (part.epoch, part.generation), part.number + 1
        if part.last:
            link.current, link.unfinished, link.slices = link.unfinished, None, 0
            if link.resyncing and link.resync_generation == part.generation:
                # Storage has everything again, as of the checkpoint's sequence.
                self._end_resync(link)
                link.last_seq = link.safe_seq = max(link.last_seq, part.seq)
        self._answer_slice(link, part)

    def _trim(self, link: ShardLink, seq: int) -> None:
        """A checkpoint is current, whoever holds its shard's epoch by now."""
        was_full = self._sizes.is_full
        self._sizes.trim(link.shard, seq)
        if was_full and not self._sizes.is_full:
            self._tell_all()

    def _answer_slice(self, link: ShardLink, part: CheckpointSlice) -> None:
        if link.identity is not None:
            answer = CheckpointSafe(
                epoch=part.epoch, generation=part.generation, number=part.number, last=part.last
            )
            self._outbox.send(link.identity, answer)

    @staticmethod
    def _end_resync(link: ShardLink) -> None:
        link.resyncing = False
        link.resync_generation = None

    def reserve(self, identity: bytes, request: Reserve) -> None:
        """Make sequences the shard's."""
        link = self._holder(identity, request.shard, request.epoch)
        if link is None:
            return
        link.reserved = max(link.reserved, request.upto)
        self._outbox.write(request)
        answer = ReservedUpTo(epoch=link.epoch, upto=link.reserved)
        self._outbox.then(partial(self._outbox.send, identity, answer))
