"""A client without arguments finds its server."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flashq.client.endpoint import TCP_DEFAULT, client_name, resolve_url
from flashq.errors import ConfigError


def test_an_argument_wins_over_the_environment() -> None:
    """What the code says is meant."""
    environ = {"FLASHQ_URL": "tcp://elsewhere:1"}
    assert resolve_url("ipc:///tmp/x.sock", environ) == "ipc:///tmp/x.sock"
    assert resolve_url(None, environ) == "tcp://elsewhere:1"
    assert resolve_url("tcp://[::1]:6788", {}) == "tcp://[::1]:6788"


def test_the_local_socket_is_used_when_there_is_one() -> None:
    """It is faster than TCP, and needs no setting on the server's own machine."""
    with tempfile.TemporaryDirectory(prefix="fq") as directory:
        environ = {"FLASHQ_RUN_DIR": directory}
        assert resolve_url(None, environ) == TCP_DEFAULT
        path = str(Path(directory) / "router.sock")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            assert resolve_url(None, environ) == f"ipc://{path}"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6788",
        "http://x:1",
        "tcp://x",
        "tcp://:1",
        "tcp://x:0",
        "tcp://x:65536",
        "tcp://*:6788",
        "tcp://x:1/",
        "ipc://",
        "ipc:///" + 107 * "x",
        "tcp://x:port",
        "grpc://x:1",
    ],
)
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    """With the form that is expected, before a socket hangs on it."""
    with pytest.raises(ConfigError, match="tcp://host:port"):
        resolve_url(url, {})
    with pytest.raises(ConfigError, match="the URL of the client is") as caught:
        resolve_url(url, {"FLASHQ_URL": "tcp://127.0.0.1:1"})
    assert repr(url) in caught.value.text
    with pytest.raises(ConfigError, match="the variable FLASHQ_URL is"):
        resolve_url(None, {"FLASHQ_URL": url})


@pytest.mark.parametrize("url", [5, b"tcp://127.0.0.1:1"])
def test_a_url_is_text(url: Any) -> None:
    """Not what looks like it."""
    with pytest.raises(TypeError, match="url is a text"):
        resolve_url(url, {})


def test_a_client_says_which_process_it_is() -> None:
    """For whoever looks at the server's sessions."""
    assert str(os.getpid()) in client_name()
