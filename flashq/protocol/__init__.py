"""What flashq's programs say to each other and to clients: data only, no behaviour.

The package owns every message (commands, replies, records of the log, messages between
processes), their encodings and the registry that ties a command word to all that is derived from
it. It may import `msgspec`, `flashq.errors` and `flashq.ids`, and nothing else of flashq.
"""
