"""`checker` and `books`: each broken promise is found, and nobody is accused wrongly."""

from __future__ import annotations

import pytest

from tests.torture.books import Books
from tests.torture.checker import (
    CRON,
    DUPLICATED,
    FALSE,
    HUNG,
    INVENTED,
    KEYS,
    LOST,
    ORDER,
    REUSED,
    STUCK,
    TORN,
    UNDONE,
    Checker,
    Verdict,
)
from tests.torture.ledger import (
    Acknowledged,
    Attempted,
    Awaited,
    Declined,
    Delivered,
    Dropped,
    Ended,
    Ending,
    Found,
    Kept,
    Killed,
    Line,
    Refused,
    Seen,
    Unanswered,
    Wanted,
)
from tests.torture.window import MS

SHARDS = 4
QUEUE = "torture-4"  # of shard 0
ALL = list(range(SHARDS))


class Story:
    """What happened, told line by line; the clock goes on by 1 ms with each."""

    def __init__(self) -> None:
        self.ledgers: dict[str, list[Line]] = {"producer-1": [], "worker-1": [], "killer": []}
        self._ms = 1000
        self._op = 0

    def _at(self) -> int:
        self._ms += 1
        return self._ms * MS

    def wait(self, ms: int) -> None:
        """Let time go by."""
        self._ms += ms

    def attempt(self, *uids: str, kind: str = "single", **wanted: object) -> int:
        """A producer asks for jobs; return the request's number."""
        self._op += 1
        jobs = [Wanted(uid=uid, queue=QUEUE, **wanted) for uid in uids]  # type: ignore[arg-type]
        self.ledgers["producer-1"].append(Attempted(self._at(), self._op, kind, "router", jobs))
        return self._op

    def acknowledge(self, op: int, *ids: int) -> None:
        """It gets ids."""
        self.ledgers["producer-1"].append(Acknowledged(self._at(), op, list(ids)))

    def refuse(self, op: int, code: str) -> None:
        """It is told that nothing happened."""
        self.ledgers["producer-1"].append(Refused(self._at(), op, code))

    def push(self, uid: str, job_id: int, **wanted: object) -> None:
        """It asks for one job, and gets its id."""
        self.acknowledge(self.attempt(uid, **wanted), job_id)  # type: ignore[arg-type]

    def deliver(self, uid: str, job_id: int, token: int = 1, attempts: int = 0) -> None:
        """A worker gets a job."""
        delivered = Delivered(self._at(), job_id, token, attempts, QUEUE, uid)
        self.ledgers["worker-1"].append(delivered)

    def begin(self, job_id: int, token: int = 1, way: str = "ack") -> None:
        """It is about to end it."""
        self.ledgers["worker-1"].append(Ending(self._at(), way, [(job_id, token)]))

    def end(self, job_id: int, token: int = 1, way: str = "ack") -> None:
        """It ends it, and is told so."""
        self.begin(job_id, token, way)
        self.ledgers["worker-1"].append(Ended(self._at(), way, [(job_id, token)]))

    def do(self, uid: str, job_id: int, token: int = 1) -> None:
        """A worker gets a job and acks it."""
        self.deliver(uid, job_id, token)
        self.end(job_id, token)

    def kill(self, kind: str, shards: list[int], name: str = "") -> None:
        """Something is killed."""
        self.ledgers["killer"].append(Killed(self._at(), kind, name or kind, shards, False))

    def find(self, state: str, *ids: int, error: str = "") -> None:
        """The server says so in the end."""
        self.ledgers["killer"] += [Found(job_id, state, error) for job_id in ids]

    def add(self, name: str, line: Line) -> None:
        """Anything else."""
        self.ledgers.setdefault(name, []).append(line)

    def verdict(self, level: str = "durable") -> Verdict:
        """Return what the checker says."""
        return Checker(Books(self.ledgers, SHARDS), level, ()).check()

    def broken(self, level: str = "durable") -> dict[str, int]:
        """Return how often each promise was broken."""
        return dict(self.verdict(level).violations)


@pytest.fixture
def story() -> Story:
    """Return a story that has not begun."""
    return Story()


