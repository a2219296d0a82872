"""A whole server of which a program dies, or the supervisor hangs: operators see it where they
look."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from flashq.cli.main import main
from tests.gateway.http_client import base_of
from tests.server import PATIENCE_S, Server, eventually

StartServer = Callable[..., Server]
Diagnosis = Callable[[Server, str], list[tuple[str, str]]]


def supervisor_of(server: Server) -> dict[str, Any]:
    """Return what STATS says of the supervisor."""
    dealer = server.dealer()
    try:
        supervisor = dealer.ask("STATS")["supervisor"]
    finally:
        dealer.close()
    assert isinstance(supervisor, dict)
    return supervisor


def program_of(server: Server, title: str) -> dict[str, Any]:
    """Return what STATS says of one program."""
    (found,) = (one for one in supervisor_of(server)["programs"] if one["program"] == title)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def flashq(capfd: pytest.CaptureFixture[str]) -> Callable[[Server, str], Any]:
    """Return what runs a verb, whatever its exit status, and returns its document."""

    def flashq(server: Server, verb: str) -> Any:
        capfd.readouterr()
        main((verb, "--json", "--url", server.ipc_url))
        return json.loads(capfd.readouterr().out)

    return flashq


@pytest.fixture
def diagnosis(flashq: Callable[[Server, str], Any]) -> Diagnosis:
    """Return what gives verdict and text of all that the doctor finds in answer to a question."""

    def found(server: Server, check: str) -> list[tuple[str, str]]:
        findings = flashq(server, "doctor")["findings"]
        return [(one["verdict"], one["text"]) for one in findings if one["check"] == check]

    def diagnosis(server: Server, check: str) -> list[tuple[str, str]]:
        """The doctor waits for 2 s; what is merely slow then is asked again."""
        return eventually(lambda: found(server, check), f"what the doctor says of {check}")

    return diagnosis


def fetched(server: Server, path: str) -> httpx.Response:
    """Return what the gateway answers, however long that takes."""
    return httpx.get(f"{base_of(server)}{path}", timeout=PATIENCE_S)


def series(server: Server, name: str) -> list[str]:
    """Return the lines of one metric that are not 0."""
    page = fetched(server, "/metrics/prometheus").text
    return [line for line in page.splitlines() if line.startswith(name) and line[-4:] != " 0.0"]


def test_a_program_that_was_killed_is_shown(
    start_server: StartServer, flashq: Callable[[Server, str], Any], diagnosis: Diagnosis
) -> None:
    """
    1. Nothing has happened, which is what everybody says.
    2. SIGKILL of a shard, which comes back.
    3. STATS, the doctor, `flashq stats` and the metrics say which, how often, when and why.
    """
    server = start_server()
    before = program_of(server, "flashq-shard 1")
    assert before.keys() == {"program", "started_at"}
    assert series(server, "flashq_restarts_total") == []
    assert diagnosis(server, "programs")[0][0] == "ok"
    server.restart_shard(1)
    after = program_of(server, "flashq-shard 1")
    at = after["started_at"]
    assert at > before["started_at"]
    assert after["restarts"] == {"signal": 1}
    assert after["last_restart"] == {"at": at, "reason": "signal", "detail": "SIGKILL"}
    stats = flashq(server, "stats")
    assert after in stats["supervisor"]["programs"]
    assert [one["program"] for one in stats["supervisor"]["programs"] if "restarts" in one] == [
        "flashq-shard 1"
    ]
    ((verdict, text),) = diagnosis(server, "programs")
    assert verdict == "warning"
    assert text.startswith("flashq-shard 1 was started again ")
    assert "SIGKILL ended it; 1 restart since" in text
    lines = eventually(lambda: series(server, "flashq_restarts_total"), "a restart in the metrics")
    assert lines == ['flashq_restarts_total{program="flashq-shard 1",reason="signal"} 1.0']
    # It is over.
    eventually(lambda: fetched(server, "/health").status_code == 200, "a healthy server")


def test_a_supervisor_that_hangs_is_shown(start_server: StartServer, diagnosis: Diagnosis) -> None:
    """
    1. The supervisor is stopped: everything works, and nothing would be started again.
    2. Its programs see that it is silent for longer than they may be themselves.
    3. It goes on, and all is well.
    """
    server = start_server("--watchdog-ms", "2000")
    server.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: fetched(server, "/health").status_code == 503, "an unhealthy server")
        problems = fetched(server, "/health").json()["data"]["problems"]
        assert any(each.startswith("the supervisor's loop has not turned") for each in problems)
        assert supervisor_of(server)["silent_ms"] > 2000
        ((verdict, text),) = diagnosis(server, "supervisor")
        assert verdict == "wrong"
        assert text.startswith(f"process {server.process.pid} hangs: ")
        assert series(server, "flashq_supervisor_up ") == []
    finally:
        server.process.send_signal(signal.SIGCONT)
    eventually(lambda: fetched(server, "/health").status_code == 200, "a healthy server")
    assert diagnosis(server, "supervisor")[0][0] == "ok"
    eventually(lambda: series(server, "flashq_supervisor_up "), "a supervisor that is up")
