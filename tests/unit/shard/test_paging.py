"""Jobs read page by page are those that a recovery gives."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from flashq.protocol import records as r
from flashq.protocol.records import Entry, encode_entries
from flashq.shard.checkpoint import Checkpoint
from flashq.shard.excerpts import OF_JOBS, OF_NO_JOB, OF_ONE_JOB, excerpts
from flashq.shard.lifecycle import Damage
from flashq.shard.paging import PagedJobs
from tests.unit.shard.harness import ALICE, BOB, NOW_MS, Shard, paged, recovered, stored_jobs


class Stored:
    """What storage has of a shard: a checkpoint, and how much of the log that replaces."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.part: bytes | None = None
        self.pages: dict[int, bytes] = {}
        self.seq = 0

    def store(self) -> None:
        """Take a checkpoint."""
        checkpoint = Checkpoint(self.shard.state, full=self.part is None)
        ((_, self.part),) = checkpoint.take_part()
        self.pages |= dict(checkpoint.next_pages(10**9, 10**9))
        self.pages = {key: content for key, content in self.pages.items() if content}
        self.seq = checkpoint.seq

    def check(self) -> None:
        """Compare both ways to read it."""
        shard = self.shard
        log = shard.log[self.seq :]
        state = recovered(shard.state, self.part, self.pages, log)
        assert paged(shard.state, self.part, self.pages, self.seq, log) == stored_jobs(state)


def random_step(shard: Shard, random: Random, *, bytes_max: int) -> None:
    """Do something with some jobs, which may be of any page."""
    known = [job["id"] for job in shard.ask("GETJOBS", limit=1000)["jobs"]]
    some = random.sample(known, min(5, len(known)))
    held = [job["id"] for job in shard.ask("GETJOBS", state="active", limit=1000)["jobs"]]
    session = random.choice((None, ALICE, BOB))
    data = "x" * random.choice((0, 1, bytes_max))
    said: dict[str, Any] = {
        "priority": random.choice((0, 0, 5)),
        "delay": random.choice((0, 0, 30)),
        "lifo": random.random() < 0.2,
        "remove_on_complete": random.random() < 0.2,
    }
    match random.randrange(12):
        case 0:
            shard.state.next_sequence += random.choice((0, 10, 1000))
            jobs = [{"data": data, **said} for _ in range(random.choice((1, 40, 300)))]
            shard.ask("PUSHB", queue="q", jobs=jobs)
        case 1:
            jobs = [{"data": n, "priority": n % 2} for n in range(random.choice((2, 1100)))]
            shard.ask("PUSHB", queue="q", jobs=jobs)
        case 2 | 3:
            named: dict[str, Any] = {} if session is None else {"session": session}
            count = random.choice((1, 50, 400))
            shard.send("PULLB", queue="q", count=count, timeout=0, **named)
        case 4 | 5:
            ids = random.sample(held, random.randint(0, len(held)))
            shard.send("ACKB", ids=ids, results=random.choice((None, [*range(len(ids))])))
        case 6:
            for job_id in held[:3]:
                shard.send("FAIL", id=job_id, error="e")
                shard.send("PROGRESS", id=job_id, progress=3)
        case 7:
            children = [{"queue": "q", "data": n} for n in range(random.randrange(3))]
            shard.send("FLOW", queue="p", data=1, children=children)
            shard.send("PUSH", queue="q", data=1, depends_on=some[:2], **said)
        case 8:
            more: dict[str, dict[str, Any]] = {
                "CHANGEPRIORITY": {"priority": 9},
                "UPDATEJOB": {"data": data},
                "LOG": {"message": "m"},
            }
            for job_id in some:
                what = random.choice(("CANCEL", "PROMOTE", "CHANGEPRIORITY", "UPDATEJOB", "LOG"))
                shard.send(what, id=job_id, **more.get(what, {}))
        case 9:
            shard.send("RETRYDLQ", queue="q")
            shard.send("RELEASE", ids=held[:20])
        case 10:
            shard.send("PUSH", queue="q", data=data, durability="memory", **said)
            shard.ask("GOODBYE", session=random.choice((ALICE, BOB)))
        case 11:
            shard.send("PAUSE" if random.random() < 0.3 else "RESUME", queue="q")
    shard.move_clock(random.choice((0, 1, 20)))
    shard.tick()


@pytest.mark.parametrize("seed", range(12))
def test_as_a_recovery_gives_them(seed: int) -> None:
    """Random work on jobs of many pages, with a checkpoint now and then: before it, there is
    nothing but log; with large payloads, pages are stored in blocks."""
    random = Random(seed)
    bytes_max = (10, 20_000)[seed % 2]
    shard = Shard(2, 3, outcomes_max=10, completed_jobs_max=200)
    stored = Stored(shard)
    if seed % 2:
        shard.ask("PUSHB", queue="q", jobs=[{"data": "x" * bytes_max}] * 200)
        stored.store()
        assert any(key % 1024 for key in stored.pages), "no page was large"
    for step in range(30):
        random_step(shard, random, bytes_max=bytes_max)
        if random.random() < 0.1:
            stored.store()
        if step % 4 == 3:
            stored.check()


