"""Mistakes in checkpoints and recoveries: what is not in them, or not as it was."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import msgpack
from msgspec.structs import replace

from flashq.protocol.internal import CheckpointSlice
from flashq.shard import checkpoint, pages
from flashq.shard import state as shard_state
from flashq.shard.checkpoint import Checkpoint, JobLoader, encode_part
from flashq.shard.checkpointing import Checkpointing
from flashq.shard.indexes import DueHeap, Page
from flashq.shard.lifecycle import DELAYED, Job
from flashq.shard.pages import JobImage
from flashq.shard.recovery import Recovery
from flashq.shard.state import ShardState
from flashq.storage import memory
from tests.simulation.mutations import instead, mutation
from tests.simulation.setting import Profile

# --- the part beside the jobs


def _leave_out(patch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Let checkpoints have other contents of these fields of their part."""

    def encode_less(state: ShardState) -> bytes:
        part = checkpoint.read_part(encode_part(state), state.shard, state.shard_count)
        return msgpack.encode(replace(part, **fields))

    patch.setattr(checkpoint, "encode_part", encode_less)


@mutation()
def a_checkpoint_forgets_outcomes(patch: pytest.MonkeyPatch) -> None:
    """Who depends on a job that has ended is refused."""
    _leave_out(patch, outcomes=[])


@mutation()
def a_checkpoint_forgets_answers(patch: pytest.MonkeyPatch) -> None:
    """Repeats are carried out again."""
    _leave_out(patch, sessions=[])


@mutation(profile=Profile.CHECKPOINTS)
def a_checkpoint_forgets_expired_sessions(patch: pytest.MonkeyPatch) -> None:
    """One that was told that it has expired goes on."""
    _leave_out(patch, expired_sessions=[])


@mutation()
def a_checkpoint_forgets_inboxes(patch: pytest.MonkeyPatch) -> None:
    """Mail is carried out again."""
    _leave_out(patch, inboxes={})


@mutation()
def a_checkpoint_forgets_mailboxes(patch: pytest.MonkeyPatch) -> None:
    """What is on its way is lost with the shard."""
    _leave_out(patch, mailboxes=[])


@mutation()
def a_checkpoint_forgets_lives(patch: pytest.MonkeyPatch) -> None:
    """Mail that is sent again after a restart seems to be of another life than it was: its
    receiver takes it for new."""
    _leave_out(patch, lives=[])


@mutation()
def a_checkpoint_forgets_queues(patch: pytest.MonkeyPatch) -> None:
    """Pauses, limits and debounce windows end with the shard."""
    _leave_out(patch, queues=[])


@mutation(profile=Profile.CHECKPOINTS)
def a_checkpoint_forgets_awaited_pushes(patch: pytest.MonkeyPatch) -> None:
    """A push that waits for other shards is never answered."""
    _leave_out(patch, awaited=[], awaiting={})


# --- pages


@mutation(profile=Profile.CHECKPOINTS)
def a_slice_has_jobs_as_they_are_when_it_is_written(patch: pytest.MonkeyPatch) -> None:
    """Not as they were when the checkpoint began: log after it is played over its own effects."""

    def content_now(page: Page, first: int = 0, stop: int = 1024) -> tuple[bytes, int]:
        page.aside = {}
        return pages.content_of(page, first, stop)

    patch.setattr(checkpoint, "content_of", content_now)


@mutation(profile=Profile.CHECKPOINTS)
def a_slice_forgets_jobs_that_changed_meanwhile(patch: pytest.MonkeyPatch) -> None:
    """Jobs that were kept aside while a checkpoint is under way are missing in it."""

    def content_without(page: Page, first: int = 0, stop: int = 1024) -> tuple[bytes, int]:
        page.aside = dict.fromkeys(page.aside or {})
        return pages.content_of(page, first, stop)

    patch.setattr(checkpoint, "content_of", content_without)


@mutation()
def a_page_that_many_jobs_change_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    """The next checkpoint leaves it as it was."""
    touch_many = ShardState.touch_many

    def touch_unnoted(self: ShardState, job_ids: list[int]) -> None:
        before = len(self.dirty_pages)
        touch_many(self, job_ids)
        del self.dirty_pages[before:]

    patch.setattr(ShardState, "touch_many", touch_unnoted)


