"""Pages, lanes and heaps: where jobs are found, and in which order they are handed out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashq.protocol.records import Options
from flashq.shard.indexes import PAGE_SEQUENCES, DueHeap, JobIndex, Lane, ReadyJobs, retire
from flashq.shard.lifecycle import ACTIVE, GONE, WAITING, Job

LIFO = Options(lifo=True)


def made(job_id: int, *, run_at: int = 0, lifo: bool = False, priority: int = 0) -> Job:
    """Return a waiting job."""
    options = LIFO if lifo else None
    return Job(job_id, "q", b"", priority, 0, run_at, WAITING, 0, options, 0, 0, None, None)


def rank(job: Job) -> tuple[int, int, int]:
    """Where a job stands in its lane."""
    return (0, -job.id, 0) if job.options is LIFO else (1, job.run_at, job.id)


class TestJobIndex:
    def test_finds_a_job_under_its_id_alone(self) -> None:
        """An id of another shard that falls on the same place must not find this shard's job."""
        index = JobIndex(3, 32)
        job = made(5 * 32 + 3)
        number, offset = index.place(job.id)
        index.page(number).jobs[offset] = job
        assert index.get(job.id) is job
        assert index.get(5 * 32 + 4) is None
        assert index.get(6 * 32 + 3) is None
        assert index.get(10**12) is None

    def test_finds_many_in_line_with_their_ids(self) -> None:
        """Ids of several pages, of other shards, and unknown ones, in any order."""
        index = JobIndex(1, 4)
        jobs = [made(sequence * 4 + 1) for sequence in (1, 2, 1023, 1024, 5000)]
        for job in jobs:
            number, offset = index.place(job.id)
            index.page(number).jobs[offset] = job
        ids = [jobs[4].id, 2, jobs[0].id, 4 * 10**6 + 1, jobs[3].id, jobs[2].id, jobs[1].id, 8]
        assert index.get_many(ids) == [
            jobs[4],
            None,
            jobs[0],
            None,
            jobs[3],
            jobs[2],
            jobs[1],
            None,
        ]
        assert index.get_many(ids) == [index.get(job_id) for job_id in ids]

    def test_a_page_holds_1024_sequences(self) -> None:
        index = JobIndex(0, 1)
        assert index.place(PAGE_SEQUENCES - 1) == (0, PAGE_SEQUENCES - 1)
        assert index.place(PAGE_SEQUENCES) == (1, 0)

    def test_newest_first(self) -> None:
        index = JobIndex(0, 1)
        for number in (2, 9, 4):
            index.page(number)
        assert index.newest_first() == [9, 4, 2]