def test_time_goes_on_as_the_whole_log_says() -> None:
    """Entries about other pages let time pass too: a delay runs out, and a clock that was set back
    between two entries does not count."""
    shard = Shard()
    shard.push("q", delay=10)
    stored = Stored(shard)
    stored.store()
    shard.state.next_sequence = 5000
    shard.move_clock(500)
    shard.push("other")
    entry = Entry(NOW_MS + 3, [r.PrioritySet(1, 7), r.Delivered("q", [1], 99, b"")])
    log = [*shard.log[stored.seq :], entry]
    state = recovered(shard.state, stored.part, stored.pages, log)
    images = paged(shard.state, stored.part, stored.pages, stored.seq, log)
    assert images == stored_jobs(state)
    assert images[0].started_at == NOW_MS + 500


def test_a_push_that_waits_for_another_shard() -> None:
    """Its jobs are pending, on two pages: before the checkpoint, after it, and once refused."""
    shard = Shard(0, 2)
    shard.state.next_sequence = 1023
    stored = Stored(shard)
    jobs = [{"data": 1, "depends_on": [2001 + 2 * n]} for n in range(3)]
    shard.send("PUSHB", queue="q", jobs=jobs)
    stored.check()
    stored.store()
    stored.check()
    shard.log += [
        Entry(NOW_MS, [r.Confirmed(2046)]),
        Entry(NOW_MS, [r.Removed([2048], "rejected")]),
    ]
    stored.check()
    shard.log.append(Entry(NOW_MS, [r.DependencyKnown(2050, 2005, rejects=("no", "NO"))]))
    shard.log.append(Entry(NOW_MS, [r.Removed([2050], "rejected")]))
    stored.check()


def test_every_record_is_about_one_job_or_many_or_none() -> None:
    """A new kind of record is not forgotten: it would be a KeyError in the middle of an export."""
    kinds = [*OF_ONE_JOB, *OF_JOBS, *OF_NO_JOB, r.Pushed, r.Parked, r.Acked, r.Raised]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == set(r.AnyRecord.__args__)
    for kind, field in {**OF_ONE_JOB, **OF_JOBS}.items():
        assert field in kind.__struct_fields__


def test_what_belongs_to_a_span_goes_there() -> None:
    """Ids, payloads, priorities and results stay in line."""
    push = r.Pushed("q", 14, [b"a", b"b", b"c"], [1, 2, 3], 0, None)
    acked = r.Acked([32, 28, 30], [b"c", None, b"b"])
    found = excerpts(Entry(5, [push, acked, r.Promoted(33)]), 2, 16)
    assert found == {
        0: Entry(5, [r.Pushed("q", 14, [b"a", b"b"], [1, 2], 0, None),
                     r.Acked([28, 30], [None, b"b"])]),
        16: Entry(5, [r.Pushed("q", 16, [b"c"], [3], 0, None), r.Acked([32], [b"c"]),
                      r.Promoted(33)]),
    }  # fmt: skip


class TestDamage:
    """What does not fit together is said, as a recovery says it."""

    def test_a_hole_in_the_log(self) -> None:
        with pytest.raises(Damage, match="goes on at 5 after 3"):
            PagedJobs(0, 1, 3).take_log(5, 5, encode_entries([]))

    def test_of_the_log(self) -> None:
        paged_jobs = PagedJobs(0, 1, 0)
        with pytest.raises(Damage, match="1 to 2, ends at 1"):
            paged_jobs.take_log(1, 2, encode_entries([Entry(1, [])]))
        with pytest.raises(Damage, match="1 to 1: "):
            paged_jobs.take_log(1, 1, b"x")
        with pytest.raises(Damage, match="image of a job"):
            paged_jobs.take_log(1, 1, encode_entries([Entry(1, [r.Raised(b"x")])]))

    def test_of_the_part(self) -> None:
        with pytest.raises(Damage, match="checkpoint part"):
            PagedJobs(0, 1, 0).take_part(b"x")

    def test_of_a_page(self) -> None:
        with pytest.raises(Damage, match="page"):
            list(PagedJobs(0, 1, 0).jobs([(0, b"x")]))

    def test_a_log_that_the_checkpoint_has_already_changes_nothing(self) -> None:
        paged_jobs = PagedJobs(0, 1, 9)
        paged_jobs.take_log(1, 9, b"of no interest")
        assert list(paged_jobs.jobs([])) == []
