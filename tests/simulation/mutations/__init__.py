"""Programming errors that a run has to notice: each mutation breaks one rule of the real server.

A mutation is a plausible mistake in the code that makes things durable. `test_checkers.py` plays
runs until one notices it, so that a check that has gone blind shows. How many of some seeds notice
each is told by `python -m tests.simulation.mutations --seeds 1..200`; one that few notice rests on
luck, and wants runs that provoke it or a check that looks closer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, NamedTuple

import pytest

from tests.simulation.setting import Profile
from tests.simulation.simulation import play

Break = Callable[[pytest.MonkeyPatch], None]


class Mutation(NamedTuple):
    """One error.

    Args:
        name: of the function that makes it.
        story: what is wrong, and what comes of it.
        apply: breaks the server until the patch is undone.
        noticed_as: the report has one of these in it; nothing when any report will do.
        profile: the runs that provoke it.
    """

    name: str
    story: str
    apply: Break
    noticed_as: tuple[str, ...]
    profile: Profile


MUTATIONS: Final[dict[str, Mutation]] = {}
"""All of them, by name."""


def mutation(*noticed_as: str, profile: Profile = Profile.ANY) -> Callable[[Break], Break]:
    """Register a function as a mutation."""

    def register(apply: Break) -> Break:
        story = " ".join((apply.__doc__ or "").split())
        MUTATIONS[apply.__name__] = Mutation(apply.__name__, story, apply, noticed_as, profile)
        return apply

    return register


@contextmanager
def instead(owner: object, method: str, other: Callable[..., Any]) -> Iterator[None]:
    """Let one object use something else for one of its methods, for as long as the block lasts."""
    vars(owner)[method] = other
    try:
        yield
    finally:
        del vars(owner)[method]


def notice(mutation: Mutation, seed: int) -> str | None:
    """Play one run of the server with the mutation; return how it was noticed, None if not."""
    with pytest.MonkeyPatch.context() as patch:
        mutation.apply(patch)
        failure = play(seed, profile=mutation.profile).failure
    return None if failure is None else f"{type(failure).__name__}: {failure}"


def load() -> None:
    """Fill `MUTATIONS`."""
    for module in ("shard", "coordinator", "checkpoints"):
        import_module(f"{__name__}.{module}")
