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
IPC: Final = "ipc://"
OTHER_DOORS: Final = ("http", "https", "grpc", "grpcs", "ws", "wss")
PORT_MAX: Final = 65_535
PATH_BYTES_MAX: Final = 107
"""Longest path that a Unix socket can have."""


def resolve_url(url: str | None, environ: Mapping[str, str]) -> str:
    """Return the ZeroMQ endpoint of the server.

    Args:
        url: `tcp://host:port` or `ipc:///path`; None takes `FLASHQ_URL`, else the router's socket
            in the run directory if there is one, else `tcp://127.0.0.1:6788`.
        environ: the environment.

    Raises:
        TypeError: the URL is no text.
        ConfigError: it is of another form; the text says where it comes from.
    """
    if url is not None and not isinstance(url, str):
        raise TypeError(f"url is a text like {TCP_DEFAULT}, not {url!r}")
    if url:
        return _checked(url, "the URL of the client")
    if found := environ.get("FLASHQ_URL"):
        return _checked(found, "the variable FLASHQ_URL")
    router = RunDir(environ.get("FLASHQ_RUN_DIR") or default_run_dir(environ)).router
    return router if Path(router.removeprefix(IPC)).is_socket() else TCP_DEFAULT


def _checked(url: str, source: str) -> str:
    """Return a URL that a client can connect to."""
    reason = _objection(url)
    if reason is None:
        return url
    raise ConfigError(
        f"{source} is {url!r}: {reason}. Clients speak ZeroMQ, at tcp://host:port or ipc:///path, "
        f"as in {TCP_DEFAULT}"
    )


def _objection(url: str) -> str | None:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "it names no protocol"
    if scheme == "ipc":
        if not rest:
            return "it has no path"
        size = len(os.fsencode(rest))
        return f"its path has {size} bytes, of {PATH_BYTES_MAX}" if size > PATH_BYTES_MAX else None
    if scheme in OTHER_DOORS:
        return f"{scheme} is for other clients"
    if scheme != "tcp":
        return f"there is no protocol {scheme!r}"
    host, _, port = rest.rpartition(":")
    if not host or not host.strip("[]") or any(char.isspace() or char in "/@*" for char in host):
        return "it names no host and port"
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= PORT_MAX):
        return f"{port!r} is no port"
    return None


def check_arguments(
    *, token: object = None, on_leases_lost: object = None, **durations: object
) -> None:
    """Check what both clients are made with.

    Args:
        token, on_leases_lost: as given.
        durations: what is to be a number of ms, by name.

    Raises:
        TypeError, ValueError: one cannot be used; the text names it.
    """
    if token is not None and not isinstance(token, str):
        raise TypeError(f"token is a text, not {type(token).__name__}")
    if on_leases_lost is not None and not callable(on_leases_lost):
        raise TypeError(f"on_leases_lost is a function, not {on_leases_lost!r}")
    for name, value in durations.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is a whole number of milliseconds, not {value!r}")
        if value < 1:
            raise ValueError(f"{name} is at least 1 ms, not {value}")


def client_name() -> str:
    """Return who this is, for people who look at the server's sessions."""
    return f"python/{os.getpid()}"
