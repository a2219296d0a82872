"""The commands `flashq-router`, `-shard`, `-coordinator` and `-gateway`.

Owns what they say where the server's libraries are not installed, which `flashq` alone, being
client, worker and command line, does not bring along. It imports nothing that needs them before it
is told to run a program.
"""

from __future__ import annotations

import sys
from importlib import import_module


def router() -> int:
    """Run the router of one server, and return its exit status."""
    return _run("router")


def shard() -> int:
    """Run one shard, and return its exit status."""
    return _run("shard")


def coordinator() -> int:
    """Run the coordinator of one server, and return its exit status."""
    return _run("coordinator")


def gateway() -> int:
    """Run a gateway, and return its exit status."""
    return _run("gateway")


def _run(name: str) -> int:
    try:
        program = import_module(f"flashq.{name}.process")
    except ModuleNotFoundError as error:
        print(f"flashq-{name}: {what_to_install(error)}", file=sys.stderr)
        return 1
    status: int = program.main()
    return status


def what_to_install(error: ModuleNotFoundError) -> str:
    """Return what to tell somebody who starts a program of the server without its libraries.

    Raises:
        ModuleNotFoundError: the one given: it is a module of flashq that is missing.
    """
    if (error.name or "flashq").startswith("flashq"):
        raise error
    return (
        f"{error.name} is not installed, which only the server needs; "
        "install it with: pip install 'flashq[server]'"
    )
