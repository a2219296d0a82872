"""The worker: fetches jobs, runs a handler on each, and acknowledges them in batches.

May import `flashq.client`, `flashq.protocol`, `flashq.errors` and `flashq.ids`; never the server.
"""
