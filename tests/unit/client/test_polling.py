"""Waiting for descriptors, in Pythons of all kinds."""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq.client.polling import Poll, SelectPoll, SystemPoll, make_poll
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.test_ownership import TIMEOUT_S

ROOT = Path(__file__).parents[3]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("make", [SystemPoll, SelectPoll])
def test_a_readable_descriptor_ends_the_wait(make: type[Poll], pipe: tuple[int, int]) -> None:
    """Any of them, and none that was given up."""
    poll = make()
    poll.register(pipe[0])
    assert poll.poll(0) == []
    assert poll.poll(1) == []
    os.write(pipe[1], b"x")
    assert poll.poll(None) == [pipe[0]]
    poll.unregister(pipe[0])
    assert poll.poll(0) == []


def test_what_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the time of its use: patches come after imports."""
    assert isinstance(make_poll(), SystemPoll)
    monkeypatch.delattr(select, "poll")
    assert isinstance(make_poll(), SelectPoll)


@pytest.mark.parametrize("how", ["without poll", "without poll and epoll", "gevent", "eventlet"])
def test_a_client_works_in_a_patched_python(how: str, server: FakeServer) -> None:
    """Greenlets take the place of threads, and their waits that of the system's."""
    if "without" not in how and importlib.util.find_spec(how) is None:
        pytest.skip(f"there is no {how}")
    program = [sys.executable, "-W", "ignore", "-m", "tests.unit.client.patched", how, server.url]
    ended = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "True None\n"), ended.stderr
    assert len(server.done) == 20
    assert server.seen("GOODBYE")
