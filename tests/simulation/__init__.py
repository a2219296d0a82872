"""The whole server and its clients in one process, under one seeded clock and one faulty network.

`python -m tests.simulation --seed N` replays a run; `--seeds A..B` makes many and sums up. What a
run is made for goes by its seed's last digit (`setting.py`). What it is good for is told by
`python -m tests.simulation.mutations`: in how many runs each of many errors is noticed.
"""
