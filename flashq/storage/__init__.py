"""Where the coordinator keeps what has to survive: one port, and its implementations.

Storage knows records only as bytes with numbers; it may import `flashq.protocol` and
`flashq.errors`, and no program.
"""
