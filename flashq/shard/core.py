"""The middle of the engine: one decision at a time becomes records, a changed state, and a reply.

Owns the outbox, the clock of this moment and the deadlines; the parts of the engine that park
requests or watch leases are built on it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from msgspec import Struct

from flashq.errors import Busy, FlashQError
from flashq.protocol import records as r
from flashq.protocol.codec import error_reply
from flashq.protocol.limits import EngineLimits
from flashq.protocol.objects import Event
from flashq.protocol.records import Answer, AnyRecord, Entry
from flashq.shard.aftermath import Aftermath, Ended
from flashq.shard.audience import Audience
from flashq.shard.context import Context
from flashq.shard.evolve import evolve
from flashq.shard.hooks import Hooks
from flashq.shard.lifecycle import is_volatile
from flashq.shard.outbox import Origin, Outbox, Reply
from flashq.shard.state import ShardState
from flashq.shard.timers import Timers

SEQUENCE_MAX: Final = 2**63 - 1


class Waiter(Struct, eq=False):
    """A parked PULL or PULLB, or a parked WAITJOB. Times are ms on the engine's clock. Of PULLB:
    `ready` takes nothing, `starts` says when the work on each job starts."""

    origin: Origin
    deadline: int
    queue: str = ""
    count: int = 0
    single: bool = False
    columns: bool = False
    ready: bool = False
    starts: bool = False
    session: bytes = b""
    n: int | None = None
    done_below: int = 0
    job_id: int = 0
    timeout: int = 0
    ticket: bytes = b""
    open: int = 1


Line = OrderedDict[Waiter, None]
"""Those that wait for the same, first come first. Each leaves it in one step, from anywhere."""


SLICE_JOBS: Final = 1000
"""Of what falls due at once, or is removed at once, so many jobs are moved before others get their
turn: about 5 ms of work."""


class Core:
    """State, clock, outbox and deadlines of one shard engine.

    Args:
        state: what recovery gave.
        limits: the bounds.
        epoch: under which this process runs.
        level: the server's durability level.
    """

    def __init__(self, state: ShardState, limits: EngineLimits, epoch: int, level: str) -> None:
        self.state = state
        self.limits = limits
        self.epoch = epoch
        self.context = Context(state, limits, epoch, level)
        self.outbox = Outbox()
        self.timers = Timers()
        #: monotonic ms, less the time in which this process did not run
        self.clock_ms = 0
        #: the log sequence that has to be safe before replies leave
        self.gate = 0
        #: up to which sequence it is safe; whoever holds replies back keeps it up to date
        self.safe = SEQUENCE_MAX
        #: the queues whose events somebody listens to
        self.audience = Audience()
        #: what webhooks want to be told of; None for nothing
        self.hooks: Hooks | None = None
        self._event_seq = 0
        #: parked pulls by queue, first come first, those that take jobs and those that take none;
        #: parked waits by job
        self.pulls: dict[str, Line] = {}
        self.watches: dict[str, Line] = {}
        self.waits: dict[int, Line] = {}
        self.waiters = 0
        #: more jobs have expired than have been removed
        self.is_expiring = False
        #: queues to serve, and ends to tell, before the engine is done with this input
        self.woken: set[str] = set()
        self.ended: list[Ended] = []

    # --- parking

    def check_waiters(self) -> None:
        """Check that one more request can be parked.

        Raises:
            Busy: it cannot.
        """
        if self.waiters >= self.limits.waiters_max:
            raise Busy(detail=f"{self.waiters} requests are waiting in this shard")

    # --- deciding

    def commit(
        self, records: list[AnyRecord], *, durable: bool, answer: Answer | None = None
    ) -> None:
        """Let facts take effect, and put them into the log.

        Args:
            records: what was decided.
            durable: whether later replies wait until this is safe.
            answer: for repeats of the request that caused this.
        """
        state, hooks, audience = self.state, self.hooks, self.audience
        if self.pulls or self.watches or self.waits or audience or hooks is not None:
            wanted = None if hooks is None else hooks.want
            aftermath = Aftermath(state, audience=audience, wanted=wanted)
            aftermath.note(records)
            if hooks is not None and aftermath.happenings:
                records = [*records, *hooks.mail(aftermath.happenings, state.now_ms)]
            self.woken |= aftermath.woken
            self.ended += aftermath.ended
        else:
            aftermath = None
        kept = _for_the_log(state, records) if _may_be_volatile(state, records) else records
        logged = bool(kept) or not records
        entry = Entry(state.now_ms, records, answer, state.due_mark)
        evolve(state, entry, logged=logged)
        if logged:
            if kept is not records:
                entry = Entry(state.now_ms, kept, answer, state.due_mark)
            self.outbox.entries.append(entry)
            if durable:
                self.gate = state.seq
        if audience and aftermath is not None and aftermath.happenings:
            self._publish(aftermath)

    def _publish(self, aftermath: Aftermath) -> None:
        for said in aftermath.happenings:
            if said.queue not in self.audience:
                continue  # made for a webhook alone
            self._event_seq += 1
            event = Event(
                seq=self._event_seq,
                shard=self.state.shard,
                epoch=self.epoch,
                event=said.event,
                queue=said.queue,
                at=self.state.now_ms,
                ids=said.ids,
                error=said.error,
                progress=said.progress,
                message=said.message,
                data=said.data,
            )
            self.outbox.events.append((self.gate, event))

    def reply(
        self, origin: Origin, body: Any, *, delivery: bool = False, is_read: bool = False
    ) -> None:
        """Answer a request, once what the answer tells of is safe."""
        self.outbox.replies.append(
            Reply(origin, body, self.gate, self.state.seq, delivery, is_read)
        )

    def reply_now(self, origin: Origin, body: Any) -> None:
        """Answer a request at once: the answer tells of nothing that a crash could undo."""
        self.outbox.replies.append(Reply(origin, body, 0, 0))

    def refuse(self, origin: Origin, error: FlashQError, *, is_read: bool = False) -> None:
        """Answer a request with an error."""
        self.reply(origin, error_reply(error), is_read=is_read)


def _may_be_volatile(state: ShardState, records: list[AnyRecord]) -> bool:
    if state.volatile_jobs:
        return True
    options = [record.options for record in records if isinstance(record, r.Pushed)]
    return "memory" in [each.level for each in options if each is not None]


def _for_the_log(state: ShardState, records: list[AnyRecord]) -> list[AnyRecord]:
    """Return the records without what is about jobs of level memory."""
    kept: list[AnyRecord] = []
    fresh_volatile = False
    for record in records:
        if isinstance(record, r.Pushed):
            fresh_volatile = record.options is not None and record.options.level == "memory"
            if not fresh_volatile:
                kept.append(record)
        elif isinstance(record, r.Parked):
            fresh_volatile = False
            kept.append(record)
        elif isinstance(record, r.DebounceStarted):
            if not fresh_volatile:
                kept.append(record)
        elif hasattr(record, "ids") and not isinstance(record, r.Awaited):
            _keep_some(state, record, kept)
        elif hasattr(record, "id"):
            job = state.index.get(record.id)
            if job is None or not is_volatile(job):
                kept.append(record)
        else:
            kept.append(record)
    return kept


def _keep_some(state: ShardState, record: Any, kept: list[AnyRecord]) -> None:
    places = [
        place
        for place, job in enumerate(state.index.get_many(record.ids))
        if job is None or not is_volatile(job)
    ]
    if len(places) == len(record.ids):
        kept.append(record)
    elif places:
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        fields["ids"] = [record.ids[place] for place in places]
        if fields.get("results"):
            fields["results"] = [record.results[place] for place in places]
        kept.append(type(record)(**fields))
