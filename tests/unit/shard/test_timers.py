"""Deadlines: acted on when due, forgotten when nobody cares, and not kept for ever."""

from __future__ import annotations

from flashq.shard.timers import Timers


class Subject:
    def __init__(self, name: str) -> None:
        self.name = name
        self.open = 1


def test_acts_on_what_is_due_in_the_order_of_deadlines() -> None:
    """Whatever the order in which they were set."""
    timers, done = Timers(), []
    for at, name in ((30, "c"), (10, "a"), (20, "b")):
        timers.at(at, lambda subject: done.append(subject.name), Subject(name))
    assert timers.next_ms() == 10
    timers.run_due(20)
    assert done == ["a", "b"]
    assert timers.next_ms() == 30


def test_equal_deadlines_in_the_order_they_were_set() -> None:
    """So that a replay of the same inputs does the same."""
    timers, done = Timers(), []
    for name in "xyz":
        timers.at(5, lambda subject: done.append(subject.name), Subject(name))
    timers.run_due(5)
    assert done == ["x", "y", "z"]


def test_a_closed_subject_no_longer_counts() -> None:
    """An answered pull must neither be answered again nor wake the shard."""
    timers, done = Timers(), []
    answered, parked = Subject("answered"), Subject("parked")
    timers.at(1, lambda subject: done.append(subject.name), answered)
    timers.at(2, lambda subject: done.append(subject.name), parked)
    answered.open = 0
    assert timers.next_ms() == 2
    timers.run_due(10)
    assert done == ["parked"]
    assert timers.next_ms() is None


def test_a_subject_closed_by_one_before_it_in_the_same_run() -> None:
    """One act may answer what the next was about."""
    timers, done = Timers(), []
    second = Subject("second")

    def close_second(subject: Subject) -> None:
        done.append(subject.name)
        second.open = 0

    timers.at(1, close_second, Subject("first"))
    timers.at(2, close_second, second)
    timers.run_due(5)
    assert done == ["first"]


def test_what_an_act_adds_waits_for_the_next_run() -> None:
    """A deadline that sets itself anew at once must not hang the shard."""
    timers, done = Timers(), []

    def again(subject: Subject) -> None:
        done.append(subject.name)
        timers.at(1, again, subject)

    timers.at(1, again, Subject("a"))
    timers.run_due(5)
    assert done == ["a"]
    timers.run_due(5)
    assert done == ["a", "a"]


def test_dead_deadlines_do_not_pile_up() -> None:
    """A minute of pulls that are answered at once leaves no minute's worth of deadlines."""
    timers = Timers()
    for at in range(10_000):
        subject = Subject("pull")
        timers.at(60_000 + at, lambda _: None, subject)
        subject.open = 0
    assert len(timers._heap) < 2000
    assert timers.next_ms() is None
