"""The router: the front door. It knows live client sessions and nothing of jobs.

`engine.py` routes, scatters and gathers, and is pure; `process.py` is the loop around it and the
only module here that does I/O.
"""
