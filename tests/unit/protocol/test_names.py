"""The rule for queue names, with the texts that clients match on."""

from __future__ import annotations

import pytest

from flashq.errors import FlashQError, QueueNameEmpty, QueueNameInvalid, QueueNameTooLong
from flashq.protocol.names import check_queue_name


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "队列", "q" * 256, "é" * 128, "٣"])
def test_letters_and_digits_of_any_script_are_allowed(name: str) -> None:
    """Up to 256 bytes of UTF-8."""
    check_queue_name(name)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", QueueNameEmpty),
        ("q" * 257, QueueNameTooLong),
        ("é" * 129, QueueNameTooLong),
        (" " * 300, QueueNameTooLong),
        *((name, QueueNameInvalid) for name in ("a b", "a/b", "a:b", "a@b", "a\n", "*", "a\0")),
    ],
)
def test_everything_else_is_refused(name: str, error: type[FlashQError]) -> None:
    """Empty first, then too long, then what is in it."""
    with pytest.raises(error):
        check_queue_name(name)


def test_the_bound_is_a_setting() -> None:
    """For servers that want other names."""
    check_queue_name("q" * 300, bytes_max=300)
    with pytest.raises(QueueNameTooLong):
        check_queue_name("qqqq", bytes_max=3)
