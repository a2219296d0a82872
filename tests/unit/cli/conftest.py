"""What runs a verb in this process, and a fake server for it to talk to."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from flashq.cli.main import main
from tests.unit.client.fake_server import FakeServer


class Outcome(NamedTuple):
    """How a verb ended: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        (line,) = self.out.splitlines()
        return msgspec.json.decode(line)

    @property
    def documents(self) -> list[Any]:
        """The JSON lines on stdout."""
        return [msgspec.json.decode(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return what runs `flashq` with some words, in an environment without settings."""
    for name in [name for name in os.environ if name.startswith("FLASHQ_")]:
        monkeypatch.delenv(name)

    def run(*words: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        status = main(words)
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Return a run directory with a short path, in the mode that it has to have."""
    with tempfile.TemporaryDirectory(prefix="fq") as directory:
        yield Path(directory)


@pytest.fixture
def fake(run_dir: Path) -> Iterator[FakeServer]:
    """Return a fake server in the run directory."""
    with FakeServer(f"ipc://{run_dir}/router.sock") as running:
        yield running


@pytest.fixture
def ask(run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs `flashq` against the fake server."""
    monkeypatch.setenv("FLASHQ_URL", fake.url)
    return run