def test_a_story_without_a_flaw_balances(story: Story) -> None:
    """
    1. One job is done, one fails once and is done then, one is removed when it is done.
    2. One fails for good, as it is made to; one depends on it, and fails with it.
    3. Somebody waits for a result, and a key is used again once its first holder has ended.
    """
    story.push("a", 4)
    story.do("a", 4)
    story.add("producer-1", Awaited(story._at(), 4, "a"))
    story.push("b", 8)
    story.deliver("b", 8)
    story.end(8, way="fail")
    story.deliver("b", 8, token=2, attempts=1)
    story.end(8, token=2)
    story.push("c", 12, is_removed=True)
    story.do("c", 12)
    story.push("d", 16, is_mortal=True)
    story.deliver("d", 16)
    story.end(16, way="fail")
    story.push("e", 20, after=[16])
    story.push("f", 24, key="k")
    story.refuse(story.attempt("g", key="k"), "duplicate")
    story.do("f", 24)
    story.push("h", 28, key="k")
    story.do("h", 28)
    story.find("completed", 4, 8, 24, 28)
    story.find("", 12)
    story.find("failed", 16, 20, error="as intended")
    story.add("killer", Kept(4, "a"))
    verdict = story.verdict()
    assert verdict.balances, verdict.examples
    assert verdict.counts["jobs acknowledged"] == 7
    assert verdict.counts["jobs delivered"] == 6
    assert verdict.refusals == {"duplicate": 1}


# --- what is acknowledged is done, once


def test_a_job_that_never_came_is_lost(story: Story) -> None:
    """Acknowledged, and nobody ever had it."""
    story.push("a", 4)
    story.find("", 4)
    assert story.broken() == {LOST: 1}


def test_a_job_that_is_left_over_is_lost(story: Story) -> None:
    """Somebody had it, and it waits in the end for somebody who never comes."""
    story.push("a", 4)
    story.deliver("a", 4)
    story.find("waiting", 4)
    assert story.broken() == {LOST: 1}


def test_a_job_that_failed_for_another_one_that_did_not_is_lost(story: Story) -> None:
    """What it depends on has completed, so it should have run."""
    story.push("a", 4)
    story.do("a", 4)
    story.push("b", 8, after=[4])
    story.find("completed", 4)
    story.find("failed", 8)
    assert story.broken() == {LOST: 1}


def test_a_delivery_after_an_acknowledged_ack_is_a_duplicate(story: Story) -> None:
    """A later token is a later delivery, whenever it arrives."""
    story.push("a", 4)
    story.do("a", 4)
    story.deliver("a", 4, token=2)
    story.find("completed", 4)
    assert story.broken() == {DUPLICATED: 1}


def test_an_older_delivery_that_arrives_late_is_none(story: Story) -> None:
    """It was on its way to a worker that had lost its lease meanwhile."""
    story.push("a", 4)
    story.do("a", 4, token=2)
    story.deliver("a", 4, token=1)
    story.find("completed", 4)
    assert story.broken() == {}


def test_an_ack_that_is_forgotten_is_undone(story: Story) -> None:
    """It was acknowledged, and the job is active again in the end."""
    story.push("a", 4)
    story.do("a", 4)
    story.find("active", 4)
    assert story.broken() == {UNDONE: 1}


def test_a_fail_that_is_forgotten_is_undone(story: Story) -> None:
    """An attempt was counted, and the next delivery does not know of it."""
    story.push("a", 4)
    story.deliver("a", 4)
    story.end(4, way="fail")
    story.do("a", 4, token=2)
    story.find("completed", 4)
    assert story.broken() == {UNDONE: 1}


def test_a_result_that_is_forgotten_is_undone(story: Story) -> None:
    """It was given with an ack that was acknowledged."""
    story.push("a", 4)
    story.do("a", 4)
    story.find("completed", 4)
    story.add("killer", Kept(4, ""))
    assert story.broken() == {UNDONE: 1}


