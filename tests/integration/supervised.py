"""A supervisor of tiny programs, run by `test_supervisor.py` as `python -m`.

Each program tells its life on standard output: `+name pid` when it runs, `-name` when it has
drained. Arguments name a program that misbehaves, and how.
"""

from __future__ import annotations

import os
import select
import sys
from functools import partial

from flashq.errors import ConfigError
from flashq.lifecycle import Lifecycle, TerminalReport
from flashq.observability.logging import configure_log
from flashq.supervisor.process import ProgramSpec, Supervisor

DRAIN_MS = 200


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
    poll = select.poll()
    poll.register(life.wake_fd, select.POLLIN)
    while not life.stopping or behaviour == "hang":
        poll.poll()
        life.clear_wake()
    tell(f"-{name}")


def main() -> int:
    """Supervise three programs; the arguments are a name and a behaviour."""
    odd, behaviour = sys.argv[1:] or ("", "")
    stages = {"coordinator": 2, "shard": 1, "router": 0}
    specs = [
        ProgramSpec(name, stage, partial(program, name, behaviour if name == odd else ""))
        for name, stage in stages.items()
    ]
    configure_log("info", "json")
    return Supervisor(specs, DRAIN_MS, TerminalReport("server")).run()


if __name__ == "__main__":
    sys.exit(main())
