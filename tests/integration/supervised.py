"""A supervisor of tiny programs, run by `test_supervisor.py` as `python -m`.

Each program tells its life on standard output: `+name pid` when it runs, `-name` when it has
drained. Arguments name a program that misbehaves, how, and the limit of the watchdog.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

from flashq.errors import ConfigError
from flashq.lifecycle import Lifecycle, TerminalReport, carry_out
from flashq.observability.logging import configure_log
from flashq.supervisor import process
from flashq.supervisor.process import ProgramSpec, Supervisor

DRAIN_MS = 30_000
"""No program is killed because the machine is slow."""
SHORT_DRAIN_MS = 200
"""Where a program hangs, and is to be killed for it."""


def tell(line: str) -> None:
    """Write one line, in one piece also when many processes write."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def program(name: str, behaviour: str, life: Lifecycle) -> None:
    """Be ready, and wait until told to stop."""
    tell(f"+{name} {os.getpid()}")
    if behaviour == "refuse":
        raise ConfigError("its port is in use")
    if behaviour == "die":
        os.abort()
    if behaviour == "fds":
        tell("fds " + " ".join(sorted(os.listdir("/proc/self/fd"), key=int)))
    life.ready(f"endpoint of {name}")
    if behaviour == "spin":
        while not life.stopping:
            pass
    poll = select.poll()
    poll.register(life.wake_fd, select.POLLIN)
    while not life.stopping or behaviour == "hang":
        poll.poll(life.beat(None))
        life.clear_wake()
    tell(f"-{name}")


def fork_in_vain_once() -> None:
    """Let the machine have no process to spare, for the first fork."""
    real = os.fork

    def fork() -> int:
        os.fork = real
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = fork


def interrupt_each_child() -> None:
    """Let the terminal's interrupt reach each child before it has a handler of its own."""

    def interrupted(run: Callable[[Lifecycle], None], life: Lifecycle) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return carry_out(run, life)

    patch.object(process, "carry_out", interrupted).start()


def main() -> int:
    """Supervise three programs; the arguments are a name, a behaviour, and `watchdog_ms`."""
    odd, behaviour = sys.argv[1:3] or ("", "")
    if behaviour == "no-fork":
        fork_in_vain_once()
    elif behaviour == "interrupted":
        interrupt_each_child()
    stages = {"coordinator": 2, "shard": 1, "router": 0}
    specs = [
        ProgramSpec(name, stage, partial(program, name, behaviour if name == odd else ""))
        for name, stage in stages.items()
    ]
    configure_log("info", "json")
    watchdog_ms = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    report = TerminalReport("server")
    drain_ms = SHORT_DRAIN_MS if behaviour == "hang" else DRAIN_MS
    return Supervisor(specs, drain_ms, report, watchdog_ms=watchdog_ms).run()


if __name__ == "__main__":
    sys.exit(main())
