"""A shard engine with both clocks in hand, asked and answered in the forms of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from flashq.protocol.codec import decode_request, encode
from flashq.protocol.framing import ALL_QUEUES, FULL, JSON, OLDER, pack_wish
from flashq.protocol.internal import AnyPeerMessage, Mail
from flashq.protocol.limits import EngineLimits
from flashq.protocol.objects import Event
from flashq.protocol.records import Entry, decode_entries, encode_entries
from flashq.shard.audience import Audience
from flashq.shard.checkpoint import Checkpoint, JobLoader, load_part, mark_clean
from flashq.shard.engine import Engine
from flashq.shard.evolve import evolve
from flashq.shard.invariants import canonical, validate
from flashq.shard.lifecycle import Job
from flashq.shard.outbox import Origin, Reply
from flashq.shard.pages import JobImage, decode_page, encode_page, image_of
from flashq.shard.paging import PagedJobs
from flashq.shard.state import ShardState

NOW_MS: Final = 1_800_000_000_000
MONO_MS: Final = 50_000
ALICE: Final = b"alice-0123456789"
BOB: Final = b"bob-012345678901"
CARL: Final = b"carl-01234567890"


class Refused(AssertionError):
    """A request that a test expected to succeed was answered with an error."""


def plain(body: Any) -> Any:
    """Return a reply as a client reads it."""
    return msgspec.msgpack.decode(body if isinstance(body, bytes) else encode(body))


class Shard:
    """One engine. Every input is followed by a check of the whole state and of its replay.

    Args:
        number, count: which shard, of how many.
        limits: bounds that differ from the defaults.
        state: what it starts from; a fresh state without it.
        log: the entries that led to `state`.
    """

    def __init__(
        self,
        number: int = 0,
        count: int = 1,
        *,
        epoch: int = 1,
        level: str = "async",
        state: ShardState | None = None,
        log: list[Entry] | None = None,
        now_ms: int = NOW_MS,
        mono_ms: int = MONO_MS,
        **limits: int,
    ) -> None:
        self.level = level
        self.limits = EngineLimits(**limits)
        self.now_ms, self.mono_ms = now_ms, mono_ms
        self.epoch = epoch
        self.log = [] if log is None else log
        self.replies: dict[int, Reply] = {}
        self.events: list[Event] = []
        self.gates: list[int] = []
        self._corr = 0
        self._answered: set[int] = set()
        fresh = ShardState(number, count, self.limits.outcomes_max) if state is None else state
        fresh.incarnation = 7
        self.engine = Engine(fresh, self.limits, epoch=epoch, level=level)
        self.engine.start(now_ms, mono_ms)
        self._collect()

    # --- input

    @property
    def state(self) -> ShardState:
        return self.engine.state

    def send(
        self,
        cmd: str,
        *,
        json: bool = False,
        full: bool = False,
        older: bool = False,
        corr: int = 0,
        **fields: Any,
    ) -> int:
        """Send a request; return the number under which its answer will be found."""
        if not corr:
            self._corr += 1
            corr = self._corr
        flags = (JSON if json else 0) | (FULL if full else 0) | (OLDER if older else 0)
        body = msgspec.json.encode if json else msgspec.msgpack.encode
        command = decode_request(body({"cmd": cmd, **fields}), json=json)
        self.engine.handle(command, Origin(b"peer", corr, b"", flags), self.now_ms, self.mono_ms)
        self._collect()
        return corr

    def push_body(self, body: bytes, *, json: bool) -> int:
        """Push a job by a body that no encoder would make; return its id."""
        self._corr += 1
        origin = Origin(b"peer", self._corr, b"", JSON if json else 0)
        self.engine.handle(decode_request(body, json=json), origin, self.now_ms, self.mono_ms)
        self._collect()
        answer = self.answer(self._corr)
        assert answer is not None
        return int(answer["id"])

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """Send a request that has to succeed at once; return its answer."""
        answer = self.answer(self.send(cmd, **fields))
        assert answer is not None, f"{cmd} {fields} was not answered"
        if not answer["ok"]:
            raise Refused(f"{cmd} {fields}: {answer['error']}")
        return answer

    def sweep(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """Send a request about many jobs, and let turns pass until it is through; return its
        answer."""
        corr = self.send(cmd, **fields)
        while (answer := self.answer(corr)) is None:
            self.tick()
        return answer

    def refuse(self, cmd: str, **fields: Any) -> tuple[str, str]:
        """Send a request that has to be refused; return the error's code and text."""
        seq = self.state.seq
        answer = self.answer(self.send(cmd, **fields))
        assert answer is not None, f"{cmd} {fields} was not answered"
        assert not answer["ok"], f"{cmd} {fields} succeeded: {answer}"
        assert self.state.seq == seq, "an error means that nothing happened"
        return answer["code"], answer["error"]

    def answer(self, corr: int) -> dict[str, Any] | None:
        """Take the answer of a request; None while there is none."""
        reply = self.replies.pop(corr, None)
        return None if reply is None else plain(reply.body)

    def mail(
        self,
        peer: int,
        number: int,
        body: AnyPeerMessage,
        incarnation: int = 7,
        confirmed: int = 0,
        previous: int = 0,
    ) -> bool:
        """Deliver a peer's message."""
        mail = Mail(
            sender=peer,
            incarnation=incarnation,
            number=number,
            body=body,
            previous=previous,
            confirmed=confirmed,
        )
        taken = self.engine.take_mail(mail, self.now_ms, self.mono_ms)
        self._collect()
        return taken

    def move_clock(self, ms: int) -> None:
        """Let time pass that the engine does not notice yet."""
        self.now_ms += ms
        self.mono_ms += ms

    def tick(self) -> None:
        """Let what is due happen, as the process does after each batch of input."""
        self.engine.tick(self.now_ms, self.mono_ms)
        self.engine.tidy()
        self._collect()

    def advance(self, ms: int) -> None:
        """Let time pass, with a tick at each deadline on the way and at the end."""
        end = self.mono_ms + ms
        while True:
            deadline = self.engine.next_deadline_ms()
            if deadline is None or deadline >= end:
                break
            self.move_clock(max(1, deadline - self.mono_ms))
            self.tick()
        self.move_clock(end - self.mono_ms)
        self.tick()

    # --- shortcuts

    def push(self, queue: str = "q", data: Any = None, **fields: Any) -> int:
        return int(self.ask("PUSH", queue=queue, data=data, **fields)["id"])

    def pull(self, queue: str = "q", **fields: Any) -> dict[str, Any]:
        """Take a job that has to be there."""
        job = self.ask("PULL", queue=queue, timeout=0, **fields)["job"]
        assert job is not None, f"no job in {queue}"
        return dict(job)

    def pull_ids(self, queue: str = "q", count: int = 100, **fields: Any) -> list[int]:
        """Take jobs; return their ids in the order of delivery."""
        reply = self.ask("PULLB", queue=queue, count=count, timeout=0, **fields)
        return [job["id"] for job in reply["jobs"]]

    def state_of(self, job_id: int) -> str:
        return str(self.ask("GETSTATE", id=job_id)["state"])

    def job(self, job_id: int) -> dict[str, Any]:
        """Return a job with all its keys."""
        job = self.ask("GETJOB", id=job_id, full=True)["job"]
        assert job is not None, f"no job {job_id}"
        return dict(job)

    def inner(self, job_id: int) -> Job:
        """Return the engine's own job."""
        job = self.state.index.get(job_id)
        assert job is not None
        return job

    def make_active(self, **fields: Any) -> int:
        """Push a job and take it."""
        job_id = self.push(**fields)
        assert self.pull(fields.get("queue", "q"))["id"] == job_id
        return job_id

    def make_failed(self, error: str = "no", **fields: Any) -> int:
        """Push a job and let it die."""
        job_id = self.make_active(max_attempts=1, **fields)
        self.ask("FAIL", id=job_id, error=error)
        return job_id

    def make_completed(self, result: Any = None, **fields: Any) -> int:
        """Push a job and complete it."""
        job_id = self.make_active(**fields)
        self.ask("ACK", id=job_id, result=result)
        return job_id

    def listen(self, queue: str = ALL_QUEUES) -> None:
        """Let somebody listen to a queue's events, or to all."""
        audience = Audience()
        audience.add(pack_wish(1, queue))
        self.engine.listen(audience)

    def happened(self) -> list[tuple[str, list[int]]]:
        """Take the events so far: name and job ids."""
        events, self.events = self.events, []
        return [(event.event, event.ids) for event in events]

    # --- what came out, and what is left after a crash

    def _collect(self) -> None:
        outbox = self.engine.outbox
        for reply in outbox.replies:
            corr = reply.origin.corr
            assert corr not in self._answered, f"request {corr} was answered twice"
            self._answered.add(corr)
            self.replies[corr] = reply
        self.log += decode_entries(encode_entries(outbox.entries))
        self.events += [event for _, event in outbox.events]
        self.gates += [gate for gate, _ in outbox.events]
        for made in (outbox.replies, outbox.entries, outbox.events):
            made.clear()
        validate(self.state)

    def again(self, corr: int) -> None:
        """Expect one more answer under this number: the request is about to be repeated."""
        self._answered.discard(corr)

    def replayed(self, entries: int | None = None) -> ShardState:
        """Return the state that the log gives, or its first entries."""
        state = ShardState(self.state.shard, self.state.shard_count, self.state.outcomes_max)
        state.incarnation = self.state.incarnation
        for entry in decode_entries(encode_entries(self.log[:entries])):
            evolve(state, entry)
        return state

    def checkpointed(self) -> ShardState:
        """Return the state that a checkpoint of this moment gives."""
        checkpoint = Checkpoint(self.state, full=True)
        ((_, part),) = checkpoint.take_part()
        pages = dict(checkpoint.next_pages(10**9, 10**9))
        return recovered(self.state, part, pages)

    def check_recovery(self) -> None:
        """Check that log and checkpoint give the live state."""
        live = canonical(self.state)
        for state in (self.replayed(), self.checkpointed()):
            state.advance(self.state.now_ms, until=self.state.due_mark)
            validate(state)
            assert canonical(state) == live

    def crash(self, *, lose: int = 0, downtime_ms: int = 100) -> Shard:
        """Return the shard after SIGKILL and restart.

        Args:
            lose: how many of the last entries had not reached storage.
        """
        kept = len(self.log) - lose
        state = self.replayed(kept)
        return Shard(
            self.state.shard,
            self.state.shard_count,
            epoch=self.epoch + 1,
            level=self.level,
            state=state,
            log=self.log[:kept],
            now_ms=self.now_ms + downtime_ms,
            mono_ms=1000,
            **{name: getattr(self.limits, name) for name in self.limits.__struct_fields__},
        )


