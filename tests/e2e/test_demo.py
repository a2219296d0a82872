"""The demo: the main job on real input, with deaths on the way."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo import report
from examples.source_index import index_file, source_files, totals
from tests.server import eventually

ROOT = Path(__file__).parents[2]


def demo(*flags: str) -> subprocess.Popen[str]:
    """Start the demo; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@pytest.mark.timeout(120)
def test_a_short_demo() -> None:
    """A shard and a worker are killed, and every file's figures are those of a plain loop."""
    running = demo("--limit", "96")
    output, _ = running.communicate()
    assert running.returncode == 0, output
    words = " ".join(output.split())
    assert "killed shard" in words
    assert "has all of them" in words
    assert "killed a worker" in words
    assert "96 of 96 files are equal" in words


@pytest.mark.timeout(120)
def test_a_demo_that_is_stopped_leaves_nothing_behind() -> None:
    """In the middle, right after a shard's death, with workers that have just been stopped."""
    running = demo("--limit", "400")
    assert running.stdout is not None
    with running.stdout:
        for line in running.stdout:
            if "killed shard" in line:
                break
        else:
            pytest.fail("no shard was killed")
        started = descendants(running.pid)
        running.send_signal(signal.SIGTERM)
        running.stdout.read()
    assert running.wait() == 128 + signal.SIGTERM
    assert len(started) > 4
    eventually(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in started),
        "the end of everybody, which init takes note of",
    )


def test_a_difference_is_shown_and_fails() -> None:
    """One figure of one file that is off, or one file that is missing, is a failure."""
    files = source_files(3)
    plain = {name: index_file(name) for name in files}
    shown = Console(file=io.StringIO(), width=200)
    assert report(shown, dict(plain), plain)
    wrong = {**plain, files[0]: {**plain[files[0]], "lines": -1}}
    assert not report(shown, wrong, plain)
    assert not report(shown, {name: plain[name] for name in files[1:]}, plain)
    assert totals(plain)["lines"] == sum(figures["lines"] for figures in plain.values())
