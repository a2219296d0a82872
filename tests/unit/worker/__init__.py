"""Tests of the worker: the pure engine, and the process against a fake server."""
