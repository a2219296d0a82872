"""`flashq.rundir`: names in the run directory, its mode, and the bound on a socket's path."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashq.errors import ConfigError
from flashq.rundir import RunDir, default_run_dir


def test_endpoints_are_those_of_the_design() -> None:
    """Clients on the same host find shards by these names, so they are part of the protocol."""
    run = RunDir("/run/flashq")
    assert run.router == "ipc:///run/flashq/router.sock"
    assert run.coordinator == "ipc:///run/flashq/coordinator.sock"
    assert run.shard(3) == "ipc:///run/flashq/shard-3.sock"
    assert run.events(3) == "ipc:///run/flashq/events-3.sock"
    assert run.lock("shard-3") == Path("/run/flashq/shard-3.lock")


@pytest.mark.parametrize(
    ("environ", "path"),
    [({}, "/run/flashq"), ({"XDG_RUNTIME_DIR": "/run/user/1"}, "/run/user/1/flashq")],
)
def test_default_follows_the_runtime_directory(environ: dict[str, str], path: str) -> None:
    """A user without rights on /run still starts a server without a setting."""
    assert default_run_dir(environ) == path


def test_a_socket_path_of_107_bytes_fits_and_one_more_does_not() -> None:
    """The kernel cuts at 108 with the zero byte; ZeroMQ's error for that names no path."""
    name_bytes = len("/coordinator.sock")
    RunDir("/" + "r" * (106 - name_bytes)).check(32)
    with pytest.raises(ConfigError, match="has 108 bytes, and at most 107"):
        RunDir("/" + "r" * (107 - name_bytes)).check(32)


def test_bytes_count_and_not_characters() -> None:
    """A directory with a name outside ASCII is longer than it looks."""
    with pytest.raises(ConfigError, match="at most 107"):
        RunDir("/" + "队" * 40).check(1)


def test_create_makes_a_directory_for_its_owner_only(tmp_path: Path) -> None:
    """Whoever can write there can take a socket's place."""
    run = RunDir(str(tmp_path / "a" / "run"))
    run.create()
    run.create()
    assert run.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o750, 0o770, 0o777, 0o1777])
def test_create_refuses_a_directory_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    """Sockets in it ask for no token. The message says what to do, and after that it is taken."""
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=f"is not safe.* do: chmod 700 {tmp_path}"):
        RunDir(str(tmp_path)).create()
    tmp_path.chmod(0o700)
    RunDir(str(tmp_path)).create()


def test_create_says_what_to_do_when_it_cannot(tmp_path: Path) -> None:
    """The default /run/flashq needs root: the message names the setting."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="FLASHQ_RUN_DIR"):
        RunDir(str(tmp_path / "file" / "run")).create()
