"""Mail from other shards and from the coordinator: each message once, in order."""

from __future__ import annotations

from contextlib import suppress

from msgspec import DecodeError, msgpack
from msgspec.structs import replace

from flashq.errors import Busy, Debounced, DuplicateJob
from flashq.ids import job_id
from flashq.protocol import records as r
from flashq.protocol.internal import (
    AnyPeerMessage,
    ChildCreated,
    ChildEnded,
    CreateChild,
    DependencyAnswer,
    Fire,
    Watch,
)
from flashq.protocol.jobs import JobOptions
from flashq.protocol.records import AnyRecord, Options
from flashq.shard.context import Context
from flashq.shard.dependencies import (
    child_created,
    child_ended,
    dependency_answered,
    outcome_of,
)
from flashq.shard.handlers.producing import Batch
from flashq.shard.lifecycle import Damage
from flashq.shard.sight import Sight

_decode_options = msgpack.Decoder(Options).decode
_decode_push = msgpack.Decoder(JobOptions).decode


def take_mail(context: Context, body: AnyPeerMessage) -> list[AnyRecord]:
    """Return what a message leads to.

    Raises:
        Damage: it is one that a shard does not take, which is a bug of ours.
    """
    if isinstance(body, CreateChild):
        return _create_child(context, body)
    if isinstance(body, ChildCreated):
        return child_created(context, body)
    if isinstance(body, ChildEnded):
        return child_ended(context, body)
    if isinstance(body, Watch):
        return _watch(context, body)
    if isinstance(body, DependencyAnswer):
        return dependency_answered(context, body)
    if isinstance(body, Fire):
        return _fire(context, body)
    raise Damage(f"mail that a shard does not take: {body!r}")


def _create_child(context: Context, body: CreateChild) -> list[AnyRecord]:
    state = context.state
    try:
        options = _decode_options(body.options)
    except DecodeError as error:
        raise Damage(f"options of a child of job {body.parent}: {error}") from None
    queue = state.queues.get(body.queue)
    if queue is not None:
        defaults = queue.settings
        options = replace(
            options,
            keep_completed_age=options.keep_completed_age or defaults.keep_completed_age,
            keep_completed_count=options.keep_completed_count or defaults.keep_completed_count,
        )
    child = job_id(state.next_sequence, state.shard, state.shard_count)
    run_at = context.now_ms + body.delay
    return [
        r.Pushed(body.queue, state.next_sequence, [body.data], [body.priority], run_at, options),
        context.send(body.parent, ChildCreated(body.parent, body.position, child)),
    ]


def _watch(context: Context, body: Watch) -> list[AnyRecord]:
    sight = Sight(body.within) if body.within else None
    outcome, reason = outcome_of(context.state, body.dependency, sight)
    answer = DependencyAnswer(body.dependency, body.dependent, outcome, reason)
    records: list[AnyRecord] = [context.send(body.dependent, answer)]
    if outcome in ("pending", "failed"):
        records.append(r.WatchedBy(body.dependency, body.dependent))
    return records


def _fire(context: Context, body: Fire) -> list[AnyRecord]:
    """A cron's firing: an ordinary push. One that a key of it makes a repeat adds no job."""
    try:
        options = _decode_push(body.options)
    except DecodeError as error:
        raise Damage(f"options of the cron {body.name}: {error}") from None
    batch = Batch(context, body.queue, json=body.payload_json, is_bounded=False)
    with suppress(DuplicateJob, Debounced, Busy):
        batch.add(options, body.data)
    return batch.records