def test_a_failure_needs_a_reason(story: Story) -> None:
    """A job that was to succeed may only fail because it killed its workers."""
    story.push("a", 4)
    story.deliver("a", 4)
    story.push("b", 8)
    story.deliver("b", 8)
    story.find("failed", 4, error="poison: 3 sessions were lost while they held it")
    story.find("failed", 8, error="timeout")
    assert story.broken() == {FALSE: 1}


def test_nothing_completes_by_itself(story: Story) -> None:
    """A job that nobody acked is not done."""
    story.push("a", 4)
    story.deliver("a", 4)
    story.find("completed", 4)
    assert story.broken() == {FALSE: 1}


# --- nothing is made up


def test_a_job_that_nobody_asked_for_is_invented(story: Story) -> None:
    """So is one whose push was refused."""
    story.do("x", 4)
    story.refuse(story.attempt("a"), "busy")
    story.do("a", 8)
    story.find("completed", 4, 8)
    assert story.broken() == {INVENTED: 2}


def test_one_push_that_became_two_jobs_is_an_invention(story: Story) -> None:
    """A repeat of the client was carried out a second time."""
    story.push("a", 4)
    story.do("a", 4)
    story.do("a", 8)
    story.find("completed", 4, 8)
    assert story.broken() == {INVENTED: 1}


def test_an_id_is_never_used_again(story: Story) -> None:
    """Neither for another push, nor for another payload."""
    story.push("a", 4)
    story.push("b", 4)
    story.push("c", 8)
    story.deliver("c", 8)
    story.attempt("d")
    story.do("d", 8, token=2)
    story.do("a", 4)
    story.find("completed", 4, 8)
    assert story.broken()[REUSED] >= 2


def test_a_custom_id_names_one_job(story: Story) -> None:
    """Who uses it again gets the first job, and is not lied to."""
    story.push("a", 4, custom="c")
    story.push("b", 4, custom="c")
    story.do("a", 4)
    story.find("completed", 4)
    assert story.broken() == {}
    story.push("c", 8, custom="c")
    story.do("c", 8)
    story.find("completed", 8)
    assert story.broken() == {FALSE: 1}


def test_a_cron_makes_as_many_jobs_as_it_fires(story: Story) -> None:
    """Not one less, not one more; none at all only if nobody was told that it is there."""
    story.acknowledge(story.attempt("a", kind="cron", firings=2))
    story.do("a", 4)
    story.do("a", 8)
    story.attempt("b", kind="cron", firings=2)
    story.find("completed", 4, 8)
    assert story.broken() == {}
    story.do("a", 12)
    story.do("b", 16)
    story.find("completed", 12, 16)
    assert story.broken() == {CRON: 2}


def test_a_batch_is_there_as_a_whole_or_not_at_all(story: Story) -> None:
    """Its producer died before it was told."""
    story.attempt("a", "b", kind="batch")
    story.do("a", 4)
    story.find("completed", 4)
    assert story.broken() == {TORN: 1}


# --- in order


def test_a_parent_runs_after_its_children(story: Story) -> None:
    """It was delivered while a child still ran."""
    story.acknowledge(story.attempt("p", "c", "d", kind="flow"), 4, 8, 12)
    story.do("c", 8)
    story.deliver("d", 12)
    story.do("p", 4)
    story.end(12)
    story.find("completed", 4, 8, 12)
    assert story.broken() == {ORDER: 1}


def test_a_dependent_job_runs_after_what_it_depends_on(story: Story) -> None:
    """It was delivered before anybody had even begun to end the other one."""
    story.push("a", 4)
    story.push("b", 8, after=[4])
    story.do("b", 8)
    story.do("a", 4)
    story.find("completed", 4, 8)
    assert story.broken() == {ORDER: 1}


def test_a_key_has_one_holder_at_a_time(story: Story) -> None:
    """Both lived at one time for sure."""
    story.push("a", 4, key="k")
    story.push("b", 8, key="k")
    story.do("a", 4)
    story.do("b", 8)
    story.find("completed", 4, 8)
    assert story.broken() == {KEYS: 1}


def test_a_refusal_for_a_key_that_nobody_has_is_false(story: Story) -> None:
    """Its last holder had ended, and that was acknowledged."""
    story.push("a", 4, key="k")
    story.do("a", 4)
    story.refuse(story.attempt("b", key="k"), "duplicate")
    story.find("completed", 4)
    assert story.broken() == {FALSE: 1}


