"""Jobs that wait for other jobs: dependencies and the children of flows.

Decides what the news about one of them leads to. The jobs waited for may belong to any shard;
this shard hears of them by mail, in any order, and possibly before the push that waits has been
answered.

A waiting job is PENDING until everything it waits for has been asked after (or made), so that a
push which names an unknown job can still be refused; then PARKED or FLOW until nothing is open. A
job waited for that fails, or goes away, fails the waiting one, unless `on_dependency_failure` is
`ignore` (it counts as done) or `wait` (it may still be retried and complete; only its removal is
final).
"""

from __future__ import annotations

from flashq.errors import DependencyForgotten, FlashQError, LevelInvalid, UnknownDependency
from flashq.ids import sequence_of_job, shard_of_job
from flashq.protocol import records as r
from flashq.protocol.internal import ChildCreated, ChildEnded, DependencyAnswer
from flashq.protocol.records import AnyRecord, Options
from flashq.shard.context import Context
from flashq.shard.lifecycle import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FLOW,
    PARKED,
    PENDING,
    Job,
    is_volatile,
    options_of,
)
from flashq.shard.sight import Sight
from flashq.shard.state import OUTCOME_COMPLETED, ShardState

Outcome = tuple[str, str | None]
"""pending, completed, failed, removed, volatile, unknown or forgotten; and why, where there is a
reason. Of a volatile one, of level memory, nobody would hear after a crash."""


def outcome_of(state: ShardState, job_id: int, sight: Sight | None) -> Outcome:
    """Return how a job of this shard stands.

    Args:
        sight: of whoever waits for it. Of a job that is gone nobody knows the queue, so for an
            asker that may name some queues only there has been none.
    """
    job = state.index.get(job_id)
    if sight is not None and (job is None or not sight.has(job.queue)):
        return ("unknown", None)
    if job is not None:
        if job.state == COMPLETED:
            return ("completed", None)
        if job.state == CANCELLED:
            return ("removed", "cancelled")
        if is_volatile(job):
            return ("volatile", None)
        if job.state == FAILED:
            return ("failed", job.extra.error if job.extra is not None else None)
        return ("pending", None)
    ended = state.outcome(job_id)
    if ended is not None:
        return ("completed", None) if ended == OUTCOME_COMPLETED else ("removed", "removed")
    sequence = sequence_of_job(job_id, state.shard_count)
    return ("forgotten" if 0 < sequence < state.next_sequence else "unknown", None)


def _refusal(outcome: str, dependency: int) -> FlashQError | None:
    if outcome == "unknown":
        return UnknownDependency(id=dependency)
    if outcome == "forgotten":
        return DependencyForgotten(id=dependency)
    if outcome == "volatile":
        return LevelInvalid()
    return None


def ask_dependencies(
    context: Context, dependencies: tuple[int, ...], sight: Sight | None
) -> dict[int, Outcome]:
    """Return how those dependencies stand that are of this shard.

    Raises:
        UnknownDependency, DependencyForgotten, LevelInvalid: one of them cannot be waited for.
    """
    state = context.state
    known: dict[int, Outcome] = {}
    for dependency in dependencies:
        if shard_of_job(dependency, state.shard_count) != state.shard:
            continue
        known[dependency] = outcome_of(state, dependency, sight)
        refusal = _refusal(known[dependency][0], dependency)
        if refusal is not None:
            raise refusal
    return known


def is_ready_now(known: dict[int, Outcome], options: Options) -> bool:
    """Tell whether a push need not wait at all: every dependency has completed, here."""
    return all(
        dependency in known and known[dependency][0] == "completed"
        for dependency in options.depends_on
    )


def _news(options: Options, what: str, outcome: Outcome) -> tuple[bool, str | None]:
    """Return whether an outcome settles the wait, and what it dooms the waiting job with.

    Args:
        options: the waiting job's.
        what: the job waited for, for the text.
    """
    state, reason = outcome
    if state == "completed":
        return True, None
    if state == "pending":
        return False, None
    policy = options.on_dependency_failure
    if policy == "ignore":
        return True, None
    if policy == "wait" and state == "failed":
        return False, None
    why = state if reason in (None, state) else f"{state}: {reason}"
    return False, f"{what} {why}"


