"""Whether systemd would take the units as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("flashq*.*") if path.suffix != ".toml")
PROGRAMS = "/opt/flashq/bin/"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_complain_about(unit: str, tmp_path: Path) -> None:
    """But that the programs are not installed here."""
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace(f"ExecStart={PROGRAMS}", "ExecStart=/bin/echo "))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in verified.stderr.splitlines() if "flashq" in line]
    assert (verified.returncode, complaints) == (0, [])


@pytest.mark.parametrize("program", ["flashq", "flashq-gateway", "flashq-router"])
def test_programs_that_know_tokens_can_be_told_to_read_them_again(program: str) -> None:
    """A reload must not end one that has no tokens file, which SIGHUP would."""
    lines = (DEPLOY / f"{program}.service").read_text().splitlines()
    (reload,) = [line for line in lines if line.startswith("ExecReload=")]
    assert "FLASHQ_TOKENS_FILE" in reload
    command = reload.partition("-c '")[2].removesuffix("'")
    end = ["sh", "-c", f"trap 'exit 7' HUP; MAINPID=$$; {command}; exit 0"]
    for tokens_file, status in (("", 0), ("/etc/flashq/tokens.toml", 7)):
        environ = {"PATH": "/usr/bin:/bin", "FLASHQ_TOKENS_FILE": tokens_file}
        assert subprocess.run(end, env=environ, check=False).returncode == status
