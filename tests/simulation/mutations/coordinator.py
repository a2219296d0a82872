"""Mistakes in the coordinator: grants, the log on its way to storage, crons, webhooks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from flashq.coordinator.crons import Cron, CronTable
from flashq.coordinator.mailboxes import Mailboxes
from flashq.coordinator.mirror import Mirror
from flashq.coordinator.outbox import Group, Outbox
from flashq.coordinator.shards import ShardLink, ShardLinks
from flashq.coordinator.wanting import Wanting
from flashq.coordinator.webhooks import WebhookTable
from flashq.coordinator.writer_engine import Committed, Task, WriterEngine
from flashq.protocol.crons import SetCron
from flashq.protocol.internal import (
    Append,
    Fire,
    Granted,
    Reserve,
    ReservedUpTo,
    Resumed,
    Safe,
    ShardHello,
)
from flashq.shard.node import _FROM_COORDINATOR, Node
from tests.simulation.mutations import instead, mutation
from tests.simulation.setting import Profile


def _then_at_once(patch: pytest.MonkeyPatch, kind: type) -> None:
    """Let messages of a kind leave before what was written is stored."""
    then = Outbox.then

    def say_at_once(self: Outbox, action: Any) -> None:
        if isinstance(action, partial) and any(isinstance(each, kind) for each in action.args):
            action()
        else:
            then(self, action)

    patch.setattr(Outbox, "then", say_at_once)


# --- grants and sequences


@mutation("was given before")
def ids_are_given_again(patch: pytest.MonkeyPatch) -> None:
    """The end of a log was lost, and its successor begins where the rest ends."""

    def unreserved(self: Node, message: Granted) -> None:
        message.reserved = 0
        self._on_granted(message)

    patch.setitem(_FROM_COORDINATOR, Granted, unreserved)


@mutation("before its grant is stored")
def a_recovery_does_not_wait_for_its_grant(patch: pytest.MonkeyPatch) -> None:
    """A shard that hears of its epoch before that is stored asks at once, and is answered at once:
    its forerunner's last entries are not in what it gets."""
    _then_at_once(patch, Granted)
    patch.setattr(WriterEngine, "_may_read", lambda *_: True)


@mutation()
def an_epoch_is_granted_and_not_stored(patch: pytest.MonkeyPatch) -> None:
    """A coordinator that comes after grants it again."""
    patch.setattr(ShardLinks, "_write_grant", lambda *_: None)


@mutation("as reserved")
def sequences_are_given_before_that_is_stored(patch: pytest.MonkeyPatch) -> None:
    """A crash of the coordinator gives them a second time."""
    _then_at_once(patch, ReservedUpTo)


@mutation("as reserved")
def sequences_are_given_and_not_stored(patch: pytest.MonkeyPatch) -> None:
    """The coordinator that comes after gives them a second time."""
    write = Outbox.write

    def write_other(self: Outbox, what: Any, **more: Any) -> None:
        if not isinstance(what, Reserve):
            write(self, what, **more)

    patch.setattr(Outbox, "write", write_other)


# --- the log


@mutation()
def a_log_counts_as_safe_when_it_has_come_in(patch: pytest.MonkeyPatch) -> None:
    """It may never be stored."""

    def tell_safe(self: ShardLinks, link: ShardLink) -> None:
        if link.identity is not None:
            safe = Safe(epoch=link.epoch, seq=link.last_seq, log_full=self._sizes.is_full)
            self._outbox.send(link.identity, safe)

    patch.setattr(ShardLinks, "tell_safe", tell_safe)


@mutation()
def a_shard_resumes_before_its_log_is_stored(patch: pytest.MonkeyPatch) -> None:
    """It is told that what has come in is safe."""
    _then_at_once(patch, Resumed)


@mutation()
def a_log_with_a_hole_is_taken(patch: pytest.MonkeyPatch) -> None:
    """A blob that got lost is never missed."""
    append = ShardLinks.append

    def take(self: ShardLinks, identity: bytes, blob: Append) -> None:
        link = self._links[blob.shard]
        if blob.first_seq > link.last_seq + 1:
            blob = replace(blob, first_seq=link.last_seq + 1)
        append(self, identity, blob)

    patch.setattr(ShardLinks, "append", take)


@mutation(profile=Profile.COORDINATORS)
def an_unknown_outcome_is_taken_for_success(patch: pytest.MonkeyPatch) -> None:
    """The writer believes that a commit whose answer was lost is stored: the log gets a hole."""
    patch.setattr(Mirror, "has_written", lambda *_: True)


