"""Tests of the client: the pure connection by script, both shells against a fake server."""
