"""Where requests end in a stream of bytes, and what is too large to be one."""

from __future__ import annotations

from flashq.gateway.frames import SKIPPED_BYTES_MAX, FrameReader, LineReader, TooLarge, reader_for


def test_the_first_byte_says_the_framing() -> None:
    """As older servers decided it."""
    assert [type(reader_for(first)) for first in b"{\n\r"] == [LineReader] * 3
    assert [type(reader_for(first)) for first in b"\x00 [\t"] == [FrameReader] * 4


def test_lines_in_pieces() -> None:
    """A line is complete with its line feed, or with the end of the stream."""
    reader = LineReader()
    assert reader.feed(b'{"a"') == []
    assert reader.feed(b":1}\n\n{") == [b'{"a":1}', b""]
    assert reader.feed(b"}") == []
    assert reader.finish() == [b"{}"]
    assert reader.finish() == []


def test_a_line_at_the_bound_is_none_too_many() -> None:
    """The bound counts the line without its end."""
    reader = LineReader(4)
    assert reader.feed(b"1234\n") == [b"1234"]
    (item,) = reader.feed(b"12345")
    assert isinstance(item, TooLarge)
    assert item.head == b"1234"  # however it comes: more is known only by luck
    assert not item.is_fatal
    assert reader.feed(b"67" * 100) == []
    assert reader.feed(b"8\nok\n") == [b"ok"]


def test_a_skipped_line_at_the_end_was_answered() -> None:
    """It is not told a second time."""
    reader = LineReader(4)
    assert len(reader.feed(b"12345")) == 1
    assert reader.finish() == []


def test_frames_in_pieces() -> None:
    """The length may come in pieces too."""
    reader = FrameReader()
    stream = b"\x00\x00\x00\x02ab" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x01c"
    found = [item for byte in stream for item in reader.feed(bytes([byte]))]
    assert found == [b"ab", b"", b"c"]
    assert reader.feed(b"\x00\x00\x00\x02a") == []
    assert reader.finish() == []


def test_a_frame_beyond_the_bound_is_skipped() -> None:
    """To the byte, in the same piece or a later one."""
    reader = FrameReader(2)
    (large, after) = reader.feed(b"\x00\x00\x00\x03abc\x00\x00\x00\x01d")
    assert isinstance(large, TooLarge)
    assert not large.is_fatal
    assert after == b"d"
    assert len(reader.feed(b"\x00\x00\x00\x05ab")) == 1
    assert reader.feed(b"cde\x00\x00\x00\x01f") == [b"f"]


def test_a_length_of_another_protocol_is_fatal() -> None:
    """Nobody can skip so much in earnest."""
    (item,) = FrameReader().feed((SKIPPED_BYTES_MAX + 1).to_bytes(4, "big"))
    assert isinstance(item, TooLarge)
    assert item.is_fatal