def settle_known(
    context: Context, new: int, options: Options, known: dict[int, Outcome], *, confirm: bool
) -> list[AnyRecord]:
    """Return what the dependencies of this shard mean for a job that is parked now.

    Args:
        new: its id.
        options: its options.
        known: how they stand.
        confirm: there are no others, so the push is answered at once.
    """
    records: list[AnyRecord] = []
    is_open = set(options.depends_on)
    doomed: str | None = None
    for dependency, outcome in known.items():
        settled, dooms = _news(options, f"dependency {dependency}", outcome)
        records.append(r.DependencyKnown(new, dependency, settled, dooms))
        if settled:
            is_open.discard(dependency)
        doomed = dooms or doomed
        if outcome[0] in ("pending", "failed"):
            records.append(r.WatchedBy(dependency, new))
    if confirm:
        records.append(r.Confirmed(new))
        if doomed is not None:
            records.append(r.Failed(new, "dependency", doomed, 0, True, False))
        elif not is_open:
            records.append(r.Freed(new))
    return records


def _proceed(
    context: Context, job: Job, *, asked: int, is_open: int, doomed: str | None
) -> list[AnyRecord]:
    """Return how a waiting job goes on, by what it still waits for."""
    extra = job.extra
    assert extra is not None, "a waiting job has an extra"
    records: list[AnyRecord] = []
    if job.state == PENDING:
        if asked:
            return []
        records.append(r.Confirmed(job.id))
    doomed = doomed or extra.doomed
    if doomed is not None:
        return records + context.failing(job, "dependency", doomed, final=True, counted=False)
    if not is_open:
        note = "All children have ended" if extra.children is not None else None
        records.append(r.Freed(job.id, note))
    return records


def dependency_answered(context: Context, answer: DependencyAnswer) -> list[AnyRecord]:
    """Return what news about a dependency leads to."""
    job = context.state.index.get(answer.dependent)
    if job is None or job.state not in (PENDING, PARKED):
        return []
    extra, dependency = job.extra, answer.dependency
    if extra is None or extra.open is None or dependency not in extra.open:
        return []
    asked = set(extra.asked or ()) - {dependency}
    refusal = _refusal(answer.outcome, dependency)
    if refusal is not None and job.state == PENDING:
        rejects = (refusal.text, refusal.code)
        records: list[AnyRecord] = [r.DependencyKnown(job.id, dependency, rejects=rejects)]
        return records if asked else [*records, r.Removed([job.id], "rejected")]
    if extra.rejected is not None and not asked:
        return [r.DependencyKnown(job.id, dependency), r.Removed([job.id], "rejected")]
    outcome = (answer.outcome, answer.reason)
    settled, dooms = _news(options_of(job), f"dependency {dependency}", outcome)
    still_open = len(extra.open) - settled
    known = r.DependencyKnown(job.id, dependency, settled, dooms)
    if extra.rejected is not None:
        return [known]
    return [
        known,
        *_proceed(context, job, asked=len(asked), is_open=still_open, doomed=dooms),
    ]


def child_created(context: Context, made: ChildCreated) -> list[AnyRecord]:
    """Return what the making of a child leads to."""
    job = context.state.index.get(made.parent)
    if job is None or job.state != PENDING or job.extra is None:
        return []
    asked = set(job.extra.asked or ()) - {made.position}
    still_open = len(job.extra.open or ()) + 1
    return [
        r.ChildMade(made.parent, made.position, made.child),
        *_proceed(context, job, asked=len(asked), is_open=still_open, doomed=None),
    ]


def child_ended(context: Context, ended: ChildEnded) -> list[AnyRecord]:
    """Return what a child's end leads to."""
    job = context.state.index.get(ended.parent)
    if job is None or job.state not in (PENDING, FLOW):
        return []
    extra = job.extra
    if extra is None or extra.open is None or ended.child not in extra.open:
        return []
    state = "completed" if ended.reason is None else "removed" if ended.removed else "failed"
    settled, dooms = _news(options_of(job), f"child {ended.child}", (state, ended.reason))
    records: list[AnyRecord] = []
    if settled:
        records.append(r.ChildDone(job.id, ended.child, ended.reason is None))
    elif dooms is not None and job.state == PENDING:
        records.append(r.DependencyKnown(job.id, ended.child, dooms=dooms))
    if not settled and dooms is None:
        return []
    asked, still_open = len(extra.asked or ()), len(extra.open) - settled
    return records + _proceed(context, job, asked=asked, is_open=still_open, doomed=dooms)
