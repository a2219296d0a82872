"""What is measured of storage: what waits, what was stored, and what it has lost."""

from __future__ import annotations

from flashq.coordinator.measures import Measures
from flashq.coordinator.outbox import Group


def group(log_bytes: int) -> Group:
    """A group with so much log."""
    made = Group()
    made.log_bytes = log_bytes
    return made


def test_the_oldest_group_that_waits_tells_the_lag() -> None:
    """Groups are stored in their order, several at once."""
    measures = Measures()
    assert measures.lag_ms(1000) == 0
    groups = [group(70), group(30), group(5)]
    for at_ms, submitted in zip((1000, 1010, 1300), groups, strict=True):
        measures.submitted(submitted, at_ms)
    assert (measures.groups_waiting, measures.bytes_waiting) == (3, 105)
    assert measures.lag_ms(1500) == 500
    measures.committed(groups[:2])
    assert measures.lag_ms(1500) == 200
    assert measures.committed_bytes == 100
    measures.committed(groups[2:])
    assert (measures.groups_waiting, measures.bytes_waiting) == (0, 0)
    assert measures.lag_ms(1500) == 0


def test_what_was_lost_does_not_wait_for_ever() -> None:
    """Storage came back with less: what was on its way to it is given anew, by who has it."""
    measures = Measures()
    measures.submitted(group(10), 1000)
    measures.begun_anew()
    told = measures.told(5000, 7, 100)
    assert (told.lag_ms, told.losses, told.log_bytes, told.log_bytes_max) == (0, 1, 7, 100)
