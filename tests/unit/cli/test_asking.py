"""One request without a session."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flashq.cli.asking import ask, obstacle
from flashq.errors import JobNotFound, RequestTimeout
from flashq.protocol.jobs import GetState, StateReply
from tests.unit.client.fake_server import FakeServer, error


def test_an_answer(fake: FakeServer) -> None:
    """The reply alone, and a token first where there is one."""
    fake.answer("GETSTATE", lambda body: {"ok": True, "id": body["id"], "state": "active"})
    reply = ask(fake.url, GetState(id=7), StateReply, timeout_ms=5000, token="secret", route=3)
    assert reply.state == "active"
    assert [(body["cmd"], body["_route"]) for body in fake.requests] == [
        ("AUTH", 0xFFFD),
        ("GETSTATE", 3),
    ]


def test_an_error_is_raised_as_what_it_is(fake: FakeServer) -> None:
    """By its code, like the client's."""
    fake.answer("GETSTATE", lambda _: error("job_not_found", "Job 7 not found"))
    with pytest.raises(JobNotFound, match="Job 7 not found"):
        ask(fake.url, GetState(id=7), StateReply, timeout_ms=5000)


def test_silence_ends(fake: FakeServer) -> None:
    """A server that stands still must not stop the one who wants to know why."""
    fake.answer("GETSTATE", lambda _: None)
    with pytest.raises(RequestTimeout, match="no answer within 20 ms"):
        ask(fake.url, GetState(id=7), StateReply, timeout_ms=20)


def test_obstacles(fake: FakeServer, run_dir: Path) -> None:
    """Nobody there, nobody listening, or none."""
    assert obstacle(fake.url) is None
    assert obstacle(f"ipc://{run_dir}/other.sock") == "no such file or directory"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert obstacle(f"tcp://127.0.0.1:{port}") is None
    assert obstacle(f"tcp://127.0.0.1:{port}") == "connection refused"
