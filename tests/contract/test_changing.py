"""CANCEL, CHANGEPRIORITY, PROMOTE, UPDATEJOB and DISCARD: what they change besides the state."""

from __future__ import annotations

import pytest

from tests.contract.dealer import Dealer
from tests.contract.refusals import refused
from tests.contract.states import job_in, pull, push


@pytest.mark.covers("CANCEL")
def test_a_cancelled_job_is_kept_as_that_and_its_key_is_free(dealer: Dealer, queue: str) -> None:
    """Also an active one, whose worker then has nothing to acknowledge."""
    job_id = push(dealer, queue, unique_key="k")
    pull(dealer, queue)
    assert dealer.ask("CANCEL", id=job_id) == {"ok": True}
    assert dealer.ask("GETSTATE", id=job_id)["state"] == "cancelled"
    assert refused(dealer, "ACK", id=job_id) == f"Job {job_id} not found"
    push(dealer, queue, unique_key="k")


@pytest.mark.covers("CHANGEPRIORITY")
def test_a_changed_priority_changes_the_order(dealer: Dealer, queue: str) -> None:
    """A waiting job is sorted in again."""
    ids = [push(dealer, queue) for _ in range(3)]
    assert dealer.ask("CHANGEPRIORITY", id=ids[2], priority=5) == {"ok": True}
    assert [pull(dealer, queue)["id"] for _ in ids] == [ids[2], ids[0], ids[1]]


@pytest.mark.covers("PROMOTE")
def test_a_promoted_job_is_ready_now(dealer: Dealer, queue: str) -> None:
    """A parked pull has it at once."""
    job_id = job_in(dealer, queue, "delayed")
    parked = dealer.send("PULL", queue=queue)
    assert dealer.ask("PROMOTE", id=job_id) == {"ok": True}
    assert dealer.answer(parked)["job"]["id"] == job_id


@pytest.mark.covers("UPDATEJOB")
@pytest.mark.parametrize("word", ["UPDATEJOB", "UPDATE"])
def test_an_update_replaces_the_whole_payload(dealer: Dealer, queue: str, word: str) -> None:
    """Under its word and under the one that older documents used."""
    job_id = push(dealer, queue, data={"a": 1, "b": 2})
    assert dealer.ask(word, id=job_id, data={"c": 3}) == {"ok": True}
    assert pull(dealer, queue)["data"] == {"c": 3}


@pytest.mark.covers("UPDATEJOB")
def test_an_update_that_is_too_large_changes_nothing(dealer: Dealer, queue: str) -> None:
    """The bound is the one of a push."""
    job_id = push(dealer, queue, data=1)
    text = refused(dealer, "UPDATEJOB", id=job_id, data="x" * (1024 * 1024))
    assert text.startswith("Job data too large (")
    assert pull(dealer, queue)["data"] == 1


@pytest.mark.covers("DISCARD")
def test_a_discarded_job_is_a_dead_letter_without_an_attempt(dealer: Dealer, queue: str) -> None:
    """Whoever waits for it is told."""
    job_id = push(dealer, queue)
    waiting = dealer.send("WAITJOB", id=job_id)
    assert dealer.ask("DISCARD", id=job_id) == {"ok": True}
    assert dealer.answer(waiting)["error"] == "Job failed"
    (job,) = dealer.ask("DLQ", queue=queue)["jobs"]
    assert (job["id"], job.get("attempts", 0)) == (job_id, 0)
