"""A shard: the only owner of its queues' jobs.

`engine.py` is pure and holds all job semantics; `node.py`, pure too, speaks the protocol around it;
`process.py` is the loop with the sockets.
"""
