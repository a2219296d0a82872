"""Mistakes in what a shard lets go, and when: replies, events, mail, repeats, leases."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.ids import epoch_of_token, lease_token
from flashq.protocol import records as r
from flashq.protocol.internal import Mail, MailAck
from flashq.protocol.records import Entry
from flashq.shard import core, pulling, recovery
from flashq.shard import evolve as evolution
from flashq.shard import leases as lease_rules
from flashq.shard.context import Context
from flashq.shard.core import Core
from flashq.shard.engine import Engine
from flashq.shard.evolve import evolve
from flashq.shard.gate import ReplyGate
from flashq.shard.handlers import leasing
from flashq.shard.journal import Journal
from flashq.shard.leases import Leases
from flashq.shard.lifecycle import DELAYED, WAITING, Job
from flashq.shard.limits import TokenBucket
from flashq.shard.mailing import Mailing
from flashq.shard.node import Node
from flashq.shard.outbox import Origin, Reply
from flashq.shard.state import ShardState
from tests.simulation.mutations import mutation
from tests.simulation.setting import Profile

# --- what waits for the log


@mutation("answers at")
def a_reply_does_not_wait_for_the_log(patch: pytest.MonkeyPatch) -> None:
    """A crash makes it untrue."""
    patch.setattr(ReplyGate, "admit", lambda _gate, reply, _seq, **_: reply)


@mutation("answers at", "untrue")
def a_reply_waits_for_the_record_before_its_own(patch: pytest.MonkeyPatch) -> None:
    """Its own record may still be lost."""

    def reply(
        self: Core, origin: Origin, body: Any, *, delivery: bool = False, is_read: bool = False
    ) -> None:
        before = max(0, self.state.seq - 1)
        gate = min(self.gate, before)
        self.outbox.replies.append(Reply(origin, body, gate, before, delivery, is_read))

    patch.setattr(Core, "reply", reply)


@mutation("untrue")
def an_event_does_not_wait_for_the_log(patch: pytest.MonkeyPatch) -> None:
    """Who listens hears of what a crash undoes."""
    publish = Core._publish

    def publish_at_once(self: Core, aftermath: Any) -> None:
        publish(self, aftermath)
        self.outbox.events = [(0, event) for _, event in self.outbox.events]

    patch.setattr(Core, "_publish", publish_at_once)


@mutation("log has lagged")
def replies_of_level_async_never_wait(patch: pytest.MonkeyPatch) -> None:
    """Storage may lag for long, and a crash then loses more than the last moments."""
    patch.setattr(Journal, "is_lagging", lambda *_: False)


@mutation()
def what_was_not_confirmed_is_sent_again_but_for_its_first_blob(patch: pytest.MonkeyPatch) -> None:
    """After a break the log stands still."""
    unconfirmed = Journal.unconfirmed
    patch.setattr(Journal, "unconfirmed", lambda self: unconfirmed(self)[1:])


# --- mail


@mutation("sends mail")
def mail_does_not_wait_for_the_log(patch: pytest.MonkeyPatch) -> None:
    """A crash takes back what a peer has carried out."""
    send = Mailing.send
    patch.setattr(Mailing, "send", lambda self, mono_ms, _safe: send(self, mono_ms, 2**62))


@mutation("sends mail")
def mail_leaves_one_record_early(patch: pytest.MonkeyPatch) -> None:
    """The record that is not safe yet may be the very one that it stands in."""
    send = Mailing.send
    patch.setattr(Mailing, "send", lambda self, mono_ms, safe: send(self, mono_ms, safe + 1))


@mutation("confirms mail")
def mail_is_confirmed_one_record_early(patch: pytest.MonkeyPatch) -> None:
    """The sender forgets what the receiver may have to take again."""

    def confirm(self: Mailing, mail: Mail, answer: Any) -> None:
        ack = MailAck(receiver=self._state.shard, incarnation=mail.incarnation, number=mail.number)
        if self._acks.pass_or_wait(self._state.seq - 1, (answer, ack)):
            answer(ack)

    patch.setattr(Mailing, "confirm", confirm)


@mutation()
def mail_numbers_begin_anew(patch: pytest.MonkeyPatch) -> None:
    """Their receiver takes new mail for what it has had already, and what was pending is gone:
    flows stand still."""
    recovered = Node._recovered

    def forget_numbers(self: Node) -> None:
        recovered(self)
        for peer, mailbox in self._state.mailboxes.items():
            if peer != self._state.shard:
                mailbox.next_number = 1
                mailbox.pending.clear()

    patch.setattr(Node, "_recovered", forget_numbers)


@mutation("for an older one", profile=Profile.FAILING_OVER)
def mail_is_known_by_its_number_alone(patch: pytest.MonkeyPatch) -> None:
    """A storage that comes back with less gives numbers again, and new mail is taken for old."""
    patch.setattr(Mail, "is_had", lambda mail, _, last: mail.number <= last)
    patch.setattr(
        Mail, "is_next", lambda mail, _, last: mail.number == max(last, mail.confirmed) + 1
    )


@mutation()
def mail_is_taken_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """What is missing before it is taken for had."""
    patch.setattr(Mail, "is_next", lambda *_: True)


# --- repeats


@mutation("two jobs", "and then", "lives and is expired")
def a_repeat_is_carried_out_again(patch: pytest.MonkeyPatch) -> None:
    """One push makes two jobs, one request has two answers, or a session comes back."""
    patch.setattr(Engine, "_is_repeat", lambda *_: False)


@mutation()
def answers_are_dropped_one_too_early(patch: pytest.MonkeyPatch) -> None:
    """The oldest request that its client still waits for is carried out again."""

    def evolve_and_drop(state: ShardState, entry: Entry, *, logged: bool = True) -> None:
        evolve(state, entry, logged=logged)
        answer = entry.answer
        if answer is not None and answer.n > answer.done_below:
            state.session(answer.session).answers.pop(answer.done_below, None)

    patch.setattr(core, "evolve", evolve_and_drop)
    patch.setattr(recovery, "evolve", evolve_and_drop)


@mutation()
def the_answer_to_a_flow_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    """A repeat of a push that had to wait for other shards makes its jobs again."""
    commit = Core.commit

    def commit_without(self: Core, records: list[Any], **more: Any) -> None:
        if isinstance(records[0] if records else None, r.AwaitedDone):
            more["answer"] = None
        commit(self, records, **more)

    patch.setattr(Core, "commit", commit_without)


# --- leases


@mutation("was handed out since", profile=Profile.LEASES)
def anybody_may_end_a_lease(patch: pytest.MonkeyPatch) -> None:
    """Two workers' tokens are accepted."""
    patch.setattr(leasing, "holds", lambda _context, job, _token: job.lease is not None)


