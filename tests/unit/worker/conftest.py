"""The clients' fake server, for workers."""

from tests.unit.client.conftest import beaten, server, url

__all__ = ["beaten", "server", "url"]
