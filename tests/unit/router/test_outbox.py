"""Messages are cut into bounded pieces, and bytes under way are counted without a table."""

from __future__ import annotations

from itertools import chain

from flashq.protocol.framing import HEADER_BYTES
from flashq.router.outbox import MESSAGE_BYTES_MAX, MESSAGE_FRAMES_MAX, Lane, split


def test_a_small_box_is_one_message() -> None:
    """The very list, uncopied."""
    frames = [b"h", b"b"] * 500
    assert list(split(frames)) == [frames]
    large = [b"h", bytes(2 * MESSAGE_BYTES_MAX)]
    assert list(split(large)) == [large]


def test_messages_are_bounded_by_frames_and_bytes() -> None:
    """Pairs stay together and in order; a pair that is too large goes alone."""
    many = [b"%d" % number for number in range(2 * MESSAGE_FRAMES_MAX + 2)]
    pieces = list(split(many))
    assert [len(piece) for piece in pieces] == [MESSAGE_FRAMES_MAX, MESSAGE_FRAMES_MAX, 2]
    assert list(chain(*pieces)) == many
    third = bytes(MESSAGE_BYTES_MAX // 3)
    heavy = [b"h", third] * 4 + [b"h", bytes(2 * MESSAGE_BYTES_MAX)] + [b"h", b"b"]
    pieces = list(split(heavy))
    assert [len(piece) for piece in pieces] == [4, 4, 2, 2]
    assert list(chain(*pieces)) == heavy


def header(lane: Lane, size: int) -> bytes:
    """A header with a pair's account behind it."""
    return bytes(HEADER_BYTES) + lane.admit(size)


def test_bytes_under_way_are_settled_by_the_replies() -> None:
    """Across the end of one era, not of two; and a wrap of its number does no harm."""
    lane = Lane(b"S")
    for _ in range(300):
        old = header(lane, 100)
        lane.end_era()
        young = header(lane, 10)
        assert lane.bytes_under_way == 110
        lane.settle(old, HEADER_BYTES)
        assert lane.bytes_under_way == 10
        lost = header(lane, 1000)
        lane.end_era()
        lane.settle(young, HEADER_BYTES)
        assert lane.bytes_under_way == 1000
        lane.end_era()
        assert lane.bytes_under_way == 0
        lane.settle(lost, HEADER_BYTES)
        assert lane.bytes_under_way == 0


def test_a_lost_peer_takes_its_accounts_along() -> None:
    """Late replies of its old process settle nothing."""
    lane = Lane(b"S")
    old = header(lane, 100)
    lane.forget_under_way()
    new = header(lane, 10)
    lane.settle(old, HEADER_BYTES)
    assert lane.bytes_under_way == 10
    lane.settle(new, HEADER_BYTES)
    assert lane.bytes_under_way == 0
