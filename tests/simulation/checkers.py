"""The witness: it sees what every process decides and what clients are told, and compares.

What a shard has decided is kept entry by entry, and when a shard comes back with less, exactly
that is undone; so what may be lost and what may not is never a guess. Raises a `Violation` at the
moment a promise is broken. What a shard says must stand on what storage holds (`grounds.py`), and
what it gets back must be what it had (`twins.py`), whether or not a crash comes that would show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from flashq.ids import sequence_of_job, shard_of_job
from flashq.protocol import records as r
from flashq.protocol.internal import (
    COORDINATOR,
    Append,
    CheckpointSlice,
    Fire,
    Happened,
    Mail,
    Obliterated,
    Recovered,
)
from flashq.protocol.records import AnyRecord, Entry
from flashq.shard.invariants import validate
from flashq.shard.state import ShardState
from flashq.storage.port import Generation, Grant, Opened, Put, Write
from tests.simulation.facts import ACTIVE, CANCELLED, COMPLETED, JobFacts, ShardFacts
from tests.simulation.firings import Firings
from tests.simulation.grounds import Grounds
from tests.simulation.kinds import CAME_BACK
from tests.simulation.twins import Twins
from tests.simulation.world import Violation, World

if TYPE_CHECKING:
    from flashq.shard.node import Node
    from tests.simulation.setting import Setting
    from tests.simulation.webhooks import Noticeboard

WINDOW_MS: Final = 1000

Checkpoint = tuple[Generation | None, Recovered]
"""The name of a checkpoint, None for none, and its parts and pages."""


class Claim:
    """Something that a client was told about a job, and that has to stay true."""

    def __init__(self, job_id: int, what: str, *, durable: bool) -> None:
        self.job_id: Final = job_id
        self.what: Final = what
        self.durable: Final = durable

    def holds(self, facts: ShardFacts) -> bool:
        """Tell whether it is true by the log."""
        job = facts.jobs.get(self.job_id)
        if job is None or job.reason == "rejected":
            return False
        match self.what:
            case "completed":
                return job.state == COMPLETED
            case "failed":
                return job.failures > 0
            case "cancelled":
                return job.state == CANCELLED
            case _:
                return True

    def __repr__(self) -> str:
        return f"job {self.job_id} {self.what}"


class ShardHistory:
    """One shard's log as it was decided, and what of it holds."""

    def __init__(self, shard: int, setting: Setting) -> None:
        self.shard: Final = shard
        self._setting: Final = setting
        #: it has had a process that served
        self.has_begun = False
        #: sequence (None for what the log does not get), the records that are logged, and the
        #: entry as it is logged
        self.entries: list[tuple[int | None, list[AnyRecord], bytes]] = []
        self.facts = self._nothing()
        #: the last sequence decided, and the last that storage holds
        self.seq = 0
        self.stored = 0
        #: storage has lost something of this shard, and does not have it again
        self.is_exposed = False
        #: up to here it had the log before
        self.held = 0
        #: the shard has died too, before storage had it again
        self.is_doomed = False
        #: storage has lost even that there ever was such a shard
        self.is_forgotten = False
        #: its process serves
        self.is_live = False
        #: its last process has ended by itself, with everything said
        self.is_drained = False
        #: by peer: incarnation and number of mail that it took before storage lost that
        self.lost_mail: dict[int, set[tuple[int, int]]] = {}
        #: how often its state has lost its end, or all
        self.losses = 0
        self.wipes = 0
        self.claims: dict[tuple[int, str], Claim] = {}
        self.grounds: Final = Grounds(self)

    def _nothing(self) -> ShardFacts:
        setting = self._setting
        return ShardFacts(self.shard, setting.shards, setting.level)

    def lost(self, stored: int) -> None:
        """Storage has lost something, and has the log up to here now; or nothing at all."""
        if self.has_begun and (stored < self.stored or not stored):
            self.is_exposed = True
            self.is_doomed = self.is_doomed or not self.is_live
        self.held = max(self.held, self.stored)
        self.stored = stored

    def has(self, stored: int, *, full: bool = False) -> None:
        """Storage has the log up to here.

        Args:
            full: with everything before it.
        """
        self.stored = max(self.stored, stored)
        if full or self.stored >= self.held:
            self.is_exposed, self.held = False, 0

    def truncate(self, seq: int) -> ShardFacts:
        """Undo what is later than `seq`, and what the log never had; return the facts before."""
        before = self.facts
        kept = [entry for entry in self.entries if (entry[0] or seq + 1) <= seq]
        self.entries, self.facts, self.seq = kept, self._nothing(), seq
        for _, records, _ in kept:
            for record in records:
                self.facts.apply(record)
        return before


