"""Which deliveries are held: the newest of each job, until it is settled or lost."""

from __future__ import annotations

from flashq.client.leases import HeldLeases
from flashq.client.results import Job


def job(job_id: int, token: int | None) -> Job:
    """Return a delivered job."""
    return Job(id=job_id, queue="q", data=None, token=token)  # type: ignore[arg-type]


def held(*pairs: tuple[int, int]) -> HeldLeases:
    """Return a table that holds these."""
    leases = HeldLeases()
    leases.take(job(*pair) for pair in pairs)
    return leases


def test_a_job_without_token_is_not_held() -> None:
    """A server without leases has none to name."""
    leases = HeldLeases()
    leases.take([job(4, None)])
    assert len(leases) == 0
    assert not leases.holds(job(4, None))


def test_a_newer_delivery_replaces_the_older_one() -> None:
    """Only the current token keeps a job."""
    leases = held((4, 1), (4, 2))
    assert leases.holds(job(4, 2))
    assert not leases.holds(job(4, 1))


def test_settling_takes_only_the_delivery_that_was_meant() -> None:
    """The answer to an old delivery's ack comes after the new delivery."""
    leases = held((4, 2), (8, 3), (12, 5))
    leases.settle([4, 8, 12, 16], [1, 3, None, 9])
    assert leases.by_shard(4) == {0: {4: 2, 12: 5}}


def test_an_id_alone_means_the_delivery_that_is_held() -> None:
    """`ack(id)` settles what this client was given, whatever it is."""
    leases = held((4, 2))
    assert leases.tokens_of([4, 8], None) == [2, None]
    assert leases.tokens_of([4, 8], [None, 7]) == [2, 7]
    assert leases.tokens_of([4], [1]) == [1]


def test_shards_are_told_of_their_own_jobs() -> None:
    """A heartbeat goes to one shard."""
    assert held((4, 1), (5, 2), (8, 3)).by_shard(4) == {0: {4: 1, 8: 3}, 1: {5: 2}}


def test_losses_are_told_once_and_only_of_what_was_named() -> None:
    """Not of what was handed out anew, nor of what is just being settled."""
    leases = held((4, 1), (8, 2), (12, 3))
    named = {4: 1, 8: 1, 12: 3, 16: 4}
    assert leases.lose([4, 8, 12, 16], named, being_settled={12}) == [4]
    assert leases.lose([4], named, being_settled=set()) == []


def test_what_was_left_is_named_once_more_and_then_let_go() -> None:
    """In that time its holder may try again to end it."""
    leases = held((1, 11), (2, 12), (3, 13))
    leases.leave([1, 2], [11, 12])
    leases.let_go(being_settled=())
    assert leases.by_shard(1) == {0: {1: 11, 2: 12, 3: 13}}
    leases.let_go(being_settled={2})
    assert leases.by_shard(1) == {0: {2: 12, 3: 13}}
    leases.let_go(being_settled=())
    leases.let_go(being_settled=())
    assert leases.by_shard(1) == {0: {3: 13}}
    assert not leases.has_left


def test_a_newer_delivery_is_not_let_go_with_the_one_that_was_left() -> None:
    """1. The end of a delivery is not known. 2. The job is handed out again to the same client."""
    leases = held((1, 11))
    leases.leave([1], [11])
    leases.take([job(1, 12)])
    for _ in range(3):
        leases.let_go(being_settled=())
    assert leases.by_shard(1) == {0: {1: 12}}
    leases.leave([1], [11])
    assert not leases.has_left
