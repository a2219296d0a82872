"""The commands of single programs, where the server's libraries are and where they are not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flashq import programs


def run(program: str, *, before: str = "pass") -> tuple[int, str, str]:
    """Run a command with --help in a process of its own; return status, stdout and stderr."""
    code = f"import sys; {before}; from flashq.programs import {program}; sys.exit({program}())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("program", ["router", "shard", "coordinator", "gateway"])
def test_without_the_servers_libraries(program: str) -> None:
    """One sentence that says what to install, and the status of a wrong configuration."""
    status, out, err = run(program, before="sys.modules['setproctitle'] = None")
    assert (status, out) == (1, "")
    assert err == (
        f"flashq-{program}: setproctitle is not installed, which only the server needs; "
        "install it with: pip install 'flashq[server]'\n"
    )


def test_with_them() -> None:
    """The program reads its flags."""
    status, out, err = run("router")
    assert (status, err) == (0, "")
    assert out.startswith("usage: flashq-router")


def test_a_module_of_our_own_that_is_missing_is_a_bug() -> None:
    """It is not hidden behind an advice that does not help."""
    with pytest.raises(ModuleNotFoundError):
        programs.what_to_install(ModuleNotFoundError(name="flashq.router.nothing"))
