"""Tests of the command line: verbs run in this process, most of them against a fake server."""
