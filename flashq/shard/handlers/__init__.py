"""The commands of a shard, by noun: each handler reads the state and returns a decision.

A handler has the signature `(context, command, origin) -> Decision`. It changes nothing; an error
it raises is the reply, and means that nothing happened.
"""
