"""`flashq.places`: how many peers there may be, and who makes room."""

from __future__ import annotations

from flashq.places import Places


def name(number: int) -> bytes:
    """Return a peer's name."""
    return b"%d" % number


def test_peers_that_are_known_stay_until_they_leave() -> None:
    """Then every place is taken, and nobody comes in."""
    places: Places[bytes] = Places(3, 2, 1000)
    for number in range(3):
        assert not places.is_full
        assert places.enter(name(number), number) is None
        places.know(name(number))
    assert places.is_full
    assert places.next_deadline_ms() is None
    places.leave(name(1))
    assert not places.is_full
    assert len(places) == 2


def test_strangers_have_a_share_and_the_oldest_makes_room() -> None:
    """Nobody who holds connections open keeps a newcomer out."""
    places: Places[bytes] = Places(10, 3, 1000)
    leavers = [places.enter(name(number), number) for number in range(6)]
    assert leavers == [None, None, None, name(0), name(1), name(2)]
    assert (len(places), places.strangers) == (3, 3)
    places.know(name(4))
    assert places.enter(name(6), 6) is None
    assert places.enter(name(7), 7) == name(3)


def test_a_stranger_also_makes_room_when_the_places_are_taken() -> None:
    """Known peers come first."""
    places: Places[bytes] = Places(3, 3, 1000)
    for number in range(3):
        places.enter(name(number), number)
    places.know(name(0))
    assert not places.is_full
    assert places.enter(name(3), 3) == name(1)
    assert len(places) == 3


def test_strangers_have_some_seconds() -> None:
    """Those that are over are told in order; who showed a token is not among them."""
    places: Places[bytes] = Places(10, 10, 1000)
    for number in range(4):
        places.enter(name(number), 100 * number)
    places.know(name(1))
    assert places.next_deadline_ms() == 1000
    assert places.overdue(999) == []
    assert places.overdue(1200) == [name(0), name(2)]
    places.doubt(name(1), 5000)
    for number in (0, 2, 3):
        places.leave(name(number))
    assert places.next_deadline_ms() == 6000
