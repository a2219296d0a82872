"""`flashq.protocol.codec`: what reading a stranger's body may cost."""

from __future__ import annotations

from flashq.protocol import codec
from flashq.protocol.codec import encode, request_word


def test_to_read_a_word_keeps_nothing() -> None:
    """Story: each request of a stranger made a class and a decoder of it, which stayed for ever."""
    for json in (False, True):
        assert request_word(encode({"queue": "q", "cmd": "PUSH"}, json=json), json=json) == "PUSH"
    before = len(codec._decoders)
    for number in range(100):
        assert request_word(b"\xc1") == ""
        assert request_word(encode({"cmd": f"W{number}"})) == f"W{number}"
    assert len(codec._decoders) == before
