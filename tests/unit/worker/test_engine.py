"""What a worker decides, without running anything: fetching, order, reports, the end."""

from __future__ import annotations

import pytest
from msgspec import Raw

from flashq.client.results import Job
from flashq.worker.engine import (
    ACK_DELAY_MS,
    CONFIRM_MS,
    HELD_BACK_MS,
    LAST_WORDS_MS,
    OVERTIME_MS,
    STUBBORN_MS,
    SURPLUS_MS,
    Acknowledge,
    Engine,
    Fail,
    Outcome,
    Stop,
)
from flashq.worker.fetching import RETRY_MS, Fetch, Wait


def engine(*queues: str, concurrency: int = 2, batch_max: int = 10) -> Engine:
    """Return an engine with a grace time of 100 ms."""
    return Engine(queues or ["q"], concurrency=concurrency, batch_max=batch_max, grace_ms=100)


def some(count: int, queue: str = "q", start: int = 1) -> list[Job]:
    """Return delivered jobs."""
    return [
        Job(id=number, queue=queue, data=None, token=number)  # type: ignore[arg-type]
        for number in range(start, start + count)
    ]


def run_fast(worker: Engine, count: int, now: float = 0.0) -> None:
    """Run jobs to their end, so fast that fetching ahead is worth it."""
    worker.fetched("q", some(count), now)
    while (job := worker.take(now)) is not None:
        worker.finished(job, None, now)


def acknowledge(worker: Engine, now: float) -> list[Acknowledge]:
    """Return the acknowledgements that are due."""
    return [order for order in worker.settlements(now) if isinstance(order, Acknowledge)]


def ids_of(order: Acknowledge) -> list[int]:
    """Return the ids in an acknowledgement."""
    return [outcome.job.id for outcome in order.outcomes]


# --- fetching


def test_a_new_worker_fetches_no_more_than_it_can_run() -> None:
    """Nothing is known of its speed yet; jobs that wait here could run elsewhere."""
    assert engine(concurrency=3).fetches(0) == [Fetch("q", 3)]


def test_one_fetch_is_parked_for_a_worker_of_one_queue() -> None:
    """And no second one, until it came back."""
    worker = engine("a")
    assert worker.fetches(0) == [Fetch("a", 2)]
    assert worker.fetches(0) == []
    worker.fetched("a", [], 0)
    assert worker.fetches(0) == [Fetch("a", 2)]


def test_a_worker_of_several_queues_waits_for_them_and_takes_what_it_has_room_for() -> None:
    """1. All are waited for. 2. Both have jobs: its two places are divided. 3. It is full."""
    worker = engine("a", "b")
    assert worker.fetches(0) == [Wait("a"), Wait("b")]
    worker.waited("a", has_jobs=True)
    worker.waited("b", has_jobs=True)
    assert worker.fetches(0) == [Fetch("a", 1, False), Fetch("b", 1, False)]
    assert worker.fetches(0) == []
    assert worker.fetched("a", some(1, "a"), 0) == []
    assert worker.fetched("b", some(1, "b", start=11), 0) == []
    assert worker.fetches(0) == []


def test_a_busy_worker_does_not_fetch() -> None:
    """Slow jobs: the next is fetched when there is a place to run it."""
    worker = engine()
    worker.fetches(0)
    jobs = some(2)
    assert worker.fetched("q", jobs, 0) == []
    assert [worker.take(0), worker.take(0), worker.take(0)] == [*jobs, None]
    assert worker.fetches(0) == []
    worker.finished(jobs[0], None, 1000)
    assert worker.fetches(1000) == [Fetch("q", 1)]


def test_a_fast_worker_fetches_ahead_up_to_its_batch() -> None:
    """Jobs that take microseconds would otherwise cost a round trip each."""
    worker = engine()
    worker.fetches(0)
    run_fast(worker, 2)
    assert worker.fetches(0) == [Fetch("q", 10)]


def test_ahead_is_half_empty_before_it_is_filled() -> None:
    """One fetch for many jobs, not one fetch for one."""
    worker = engine(concurrency=1)
    worker.fetches(0)
    run_fast(worker, 2)
    worker.fetches(0)
    worker.fetched("q", some(9), 0)
    assert worker.fetches(0) == []
    for _ in range(4):
        job = worker.take(0)
        assert job is not None
        worker.finished(job, None, 0)
    assert worker.fetches(0) == [Fetch("q", 6)]


