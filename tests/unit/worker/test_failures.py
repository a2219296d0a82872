"""What is kept of an exception: each part of it, within the bound."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.worker.failures import (
    CAUSES_MAX,
    ERROR_CHARS_MAX,
    FRAMES_MAX,
    error_text,
    shortened,
)
from tests.unit.worker.endings import Unprintable


def raised(error: BaseException, *, deep: int = 0) -> BaseException:
    """Return an exception with a traceback."""

    def level(left: int) -> None:
        if left:
            level(left - 1)
        else:
            raise error

    with pytest.raises(type(error)) as caught:
        level(deep)
    return caught.value


def test_the_innermost_call_of_a_deep_traceback_stays() -> None:
    """First what it says, then where; the end of a traceback says most."""
    text = error_text(raised(ValueError("the reason"), deep=200))
    assert text.startswith("ValueError: the reason\n")
    assert text.endswith("raise error")
    assert text.count("in level") <= FRAMES_MAX


def test_a_long_message_does_not_push_the_traceback_out() -> None:
    """Nor is its own end lost."""
    text = error_text(raised(ValueError("head " + "x" * 10_000 + " tail")))
    assert len(text) <= ERROR_CHARS_MAX
    assert text.startswith("ValueError: head xxx")
    assert " tail\n" in text
    assert "left out" in text
    assert text.endswith("raise error")


def chained(length: int, message: str = "cause") -> BaseException:
    """Return an exception with so many causes, one behind the other."""
    error: BaseException = raised(KeyError(f"{message} 0"))
    for number in range(1, length + 1):
        try:
            raise RuntimeError(f"{message} {number}") from error
        except RuntimeError as next_error:
            error = next_error
    return error


def test_causes_are_named_with_their_tracebacks() -> None:
    """`raise ... from`, and what was raised while handling."""
    text = error_text(chained(1))
    assert text.startswith("RuntimeError: cause 1\n")
    assert "\ncaused by KeyError: 'cause 0'\n" in text
    assert "in chained" in text
    assert "in raised" in text


def second_after_first(*, hidden: bool) -> None:
    """Raise while handling, and hide what was handled or not."""
    try:
        raise KeyError("first")
    except KeyError:
        if hidden:
            raise ValueError("second") from None
        raise ValueError("second")  # noqa: B904 - this is what the test is about


def test_what_was_being_handled_is_named_unless_it_is_hidden() -> None:
    """By `from None`."""
    with pytest.raises(ValueError, match="second") as caught:
        second_after_first(hidden=False)
    assert "\nraised while handling KeyError: 'first'\n" in error_text(caught.value)
    with pytest.raises(ValueError, match="second") as caught:
        second_after_first(hidden=True)
    assert "while handling" not in error_text(caught.value)


@pytest.mark.parametrize("message", ["cause", "long " * 3000])
def test_a_long_chain_is_bounded_and_keeps_what_is_near(message: str) -> None:
    """The nearest causes are there, each with a share of the room."""
    text = error_text(chained(12, message))
    assert len(text) <= ERROR_CHARS_MAX
    assert text.count("\ncaused by ") == CAUSES_MAX
    assert text.count("raise RuntimeError") >= 3


def test_a_chain_that_bites_its_tail_ends() -> None:
    """Somebody has set a cause by hand."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert error_text(first) == "ValueError: first\ncaused by ValueError: second"


def test_a_group_names_what_is_in_it() -> None:
    """As a task group raises it."""
    text = error_text(ExceptionGroup("several", [ValueError("one"), KeyError("two")]))
    assert text.startswith("ExceptionGroup: several (2 sub-exceptions)")
    assert "one of the group: ValueError: one" in text
    assert "one of the group: KeyError: 'two'" in text


def test_an_exception_that_cannot_be_shown_has_a_text() -> None:
    """Whatever its own code does."""
    assert "Unprintable" in error_text(Unprintable())

    class Mean(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise ZeroDivisionError

    assert "Mean" in error_text(Mean())


@pytest.mark.parametrize("room", [0, 1, 10, 44, 45, 50, 999, 1000, 1001])
def test_a_shortened_text_is_never_longer_than_asked(room: int) -> None:
    """Whatever is left for it."""
    text = "".join(chr(97 + n % 26) for n in range(1000))
    found = shortened(text, room)
    assert len(found) <= room
    if room >= 1000:
        assert found == text
    elif room >= 50:
        assert found.startswith("a")
        assert found.endswith(text[-1])


def test_half_a_character_does_not_keep_the_text_from_being_sent() -> None:
    """As in the name of a file that is not UTF-8."""
    text = error_text(FileNotFoundError(f"no file {chr(0xDC80)}"))
    assert text.encode() == rb"FileNotFoundError: no file \udc80"
    assert len(error_text(ValueError(chr(0xDC80) * 5000))) <= ERROR_CHARS_MAX
