"""`flashq.observability.logging`: levels and formats."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator

import pytest
import structlog

from flashq.observability.logging import configure_log, log_of
from flashq.observability.output import STDERR_FILENO, flush_outputs


@pytest.fixture(autouse=True)
def _structlog() -> Iterator[None]:
    """Give the test's process its own configuration back."""
    yield
    structlog.reset_defaults()


def test_json_is_one_object_per_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Log collectors parse each line; a value that JSON does not know is shown, not raised."""
    configure_log("info", "json")
    log_of("flashq-shard 3").warning("peer is away", peer=object(), bytes=5)
    line = json.loads(capfd.readouterr().err)
    assert line["event"] == "peer is away"
    assert line["program"] == "flashq-shard 3"
    assert line["level"] == "warning"
    assert line["bytes"] == 5
    assert line["timestamp"].endswith("Z")


def test_console_lines_name_program_and_event(capfd: pytest.CaptureFixture[str]) -> None:
    """The default is read by people."""
    configure_log("info", "console")
    log_of("flashq-router").info("ready", port=6788)
    shown = capfd.readouterr().err
    assert "ready" in shown
    assert "program=flashq-router" in shown
    assert "port=6788" in shown


def test_what_is_below_the_level_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """`--log-level warning` keeps a log short."""
    configure_log("warning", "console")
    log_of("flashq-router").info("not this")
    log_of("flashq-router").warning("but this")
    shown = capfd.readouterr().err
    assert "not this" not in shown
    assert "but this" in shown


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_exception_keeps_its_traceback(
    capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    """The log of an edge is where an unforeseen error is found."""
    configure_log("info", "json" if log_format == "json" else "console")
    try:
        os.stat("/nonexistent")
    except OSError:
        log_of("flashq-router").exception("cannot look")
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert "FileNotFoundError" in shown


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_log_that_cannot_be_written_ends_nobody_and_tells_what_it_misses(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full disk or a reader that is gone once ended the supervisor, and all with it, at the next
    line of the log."""
    configure_log("info", "json")
    log = log_of("flashq-router")
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if fd == STDERR_FILENO:
            raise OSError(number, os.strerror(number))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    log.info("one")
    log.info("two")
    flush_outputs()  # as a loop does before it waits
    monkeypatch.setattr(os, "write", real)
    log.info("three")
    flush_outputs()
    log.info("four")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [(line["event"], line.get("lines_lost")) for line in lines]
    assert told == [("three", None), ("lines of the log were lost", 2), ("four", None)]
    assert {line["program"] for line in lines} == {"flashq-router"}


def test_a_line_that_is_taken_in_pieces_is_written_whole(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that is nearly full takes only a part."""
    configure_log("info", "json")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    log_of("flashq-router").info("in pieces")
    monkeypatch.setattr(os, "write", real)
    assert json.loads(capfd.readouterr().err)["event"] == "in pieces"