def test_a_worker_that_slows_down_stops_fetching_ahead() -> None:
    """Nothing has ended for a while: what it has is enough."""
    worker = engine()
    worker.fetches(0)
    run_fast(worker, 2)
    worker.fetches(0)
    worker.fetched("q", some(2), 0)
    worker.take(0)
    assert worker.fetches(0) != []
    worker.fetched("q", [], 0)
    worker.take(0)
    assert worker.fetches(1000) == []


def test_jobs_ahead_of_a_handler_that_hangs_are_given_back() -> None:
    """They were fetched at a rate that no longer holds; other workers may be free."""
    worker = engine(concurrency=1)
    worker.fetches(0)
    run_fast(worker, 1)
    acknowledge(worker, 0)
    worker.fetched("q", some(5, start=10), 0)
    worker.take(0)
    assert worker.surplus(SURPLUS_MS / 10) == []
    assert worker.next_deadline(1) == SURPLUS_MS
    assert len(worker.surplus(SURPLUS_MS)) == 3
    assert worker.stop(SURPLUS_MS) == some(1, start=10 + 1)


def test_a_failed_fetch_is_tried_again_after_a_while() -> None:
    """Not at once: the server is in trouble."""
    worker = engine()
    worker.fetches(0)
    worker.fetch_failed("q", 0)
    assert worker.fetches(0) == []
    assert worker.next_deadline(0) == RETRY_MS
    assert worker.fetches(RETRY_MS) == [Fetch("q", 2)]
    assert worker.next_deadline(RETRY_MS) is None


# --- acknowledging


def finish(worker: Engine, jobs: list[Job], now: float = 0.0) -> None:
    """Run these jobs to their end."""
    worker.fetched("q", jobs, now)
    for _ in jobs:
        job = worker.take(now)
        assert job is not None
        worker.finished(job, Raw(b"\x01"), now)


def test_what_has_ended_is_acknowledged_together() -> None:
    """In one request, when there is nothing better to do."""
    worker = engine()
    finish(worker, some(2))
    (order,) = acknowledge(worker, 0)
    assert ids_of(order) == [1, 2]
    assert bytes(order.outcomes[0].result or b"") == b"\x01"
    worker.acknowledged(order, 2)
    assert (worker.completed, worker.lost) == (2, 0)


def test_acknowledgements_gather_while_one_is_under_way() -> None:
    """But never for more than a few milliseconds: somebody may wait for the result."""
    worker = engine()
    finish(worker, some(1))
    (first,) = acknowledge(worker, 0)
    finish(worker, some(1, start=2), 1)
    assert acknowledge(worker, 1) == []
    assert worker.next_deadline(1) == 1 + ACK_DELAY_MS
    finish(worker, some(1, start=3), 2)
    (second,) = acknowledge(worker, 1 + ACK_DELAY_MS)
    assert ids_of(second) == [2, 3]
    finish(worker, some(1, start=4), 9)
    worker.acknowledged(first, 1)
    worker.acknowledged(second, 2)
    assert [ids_of(order) for order in acknowledge(worker, 9)] == [[4]]


def test_a_full_batch_waits_for_nothing() -> None:
    """Two requests under way are better than one too large."""
    worker = engine(concurrency=25, batch_max=10)
    finish(worker, some(25))
    assert [len(order.outcomes) for order in acknowledge(worker, 0)] == [10, 10]
    assert [len(order.outcomes) for order in acknowledge(worker, ACK_DELAY_MS)] == [5]


def test_a_result_that_was_not_taken_is_sent_again_until_the_lease_is_lost() -> None:
    """1. The server does not answer. 2. Later it is asked again. 3. The lease is lost: no more."""
    worker = engine()
    finish(worker, some(2))
    (order,) = acknowledge(worker, 0)
    worker.unacknowledged(order, 0)
    assert acknowledge(worker, 0) == []
    (again,) = acknowledge(worker, RETRY_MS)
    assert ids_of(again) == [1, 2]
    worker.unacknowledged(again, RETRY_MS)
    worker.leases_lost([1], "gone", RETRY_MS)
    assert worker.stops(RETRY_MS) == []
    (last,) = acknowledge(worker, 2 * RETRY_MS)
    assert ids_of(last) == [2]


def test_jobs_that_were_no_longer_ours_are_counted() -> None:
    """The server acknowledges what it can, and says how many."""
    worker = engine()
    finish(worker, some(2))
    (order,) = acknowledge(worker, 0)
    worker.acknowledged(order, 1)
    assert (worker.completed, worker.lost) == (1, 1)


