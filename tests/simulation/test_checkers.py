"""The checkers can fail: a server that is broken on purpose breaks a promise in some run.

Each test breaks one rule that the design names, and plays runs until one of them notices.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from random import Random
from typing import Any, Final

import pytest

from flashq.coordinator.mirror import Mirror
from flashq.coordinator.outbox import Group, Outbox
from flashq.coordinator.shards import ShardLink, ShardLinks
from flashq.coordinator.wanting import Wanting
from flashq.coordinator.webhooks import WebhookTable
from flashq.coordinator.writer_engine import Committed, Task, WriterEngine
from flashq.protocol.internal import Granted, Mail, ShardHello
from flashq.router.engine import Router
from flashq.shard.engine import Engine
from flashq.shard.gate import Gate
from flashq.shard.handlers import leasing
from flashq.shard.leases import Leases
from flashq.shard.limits import TokenBucket
from flashq.shard.mailing import Mailing
from flashq.shard.node import _FROM_COORDINATOR, Node
from tests.simulation.kinds import CAME_BACK
from tests.simulation.setting import Setting
from tests.simulation.simulation import play

SEEDS_MAX: Final = 80

pytestmark = pytest.mark.timeout(300)


def first_failure() -> str:
    """Play runs until one breaks a promise; return which."""
    for seed in range(1, SEEDS_MAX + 1):
        failure = play(seed).failure
        if failure is not None:
            return str(failure)
    pytest.fail(f"{SEEDS_MAX} runs, and nobody has noticed")


def test_a_reply_that_does_not_wait_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash makes it untrue."""
    monkeypatch.setattr(Gate, "pass_or_wait", lambda *_: True)
    assert "untrue" in first_failure()


def test_mail_that_does_not_wait_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash takes back what a peer has carried out."""
    send = Mailing.send
    monkeypatch.setattr(Mailing, "send", lambda self, mono_ms, _safe: send(self, mono_ms, 2**62))
    failure = first_failure()
    assert "forgot mail" in failure or "untrue" in failure


def test_mail_whose_numbers_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receiver takes it for what it has had already: flows stand still."""
    recovered = Node._recovered

    def forget_numbers(self: Node) -> None:
        recovered(self)
        for peer, mailbox in self._state.mailboxes.items():
            if peer != self._state.shard:
                mailbox.next_number = 1
                mailbox.pending.clear()

    monkeypatch.setattr(Node, "_recovered", forget_numbers)
    assert first_failure()


def test_mail_that_is_known_by_its_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that comes back with less gives numbers again, and new mail is taken for old. All
    runs are of such a storage, and shards die before they have given again what it lost."""
    draw = Setting.__init__

    def failing_over(self: Setting, chance: Random) -> None:
        draw(self, chance)
        vars(self).update(lasts=True, fails_over=True, loses_states=True, has_webhook=False)

    monkeypatch.setattr(Setting, "__init__", failing_over)
    monkeypatch.setattr(Mail, "is_had", lambda mail, _, last: mail.number <= last)
    monkeypatch.setattr(
        Mail, "is_next", lambda mail, _, last: mail.number == max(last, mail.confirmed) + 1
    )
    assert "for an older one" in first_failure()


def test_a_repeat_that_is_carried_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One push makes two jobs, one request has two answers, or a session comes back."""
    monkeypatch.setattr(Engine, "_is_repeat", lambda *_: False)
    failure = first_failure()
    assert "two jobs" in failure or "and then" in failure or "lives and is expired" in failure


def test_a_lease_that_anybody_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers' tokens are accepted."""
    monkeypatch.setattr(leasing, "holds", lambda _context, job, _token: job.lease is not None)
    assert "was handed out since" in first_failure()


def test_ids_that_are_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a log was lost, and its successor begins where the rest ends."""

    def unreserved(self: Node, message: Granted) -> None:
        message.reserved = 0
        self._on_granted(message)

    monkeypatch.setitem(_FROM_COORDINATOR, Granted, unreserved)
    assert "was given before" in first_failure()


def test_a_rate_that_nobody_pays_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is handed out than the limit allows."""
    monkeypatch.setattr(TokenBucket, "spend", lambda *_: None)
    assert "at a rate of" in first_failure()


def test_jobs_of_the_dead_that_stay_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is left for ever."""
    monkeypatch.setattr(Leases, "_let_go", lambda *_, **__: None)
    failure = first_failure()
    assert "left after" in failure or "held by a session that is not there" in failure


def test_an_unknown_outcome_that_is_taken_for_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer believes that a commit whose answer was lost is stored: the log gets a hole."""
    monkeypatch.setattr(Mirror, "has_written", lambda *_: True)
    assert first_failure()


def test_an_unknown_outcome_that_is_taken_for_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stores a second time what is stored already."""
    monkeypatch.setattr(Mirror, "has_written", lambda *_: False)
    assert first_failure()


def test_a_writer_that_does_not_ask_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on as if nothing had happened."""
    monkeypatch.setattr(WriterEngine, "failed", lambda *_: None)
    assert "before it was asked what it has" in first_failure()


def test_a_commit_that_is_confirmed_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(WriterEngine, "submit", confirm_early)
    failure = first_failure()
    assert "untrue" in failure or "that it had confirmed" in failure or "forgot mail" in failure


def test_a_recovery_that_does_not_wait_for_its_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that hears of its epoch before that is stored asks at once, and is answered at once:
    its forerunner's last entries are not in what it gets."""
    then = Outbox.then

    def grant_at_once(self: Outbox, action: Any) -> None:
        is_grant = isinstance(action, partial) and any(
            isinstance(argument, Granted) for argument in action.args
        )
        if is_grant:
            action()
        else:
            then(self, action)

    monkeypatch.setattr(Outbox, "then", grant_at_once)
    monkeypatch.setattr(WriterEngine, "_may_read", lambda *_: True)
    assert "before its grant is stored" in first_failure()


def test_a_storage_with_less_that_nobody_gives_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator does not ask for a checkpoint of everything: the log stands still."""
    resume = ShardLinks._resume

    def forget(self: ShardLinks, link: ShardLink, identity: bytes, hello: ShardHello) -> None:
        hello.safe_seq = min(hello.safe_seq, link.last_seq)
        resume(self, link, identity, hello)

    monkeypatch.setattr(ShardLinks, "_resume", forget)
    assert first_failure()


def test_a_storage_with_less_that_goes_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer does not compare what storage has with what it had: the log gets a hole."""
    monkeypatch.setattr(Mirror, "fits", lambda *_: True)
    assert first_failure()


def test_a_shard_that_does_not_know_what_webhooks_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes back is not told: what happens to its jobs is missed."""
    monkeypatch.setattr(Wanting, "greet", lambda *_, **__: None)
    assert "the webhook was not told" in first_failure()


def test_deliveries_that_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the coordinator forgets them."""
    monkeypatch.setattr(WebhookTable, "_put", lambda *_: None)
    assert "the webhook was not told" in first_failure()


def test_deliveries_that_nobody_sends_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leases save such jobs, only later: no promise is broken, but a set of runs fails, since
    nothing came back."""
    undeliverable = Router.undeliverable

    def dropped(self: Router, *args: Any, **more: Any) -> None:
        undeliverable(self, *args, **more)
        for lane in self._lanes:
            lane.frames.clear()

    came_back = (seed for seed in range(1, SEEDS_MAX + 1) if play(seed).seen[CAME_BACK])
    seeds = list(islice(came_back, 2))
    assert seeds
    monkeypatch.setattr(Router, "undeliverable", dropped)
    assert not sum(play(seed).seen[CAME_BACK] for seed in seeds)
