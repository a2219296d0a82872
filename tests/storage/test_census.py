"""The census: parts that were lost or changed do not fit it, and its number only rises."""

from __future__ import annotations

import pytest

from flashq.errors import StorageDamaged
from flashq.storage.census import CENSUS_PART, Census, read_census, taken
from flashq.storage.port import Put

PARTS = {"cron.a": b"1", "cron.b": b"2", "cron.\0\udcff\u20ac": b"3"}


def counted(parts: dict[str, bytes], number: int = 5) -> dict[str, bytes]:
    """Parts with their census."""
    return {**parts, CENSUS_PART: taken(parts, number).put().content}


def test_nothing_has_been_counted_at_first() -> None:
    """A new storage has no parts."""
    assert read_census({}) == Census()


def test_it_follows_what_is_put() -> None:
    """New ones, other contents, and ones that go; the last of a name counts."""
    parts: dict[str, bytes] = {}
    census = Census()
    for number, writes in enumerate(
        [
            [Put("a", b"1"), Put("b", b"2")],
            [Put("a", b"3"), Put("a", b"4"), Put("c", b"")],
            [Put("b", b""), Put("c", b"1"), Put(CENSUS_PART, b"ignored")],
        ],
        1,
    ):
        census = census.after(parts, writes, number)
        for write in writes:
            parts.pop(write.name, None)
            if write.content and write.name != CENSUS_PART:
                parts[write.name] = write.content
        assert census == taken(parts, number)
    assert read_census(counted(parts, 3)) == census


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda parts: parts.pop("cron.a"), "there are 2 of 3"),
        (lambda parts: parts.update({"cron.c": b"1"}), "there are 4 of 3"),
        (lambda parts: parts.update({"cron.a": b"0"}), "but not the same"),
        (lambda parts: parts.pop(CENSUS_PART), "is missing"),
        (lambda parts: parts.update({CENSUS_PART: b""}), "is broken"),
        (lambda parts: parts.update({CENSUS_PART: parts[CENSUS_PART][:-1]}), "is broken"),
        (
            lambda parts: parts.update({CENSUS_PART: b"\1" + parts[CENSUS_PART][1:]}),
            "is broken",
        ),
    ],
)
def test_what_does_not_fit_is_damage(spoil: object, said: str) -> None:
    """Lost, invented or changed parts, and a census that is itself not whole."""
    parts = counted(PARTS)
    assert callable(spoil)
    spoil(parts)
    with pytest.raises(StorageDamaged, match=said):
        read_census(parts)