def test_one_bad_result_does_not_spoil_its_batch() -> None:
    """1. A batch is refused: a result is too large. 2. One by one. 3. The bad one fails."""
    worker = engine()
    finish(worker, some(2))
    (batch,) = acknowledge(worker, 0)
    worker.refused(batch, "too large")
    (first,) = acknowledge(worker, 0)
    assert ids_of(first) == [1]
    worker.acknowledged(first, 1)
    (second,) = acknowledge(worker, 0)
    worker.refused(second, "too large")
    (failure,) = worker.settlements(0)
    assert isinstance(failure, Fail)
    assert (failure.outcome.job.id, failure.outcome.error) == (2, "too large")
    finish(worker, some(2, start=3))
    assert [ids_of(order) for order in acknowledge(worker, 0)] == [[3, 4]]


def test_failures_are_reported_and_repeated() -> None:
    """With what the handler raised."""
    worker = engine()
    worker.fetched("q", some(1), 0)
    job = worker.take(0)
    assert job is not None
    worker.errored(job, "ValueError: no", 0)
    (order,) = worker.settlements(0)
    assert isinstance(order, Fail)
    assert order.outcome.error == "ValueError: no"
    worker.unreported(order, 0)
    assert worker.settlements(0) == []
    assert worker.next_deadline(0) == RETRY_MS
    (again,) = worker.settlements(RETRY_MS)
    assert isinstance(again, Fail)
    worker.reported(again, ours=True)
    assert worker.failed == 1


def test_a_failure_of_a_lost_job_is_not_ours() -> None:
    """Somebody else has it."""
    worker = engine()
    worker.fetched("q", some(1), 0)
    job = worker.take(0)
    assert job is not None
    worker.errored(job, "no", 0)
    (order,) = worker.settlements(0)
    assert isinstance(order, Fail)
    worker.reported(order, ours=False)
    assert (worker.failed, worker.lost) == (0, 1)


def test_a_lost_job_is_dropped_wherever_it_is() -> None:
    """Ready, running, or waiting for its report."""
    worker = engine()
    ready, running, failed = some(1, start=1), some(1, start=2), some(1, start=3)
    worker.fetched("q", failed, 0)
    worker.take(0)
    worker.errored(failed[0], "no", 0)
    worker.fetched("q", running, 0)
    worker.take(0)
    worker.fetched("q", ready, 0)
    worker.leases_lost([1, 2, 3], "gone", 0)
    assert worker.stops(0) == [Stop(running[0], "gone")]
    assert worker.stops(0) == []
    assert worker.take(0) is None
    worker.finished(running[0], None, 1)
    assert worker.settlements(1) == []


def test_of_a_job_that_comes_back_while_its_lost_run_goes_on_one_copy_runs() -> None:
    """
    1. A job runs, and its lease is lost; its handler does not stop.
    2. The job is handed out again, to this worker: it is held back, though there is a place.
    3. The old handler ends: its outcome is dropped, and the second delivery runs.
    """
    worker = engine()
    (old,), (new,) = some(1), some(1)
    worker.fetched("q", [old], 0)
    worker.take(0)
    worker.leases_lost([1], "gone", 0)
    worker.fetched("q", [new], 0)
    assert worker.startable
    assert worker.take(0) is None
    assert not worker.startable
    assert worker.running == 1
    worker.finished(old, None, 1)
    assert worker.settlements(1) == []
    assert worker.take(1) is new
    worker.finished(new, None, 1)
    assert [ids_of(order) for order in acknowledge(worker, 1)] == [[1]]


def test_a_delivery_says_that_the_run_before_it_is_lost() -> None:
    """A heartbeat cannot: it names the newer token already."""
    worker = engine()
    (old,), (new,) = some(1), some(1)
    worker.fetched("q", [old], 0)
    worker.take(0)
    worker.fetched("q", [new], 0)
    (stop,) = worker.stops(0)
    assert stop.job is old
    worker.errored(old, "stopped", 1)
    assert worker.settlements(1) == []


def test_a_copy_is_not_held_back_for_ever() -> None:
    """The old handler hangs; another worker may run the job."""
    worker = engine()
    (old,), (new,) = some(1), some(1)
    worker.fetched("q", [old], 0)
    worker.take(0)
    worker.fetched("q", [new], 0)
    worker.take(0)
    worker.stops(0)
    worker.stubborn(STUBBORN_MS)
    assert worker.next_deadline(STUBBORN_MS) == HELD_BACK_MS
    assert worker.surplus(HELD_BACK_MS - 1) == []
    assert worker.surplus(HELD_BACK_MS) == [new]
    assert worker.surplus(HELD_BACK_MS) == []