class TestLane:
    def test_plain_jobs_come_out_as_they_went_in(self) -> None:
        lane = Lane()
        jobs = [made(job_id) for job_id in range(1, 6)]
        lane.extend(jobs[:3])
        lane.extend(jobs[3:])
        assert lane.peek(2) == jobs[:2]
        assert lane.pop(4) == jobs[:4]
        assert lane.live == 1

    def test_an_older_job_goes_before_newer_ones(self) -> None:
        """A released job keeps its place at the head of the queue."""
        lane = Lane()
        lane.extend([made(3), made(4)])
        lane.add(made(1))
        assert [job.id for job in lane.pop(3)] == [1, 3, 4]

    def test_extending_with_jobs_older_than_the_last(self) -> None:
        """A retry due later stands in the lane when a batch is pushed."""
        lane = Lane()
        lane.add(made(1, run_at=50))
        lane.extend([made(2, run_at=40), made(3, run_at=40)])
        assert [job.id for job in lane.pop(3)] == [2, 3, 1]

    def test_lifo_jobs_go_first_newest_first(self) -> None:
        lane = Lane()
        for job_id, lifo in ((1, False), (2, True), (3, False), (4, True)):
            lane.add(made(job_id, lifo=lifo))
        assert [job.id for job in lane.pop(4)] == [4, 2, 1, 3]

    def test_a_job_that_belongs_before_those_looked_at(self) -> None:
        """1. a lifo job is in the lane, so a look stages the first jobs; 2. an older job
        comes; 3. it must be handed out before the staged ones that follow it."""
        lane = Lane()
        for job_id in (5, 6, 7):
            lane.add(made(job_id))
        lane.add(made(8, lifo=True))
        assert [job.id for job in lane.peek(3)] == [8, 5, 6]
        lane.add(made(2))
        assert [job.id for job in lane.pop(5)] == [8, 2, 5, 6, 7]

    def test_dead_entries_are_skipped_and_swept(self) -> None:
        """Cancelling nearly everything must not leave the lane full of dead entries."""
        lane = Lane()
        jobs = [made(job_id) for job_id in range(1, 3001)]
        lane.extend(jobs)
        for job in jobs[:2999]:
            job.state = GONE
            lane.discard()
        assert len(lane.entries()) < 2000
        assert lane.pop(10) == [jobs[2999]]

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("add"), st.integers(0, 5), st.booleans()),
                st.tuples(st.just("extend"), st.integers(0, 5), st.integers(1, 4)),
                st.tuples(st.just("discard"), st.integers(0, 50), st.none()),
                st.tuples(st.just("peek"), st.integers(0, 5), st.none()),
                st.tuples(st.just("pop"), st.integers(0, 5), st.none()),
                st.tuples(st.just("return"), st.integers(0, 50), st.none()),
            ),
            max_size=60,
        )
    )
    def test_any_sequence_gives_the_order_of_a_sorted_list(
        self, steps: list[tuple[str, int, object]]
    ) -> None:
        """The lane against a plain list that is sorted at each look."""
        lane, next_id = Lane(), 1
        model: list[Job] = []
        taken: list[Job] = []
        for step, number, more in steps:
            if step == "add":
                job = made(next_id, run_at=number, lifo=bool(more))
                lane.add(job)
                model.append(job)
                next_id += 1
            elif step == "extend":
                assert isinstance(more, int)
                batch = [made(next_id + place, run_at=number) for place in range(more)]
                lane.extend(batch)
                model += batch
                next_id += more
            elif step == "discard" and model:
                gone = model.pop(number % len(model))
                retire(gone)
                lane.discard()
            elif step == "return" and taken:
                back = taken.pop(number % len(taken))
                back.state = WAITING
                lane.add(back)
                model.append(back)
            model.sort(key=rank)
            if step == "peek":
                assert lane.peek(number) == model[:number]
            elif step == "pop":
                assert lane.pop(number) == model[:number]
                for job in model[:number]:
                    job.state = ACTIVE
                taken += model[:number]
                del model[:number]
            assert lane.live == len(model)
        assert lane.pop(1000) == sorted(model, key=rank)


class TestReadyJobs:
    def test_higher_priority_first(self) -> None:
        ready = ReadyJobs()
        for job_id, priority in ((1, 0), (2, -5), (3, 7), (4, 0)):
            ready.lane(priority).add(made(job_id, priority=priority))
        assert [job.id for job in ready.peek(3)] == [3, 1, 4]
        assert [job.id for job in ready.pop(10)] == [3, 1, 4, 2]
        assert not ready.lanes()

    def test_a_lane_goes_with_its_last_job(self) -> None:
        """Thousands of priorities, each used once, must not leave a lane behind each."""
        ready = ReadyJobs()
        job = made(1, priority=3)
        ready.lane(3).add(job)
        job.state = GONE
        ready.discard(3)
        assert not ready.lanes()
        assert len(ready) == 0
        assert ready.peek(1) == []

    def test_nothing_to_take(self) -> None:
        ready = ReadyJobs()
        assert ready.peek(5) == []
        assert ready.pop(5) == []


class TestDueHeap:
    def test_pops_what_is_due_in_order(self) -> None:
        heap = DueHeap()
        for at_ms, job_id in ((30, 1), (10, 2), (20, 3), (10, 1)):
            heap.add(at_ms, job_id)
        assert heap.first_ms() == 10
        assert heap.pop_until(20) == [(10, 1), (10, 2), (20, 3)]
        assert len(heap) == 1
        assert heap.pop_until(29) == []

    def test_empty(self) -> None:
        assert DueHeap().first_ms() is None


@pytest.mark.parametrize("lifo", [False, True])
def test_retiring_leaves_an_equal_job_and_a_dead_object(lifo: bool) -> None:
    """The lane's entry of a job that was taken from the middle must not count any more."""
    job = made(1, lifo=lifo)
    extra = job.need_extra()
    fresh = retire(job)
    assert (fresh.id, fresh.state, fresh.extra) == (1, WAITING, extra)
    assert (job.state, job.extra) == (GONE, None)
