"""PUSH, PUSHB, FLOW, GETCHILDREN."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Final

from msgspec.structs import replace

from flashq.errors import (
    BatchTooLarge,
    Busy,
    Debounced,
    DuplicateJob,
    FieldTooLarge,
    FlashQError,
    FlowEmpty,
    InvalidRequest,
    ParentNotFound,
    PayloadTooLarge,
    WrongState,
    error_from,
)
from flashq.ids import job_id, shard_of_queue
from flashq.protocol import records as r
from flashq.protocol.base import Reply
from flashq.protocol.bounds import check_options
from flashq.protocol.codec import encode_msgpack, error_reply
from flashq.protocol.depth import check_depth
from flashq.protocol.internal import CreateChild, Watch
from flashq.protocol.jobs import (
    BatchError,
    ChildrenReply,
    Flow,
    FlowReply,
    GetChildren,
    JobOptions,
    NewChild,
    NewJob,
    Push,
    PushBatch,
    PushBatchReply,
    PushReply,
)
from flashq.protocol.names import check_queue_name
from flashq.protocol.records import AnyRecord, Options
from flashq.shard.context import Context, Decision
from flashq.shard.dependencies import ask_dependencies, is_ready_now, settle_known
from flashq.shard.holdings import DEFAULT_SETTINGS, Queue
from flashq.shard.lifecycle import (
    NO_OPTIONS,
    asks_to_be_kept,
)
from flashq.shard.outbox import Origin
from flashq.shard.pages import encode_page, image_of
from flashq.shard.sight import Sight
from flashq.shard.views import children_of, job_view

DEBOUNCE_TTL_MS: Final = 5000
DEBOUNCES_MAX: Final = 100_000
"""Most debounce windows that are open in one shard."""

_CHILD_FORBIDS: Final = ("unique_key", "job_id", "debounce_id", "depends_on")


# --- what a push says


def options_of_push(
    context: Context, queue: Queue | None, push: JobOptions, *, json: bool
) -> Options | None:
    """Return what the job's record says of it; None when it says nothing.

    Raises:
        LevelInvalid: its level cannot have dependencies.
    """
    depends_on = tuple(dict.fromkeys(push.depends_on or ()))
    level = context.level_for(queue, push.durability)
    if depends_on:
        context.check_joinable(level)
    settings = DEFAULT_SETTINGS if queue is None else queue.settings
    options = Options(
        ttl=push.ttl or 0,
        timeout=push.timeout or 0,
        max_attempts=push.max_attempts or 0,
        backoff=push.backoff or 0,
        jitter=push.jitter or 0.0,
        unique_key=push.unique_key,
        custom_id=push.job_id,
        tags=tuple(push.tags or ()),
        depends_on=depends_on,
        on_dependency_failure=push.on_dependency_failure or "fail",
        lifo=push.lifo or False,
        remove_on_complete=push.remove_on_complete or False,
        remove_on_fail=push.remove_on_fail or False,
        stall_timeout=push.stall_timeout or 0,
        keep_completed_age=push.keep_completed_age or settings.keep_completed_age,
        keep_completed_count=push.keep_completed_count or settings.keep_completed_count,
        level=level,
        json=json,
    )
    return None if options == NO_OPTIONS else options


def check_payload(context: Context, data: bytes, *, json: bool) -> None:
    """Check a payload's size and depth.

    Raises:
        PayloadTooLarge: it is beyond the bound.
        InvalidRequest: it nests too deep.
    """
    limit = context.limits.payload_bytes_max
    if len(data) > limit:
        raise PayloadTooLarge(size=len(data), limit=limit)
    check_depth(data, json=json)


class Batch:
    """The records of one push or batch, and the keys that its own entries have taken so far.

    Args:
        context: the moment.
        queue_name: where its jobs go.
        json: how their payloads are encoded.
        sight: which jobs there are for whoever pushes; None for all.
        is_bounded: whether an entry may be refused for a bound of the shard.
    """

    def __init__(
        self,
        context: Context,
        queue_name: str,
        *,
        json: bool,
        sight: Sight | None = None,
        is_bounded: bool = True,
    ) -> None:
        self.context = context
        self.is_bounded = is_bounded
        self.queue_name = queue_name
        self.queue = context.state.queues.get(queue_name)
        self.sight = sight
        self.json = json
        self.records: list[AnyRecord] = []
        self.pending: list[int] = []
        self._sequence = context.state.next_sequence
        self._unique: dict[str, int] = {}
        self._custom: dict[str, int] = {}
        self._debounced: set[str] = set()
        self._retained = 0
        #: the record that the next entry joins, and what its entries share
        self._open: r.Pushed | None = None

    def next_id(self) -> int:
        state = self.context.state
        return job_id(self._sequence, state.shard, state.shard_count)

    def push(self, push: JobOptions, data: bytes) -> int:
        """Decide one entry; return the id of its job, which may be an older one.

        Raises:
            FlashQError: it is refused, and left no trace.
        """
        check_payload(self.context, data, json=self.json)
        check_options(push, depends_on_max=self.context.limits.depends_on_max)
        return self.add(push, data)

    def add(self, push: JobOptions, data: bytes) -> int:
        """Decide one entry whose sizes have been checked; see `push`."""
        context, queue = self.context, self.queue
        options = options_of_push(context, queue, push, json=self.json)
        self.check_debounce(push.debounce_id)
        if push.job_id is not None:
            known = self._custom.get(push.job_id)
            if known is None and queue is not None:
                known = queue.custom_ids.get(push.job_id)
            if known is not None:
                self.raise_level(known, options)
                return known
        if push.unique_key is not None:
            holder = self._unique.get(push.unique_key)
            if holder is None and queue is not None:
                holder = queue.unique_keys.get(push.unique_key)
            if holder is not None:
                self.raise_level(holder, options)
                raise DuplicateJob(key=push.unique_key)
        if self.is_bounded:
            context.check_retention(options, self._retained + 1)
        self._retained += asks_to_be_kept(options)
        new = self.next_id()
        if options is not None and options.depends_on:
            self._park(push, data, options)
        else:
            self._enqueue(push, data, options)
        self._take_keys(push, new)
        return new

    def check_debounce(self, debounce_id: str | None) -> None:
        """Refuse a push in whose window it falls.

        Raises:
            Debounced: it does.
            Busy: it would open one window more than there may be.
        """
        if debounce_id is None:
            return
        windows = {} if self.queue is None else self.queue.debounces
        if debounce_id in self._debounced or windows.get(debounce_id, 0) > self.context.now_ms:
            raise Debounced(debounce_id=debounce_id)
        open_ = self.context.state.debounces.count + len(self._debounced)
        if open_ >= DEBOUNCES_MAX and self.is_bounded:
            raise Busy(detail=f"{open_} debounce windows are open in this shard")

    def raise_level(self, known: int, options: Options | None) -> None:
        """A push that must last gives its level to the job that stands for it.

        Raises:
            Busy: that job may yet be refused itself.
        """
        state = self.context.state
        if known in state.awaiting or known in self.pending:
            raise Busy(detail=f"job {known}, which came first, waits for other shards")
        level = None if options is None else options.level
        if (level or self.context.level) == "memory":
            return
        job = state.index.get(known)
        if job is None:
            self._raise_entry(known, level)
        elif job.options is not None and job.options.level == "memory":
            raised = copy(job)
            raised.options = replace(job.options, level=level)
            self.records.append(r.Raised(encode_page([image_of(raised)])))

    def _raise_entry(self, known: int, level: str | None) -> None:
        """Give its level to an earlier entry of this batch: its key gave it a record of its own."""
        sequence = known // self.context.state.shard_count
        for record in self.records:
            if isinstance(record, r.Pushed) and record.first == sequence:
                assert record.options is not None, "an entry with a key has options"
                if record.options.level == "memory":
                    record.options = replace(record.options, level=level)

    def _take_keys(self, push: JobOptions, new: int) -> None:
        if push.unique_key is not None:
            self._unique[push.unique_key] = new
        if push.job_id is not None:
            self._custom[push.job_id] = new
        windows = _window(self.context, self.queue_name, push)
        if windows:
            self._debounced.update(window.debounce_id for window in windows)
            self.records += windows
            self._open = None

    def _enqueue(self, push: JobOptions, data: bytes, options: Options | None) -> None:
        run_at = self.context.now_ms + (push.delay or 0)
        priority = push.priority or 0
        record = self._open
        if record is not None and record.run_at == run_at and record.options == options:
            record.data.append(data)
            record.priorities.append(priority)
        else:
            record = r.Pushed(self.queue_name, self._sequence, [data], [priority], run_at, options)
            self._open = record
            self.records.append(record)
        self._sequence += 1

    def _park(self, push: JobOptions, data: bytes, options: Options) -> None:
        """Decide a job that waits for others."""
        context = self.context
        local = ask_dependencies(context, options.depends_on, self.sight)
        if is_ready_now(local, options):
            self._enqueue(push, data, options)
            return
        new = self.next_id()
        run_at = context.now_ms + (push.delay or 0)
        priority = push.priority or 0
        self._open = None
        self.records.append(
            r.Parked(self.queue_name, self._sequence, data, priority, run_at, options, [])
        )
        self._sequence += 1
        remote = [dependency for dependency in options.depends_on if dependency not in local]
        within = () if self.sight is None else self.sight.patterns
        for dependency in remote:
            self.records.append(context.send(dependency, Watch(dependency, new, within)))
        self.records += settle_known(context, new, options, local, confirm=not remote)
        if remote:
            self.pending.append(new)


def _window(context: Context, queue: str, push: JobOptions) -> list[r.DebounceStarted]:
    """Return the window in which pushes like this one will be refused, if it has any length."""
    ttl = DEBOUNCE_TTL_MS if push.debounce_ttl is None else push.debounce_ttl
    if push.debounce_id is None or not ttl:
        return []
    return [r.DebounceStarted(queue, push.debounce_id, context.now_ms + ttl)]


# --- PUSH and PUSHB


def push(context: Context, command: Push, origin: Origin) -> Decision:
    """Add a job."""
    data = bytes(command.data)
    context.check_room(1, len(data))
    batch = Batch(context, command.queue, json=origin.json, sight=origin.sight)
    durable = is_durable_push(context, batch.queue, command.durability)
    try:
        new = batch.push(command, data)
    except DuplicateJob as error:
        if not batch.records:
            raise
        return Decision(error_reply(error), batch.records, durable)  # the first job lasts now
    if batch.pending:
        batch.records.append(_awaited("push", command, [new], [], batch.pending))
        return Decision(None, batch.records, durable)
    return Decision(PushReply(id=new), batch.records, durable)


def is_durable_push(context: Context, queue: Queue | None, asked: str | None) -> bool:
    """Tell whether a push that asks for this level (or none) is answered once it is safe."""
    return (context.level_for(queue, asked) or context.level) == "durable"


def _awaited(
    kind: str,
    command: Any,
    ids: list[int | None],
    errors: list[tuple[int, str, str]],
    pending: list[int],
) -> AnyRecord:
    protected = command.session is not None and command.n is not None
    return r.Awaited(
        pending[0],
        kind,
        ids,
        errors,
        list(pending),
        command.session if protected else b"",
        command.n if protected else 0,
        command.done_below or 0,
    )


def push_batch(context: Context, command: PushBatch, origin: Origin) -> Decision:
    """Add many jobs; each entry succeeds or fails by itself."""
    jobs = _entries(command)
    check_batch(context, jobs)
    datas = [bytes(job.data) for job in jobs]
    context.check_room(len(datas), sum(map(len, datas)))
    batch = Batch(context, command.queue, json=origin.json, sight=origin.sight)
    ids: list[int | None] = []
    errors: list[tuple[int, str, str]] = []
    durable = False
    for index, (job, data) in enumerate(zip(jobs, datas, strict=True)):
        try:
            ids.append(batch.push(job, data))
        except FlashQError as error:
            ids.append(None)
            errors.append((index, error.text, error.code))
        else:
            durable = durable or is_durable_push(context, batch.queue, job.durability)
    if batch.pending:
        batch.records.append(_awaited("batch", command, ids, errors, batch.pending))
        return Decision(None, batch.records, durable)
    return Decision(batch_reply(ids, errors), batch.records, durable)


def _entries(command: PushBatch) -> Sequence[NewJob]:
    """Return a batch's entries, whichever way it gives them.

    Raises:
        InvalidRequest: it gives none, or both ways.
    """
    if command.payloads is None:
        if command.jobs is None:
            raise InvalidRequest(detail="missing field `jobs`")
        return command.jobs
    if command.jobs is not None:
        raise InvalidRequest(detail="`payloads` stands in the place of `jobs`, not beside it")
    return [NewJob(data=data) for data in command.payloads]


def check_batch(context: Context, jobs: Sequence[Any]) -> None:
    """Check a batch's length.

    Raises:
        BatchTooLarge: it is beyond the bound.
    """
    limit = context.limits.batch_jobs_max
    if len(jobs) > limit:
        raise BatchTooLarge(count=len(jobs), limit=limit)


def batch_reply(ids: list[int | None], errors: list[tuple[int, str, str]]) -> PushBatchReply:
    """Return the reply of a batch."""
    return PushBatchReply(
        ok=True,
        ids=ids,
        errors=[BatchError(index=index, error=text, code=code) for index, text, code in errors],
    )


# --- flows


def push_flow(context: Context, command: Flow, origin: Origin) -> Decision:
    """Add a parent and its children, which may belong to any shard.

    The parent is pending until every child has been made; then the answer is given.
    """
    raw = command.data if command.data is not None else command.parent_data
    if raw is None:
        raise InvalidRequest(detail="missing field `data`")
    data = bytes(raw)
    children = command.children
    _check_children(context, command, children, json=origin.json)
    check_payload(context, data, json=origin.json)
    check_options(command, depends_on_max=context.limits.depends_on_max)
    context.check_room(1, len(data))
    batch = Batch(context, command.queue, json=origin.json, sight=origin.sight)
    options = options_of_push(context, batch.queue, command, json=origin.json)
    context.check_joinable(None if options is None else options.level)
    durable = is_durable_push(context, batch.queue, command.durability)
    known = _known_flow(batch, command, options, origin)
    if known is not None:
        return Decision(known, batch.records, durable)
    context.check_retention(options, 1)
    records: list[AnyRecord] = [
        r.Parked(
            command.queue,
            context.state.next_sequence,
            data,
            command.priority or 0,
            context.now_ms + (command.delay or 0),
            options,
            [child.queue for child in children],
        )
    ]
    parent = batch.next_id()
    for position, child in enumerate(children):
        said = options_of_push(context, None, child, json=origin.json)
        body = CreateChild(
            parent,
            position,
            child.queue,
            bytes(child.data),
            child.priority or 0,
            child.delay or 0,
            encode_msgpack(
                replace(
                    said or NO_OPTIONS,
                    parent=parent,
                    position=position,
                    parent_queue=command.queue,
                )
            ),
        )
        shard = shard_of_queue(child.queue, context.state.shard_count)
        records.append(r.Sent(shard, body))
    records += _window(context, command.queue, command)
    ids: list[int | None] = [parent, *[None] * len(children)]
    records.append(_awaited("flow", command, ids, [], [parent]))
    return Decision(None, records, durable)


def _check_children(
    context: Context, command: Flow, children: list[NewChild], *, json: bool
) -> None:
    if not children:
        raise FlowEmpty
    if command.depends_on:
        raise InvalidRequest(detail="a flow's parent cannot have depends_on: it has children")
    limit = context.limits.depends_on_max
    if len(children) > limit:
        raise FieldTooLarge(field="children", size=f"{len(children)} jobs", limit=limit)
    for child in children:
        check_queue_name(child.queue, bytes_max=context.limits.queue_name_bytes_max)
        check_payload(context, bytes(child.data), json=json)
        check_options(child, depends_on_max=context.limits.depends_on_max)
        for field in _CHILD_FORBIDS:
            if getattr(child, field) is not None:
                raise InvalidRequest(detail=f"a flow's child cannot have {field}")
        context.check_joinable(child.durability)


def _known_flow(batch: Batch, command: Flow, options: Options | None, origin: Origin) -> Any:
    """Return the answer to a flow that repeats a custom id or unique key; None for a new one.

    Raises:
        Debounced, DuplicateJob: it repeats a debounce id or unique key.
        WrongState: the job with its custom id is no flow.
    """
    batch.check_debounce(command.debounce_id)
    queue = batch.queue
    if queue is None:
        return None
    if command.job_id is not None:
        known = queue.custom_ids.get(command.job_id)
        if known is not None:
            parent = batch.context.state.index.get(known)
            if parent is None or parent.extra is None or parent.extra.children is None:
                raise WrongState(
                    f"Job {known} has the id '{command.job_id}' and is no flow: nothing was added"
                )
            batch.raise_level(known, options)
            made = children_of(parent.extra, origin)
            return FlowReply(parent_id=known, children_ids=list(made))
    if command.unique_key is not None:
        holder = queue.unique_keys.get(command.unique_key)
        if holder is not None:
            batch.raise_level(holder, options)
            duplicate = DuplicateJob(key=command.unique_key)
            if not batch.records:
                raise duplicate
            return error_reply(duplicate)
    return None


def get_children(context: Context, command: GetChildren, origin: Origin) -> Decision:
    """Give a flow parent's children. Bodies are given for those of this shard; `children_ids`
    names all that there are for the asker."""
    parent = context.job(command.parent_id, origin)
    if parent is None or parent.extra is None or parent.extra.children is None:
        raise ParentNotFound(id=command.parent_id)
    children = children_of(parent.extra, origin)
    here = [context.job(child, origin) for child in children]
    return Decision(
        ChildrenReply(
            parent_id=parent.id,
            children=[job_view(job, origin) for job in here if job is not None],
            children_ids=list(children),
            completed=parent.extra.children_completed,
            total=len(parent.extra.children),
        )
    )


# --- answers that had to wait


def awaited_reply(context: Context, key: int) -> Reply | FlashQError:
    """Return the answer of an awaited push whose jobs are all known by now.

    Refused ones were marked with the dependency's outcome and are removed by the caller's records.
    """
    push = context.state.awaited[key]
    if push.kind == "flow":
        return FlowReply(parent_id=key, children_ids=[made or 0 for made in push.ids[1:]])
    if push.kind == "batch":
        return batch_reply(push.ids, sorted(push.errors))
    if push.errors:
        _, text, code = push.errors[0]
        return error_from(code, text)
    return PushReply(id=key)