@mutation(profile=Profile.COORDINATORS)
def an_unknown_outcome_is_taken_for_failure(patch: pytest.MonkeyPatch) -> None:
    """The writer stores a second time what is stored already."""
    patch.setattr(Mirror, "has_written", lambda *_: False)


@mutation("before it was asked what it has")
def the_writer_does_not_ask_after_an_error(patch: pytest.MonkeyPatch) -> None:
    """It goes on as if nothing had happened."""
    patch.setattr(WriterEngine, "failed", lambda *_: None)


@mutation("and storage has", "untrue", "that it had confirmed")
def a_commit_is_confirmed_before_it_is_made(patch: pytest.MonkeyPatch) -> None:
    """A crash of the coordinator, or a storage that is away, makes it untrue."""
    submit = WriterEngine.submit

    def confirm_early(self: WriterEngine, task: Task) -> None:
        if isinstance(task, Group):
            self._results.append(Committed([task]))
            self._open_tasks += 1
            silent = Group()
            silent.writes.extend(task.writes)
            task = silent
        submit(self, task)

    patch.setattr(WriterEngine, "submit", confirm_early)


@mutation(profile=Profile.FAILING_OVER)
def nobody_gives_more_to_a_storage_with_less(patch: pytest.MonkeyPatch) -> None:
    """The coordinator does not ask for a checkpoint of everything: the log stands still."""
    resume = ShardLinks._resume

    def forget(self: ShardLinks, link: ShardLink, identity: bytes, hello: ShardHello) -> None:
        hello.safe_seq = min(hello.safe_seq, link.last_seq)
        resume(self, link, identity, hello)

    patch.setattr(ShardLinks, "_resume", forget)


@mutation(profile=Profile.FAILING_OVER)
def a_storage_with_less_goes_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """The writer does not compare what storage has with what it had: the log gets a hole."""
    patch.setattr(Mirror, "fits", lambda *_: True)


# --- crons, mail, webhooks


@mutation(profile=Profile.COORDINATORS)
def a_cron_fires_and_its_next_time_is_not_stored(patch: pytest.MonkeyPatch) -> None:
    """The coordinator that comes after fires it again, and one with a limit too often."""
    fire = CronTable.fire

    def fire_silently(self: CronTable, cron: Cron, now_ms: int) -> Fire:
        with instead(self, "_write", lambda _: None):
            return fire(self, cron, now_ms)

    patch.setattr(CronTable, "fire", fire_silently)


@mutation(profile=Profile.COORDINATORS)
def a_cron_forgets_how_often_it_has_fired(patch: pytest.MonkeyPatch) -> None:
    """One with a limit goes on for longer after each crash of the coordinator."""
    load = CronTable.load

    def load_without(self: CronTable, parts: Any, now_ms: int) -> None:
        load(self, parts, now_ms)
        for cron in self._crons.values():
            cron.executions = 0

    patch.setattr(CronTable, "load", load_without)


@mutation(profile=Profile.COORDINATORS)
def a_cron_fires_before_that_is_stored(patch: pytest.MonkeyPatch) -> None:
    """A crash of the coordinator fires it again."""
    post = Mailboxes.post

    def post_at_once(self: Mailboxes, shard: int, body: Any) -> int:
        number = post(self, shard, body)
        self.confirm(shard, number)
        return number

    patch.setattr(Mailboxes, "post", post_at_once)


@mutation("the webhook was not told", profile=Profile.COORDINATORS)
def a_shard_does_not_know_what_webhooks_want(patch: pytest.MonkeyPatch) -> None:
    """One that comes back is not told: what happens to its jobs is missed."""
    patch.setattr(Wanting, "greet", lambda *_, **__: None)


@mutation("the webhook was not told", profile=Profile.COORDINATORS)
def deliveries_are_not_stored(patch: pytest.MonkeyPatch) -> None:
    """A crash of the coordinator forgets them."""
    patch.setattr(WebhookTable, "_put", lambda *_: None)


@mutation("was not stored", profile=Profile.COORDINATORS)
def a_cron_is_set_and_not_stored(patch: pytest.MonkeyPatch) -> None:
    """A client was told that it is set; the coordinator that comes after has never heard of it."""
    set_cron = CronTable.set

    def set_silently(self: CronTable, request: SetCron, now_ms: int, *, json: bool) -> None:
        with instead(self, "_write", lambda _: None):
            set_cron(self, request, now_ms, json=json)

    patch.setattr(CronTable, "set", set_silently)