@pytest.mark.parametrize("ending", ["lost", "stop"])
def test_a_copy_that_is_held_back_ends_as_others_do(ending: str) -> None:
    """It is forgotten with its lease, and given back at the worker's end."""
    worker = engine()
    (old,), (new,) = some(1), some(1)
    worker.fetched("q", [old], 0)
    worker.take(0)
    worker.fetched("q", [new], 0)
    worker.take(0)
    if ending == "lost":
        worker.leases_lost([1], "gone", 0)
        assert len(worker.stops(0)) == 1  # of the copy that runs, for the delivery
    else:
        assert worker.stop(0) == [new]
    worker.finished(old, None, 1)
    assert worker.take(1) is None


# --- stopping what runs


def test_a_time_out_that_nobody_tells_of_stops_the_handler() -> None:
    """The server says so as a rule; when it is away, the worker does. The failure is reported."""
    worker = engine()
    (job,) = jobs = [Job(id=1, queue="q", data=None, token=1, timeout=50)]  # type: ignore[arg-type]
    worker.fetched("q", jobs, 0)
    worker.take(0)
    due = 50 + OVERTIME_MS
    assert worker.next_deadline(0) == due
    assert worker.stops(due - 1) == []
    (stop,) = worker.stops(due)
    assert stop.job is job
    assert "more than 50 ms" in stop.reason
    assert worker.stops(due) == []
    assert worker.errored(job, "CancelledError", due)
    assert worker.settlements(due) == [Fail(Outcome(job, error="CancelledError"))]
    assert worker.next_deadline(due) is None


def test_a_job_that_comes_back_after_its_time_out_has_timed_out() -> None:
    """The server has ended the attempt, and its next delivery is the first that tells."""
    worker = engine()
    first, again = (
        Job(id=1, queue="q", data=None, token=token, timeout=50)  # type: ignore[arg-type]
        for token in (1, 2)
    )
    worker.fetched("q", [first], 0)
    worker.take(0)
    worker.fetched("q", [again], 50)
    (stop,) = worker.stops(50)
    assert "more than 50 ms" in stop.reason


def test_a_job_is_stopped_once() -> None:
    """By its time-out, and not again when a heartbeat says that it is lost."""
    worker = engine()
    jobs = [Job(id=1, queue="q", data=None, token=1, timeout=50)]  # type: ignore[arg-type]
    worker.fetched("q", jobs, 0)
    worker.take(0)
    due = 50 + OVERTIME_MS
    assert len(worker.stops(due)) == 1
    worker.leases_lost([1], "gone", due + 10)
    assert worker.stops(due + 10) == []
    assert worker.stubborn(due + STUBBORN_MS) == jobs
    assert not worker.errored(jobs[0], "stopped", due + STUBBORN_MS)
    worker.fetched("q", some(1), due + STUBBORN_MS)
    assert worker.take(due + STUBBORN_MS) is not None


def test_what_does_not_stop_is_named_once_and_keeps_its_place() -> None:
    """Its place is not given to another job while the handler goes on."""
    worker = engine(concurrency=1)
    jobs = some(2)
    worker.fetched("q", jobs, 0)
    worker.take(0)
    worker.leases_lost([1], "gone", 0)
    assert worker.next_deadline(0) == STUBBORN_MS
    assert worker.stubborn(STUBBORN_MS - 1) == []
    assert worker.stubborn(STUBBORN_MS) == jobs[:1]
    assert worker.stubborn(STUBBORN_MS) == []
    assert worker.take(STUBBORN_MS) is None
    worker.errored(jobs[0], "at last", STUBBORN_MS)
    worker.fetched("q", some(1, start=9), STUBBORN_MS)
    assert worker.take(STUBBORN_MS) is not None


def test_what_stops_in_time_is_not_named() -> None:
    """Most do."""
    worker = engine()
    jobs = some(1)
    worker.fetched("q", jobs, 0)
    worker.take(0)
    worker.leases_lost([1], "gone", 0)
    assert not worker.errored(jobs[0], "stopped", 1)
    assert worker.stubborn(STUBBORN_MS) == []


# --- the end


def test_a_stopping_worker_takes_no_more() -> None:
    """What it has not started goes back, and what still arrives too."""
    worker = engine(concurrency=1)
    worker.fetches(0)
    run_fast(worker, 1)
    jobs = some(3, start=5)
    worker.fetched("q", jobs, 0)
    worker.take(0)
    assert worker.stop(0) == jobs[1:]
    assert worker.stopping
    assert worker.fetches(0) == []
    assert worker.fetched("q", some(1, start=9), 0) == some(1, start=9)