def test_who_waits_is_not_told_of_an_end_that_has_not_come(story: Story) -> None:
    """The answer came before anybody had begun to ack."""
    story.push("a", 4)
    story.deliver("a", 4)
    story.add("producer-1", Awaited(story._at(), 4, "a"))
    story.end(4)
    story.find("completed", 4)
    assert story.broken() == {FALSE: 1}


# --- what async allows


def test_async_may_lose_what_came_just_before_a_kill(story: Story) -> None:
    """Durable may never."""
    story.push("old", 4)
    story.wait(200)
    story.push("new", 8)
    story.push("newer", 12)
    story.kill("shard", [0])
    story.do("old", 4)
    story.find("completed", 4)
    story.find("", 8, 12)
    assert story.broken("async") == {}
    assert story.verdict("async").excused == {LOST: 2}
    assert story.broken("durable") == {LOST: 2}


def test_async_may_not_lose_more_than_its_window(story: Story) -> None:
    """It answered at once although the oldest unwritten record was too old."""
    story.push("old", 4)
    story.wait(200)
    story.push("new", 8)
    story.kill("shard", [0])
    story.find("", 4, 8)
    assert story.broken("async") == {LOST: 2}


def test_async_may_not_lose_something_and_keep_what_came_later(story: Story) -> None:
    """What a kill takes of a log is its end."""
    story.push("old", 4)
    story.push("new", 8)
    story.kill("shard", [0])
    story.do("new", 8)
    story.find("completed", 8)
    story.find("", 4)
    assert story.broken("async") == {LOST: 1}


def test_async_may_not_lose_anything_by_a_kill_of_another_shard(story: Story) -> None:
    """Its own shard lives, and has it."""
    story.push("a", 4)
    story.kill("shard", [1])
    story.find("", 4)
    assert story.broken("async") == {LOST: 1}


def test_async_may_lose_what_waited_for_storage_that_was_away(story: Story) -> None:
    """
    1. Storage is killed; what was acknowledged in the moment before is not written yet.
    2. Everything is killed while storage is still away.
    """
    story.push("a", 4)
    story.kill("postgres", [])
    story.wait(1000)
    story.kill("everything", ALL)
    story.find("", 4)
    assert story.broken("async") == {}


def test_an_answer_that_arrives_after_a_kill_was_given_before_it(story: Story) -> None:
    """The kill that undid it is the one after the question."""
    op = story.attempt("a")
    story.kill("shard", [0])
    story.acknowledge(op, 4)
    story.find("", 4)
    assert story.broken("async") == {}


def test_async_may_undo_an_ack_that_came_just_before_a_kill(story: Story) -> None:
    """The job is delivered again, as one is whose worker has died."""
    story.push("a", 4)
    story.wait(200)
    story.do("a", 4)
    story.kill("everything", ALL)
    story.do("a", 4, token=2)
    story.find("completed", 4)
    assert story.broken("async") == {}
    assert story.broken("durable") == {DUPLICATED: 1}


# --- who died with what


def test_who_died_with_work_in_its_hands(story: Story) -> None:
    """
    1. A push is under way to shard 0: that shard, the router and everything hold it, another shard
       and the gateway do not.
    2. A worker holds what it was not told to be done with, a producer what it was not answered.
    """
    op = story.attempt("a")
    story.kill("shard", [0])
    story.kill("shard", [1])
    story.kill("router", [])
    story.kill("gateway", [])
    story.kill("everything", ALL)
    story.acknowledge(op, 4)
    story.kill("coordinator", [])
    story.do("a", 4)
    story.push("b", 8)
    story.deliver("b", 8)
    story.kill("worker", [], "worker-1")
    story.attempt("c")
    story.kill("producer", [], "producer-1")
    story.find("completed", 4)
    story.find("failed", 8, error="poison")
    deaths = story.verdict().deaths
    assert {kind: (each.killed, each.holding) for kind, each in deaths.items()} == {
        "shard": (2, 1),
        "router": (1, 1),
        "gateway": (1, 0),
        "everything": (1, 1),
        "coordinator": (1, 0),
        "worker": (1, 1),
        "producer": (1, 1),
    }
    assert not story.verdict().counts_as_run


