"""Where the server is, and who asks: settings of a client, from its environment.

Owns `FLASHQ_URL` and `FLASHQ_TOKEN` and their defaults. Opens nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flashq.errors import ConfigError
from flashq.rundir import RunDir, default_run_dir

TCP_DEFAULT: Final = "tcp://127.0.0.1:6788"


def resolve_url(url: str | None, environ: Mapping[str, str]) -> str:
    """Return the ZeroMQ endpoint of the server.

    Args:
        url: `tcp://host:port` or `ipc:///path`; None takes `FLASHQ_URL`, else the router's socket
            in the run directory if there is one, else `tcp://127.0.0.1:6788`.
        environ: the environment.

    Raises:
        ConfigError: it is of another form.
    """
    found = url or environ.get("FLASHQ_URL")
    if not found:
        router = RunDir(environ.get("FLASHQ_RUN_DIR") or default_run_dir(environ)).router
        return router if Path(router.removeprefix("ipc://")).is_socket() else TCP_DEFAULT
    scheme, _, rest = found.partition("://")
    host, _, port = rest.rpartition(":")
    if (scheme == "ipc" and rest) or (scheme == "tcp" and host and port.isdecimal()):
        return found
    raise ConfigError(f"FLASHQ_URL is tcp://host:port or ipc:///path, not {found!r}")


def client_name() -> str:
    """Return who this is, for people who look at the server's sessions."""
    return f"python/{os.getpid()}"
