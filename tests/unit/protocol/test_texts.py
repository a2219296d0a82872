"""Texts that are too long to be kept: head, tail, and what is missing between them."""

from __future__ import annotations

import pytest

from flashq.protocol.texts import TEXT_CHARS_MAX, shortened


@pytest.mark.parametrize("length", [0, 1, 9999, 10_000])
def test_a_text_within_the_bound_stays_as_it_is(length: int) -> None:
    """Nothing is left out of it."""
    assert shortened("x" * length) == ("x" * length, 0)


@pytest.mark.parametrize("length", [101, 110, 999, 10_001, 100_000, 12_345_678])
@pytest.mark.parametrize("bound", [100, TEXT_CHARS_MAX])
def test_head_and_tail_are_kept_and_the_middle_is_counted(length: int, bound: int) -> None:
    """The text that is kept fits the bound, and says how much it lacks."""
    text = "".join(chr(0x4E00 + place % 20_000) for place in range(length))
    kept, left_out = shortened(text, bound)
    if length <= bound:
        assert (kept, left_out) == (text, 0)
        return
    assert len(kept) <= bound
    head, said, tail = kept.partition(f"\n... {left_out} characters left out ...\n")
    assert said
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + left_out + len(tail) == length
    assert abs(len(head) - len(tail)) <= 1
