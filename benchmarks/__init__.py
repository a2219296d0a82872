"""Measurements of flashq, each beside the same bytes over the same hops without flashq.

`python -m benchmarks` (or `make bench`) prints one table. Nothing here is a test: a figure depends
on the machine, a test must not.
"""
