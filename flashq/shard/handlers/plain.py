"""PUSH and PUSHB of jobs that say nothing but payload and priority: the case worth a fast way."""

from __future__ import annotations

from itertools import repeat
from typing import Final

from msgspec import Raw

from flashq.ids import job_id
from flashq.protocol import records as r
from flashq.protocol.depth import PAYLOAD_DEPTH_MAX, is_one_too_deep
from flashq.protocol.jobs import (
    NewJob,
    PayloadBatch,
    PlainPush,
    PlainPushBatch,
    PushBatch,
    PushBatchReply,
    PushReply,
)
from flashq.protocol.records import Options
from flashq.shard.context import Context, Decision
from flashq.shard.handlers.producing import (
    check_batch,
    check_payload,
    is_durable_push,
    options_of_push,
    push_batch,
)
from flashq.shard.holdings import DEFAULT_SETTINGS, Queue
from flashq.shard.lifecycle import JSON_ONLY
from flashq.shard.outbox import Origin

_MEMORY: Final = Options(level="memory")
_MEMORY_JSON: Final = Options(level="memory", json=True)


def push_plain(context: Context, command: PlainPush, origin: Origin) -> Decision:
    """Add a job that says nothing but payload and priority."""
    data = bytes(command.data)
    state = context.state
    queue = state.queues.get(command.queue)
    check_payload(context, data, json=origin.json)
    context.check_room(1, len(data))
    options = _plain_options(context, queue, command.data, json=origin.json)
    if options is not None:
        context.check_retention(options, 1)
    first = state.next_sequence
    record = r.Pushed(command.queue, first, [data], [command.priority], state.now_ms, options)
    new = job_id(first, state.shard, state.shard_count)
    return Decision(PushReply(id=new), [record], is_durable_push(context, queue, None))


def _plain_options(
    context: Context, queue: Queue | None, data: Raw, *, json: bool
) -> Options | None:
    """Return the options that a plain push gets from its queue, its encoding and the server."""
    if queue is not None and queue.settings is not DEFAULT_SETTINGS:
        return options_of_push(context, queue, NewJob(data=data), json=json)
    if context.level == "memory":
        return _MEMORY_JSON if json else _MEMORY
    return JSON_ONLY if json else None


def push_plain_batch(context: Context, command: PlainPushBatch, origin: Origin) -> Decision:
    """Add many plain jobs: one record, whatever their number."""
    raws = [job.data for job in command.jobs]
    return _push_many(context, command, raws, [job.priority for job in command.jobs], origin)


def push_payloads(context: Context, command: PayloadBatch, origin: Origin) -> Decision:
    """Add many jobs that are nothing but their payloads."""
    return _push_many(context, command, command.payloads, [0], origin)


def _push_many(
    context: Context,
    command: PlainPushBatch | PayloadBatch,
    raws: list[Raw],
    priorities: list[int],
    origin: Origin,
) -> Decision:
    check_batch(context, raws)
    datas = list(map(bytes, raws))
    sizes = list(map(len, datas))
    if not datas or max(sizes) > context.limits.payload_bytes_max:
        return push_batch(context, _with_options(command, raws, priorities), origin)
    if max(sizes) > PAYLOAD_DEPTH_MAX and is_one_too_deep(datas, json=origin.json):
        return push_batch(context, _with_options(command, raws, priorities), origin)
    context.check_room(len(datas), sum(sizes))
    state = context.state
    queue = state.queues.get(command.queue)
    options = _plain_options(context, queue, raws[0], json=origin.json)
    if options is not None:
        context.check_retention(options, len(datas))
    if priorities.count(priorities[0]) == len(priorities):
        del priorities[1:]
    first = state.next_sequence
    record = r.Pushed(command.queue, first, datas, priorities, state.now_ms, options)
    step = state.shard_count
    start = job_id(first, state.shard, step)
    ids: list[int | None] = list(range(start, start + len(datas) * step, step))
    return Decision(
        PushBatchReply(ok=True, ids=ids), [record], is_durable_push(context, queue, None)
    )


def _with_options(
    command: PlainPushBatch | PayloadBatch, raws: list[Raw], priorities: list[int]
) -> PushBatch:
    each = priorities if len(priorities) == len(raws) else repeat(priorities[0])
    return PushBatch(
        queue=command.queue,
        jobs=[
            NewJob(data=raw, priority=priority) for raw, priority in zip(raws, each, strict=False)
        ],
        session=command.session,
        n=command.n,
        done_below=command.done_below,
    )
