"""Every way that a handler can end, as data: what it does, and what is reported of it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

MARK: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("mark", default="clean")
LATE_CANCELS: Final[list[asyncio.Task[Any]]] = []
"""Tasks of jobs that have ended, which somebody cancels later."""


class Panic(BaseException):
    """As what a Rust extension raises when it panics."""


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise SystemExit(9)


class Hostile:
    """A result that ends the program when it is encoded."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError


def recurse(depth: int = 0) -> int:
    """Go on without end."""
    return recurse(depth + 1) + 1


def throw(error: BaseException | type[BaseException]) -> NoReturn:
    """Raise it."""
    raise error


def deep() -> list[Any]:
    """Return a list nested beyond what can be encoded."""
    value: list[Any] = []
    for _ in range(5_000):
        value = [value]
    return value


#: what both kinds of handlers do by name, and how the report of the failure begins
ENDINGS: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    "exception": (lambda: throw(ValueError("as asked")), "ValueError: as asked"),
    "exit": (lambda: sys.exit(3), "SystemExit: 3"),
    "interrupt": (lambda: throw(KeyboardInterrupt), "KeyboardInterrupt"),
    "generator exit": (lambda: throw(GeneratorExit), "GeneratorExit"),
    "cancelled": (lambda: throw(asyncio.CancelledError("by itself")), "asyncio.exceptions.Cancel"),
    "panic": (lambda: throw(Panic("index out of bounds")), "tests.unit.worker.endings.Panic: ind"),
    "stop iteration": (lambda: throw(StopIteration(5)), ""),
    "stop async iteration": (lambda: throw(StopAsyncIteration), ""),
    "recursion": (recurse, "RecursionError: maximum recursion"),
    "memory": (lambda: throw(MemoryError()), "MemoryError"),
    "group": (
        lambda: throw(BaseExceptionGroup("both", [ValueError("one"), SystemExit(2)])),
        "BaseExceptionGroup: both",
    ),
    "unprintable": (lambda: throw(Unprintable()), "tests.unit.worker.endings.Unprintable"),
    "object": (object, "TypeError: the result cannot be encoded"),
    "generator": (lambda: (n for n in range(3)), "TypeError: the result cannot be encoded"),
    "hostile": (Hostile, "TypeError: the result cannot be encoded"),
    "deep": (deep, "TypeError: the result cannot be encoded"),
    "big number": (lambda: 2**80, "TypeError: the result cannot be encoded"),
}


async def before_waiting(job: Any) -> Any:
    """End in the first step, without having waited."""
    if job.data == "good":
        assert MARK.get() == "clean"
        return "good"
    MARK.set("dirty")
    return ENDINGS[job.data][0]()


async def after_waiting(job: Any) -> Any:
    """End after the handler has waited."""
    await asyncio.sleep(0)
    return await before_waiting(job)


def on_thread(job: Any) -> Any:
    """End on a thread."""
    if job.data == "good":
        assert MARK.get() == "clean"
        return "good"
    MARK.set("dirty")
    return ENDINGS[job.data][0]()
