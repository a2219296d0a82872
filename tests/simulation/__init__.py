"""The whole server and its clients in one process, under one seeded clock and one faulty network.

`python -m tests.simulation --seed N` replays a run; `--seeds A..B` makes many and sums up.
"""