@mutation(profile=Profile.CHECKPOINTS)
def time_that_passes_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    """A delayed job that came due changes its page, which the next checkpoint leaves as it was."""
    advance = ShardState.advance

    def advance_unnoted(self: ShardState, at_ms: int) -> list[str]:
        with instead(self, "touch", lambda job_id: self.index.page(self.index.place(job_id)[0])):
            return advance(self, at_ms)

    patch.setattr(ShardState, "advance", advance_unnoted)


@mutation(profile=Profile.CHECKPOINTS)
def pages_that_are_gone_stay_in_storage(patch: pytest.MonkeyPatch) -> None:
    """Jobs that ended long ago come back."""
    plan = Checkpoint._plan

    def plan_without(self: Checkpoint, number: int) -> None:
        plan(self, number)
        self._gone.clear()

    patch.setattr(Checkpoint, "_plan", plan_without)


@mutation(profile=Profile.FAILING_OVER)
def a_full_checkpoint_has_only_what_changed(patch: pytest.MonkeyPatch) -> None:
    """Storage that has lost something gets less than everything."""
    begin = Checkpoint.__init__

    def begin_partial(self: Checkpoint, state: ShardState, *, full: bool) -> None:
        begin(self, state, full=False)
        self.full = full

    patch.setattr(Checkpoint, "__init__", begin_partial)


@mutation()
def an_image_forgets_watchers(patch: pytest.MonkeyPatch) -> None:
    """Who waits for the job is never told of its end."""
    make = pages.image_of

    def image_without(job: Job) -> bytes:
        extra = job.extra
        if extra is None:
            return make(job)
        watchers, extra.watchers = extra.watchers, None
        image = make(job)
        extra.watchers = watchers
        return image

    for module in (pages, shard_state):
        patch.setattr(module, "image_of", image_without)


# --- when they are taken


@mutation("sends a checkpoint at")
def a_checkpoint_does_not_wait_for_its_log(patch: pytest.MonkeyPatch) -> None:
    """It is stored before the log up to it: what was gated has happened."""
    send_next = Checkpointing.send_next
    patch.setattr(
        Checkpointing, "send_next", lambda self, mono_ms, _safe: send_next(self, mono_ms, None)
    )


@mutation(profile=Profile.CHECKPOINTS)
def a_log_is_trimmed_one_record_too_far(patch: pytest.MonkeyPatch) -> None:
    """The record behind a checkpoint is deleted with those before it."""
    add_slice = memory._Shard.add_slice

    def trim_more(self: memory._Shard, write: CheckpointSlice) -> None:
        add_slice(self, write)
        if self.checkpoint_seq == write.seq and self.log:
            self.log = [blob for blob in self.log if blob.first_seq != write.seq + 1]

    patch.setattr(memory._Shard, "add_slice", trim_more)


@mutation(profile=Profile.CHECKPOINTS)
def a_checkpoint_is_named_one_too_high(patch: pytest.MonkeyPatch) -> None:
    """The first record behind it is taken for one that is in it."""
    begin = Checkpoint.__init__

    def begin_higher(self: Checkpoint, state: ShardState, *, full: bool) -> None:
        begin(self, state, full=full)
        self.seq += 1

    patch.setattr(Checkpoint, "__init__", begin_higher)


# --- the way back


@mutation(profile=Profile.CHECKPOINTS)
def a_delayed_job_loses_its_time(patch: pytest.MonkeyPatch) -> None:
    """A restart lets it run at once."""
    make = JobLoader._job

    def job_without(self: JobLoader, image: JobImage) -> Job:
        job = make(self, image)
        if job.state == DELAYED:
            job.run_at = 1
        return job

    patch.setattr(JobLoader, "_job", job_without)


@mutation("never due", "left after")
def a_delayed_job_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """After a restart it stays delayed for ever."""
    finish = JobLoader.finish

    def finish_without(self: JobLoader) -> None:
        finish(self)
        self._state.delayed = DueHeap()

    patch.setattr(JobLoader, "finish", finish_without)


@mutation()
def a_recovery_ends_with_its_last_but_one_blob(patch: pytest.MonkeyPatch) -> None:
    """The last one is read, and not played."""
    take = Recovery.take

    def take_less(self: Recovery, piece: Any) -> None:
        take(self, piece if piece.cursor else replace(piece, log=piece.log[:-1]))

    patch.setattr(Recovery, "take", take_less)
