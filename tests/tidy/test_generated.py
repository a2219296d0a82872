"""Generated files say what their sources say."""

from __future__ import annotations

from tools.generate import GENERATED, ROOT, stale


def test_generated_files_are_fresh() -> None:
    """Whoever changes a source and forgets `python -m tools.generate` is told which file."""
    assert sorted(stale()) == []


def test_generated_files_say_so() -> None:
    """So that nobody edits them by hand."""
    for path, _ in GENERATED:
        head = "\n".join((ROOT / path).read_text(encoding="utf-8").splitlines()[:5])
        assert "enerated from" in head
