"""`flashq.supervisor.process`: what `flashq serve` refuses before it forks anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashq.supervisor.process import main


def test_a_setting_out_of_bounds_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """Refused once by the supervisor, and not by 34 children."""
    assert main(["--shards", "1025"], environ={}) == 1
    assert capfd.readouterr().err == (
        'flashq serve: --shards is "1025", but must be a whole number from 1 to 1024 processes\n'
    )


def test_a_run_directory_open_to_others_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever can write there could take the router's socket."""
    tmp_path.chmod(0o777)
    assert main([], environ={"FLASHQ_RUN_DIR": str(tmp_path)}) == 1
    assert "is not safe" in capfd.readouterr().err
