"""Checkpoints: the exact state at one sequence, written in slices while work goes on."""

from __future__ import annotations

from random import Random

import pytest

from flashq.protocol.internal import COORDINATOR
from flashq.protocol.records import decode_entries, encode_entries
from flashq.shard.checkpoint import PART, Checkpoint, JobLoader, encode_part, load_part, mark_clean
from flashq.shard.evolve import evolve
from flashq.shard.invariants import canonical, validate
from flashq.shard.lifecycle import Damage
from flashq.shard.state import ShardState
from tests.unit.shard.harness import ALICE, Shard, recovered


@pytest.fixture
def shard() -> Shard:
    """A shard with something of everything."""
    shard = Shard()
    shard.ask("PUSHB", queue="q", jobs=[{"data": n, "priority": n % 3} for n in range(2100)])
    shard.ask("ACKB", ids=shard.pull_ids(count=50), results=[*range(50)])
    for job_id in shard.pull_ids(count=10, session=ALICE)[:5]:
        shard.ask("FAIL", id=job_id, error="e")
    shard.make_failed(queue="dead", unique_key="u", job_id="c")
    shard.ask("FLOW", queue="p", data=1, children=[{"queue": "c", "data": 1}])
    shard.push("d", depends_on=[shard.push("x")], delay=500, debounce_id="d", lifo=True)
    shard.push(session=ALICE, n=3, done_below=2)
    shard.ask("PAUSE", queue="paused")
    shard.ask("OBLITERATE", queue="nothing")
    shard.push("m", durability="memory", job_id="volatile")
    return shard


def finish(checkpoint: Checkpoint) -> tuple[bytes, dict[int, bytes]]:
    """Return a checkpoint's part and all its pages."""
    ((name, part),) = checkpoint.take_part()
    assert name == PART
    pages: dict[int, bytes] = {}
    while not checkpoint.is_done:
        pages |= dict(checkpoint.next_pages(1, 1))
    return part, pages


class TestExact:
    def test_gives_the_state_of_its_beginning(self, shard: Shard) -> None:
        before = canonical(shard.state)
        state = shard.checkpointed()
        validate(state)
        assert canonical(state) == before
        assert state.queues.keys() == shard.state.queues.keys() - {"m"}

    def test_is_given_in_slices_bounded_in_jobs_and_in_bytes(self, shard: Shard) -> None:
        """A page is not cut: the one that reaches a bound is the last of its slice."""
        shard.ask("PUSHB", queue="large", jobs=[{"data": "x" * 1000}] * 3000)

        def slices(jobs_max: int, bytes_max: int) -> list[list[int]]:
            checkpoint = Checkpoint(shard.state, full=True)
            sizes = []
            while not checkpoint.is_done:
                pages = checkpoint.next_pages(jobs_max, bytes_max)
                sizes.append([len(content) for _, content in pages])
            return sizes

        assert len(slices(10**9, 10**9)) == 1
        for some in (slices(10**9, 1_500_000), slices(1500, 10**9)):
            assert [len(pages) for pages in some[:1]] == [2]
        for pages in slices(10**9, 1_500_000):
            assert sum(pages[:-1]) < 1_500_000

    def test_whatever_happens_while_it_is_written(self, shard: Shard) -> None:
        """Each page is written as it was, though its jobs have changed, gone, and new ones come."""
        before = canonical(shard.state)
        checkpoint = Checkpoint(shard.state, full=True)
        ((_, part),) = checkpoint.take_part()
        shard.ask("ACKB", ids=shard.pull_ids(count=400))
        shard.ask("PUSHB", queue="q", jobs=[{"data": n} for n in range(900)])
        pages = dict(checkpoint.next_pages(1, 1))
        shard.sweep("DRAIN", queue="q")
        shard.ask("RETRYDLQ", queue="dead")
        shard.advance(20_000)
        while not checkpoint.is_done:
            pages |= dict(checkpoint.next_pages(1, 1))
        state = recovered(shard.state, part, pages)
        validate(state)
        assert canonical(state) == before

    def test_and_the_log_after_it_gives_the_live_state(self, shard: Shard) -> None:
        checkpoint = Checkpoint(shard.state, full=True)
        shard.ask("ACKB", ids=shard.pull_ids(count=400), results=[1] * 400)
        part, pages = finish(checkpoint)
        shard.ask("CANCEL", id=shard.push())
        state = recovered(shard.state, part, pages)
        for entry in decode_entries(encode_entries(shard.log[checkpoint.seq :])):
            evolve(state, entry)
        validate(state)
        assert canonical(state) == canonical(shard.state)

    def test_a_recovered_shard_works_on(self, shard: Shard) -> None:
        after = Shard(
            epoch=2, state=shard.checkpointed(), now_ms=shard.now_ms, mono_ms=7, log=[*shard.log]
        )
        assert after.pull_ids(count=3) == shard.pull_ids(count=3)
        assert after.push(session=ALICE, n=3) == shard.push(session=ALICE, n=3)
        assert after.refuse("PUSH", queue="d", data=1, debounce_id="d")[0] == "debounced"
        assert after.refuse("PUSH", queue="dead", data=1, unique_key="u")[0] == "duplicate"
        after.ask("ACK", id=after.pull("c")["id"])
        assert after.pull("p")["children_completed"] == 1
        after.advance(500)
        after.ask("ACK", id=after.pull("x")["id"])
        assert after.pull("d")["lifo"]
        assert len(after.state.mailboxes[COORDINATOR].pending) == 1