class Witness:
    """See the module."""

    def __init__(self, world: World, setting: Setting) -> None:
        self._world: Final = world
        self._setting: Final = setting
        self.shards: Final = [ShardHistory(shard, setting) for shard in range(setting.shards)]
        #: every id that was ever given
        self._ids: Final[set[int]] = set()
        #: those of level memory
        self.volatile: Final[set[int]] = set()
        #: ids of the jobs that carry a payload and are not undone
        self.by_payload: Final[dict[int | str, set[int]]] = {}
        #: payloads of pushes that were refused for good
        self.refused: Final[dict[int, str]] = {}
        #: by queue: (when, how many) were handed out since the rate was set
        self._handed_out: Final[dict[str, list[tuple[int, int]]]] = {}
        self.firings: Final = Firings(world)
        self._twins: Final = Twins(setting)
        #: by job: the accepted ends, as (who, token)
        self._accepted: Final[dict[int, list[tuple[str, int | None]]]] = {}
        self._turns = 0
        #: tells what storage has of a shard's checkpoint now
        self.checkpoint_of: Callable[[int], Checkpoint]
        #: follows what shards do, for the sake of a webhook
        self.board: Noticeboard | None = None

    def history_of(self, job_id: int) -> ShardHistory:
        """Return the history of a job's shard."""
        return self.shards[shard_of_job(job_id, self._setting.shards)]

    def facts_of(self, job_id: int) -> JobFacts | None:
        """Return what is known of a job."""
        return self.history_of(job_id).facts.jobs.get(job_id)

    @property
    def has_lost_states(self) -> bool:
        """Whether a shard has ever lost its whole state."""
        return any(history.wipes for history in self.shards)

    # --- what storage holds

    def written(self, write: Write) -> None:
        """The coordinator has stored something."""
        if isinstance(write, Append):
            self.shards[write.shard].has(write.last_seq)
        elif isinstance(write, CheckpointSlice):
            if write.last:
                self._world.seen["checkpoints"] += 1
                self.shards[write.shard].has(write.seq, full=write.full)
                self._twins.stored(write.shard, *self.checkpoint_of(write.shard))
        elif isinstance(write, Put):
            self.firings.stored(write)
        elif isinstance(write, Grant):
            self.shards[write.shard].grounds.reserved(write.reserved)
        else:
            self.shards[write.shard].grounds.reserved(write.upto)

    def memory_lost(self) -> None:
        """The coordinator has died, and storage, which was its memory, with it."""
        self.firings.all_lost()
        for history in self.shards:
            history.lost(0)

    def storage_lost(self, writes: Sequence[Write], opened: Opened) -> None:
        """Storage has lost what it had stored last.

        Args:
            opened: what it has now.
        """
        for shard in {write.shard for write in writes if not isinstance(write, Put)}:
            history, left = self.shards[shard], opened.shards[shard]
            history.lost(left.last_seq)
            history.is_forgotten = history.is_forgotten or not left.incarnation
        for write in writes:
            if isinstance(write, Put):
                self.firings.lost(write)

    @property
    def nothing_exposed(self) -> bool:
        """Whether every shard could die now and keep its state."""
        return not any(history.is_exposed or not history.is_live for history in self.shards)

    # --- what shards decide

    def shard_died(self, shard: int) -> None:
        """Its memory is lost."""
        history = self.shards[shard]
        history.is_live = False
        history.is_doomed = history.is_doomed or history.is_exposed

    def shard_ended(self, shard: int) -> None:
        """Its process has drained and ends: nothing of what it has decided may be lost."""
        history = self.shards[shard]
        history.is_drained = history.is_live
        if history.is_live:
            history.grounds.stands_on(history.seq, "ends")

    def shard_turned(self, shard: int, node: Node) -> None:
        """A shard has ended a turn."""
        if not node.is_serving:
            return
        self.shards[shard].is_live = True
        if self.board is not None:
            self.board.shard_turned(shard, node)
        self._turns += 1
        if self._setting.validate_every and self._turns % self._setting.validate_every == 0:
            validate(node.engine.state)

    def came_back(self, jobs: int) -> None:
        """Jobs whose delivery could not be delivered are ready again."""
        self._world.seen[CAME_BACK] += max(0, jobs)

    def began_checkpoint(self, name: Generation, state: ShardState) -> None:
        """A shard has begun a checkpoint of its state."""
        self._twins.began(name, state)

    def recovered(self, shard: int, epoch: int, state: ShardState) -> None:
        """A shard's process has got back what storage had."""
        history, world = self.shards[shard], self._world
        world.note(f"shard-{shard} recovered {state.seq} of {history.seq} in epoch {epoch}")
        if not history.stored <= state.seq <= history.seq:
            raise Violation(
                f"shard {shard} recovered {state.seq}; decided {history.seq}, "
                f"stored {history.stored}"
            )
        is_lost = history.is_doomed and state.seq < history.held
        if history.is_drained and state.seq < history.seq and not is_lost:
            raise Violation(f"shard {shard} drained, and yet lost {state.seq} to {history.seq}")
        if is_lost:
            # Who was told of what storage had not had yet was told too early all the same.
            self._undo(history, history.held)
            what = "part of a shard's" if state.seq else "shard's whole"
            world.fault(f"a {what} state is lost")
            history.wipes += 1
        self._undo(history, state.seq, is_lost=is_lost)
        self._compare(history, state)
        if self.board is not None:
            self.board.shard_recovered(shard, state.seq)
        history.has_begun = True
        history.held = 0
        history.is_exposed = history.is_doomed = history.is_drained = False

    def _compare(self, history: ShardHistory, state: ShardState) -> None:
        """See that a shard has recovered what it had, unless storage has changed since it read."""
        twin = self._twins.stored(history.shard, *self.checkpoint_of(history.shard))
        if twin.seq <= state.seq:
            log = [blob for seq, _, blob in history.entries if seq is not None and seq > twin.seq]
            self._twins.recovered(state, twin, log)

    def _undo(self, history: ShardHistory, seq: int, *, is_lost: bool = False) -> None:
        """Undo what a shard has decided after `seq`, and see whether somebody was told of it.

        Args:
            is_lost: storage had it, and has lost it.
        """
        if seq < history.seq:
            self._world.faults["records lost with a shard"] += 1
        before = history.truncate(seq)
        after = history.facts
        history.losses += 1
        for job_id in before.jobs.keys() - after.jobs.keys():
            payload = before.jobs[job_id].payload
            if payload is not None:
                self.by_payload[payload].discard(job_id)
        for key, claim in list(history.claims.items()):
            if claim.holds(after):
                continue
            if claim.durable and not is_lost:
                raise Violation(f"a crash made a reply untrue: {claim!r} (recovered {seq})")
            del history.claims[key]
            self._accepted.pop(claim.job_id, None)
        if is_lost:
            for peer, messages in before.received.items():
                lost = messages - after.received.get(peer, set())
                history.lost_mail.setdefault(peer, set()).update(lost)
        else:
            self._check_mail(history, before, after)

    def _check_mail(self, history: ShardHistory, before: ShardFacts, after: ShardFacts) -> None:
        """Neither mail nor its confirmation may have left before its record was safe."""
        for peer, sent in before.sent.items():
            if peer in (COORDINATOR, history.shard):
                continue
            left = len(after.sent.get(peer, ()))
            for number, (incarnation, body) in enumerate(sent[left:], left + 1):
                if self.shards[peer].facts.has_received(history.shard, (incarnation, number)):
                    raise Violation(
                        f"shard {history.shard} forgot mail {number} for {peer}: {body}"
                    )
        for peer, messages in before.received.items():
            if peer in (COORDINATOR, history.shard):
                continue
            facts = self.shards[peer].facts
            sent = facts.sent.get(history.shard, [])[: facts.confirmed[history.shard]]
            for incarnation, number in messages - after.received.get(peer, set()):
                if number <= len(sent) and sent[number - 1][0] == incarnation:
                    raise Violation(
                        f"shard {history.shard} forgot confirmed mail {number} of {peer}"
                    )

    def sends(self, shard: int, peer: int, mail: Mail) -> None:
        """A shard sends a message, maybe again: it is what was decided, and of the life in which
        that was."""
        incarnation, body = self.shards[shard].facts.sent[peer][mail.number - 1]
        if body != mail.body:
            raise Violation(f"shard {shard} sends {mail!r} instead of {body!r}")
        if incarnation != mail.incarnation:
            raise Violation(f"shard {shard} sends {mail!r}, which was as of life {incarnation}")

    def _check_taken(self, history: ShardHistory, record: r.MailTaken) -> None:
        """What a peer has confirmed is this very message, not one that once had its number."""
        peer = record.peer
        if peer in (COORDINATOR, history.shard):
            return
        sent, confirmed = history.facts.sent.get(peer, []), history.facts.confirmed[peer]
        receiver = self.shards[peer]
        lost = receiver.lost_mail.get(history.shard, ())
        for number, (incarnation, body) in enumerate(
            sent[confirmed : record.number], confirmed + 1
        ):
            message = (incarnation, number)
            if not receiver.facts.has_received(history.shard, message) and message not in lost:
                raise Violation(
                    f"shard {peer} took mail {number} of {history.shard} for an older one: {body}"
                )

    def decided(
        self,
        shard: int,
        seq: int | None,
        entry: Entry,
        kept: list[AnyRecord],
        blob: bytes,
        clock_ms: int,
    ) -> None:
        """A shard has decided something.

        Args:
            seq: its log sequence; None when the log does not get it.
            kept: what of it the log gets.
            blob: the entry that the log gets.
            clock_ms: the engine's monotonic clock.
        """
        history, world = self.shards[shard], self._world
        if world.is_traced:
            for record in entry.records:
                world.tell(f"shard-{shard} #{seq} {record!r:.600}")
        history.entries.append((seq, kept, blob))
        if seq is not None:
            history.seq = seq
        for record in entry.records:
            world.seen[type(record).__name__] += 1
            if isinstance(record, r.MailTaken):
                self._check_taken(history, record)
            jobs = history.facts.apply(record)
            match record:
                case r.Pushed() | r.Parked():
                    self._came(jobs)
                case r.Delivered(queue=queue):
                    self._were_handed_out(history, queue, jobs, clock_ms)
                case r.Requeued(reason="released"):
                    for job in jobs:
                        self._handed_out.setdefault(job.queue, []).append((clock_ms, -1))
                case r.QueueSet(queue=queue) | r.QueueGone(queue=queue):
                    self._handed_out.pop(queue, None)
                case r.Received(peer=peer, incarnation=incarnation, number=number):
                    assert seq is not None, "mail is never volatile"
                    history.grounds.took(peer, incarnation, number, seq)
                    if peer == COORDINATOR:
                        made = [each.queue for each in entry.records if isinstance(each, r.Pushed)]
                        self.firings.arrived((shard, incarnation, number), made)
                case _:
                    pass

    def _came(self, jobs: list[JobFacts]) -> None:
        for job in jobs:
            if job.id in self._ids and not self.history_of(job.id).is_forgotten:
                raise Violation(f"id {job.id} was given before, to a job that is lost")
            self._ids.add(job.id)
            sequence = sequence_of_job(job.id, self._setting.shards)
            self.history_of(job.id).grounds.used(sequence)
            if job.level == "memory":
                self.volatile.add(job.id)
            if job.payload is None:
                raise Violation(f"{job!r} was never pushed")
            same = self.by_payload.setdefault(job.payload, set())
            if isinstance(job.payload, int):
                others = [self.facts_of(job_id) for job_id in same]
                real = [other for other in others if other and other.reason != "rejected"]
                if real and job.level != "memory" and not self.has_lost_states:
                    raise Violation(f"one push made two jobs: {job!r} and {real}")
                if job.payload in self.refused:
                    raise Violation(f"{job!r}: refused with {self.refused[job.payload]}")
            same.add(job.id)

    def _were_handed_out(
        self, history: ShardHistory, queue: str, jobs: list[JobFacts], clock_ms: int
    ) -> None:
        facts = history.facts
        settings = facts.settings_of(queue)
        if settings.paused:
            raise Violation(f"queue {queue} is paused, and hands out {jobs}")
        active = facts.active[queue]
        if settings.concurrency is not None and active > settings.concurrency:
            raise Violation(f"{active} active in {queue}, allowed {settings.concurrency}")
        if settings.rate_limit is not None:
            self._check_rate(queue, settings.rate_limit, len(jobs), clock_ms)
        for job in jobs:
            self._check_turn(job)

    def _check_rate(self, queue: str, limit: int, count: int, clock_ms: int) -> None:
        """Over any stretch no more than the burst and what the rate gives in that time."""
        handed_out = self._handed_out.setdefault(queue, [])
        handed_out.append((clock_ms, count))
        total = 0
        for at_ms, some in reversed(handed_out):
            total += some
            # A process that stood still sets its clock back by a little more than that.
            allowed = limit + limit * max(0, clock_ms - at_ms) / 1000
            if total > allowed + 1e-6:
                raise Violation(f"{total} of {queue} in {clock_ms - at_ms} ms at a rate of {limit}")

    def _check_turn(self, job: JobFacts) -> None:
        """What a job waits for has ended when it is handed out."""
        if job.is_retried:
            return
        for child in job.children:
            ended = self.facts_of(child)
            if self.history_of(child).wipes:
                continue
            if ended is None or not ended.has_ended:
                raise Violation(f"{job!r} runs before its child {ended!r}")
        policy = job.options.on_dependency_failure
        for dependency in job.options.depends_on:
            ended = self.facts_of(dependency)
            history = self.history_of(dependency)
            if history.wipes or (ended is None and history.losses):
                continue
            good = ended is not None and (
                ended.state == COMPLETED or (policy == "ignore" and ended.has_ended)
            )
            if not good:
                raise Violation(f"{job!r} runs ({policy}) before its dependency {ended!r}")

    # --- what clients are told

    def told(
        self, job_id: int, what: str, *, level: str | None = None, sent_us: int, losses: int
    ) -> None:
        """A client was told something about a job.

        Args:
            what: pushed, completed, failed or cancelled.
            level: of the job, where the client knows it.
            sent_us: when it asked.
            losses: what `losses_of` said then.
        """
        history = self.history_of(job_id)
        job = history.facts.jobs.get(job_id)
        durable = (level or (job.level if job is not None else None)) == "durable"
        claim = Claim(job_id, what, durable=durable)
        self._world.seen[f"told {what}"] += 1
        if claim.holds(history.facts):
            known = history.claims.get((job_id, what))
            if known is None or not known.durable:
                history.claims[job_id, what] = claim
            return
        if history.wipes or (not durable and self.losses_of(job_id) > losses):
            return
        raise Violation(f"a client was told {claim!r}, and the log has {job!r} (asked {sent_us})")

    def losses_of(self, job_id: int) -> int:
        """Return how often the job's shard has lost something."""
        history = self.history_of(job_id)
        return history.losses + (not history.is_live)

    def accepted(self, job_id: int, who: str, token: int | None, losses: int) -> None:
        """A client's acknowledgement of a job was accepted.

        Args:
            who: the request.
            token: the lease that it named.
            losses: what `losses_of` said when it asked. What was lost with a shard meanwhile may
                have been carried out again, for somebody else, before the client read the answer.
        """
        job = self.facts_of(job_id)
        if job is None or job.state != COMPLETED:
            return  # undone since; `told` has judged that
        if job.level != "durable" and self.losses_of(job_id) > losses:
            return
        others = self._accepted.setdefault(job_id, [])
        others.append((who, token))
        if len(others) > 1:
            raise Violation(f"{job!r}: acknowledged twice: {others}")
        last = job.tokens[-1] if job.tokens else 0
        if token is not None and token < last:
            raise Violation(f"{job!r}: {token} was accepted though {last} was handed out since")

    def refuse(self, payload: int, error: str) -> None:
        """A push was refused: its job must not exist, now or later."""
        self.refused[payload] = error
        for job_id in self.by_payload.get(payload, ()):
            job = self.facts_of(job_id)
            if job is not None and job.reason != "rejected" and not job.is_raised:
                raise Violation(f"{job!r}: its push was refused with {error}")

    def delivered(self, job_id: int, queue: str, payload: int | str | None) -> None:
        """A client was handed a job."""
        if job_id not in self._ids or payload not in self.by_payload:
            raise Violation(f"job {job_id} with payload {payload} was never pushed")
        job = self.facts_of(job_id)
        if job is not None and (job.queue, job.payload) != (queue, payload):
            raise Violation(f"{job!r} was handed out as {queue}, {payload}")

    # --- the end

    def unanswered_fires(self) -> list[Fire]:
        """Return the firings of crons that have not become jobs."""
        return [
            fire
            for (shard, incarnation, number), fire in self.firings.items()
            if not self.shards[shard].facts.has_received(COORDINATOR, (incarnation, number))
        ]

    def unfinished(self) -> list[JobFacts]:
        """Return the jobs that have not ended."""
        return [
            job
            for history in self.shards
            for job in history.facts.jobs.values()
            if not job.is_ended
        ]

    def active(self) -> Counter[str]:
        """Return how many jobs of each queue are active."""
        return Counter(job.queue for job in self.unfinished() if job.state == ACTIVE)

    def check_state(self, shard: int, state: ShardState) -> None:
        """Compare what a shard has with what its log says."""
        validate(state)
        facts = self.shards[shard].facts
        for page in state.index.pages.values():
            for job in page.jobs:
                if job is not None and job.id not in facts.jobs:
                    raise Violation(f"shard {shard} has {job!r}, which the log does not know")
        for known in facts.jobs.values():
            if not known.is_ended and state.index.get(known.id) is None:
                raise Violation(f"shard {shard} has lost {known!r}")
        for peer in facts.sent:
            if peer == COORDINATOR:
                assert all(isinstance(body, Obliterated | Happened) for _, body in facts.sent[peer])