@mutation(profile=Profile.LEASES)
def a_lost_lease_is_adopted_by_any_older_token(patch: pytest.MonkeyPatch) -> None:
    """A job that has been handed out since is ended by who held it before."""

    def is_lost_delivery(context: Context, job: Job, token: int) -> bool:
        return job.state in (WAITING, DELAYED) and epoch_of_token(token) < context.epoch

    patch.setattr(leasing, "is_lost_delivery", is_lost_delivery)
    patch.setattr(lease_rules, "is_lost_delivery", is_lost_delivery)


@mutation(profile=Profile.LEASES)
def a_job_that_goes_back_forgets_its_token(patch: pytest.MonkeyPatch) -> None:
    """After a restart, who had lost it may end it all the same."""
    requeued = evolution._EVOLVE[r.Requeued]

    def forget_token(state: ShardState, record: r.Requeued) -> None:
        requeued(state, record)
        for job_id in record.ids:
            state.take(job_id).need_extra().last_token = 0

    patch.setitem(evolution._EVOLVE, r.Requeued, forget_token)


@mutation("left after", "held by a session that is not there")
def jobs_of_the_dead_stay_with_them(patch: pytest.MonkeyPatch) -> None:
    """Something is left for ever."""
    patch.setattr(Leases, "_let_go", lambda *_, **__: 0)


# --- limits, dependencies


@mutation("at a rate of", profile=Profile.COORDINATORS)
def nobody_pays_for_a_rate(patch: pytest.MonkeyPatch) -> None:
    """More is handed out than the limit allows."""
    patch.setattr(TokenBucket, "spend", lambda *_: None)


# --- lives, tokens, ends


@mutation("under a token that was given before", profile=Profile.LEASES)
def tokens_begin_anew(patch: pytest.MonkeyPatch) -> None:
    """After a restart a token is given a second time: who held the first may end the second."""
    patch.setattr(pulling, "lease_token", lambda _epoch, delivery: lease_token(1, delivery))


@mutation("as of life", profile=Profile.CHECKPOINTS)
def lives_are_forgotten_too_early(patch: pytest.MonkeyPatch) -> None:
    """Mail that an earlier process wrote is sent again as if this one had: its receiver takes it a
    second time."""
    begin_life = ShardState.begin_life

    def forget_lives(self: ShardState, incarnation: int) -> None:
        begin_life(self, incarnation)
        self.lives = [(0, incarnation)]

    patch.setattr(ShardState, "begin_life", forget_lives)


@mutation("untrue")
def durable_jobs_hold_no_reply_back(patch: pytest.MonkeyPatch) -> None:
    """What is said of them is taken for level async."""
    patch.setattr(Context, "is_durable", lambda *_: False)
    patch.setattr(Context, "is_any_durable", lambda *_: False)


@mutation("ends at")
def a_shard_ends_before_its_log_is_stored(patch: pytest.MonkeyPatch) -> None:
    """It is told to end, and does not wait."""
    patch.setattr(Node, "_is_drained", lambda _: True)