def test_it_is_done_when_everything_is_reported() -> None:
    """Not before: a result that is not acknowledged would be work done twice."""
    worker = engine()
    finish(worker, some(1))
    worker.stop(0)
    assert not worker.done
    (order,) = acknowledge(worker, 0)
    assert not worker.done
    worker.acknowledged(order, 1)
    assert worker.done


def test_running_jobs_are_given_up_after_the_grace_time() -> None:
    """They go back; what their handlers say later is dropped."""
    worker = engine()
    jobs = some(2)
    worker.fetched("q", jobs, 0)
    worker.take(0)
    worker.take(0)
    worker.stop(0)
    assert worker.next_deadline(0) == 100
    assert worker.given_up(99) == []
    worker.leases_lost([2], "gone", 99)
    assert worker.given_up(100) == jobs[:1]
    assert worker.done
    worker.finished(jobs[0], None, 101)
    assert worker.settlements(101) == []


def test_a_second_stop_can_only_shorten_the_grace_time() -> None:
    """Ctrl-C twice."""
    worker = engine()
    worker.fetched("q", some(1), 0)
    worker.take(0)
    worker.stop(0)
    worker.stop(10, 0)
    worker.stop(20)
    assert len(worker.given_up(20)) == 1


def test_reports_have_an_end_too() -> None:
    """A server that is away cannot keep a worker from ending."""
    worker = engine()
    finish(worker, some(1))
    acknowledge(worker, 0)
    worker.stop(0)
    assert not worker.overdue(100 + LAST_WORDS_MS - 1)
    assert worker.next_deadline(0) == 100 + LAST_WORDS_MS
    assert worker.overdue(100 + LAST_WORDS_MS)
    assert not engine().overdue(10**9)


# --- what has waited here is confirmed


def waiting_too_long() -> tuple[Engine, list[Job]]:
    """Return a worker whose second job has waited until its first is done, and both."""
    worker = engine(concurrency=1)
    run_fast(worker, 1)
    acknowledge(worker, 0)
    jobs = some(2, start=5)
    worker.fetched("q", jobs, 0)
    assert worker.take(0) is jobs[0]
    worker.finished(jobs[0], None, CONFIRM_MS + 1)
    return worker, jobs


def test_a_job_that_has_waited_starts_once_it_is_known_to_be_ours() -> None:
    """1. A place is free at last. 2. The server is asked; the place is kept. 3. It may start."""
    worker, (_, job) = waiting_too_long()
    assert worker.take(CONFIRM_MS + 1) is None
    assert worker.running == 1
    assert worker.confirms() == [job]
    assert worker.confirms() == []
    assert not worker.startable
    worker.confirmed(job)
    assert worker.startable
    assert worker.take(CONFIRM_MS + 2) is job
    assert worker.take(CONFIRM_MS + 2) is None


@pytest.mark.parametrize("when", ["asked", "answered"])
def test_a_job_whose_lease_is_gone_does_not_start(when: str) -> None:
    """Its place is free for another."""
    worker, (_, job) = waiting_too_long()
    worker.take(CONFIRM_MS + 1)
    if when == "answered":
        worker.confirmed(job)
    worker.leases_lost([job.id], "gone", CONFIRM_MS + 2)
    assert worker.stops(CONFIRM_MS + 2) == []
    worker.confirmed(job)
    assert worker.take(CONFIRM_MS + 2) is None
    assert worker.running == 0
    assert worker.lost == 1


def test_a_job_of_which_nothing_is_known_is_given_back() -> None:
    """The server does not answer."""
    worker, (_, job) = waiting_too_long()
    worker.take(CONFIRM_MS + 1)
    assert worker.unconfirmed(job)
    assert not worker.unconfirmed(job)
    assert worker.running == 0


@pytest.mark.parametrize("when", ["asked", "answered"])
def test_what_has_not_started_goes_back_at_the_end(when: str) -> None:
    """Though it has a place."""
    worker, (_, job) = waiting_too_long()
    worker.take(CONFIRM_MS + 1)
    if when == "answered":
        worker.confirmed(job)
    assert worker.stop(CONFIRM_MS + 2) == [job]
    assert worker.running == 0


def test_a_fresh_job_starts_at_once() -> None:
    """A question for each would cost a round trip."""
    worker = engine(concurrency=1)
    worker.fetched("q", some(1), 0)
    assert worker.take(CONFIRM_MS) is not None
    assert worker.confirms() == []