class TestIncremental:
    def test_only_changed_pages_are_written(self, shard: Shard) -> None:
        finish(Checkpoint(shard.state, full=True))
        job_id = shard.pull()["id"]
        checkpoint = Checkpoint(shard.state, full=False)
        _, pages = finish(checkpoint)
        assert list(pages) == [job_id // 1024 * 1024]
        _, pages = finish(Checkpoint(shard.state, full=False))
        assert pages == {}

    def test_a_change_during_one_belongs_to_the_next(self, shard: Shard) -> None:
        checkpoint = Checkpoint(shard.state, full=True)
        job_id = shard.pull()["id"]
        finish(checkpoint)
        _, pages = finish(Checkpoint(shard.state, full=False))
        assert list(pages) == [job_id // 1024 * 1024]

    def test_an_abandoned_one_leaves_nothing_behind(self, shard: Shard) -> None:
        checkpoint = Checkpoint(shard.state, full=True)
        shard.pull_ids(count=500)
        shard.push()
        pages = shard.state.index.pages.values()
        assert any(page.aside for page in pages)
        assert any(page.written for page in pages)
        checkpoint.abandon()
        assert not any(page.is_to_be_written for page in shard.state.index.pages.values())
        before = canonical(shard.state)
        assert canonical(shard.checkpointed()) == before

    def test_a_large_page_is_written_block_by_block_and_only_what_changed(self) -> None:
        """
        1. 1,024 jobs of 4 KiB are more than a page may have: it is written in blocks of 16.
        2. One of them changes, and one block is written; new jobs come, and theirs are.
        3. All go, and every block is dropped. What is stored gives the live state each time.
        """
        shard = Shard(outcomes_max=0)
        ids = shard.ask("PUSHB", queue="q", jobs=[{"data": "x" * 4096}] * 900)["ids"]
        part, stored = finish(Checkpoint(shard.state, full=True))
        assert len(stored) == 64
        assert all(len(content) < 16 * 4200 for content in stored.values())

        def store() -> list[int]:
            nonlocal part, stored
            part, pages = finish(Checkpoint(shard.state, full=False))
            stored = {key: content for key, content in {**stored, **pages}.items() if content}
            state = recovered(shard.state, part, stored)
            validate(state)
            assert canonical(state) == canonical(shard.state)
            return sorted(pages)

        assert store() == []
        shard.ask("CANCEL", id=ids[500])
        assert store() == [ids[500] // 16 * 16]
        shard.ask("PUSHB", queue="q", jobs=[{"data": "y" * 4096}] * 40)
        assert store() == [(ids[-1] + 1 + 16 * block) // 16 * 16 for block in range(3)]
        again = Shard(epoch=2, state=recovered(shard.state, part, stored), now_ms=shard.now_ms)
        again.ask("OBLITERATE", queue="q")
        _, pages = finish(Checkpoint(again.state, full=False))
        assert not any({**stored, **pages}.values())
        shard.ask("DRAIN", queue="q")
        shard.ask("PUSHB", queue="q", jobs=[{"data": "x"}] * 2000)
        store()
        assert stored

    def test_a_page_that_grows_large_while_it_is_written(self) -> None:
        """Its jobs change after the checkpoint has begun: they are written as they were, and the
        next one writes them as they are."""
        shard = Shard()
        shard.ask("PUSHB", queue="q", jobs=[{"data": "x" * 4096}] * 900)
        before = canonical(shard.state)
        checkpoint = Checkpoint(shard.state, full=True)
        shard.ask("ACKB", ids=shard.pull_ids(count=300))
        ((_, part),) = checkpoint.take_part()
        stored = dict(checkpoint.next_pages(1, 1))
        assert not checkpoint.is_done
        shard.ask("ACKB", ids=shard.pull_ids(count=300))
        while not checkpoint.is_done:
            stored |= dict(checkpoint.next_pages(1, 1))
        assert canonical(recovered(shard.state, part, stored)) == before
        part, pages = finish(Checkpoint(shard.state, full=False))
        assert canonical(recovered(shard.state, part, {**stored, **pages})) == canonical(
            shard.state
        )

    def test_a_page_that_is_empty_is_dropped_from_storage(self) -> None:
        shard = Shard(outcomes_max=0)
        shard.ask("PUSHB", queue="q", jobs=[{"data": n} for n in range(1100)])
        _, stored = finish(Checkpoint(shard.state, full=True))
        assert sorted(stored) == [0, 1024]
        shard.sweep("DRAIN", queue="q")
        _, pages = finish(Checkpoint(shard.state, full=False))
        assert pages == {0: b"", 1024: b""}
        assert all(page.outcomes for page in shard.state.index.pages.values())

    @pytest.mark.parametrize("seed", range(12))
    def test_generations_on_generations_with_pages_coming_and_going(self, seed: int) -> None:
        """Random work over many pages, outcomes forgotten soon, and a checkpoint always under way:
        storage's pages with its log always give the live state."""
        random = Random(seed)
        shard = Shard(outcomes_max=4, completed_jobs_max=6)
        stored: tuple[bytes, dict[int, bytes], int] | None = None
        checkpoint: Checkpoint | None = None
        part = b""
        pages: dict[int, bytes] = {}
        for _ in range(150):
            shard.move_clock(random.choice((0, 1, 50)))
            step = random.randrange(8)
            if step < 2:
                shard.state.next_sequence += random.choice((0, 0, 300, 1024))
                shard.push(
                    delay=random.choice((0, 0, 40)), remove_on_complete=random.random() < 0.5
                )
            elif step == 2:
                jobs = [{"data": 1}] * random.randrange(1, 5)
                shard.state.next_sequence += random.choice((0, 1020))
                shard.ask("PUSHB", queue="q", jobs=jobs)
            elif step == 3:
                shard.ask("ACKB", ids=shard.pull_ids(count=random.randrange(1, 4)))
            elif step == 4:
                jobs = shard.ask("GETJOBS", limit=50)["jobs"]
                for job in random.sample(jobs, min(2, len(jobs))):
                    shard.send("CANCEL", id=job["id"])
            elif step == 5 and checkpoint is None:
                checkpoint = Checkpoint(shard.state, full=stored is None)
                ((_, part),) = checkpoint.take_part()
                pages = {}
            elif checkpoint is not None:
                pages |= dict(checkpoint.next_pages(1, 1))
                if checkpoint.is_done:
                    before = {} if stored is None else stored[1]
                    current = {number: page for number, page in (before | pages).items() if page}
                    stored, checkpoint = (part, current, checkpoint.seq), None
            shard.tick()
            if stored is not None:
                state = recovered(shard.state, stored[0], stored[1])
                for entry in decode_entries(encode_entries(shard.log[stored[2] :])):
                    evolve(state, entry)
                state.advance(shard.state.now_ms, until=shard.state.due_mark)
                validate(state)
                assert canonical(state) == canonical(shard.state)


class TestDamage:
    def test_of_the_part(self, shard: Shard) -> None:
        for content in (b"", b"\x90", encode_part(shard.state)[:-5]):
            with pytest.raises(Damage, match="checkpoint part"):
                load_part(ShardState(0, 1), content)

    def test_another_shards_part(self, shard: Shard) -> None:
        with pytest.raises(Damage, match="checkpoint of shard 0 of 1"):
            load_part(ShardState(1, 2), encode_part(shard.state))

    def test_of_a_page(self, shard: Shard) -> None:
        with pytest.raises(Damage, match="page"):
            JobLoader(ShardState(0, 1)).load(b"\x91\x01")

    def test_a_pending_job_without_its_push(self) -> None:
        shard = Shard(0, 2)
        shard.send("PUSH", queue="q", data=1, depends_on=[1])
        checkpoint = Checkpoint(shard.state, full=True)
        _, pages = finish(checkpoint)
        loader = JobLoader(ShardState(0, 2))
        for content in pages.values():
            loader.load(content)
        with pytest.raises(Damage, match="pending for no push"):
            loader.finish()


def test_a_clean_state_need_not_be_written_again(shard: Shard) -> None:
    """After recovery the first checkpoint holds only what changed since."""
    mark_clean(shard.state)
    _, pages = finish(Checkpoint(shard.state, full=False))
    assert pages == {}


def test_jobs_share_their_options_again(shard: Shard) -> None:
    """Memory after a restart must not be more than before."""
    jobs = [{"data": n, "max_attempts": 3, "tags": ["t"]} for n in range(20)]
    ids = shard.ask("PUSHB", queue="shared", jobs=jobs)["ids"]
    state = shard.checkpointed()
    options = {id(job.options) for job in state.index.get_many(ids) if job is not None}
    assert len(options) == 1
