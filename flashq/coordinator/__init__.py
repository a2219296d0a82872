"""The coordinator: cron and repeats, storage, checkpoints, retention, totals, webhook table.

Its engine is pure and its ``process.py`` is the only module here that does I/O.
"""
