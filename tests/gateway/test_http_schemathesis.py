"""Requests made from the description itself: whatever fits it, and much that does not, is answered
without a mistake of the server's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import Phase as HypothesisPhase
from schemathesis.checks import not_a_server_error

from flashq.gateway import openapi
from tests.gateway.http_client import base_of
from tests.server import Server

EXAMPLES = 6
WAIT_MS = 20

#: Streams have no end, and who shuts the server down gets no further answers.
LEFT_OUT = r"^/(events|server/shutdown)"

schema = schemathesis.openapi.from_dict(openapi.document())


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[str]:
    """Return the address of a server that nobody else uses."""
    server = Server("--shards", "2")
    try:
        server.wait_ready()
        yield base_of(server)
        assert server.terminate() == 0, server.log()
        assert "Traceback" not in server.log()
        assert "is started again" not in server.log()
    finally:
        server.close()


@schema.exclude(path_regex=LEFT_OUT).parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[HypothesisPhase.explicit, HypothesisPhase.generate],
    database=None,
)
def test_no_request_is_answered_with_a_mistake(case: Any, fuzzed: str) -> None:
    """Neither a status of 5xx nor a connection that ends."""
    if "timeout" in (case.query or {}):
        case.query["timeout"] = WAIT_MS
    elif case.path.endswith(("/wait", "/jobs")) and case.method == "GET":
        case.query = {**(case.query or {}), "timeout": WAIT_MS}
    case.call_and_validate(base_url=fuzzed, checks=[not_a_server_error], timeout=20)
