"""The clients' fake server, for workers."""

from tests.unit.client.conftest import server, url

__all__ = ["server", "url"]
