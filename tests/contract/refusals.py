"""What an error reply is: text, code, and whether a repeat can help, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.contract.dealer import Dealer


def error_of(reply: dict[str, Any]) -> str:
    """Return the text of an error reply, and check its shape."""
    assert list(reply) == ["ok", "error", "code", "retryable"], reply
    assert reply["ok"] is False
    assert isinstance(reply["code"], str)
    assert isinstance(reply["retryable"], bool)
    assert isinstance(reply["error"], str)
    return str(reply["error"])


def refused(dealer: Dealer, cmd: str, **fields: Any) -> str:
    """Send a request that is refused; return the text."""
    return error_of(dealer.ask(cmd, **fields))
