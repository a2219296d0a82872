"""The gateway: the doors through which clients of the older protocols come in.

It has no job semantics. Each door reads its protocol and hands requests to the bridge, which is one
client of the router for all of them.
"""