def recovered(
    like: ShardState, part: bytes | None, pages: dict[int, bytes], log: Sequence[Entry] = ()
) -> ShardState:
    """Return the state that a checkpoint's part and pages give, with the log after it."""
    state = ShardState(like.shard, like.shard_count, like.outcomes_max)
    if part is not None:
        load_part(state, part)
    loader = JobLoader(state)
    for key, content in pages.items():
        if content:
            loader.load(content, key)
    loader.finish()
    mark_clean(state)
    for entry in decode_entries(encode_entries(log)):
        evolve(state, entry)
    return state


def paged(
    like: ShardState, part: bytes | None, pages: dict[int, bytes], seq: int, log: Sequence[Entry]
) -> list[JobImage]:
    """Return the jobs that a checkpoint at `seq` and the log after it give, read by pages."""
    reader = PagedJobs(like.shard, like.shard_count, seq)
    if log:
        reader.take_log(seq + 1, seq + len(log), encode_entries(log))
    if part is not None:
        reader.take_part(part)
    return [_image(job) for job in reader.jobs(sorted(pages.items()))]


def stored_jobs(state: ShardState) -> list[JobImage]:
    """Return the jobs of a state, by id."""
    pages = [page for _, page in sorted(state.index.pages.items())]
    return [_image(job) for page in pages for job in page.jobs if job is not None]


def _image(job: Job) -> JobImage:
    [image] = decode_page(encode_page([image_of(job)]))
    return image
