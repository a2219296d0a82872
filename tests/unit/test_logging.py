"""`flashq.observability.logging`: levels and formats."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import structlog

from flashq.observability.logging import configure_log, log_of


@pytest.fixture(autouse=True)
def _structlog() -> Iterator[None]:
    """Give the test's process its own configuration back."""
    yield
    structlog.reset_defaults()


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Log collectors parse each line; a value that JSON does not know is shown, not raised."""
    configure_log("info", "json")
    log_of("flashq-shard 3").warning("peer is away", peer=object(), bytes=5)
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "peer is away"
    assert line["program"] == "flashq-shard 3"
    assert line["level"] == "warning"
    assert line["bytes"] == 5
    assert line["timestamp"].endswith("Z")


def test_console_lines_name_program_and_event(capsys: pytest.CaptureFixture[str]) -> None:
    """The default is read by people."""
    configure_log("info", "console")
    log_of("flashq-router").info("ready", port=6788)
    shown = capsys.readouterr().err
    assert "ready" in shown
    assert "program=flashq-router" in shown
    assert "port=6788" in shown


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """`--log-level warning` keeps a log short."""
    configure_log("warning", "console")
    log_of("flashq-router").info("not this")
    log_of("flashq-router").warning("but this")
    shown = capsys.readouterr().err
    assert "not this" not in shown
    assert "but this" in shown


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_exception_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    """The log of an edge is where an unforeseen error is found."""
    configure_log("info", "json" if log_format == "json" else "console")
    try:
        os.stat("/nonexistent")
    except OSError:
        log_of("flashq-router").exception("cannot look")
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "FileNotFoundError" in shown