def test_what_outlived_its_shard_is_counted(story: Story) -> None:
    """It was acknowledged before a kill, and delivered after it."""
    story.push("a", 4)
    story.kill("shard", [0])
    story.do("a", 4)
    story.find("completed", 4)
    counts = story.verdict().counts
    assert next(count for name, count in counts.items() if name.startswith("recovered")) == 1


def test_a_request_without_an_answer_may_have_been_carried_out_or_not(story: Story) -> None:
    """Neither is a flaw."""
    for uid in ("a", "b"):
        story.add("producer-1", Unanswered(story._at(), story.attempt(uid), "connection lost"))
    story.do("a", 4)
    story.find("completed", 4)
    assert story.broken() == {}


def test_a_call_that_nobody_answers_hangs(story: Story) -> None:
    """The client has waited for longer than anything takes."""
    story.add("producer-1", Unanswered(story._at(), story.attempt("a"), "request_timeout"))
    assert story.broken() == {HUNG: 1}


# --- who holds what, and errors that promise something


def seen_active(story: Story, job_id: int, times: int) -> None:
    """The server says every 2 s that a job is active, in one delivery."""
    for _ in range(times):
        story.wait(2000)
        story.add("watcher", Seen(story._at(), [(job_id, 1)]))


def test_a_job_that_nobody_holds_does_not_stay_active(story: Story) -> None:
    """
    1. A worker cuts its connection, another one's ack had no answer, a third one was killed.
    2. The server says for more than half a minute that their jobs are active.
    """
    for job_id, worker in ((4, "worker-1"), (8, "worker-2"), (12, "worker-3")):
        story.push(f"{job_id}", job_id)
        story.add(worker, Delivered(story._at(), job_id, 1, 0, QUEUE, f"{job_id}"))
    story.add("worker-1", Dropped(story._at(), [(4, 1)]))
    story.add("worker-2", Ending(story._at(), "ack", [(8, 1)]))
    story.kill("worker", [], "worker-3")
    for _ in range(20):
        story.wait(2000)
        story.add("watcher", Seen(story._at(), [(4, 1), (8, 1), (12, 1)]))
    story.find("completed", 8)
    story.find("failed", 4, 12, error="poison")
    assert story.broken() == {STUCK: 3}


def test_a_job_may_be_active_for_as_long_as_a_worker_that_lives_has_it(story: Story) -> None:
    """A handler may take an hour. A new delivery begins anew."""
    story.push("a", 4)
    story.deliver("a", 4)
    seen_active(story, 4, 30)
    story.end(4)
    story.find("completed", 4)
    assert story.broken() == {}


def test_a_shard_that_comes_back_waits_for_heartbeats(story: Story) -> None:
    """What is active then has a while longer."""
    story.push("a", 4)
    story.deliver("a", 4)
    story.add("worker-1", Dropped(story._at(), [(4, 1)]))
    seen_active(story, 4, 10)
    story.kill("shard", [0])
    seen_active(story, 4, 10)
    story.do("a", 4, token=2)
    story.find("completed", 4)
    assert story.broken() == {}


def test_a_dependent_job_does_not_wait_for_what_has_ended(story: Story) -> None:
    """Nobody waits for ever."""
    story.push("a", 4)
    story.do("a", 4)
    story.push("b", 8, after=[4])
    story.find("completed", 4)
    story.find("waitingchildren", 8)
    assert story.broken() == {STUCK: 1}


def test_an_ack_that_was_declined_was_not_carried_out(story: Story) -> None:
    """`busy` and its like promise that nothing happened."""
    for job_id in (4, 8):
        story.push(f"{job_id}", job_id)
        story.deliver(f"{job_id}", job_id)
        story.begin(job_id)
        story.add("worker-1", Declined(story._at(), "ack", [(job_id, 1)], "busy"))
    story.end(8)  # it was asked again
    story.find("completed", 4, 8)
    assert story.broken() == {FALSE: 1}
