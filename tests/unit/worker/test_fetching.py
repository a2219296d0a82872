"""Fetching over several queues: no more than there is room for, nothing forgotten, all in turn."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from flashq.client.results import Job
from flashq.worker.engine import Engine
from flashq.worker.fetching import RETRY_MS, Fetch, Fetching, Order, Pass, Wait


def several(*queues: str, batch_max: int = 10) -> Fetching:
    """Return what asks several queues, all of them waited for."""
    fetching = Fetching(queues, batch_max)
    assert fetching.orders(1, 0) == [Wait(queue) for queue in queues]
    return fetching


def test_a_queue_with_jobs_gets_all_the_room() -> None:
    """While the others are waited for: they have none."""
    fetching = several("a", "b", "c")
    fetching.waited("b", has_jobs=True)
    assert fetching.orders(4, 0) == [Fetch("b", 4, parked=False)]
    assert fetching.asked == 4
    fetching.fetched("b", 4)
    assert fetching.asked == 0
    assert fetching.orders(2, 0) == [Fetch("b", 2, parked=False)]


def test_a_queue_that_gave_less_is_waited_for_again() -> None:
    """It has no more, or may hand out no more now."""
    fetching = several("a", "b")
    fetching.waited("a", has_jobs=True)
    fetching.orders(4, 0)
    fetching.fetched("a", 3)
    assert fetching.orders(1, 0) == [Wait("a")]


def test_room_is_divided_and_deep_queues_take_turns() -> None:
    """Three queues with more jobs than there are places, and two places."""
    fetching = several("a", "b", "c")
    for queue in "abc":
        fetching.waited(queue, has_jobs=True)
    assert fetching.orders(2, 0) == [
        Fetch("a", 1, parked=False),
        Fetch("b", 1, parked=False),
        Pass("c"),
    ]
    fetching.fetched("a", 1)
    fetching.fetched("b", 1)
    assert fetching.orders(1, 0) == [Fetch("c", 1, parked=False)]
    fetching.fetched("c", 1)
    assert fetching.orders(8, 0) == [
        Fetch("a", 3, parked=False),
        Fetch("b", 3, parked=False),
        Fetch("c", 2, parked=False),
    ]


def test_a_call_without_room_is_passed_once_and_remembered() -> None:
    """Another worker hears of the jobs; this one looks as soon as it has room."""
    fetching = several("a", "b")
    fetching.waited("a", has_jobs=True)
    assert fetching.orders(0, 0) == [Pass("a")]
    assert fetching.orders(0, 0) == []
    assert fetching.orders(3, 0) == [Fetch("a", 3, parked=False)]


def test_a_wait_that_ended_for_its_time_is_made_again() -> None:
    """The server lets nobody wait for ever."""
    fetching = several("a", "b")
    fetching.waited("a", has_jobs=False)
    assert fetching.orders(1, 0) == [Wait("a")]


@pytest.mark.parametrize("asked", ["wait", "fetch"])
def test_a_request_that_failed_is_made_again_after_a_while(asked: str) -> None:
    """The other queues go on."""
    fetching = several("a", "b")
    if asked == "fetch":
        fetching.waited("a", has_jobs=True)
        fetching.orders(2, 0)
    fetching.failed("a", 10)
    assert fetching.asked == 0
    assert fetching.orders(1, 11) == []
    assert fetching.next_deadline(11) == 10 + RETRY_MS
    assert fetching.orders(1, 10 + RETRY_MS) == [Wait("a")]
    assert fetching.next_deadline(10 + RETRY_MS) is None


def test_no_fetch_is_larger_than_a_batch() -> None:
    """However much room there is."""
    fetching = several("a", "b", batch_max=3)
    fetching.waited("a", has_jobs=True)
    assert fetching.orders(100, 0) == [Fetch("a", 3, parked=False)]
    sole = Fetching(["a"], 3)
    assert sole.orders(100, 0) == [Fetch("a", 3)]


class Server:
    """Queues, as naive as can be, and the requests of one worker that are under way."""

    def __init__(self, queues: list[str]) -> None:
        self.jobs: dict[str, list[Job]] = {queue: [] for queue in queues}
        self.under_way: list[Order] = []
        self.deliveries = 0
        self._last = 0

    def push(self, queue: str) -> None:
        """Add a job."""
        self._last += 1
        job = Job(id=self._last, queue=queue, data=None, token=self._last)  # type: ignore[arg-type]
        self.jobs[queue].append(job)

    def may_answer(self, order: Order) -> bool:
        """Tell whether a request has an answer now."""
        waits = isinstance(order, Wait) or (isinstance(order, Fetch) and order.parked)
        return not waits or bool(self.jobs[order.queue])

    def take(self, queue: str, count: int) -> list[Job]:
        """Hand jobs out."""
        jobs, self.jobs[queue] = self.jobs[queue][:count], self.jobs[queue][count:]
        self.deliveries += len(jobs)
        return jobs


@pytest.mark.parametrize("seed", range(40))
def test_every_job_runs_once_with_as_many_deliveries_as_runs(seed: int) -> None:
    """
    Up to 40 queues, few places, slow handlers; everything in any order, some requests fail, and
    other workers take jobs that this one was told of. No job is handed out that has no place, and
    when nothing more comes, every job has run.
    """
    chance = random.Random(seed)
    queues = [f"q{number}" for number in range(chance.choice([1, 2, 5, 40]))]
    places = chance.randint(1, 6)
    worker = Engine(queues, concurrency=places, batch_max=10, grace_ms=100)
    server = Server(queues)
    running: list[Job] = []
    ran: Counter[int] = Counter()
    now, elsewhere = 0.0, 0

    def step(kind: str) -> None:
        nonlocal elsewhere
        if kind == "push":
            server.push(chance.choice(queues))
        elif kind == "steal":
            elsewhere += len(server.take(chance.choice(queues), 1))
        elif kind == "end" and running:
            job = running.pop(chance.randrange(len(running)))
            ran[job.id] += 1
            worker.finished(job, None, now + 55.0)
        elif kind == "answer":
            answerable = [order for order in server.under_way if server.may_answer(order)]
            if answerable:
                answer(chance.choice(answerable))
        elif kind == "fail" and server.under_way:
            order = chance.choice(server.under_way)
            server.under_way.remove(order)
            if not isinstance(order, Pass):
                worker.fetch_failed(order.queue, now)

    def answer(order: Order) -> None:
        server.under_way.remove(order)
        if isinstance(order, Fetch):
            assert worker.fetched(order.queue, server.take(order.queue, order.count), now) == []
        elif isinstance(order, Wait):
            worker.waited(order.queue, has_jobs=True)

    def settle() -> None:
        while (job := worker.take(now)) is not None:
            running.append(job)
        server.under_way += worker.fetches(now)
        asked = sum(order.count for order in server.under_way if isinstance(order, Fetch))
        assert asked + len(running) <= places
        open_for = [order.queue for order in server.under_way if not isinstance(order, Pass)]
        assert len(open_for) == len(set(open_for))

    kinds = ["push", "push", "end", "end", "answer", "answer", "answer", "steal", "fail"]
    for _ in range(600):
        now += 60.0  # a step is longer than the time for which a worker fetches ahead
        settle()
        step(chance.choice(kinds))
    for _ in range(4000):
        now += 60.0
        settle()
        step(chance.choice(["end", "answer"]))
    left = sum(map(len, server.jobs.values()))
    assert (left, running) == (0, [])
    assert set(ran.values()) <= {1}
    assert server.deliveries == sum(ran.values()) + elsewhere
